"""Streams on their way through: byte for byte, however the bytes are split; with their usage read, and every fault seen."""

from __future__ import annotations

import orjson
import pytest

from heavy.llm.passing import RELAYED, ChatPassing, MessagesPassing, Passing
from heavy.llm.sse import MAX_EVENT_BYTES
from heavy.llm.types import LLMCallFailed, cache_writes


def chunk(delta: dict | None = None, finish: str | None = None, **members: object) -> bytes:
    choices = [{"index": 0, "delta": delta or {}, "finish_reason": finish}]
    return b"data: " + orjson.dumps({"choices": choices, **members}) + b"\n\n"


USAGE = {"prompt_tokens": 9, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 5}}
ROLE, HEL, LO = chunk({"role": "assistant", "content": ""}), chunk({"content": "Hel 你好"}), chunk({"content": 'lo "usage":{'})
END = chunk(finish="stop")
COUNT = b"data: " + orjson.dumps({"choices": [], "usage": USAGE}) + b"\n\n"
DONE = b"data: [DONE]\n\n"


def event(kind: str, **members: object) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + orjson.dumps({"type": kind, **members}) + b"\n\n"


MESSAGE = (
    event(
        "message_start",
        message={"usage": {"input_tokens": 3, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 2, "output_tokens": 1}},
    )
    + event("ping")
    + event("content_block_start", index=0, content_block={"type": "thinking", "thinking": ""})
    + event("content_block_delta", index=0, delta={"type": "thinking_delta", "thinking": "Hm, 嗯"})
    + event("content_block_delta", index=1, delta={"type": "input_json_delta", "partial_json": ""})
    + event("content_block_stop", index=0)
    + event("message_delta", delta={"stop_reason": "refusal"}, usage={"output_tokens": 12})
    + event("message_stop")
)


def relayed(passing: Passing, *pieces: bytes, end: bool = False) -> tuple[bytes, LLMCallFailed | None]:
    """What comes out at the other end, and what was wrong."""
    out = b""
    for piece in pieces:
        data, failure = passing.feed(piece)
        out += data
        if failure is not None:
            return out, failure
    if end:
        data, failure = passing.end()
        return out + data, failure
    return out, None


ODD = [
    ROLE + HEL + LO + END + DONE,
    (ROLE + HEL + END + DONE).replace(b"\n", b"\r\n"),
    (ROLE + HEL + END + DONE).replace(b"\n", b"\r"),
    b": keep-alive\n\n" + ROLE + b": a comment\n" + HEL + b":\n\n" + END + DONE,
    b"\xef\xbb\xbf" + ROLE + HEL + END + DONE,
    ROLE + chunk({"content": ""}) + chunk({}) + HEL + END + DONE,
    ROLE
    + chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}]})
    + chunk({"tool_calls": [{"index": 1, "id": "b", "function": {"name": "g", "arguments": ""}}]})
    + chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"x"'}}, {"index": 1, "function": {"arguments": "{"}}]})
    + chunk(finish="tool_calls")
    + DONE,
    chunk({"refusal": "I can't."}) + END + DONE,
    b"id: 7\nretry: 10\nevent: message\ndata:" + HEL[6:] + END + DONE,
    HEL.replace(b"data: ", b"data: {\ndata:", 1).replace(b'{"choices"', b' "choices"', 1) + END + DONE,
    END + DONE,
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
@pytest.mark.parametrize("stream", ODD, ids=range(len(ODD)))
def test_byte_for_byte(stream: bytes, size: int) -> None:
    passing = ChatPassing()
    out, failure = relayed(passing, *(stream[i : i + size] for i in range(0, len(stream), size)), end=stream.endswith(b"\r"))
    assert failure is None
    assert out == stream
    assert passing.done


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_a_message_byte_for_byte_with_its_usage(size: int) -> None:
    for stream in (MESSAGE, MESSAGE.replace(b"\n", b"\r\n")):
        passing = MessagesPassing()
        out, failure = relayed(passing, *(stream[i : i + size] for i in range(0, len(stream), size)))
        assert failure is None
        assert out == stream
        assert (passing.usage.input_tokens, passing.usage.cached_tokens, passing.usage.output_tokens) == (9, 4, 12)
        assert cache_writes(passing.usage) == 2
        assert passing.counted
        assert passing.done


@pytest.mark.parametrize("size", [1, 5, 1000])
def test_the_usage_that_was_not_asked_for_is_read_and_kept_back(size: int) -> None:
    for ends in (b"\n", b"\r\n"):
        stream = (b": c\n" + ROLE + HEL + LO + END + COUNT + DONE).replace(b"\n", ends)
        passing = ChatPassing(hides_usage=True)
        out, _ = relayed(passing, *(stream[i : i + size] for i in range(0, len(stream), size)))
        assert out == stream.replace(COUNT.replace(b"\n", ends), b"")
        assert (passing.usage.input_tokens, passing.usage.cached_tokens, passing.usage.output_tokens) == (9, 5, 4)
        assert passing.counted
    shown = ChatPassing()
    assert relayed(shown, HEL + END + COUNT + DONE)[0] == HEL + END + COUNT + DONE


def test_usage_beside_a_piece_of_the_answer_is_not_kept_back() -> None:
    last = chunk({"content": "!"}, "stop", usage=USAGE)
    passing = ChatPassing(hides_usage=True)
    assert relayed(passing, HEL + last + DONE)[0] == HEL + last + DONE
    assert passing.usage.output_tokens == 4


def test_nothing_leaves_before_the_answer_has_begun() -> None:
    passing = ChatPassing()
    assert relayed(passing, ROLE, b": wait\n\n") == (b"", None)
    assert not passing.started
    assert relayed(passing, HEL) == (ROLE + b": wait\n\n" + HEL, None)
    message = MessagesPassing()
    start = MESSAGE[: MESSAGE.index(b"event: content_block_delta")]
    assert relayed(message, start) == (b"", None)


def test_what_is_whole_leaves_before_the_rest_is_there() -> None:
    passing = ChatPassing()
    assert relayed(passing, ROLE + HEL + LO[:10])[0] == ROLE + HEL
    assert relayed(passing, LO[10:-1])[0] == b""
    assert relayed(passing, LO[-1:])[0] == LO


@pytest.mark.parametrize(
    ("broken", "kind"),
    [
        (b'data: {"not json\n\n', "garbage"),
        (b"data: []\n\n", "garbage"),
        (b"<html>\n\n", "garbage"),
        (b'data: {"error":{"message":"secret","type":"server_error"}}\n\n', "error_event"),
        (b'data: {"error":{"message":"x","code":"insufficient_quota"}}\n\n', "spend_limit"),
        (DONE, "incomplete"),
    ],
)
@pytest.mark.parametrize("together", [True, False])
def test_a_fault_is_seen_and_what_stood_before_it_goes_on(broken: bytes, kind: str, together: bool) -> None:
    passing = ChatPassing()
    out, failure = relayed(passing, *([ROLE + HEL + broken + LO] if together else [ROLE, HEL, broken]))
    assert out == ROLE + HEL
    assert failure is not None
    assert (failure.kind, failure.partial) == (kind, RELAYED)
    first, early = relayed(ChatPassing(), ROLE + broken)
    assert first == b""
    assert early is not None
    assert (early.kind, early.after_first_token) == (kind, False)


def test_an_error_of_anthropics_is_seen() -> None:
    upto = MESSAGE[: MESSAGE.index(b"event: content_block_stop")]
    out, failure = relayed(MessagesPassing(), upto + event("error", error={"type": "overloaded_error", "message": "x"}))
    assert out == upto
    assert failure is not None
    assert failure.kind == "overloaded"
    assert failure.usage is not None
    assert failure.usage.input_tokens == 9
    assert relayed(MessagesPassing(), event("error", error={"type": "api_error"}))[1] is not None


def test_an_end_is_an_end_only_behind_a_finish_reason() -> None:
    assert relayed(ChatPassing(), HEL + END, end=True) == (HEL + END, None)  # several servers leave [DONE] out
    assert relayed(ChatPassing(), HEL + END[:-2], end=True) == (HEL + END[:-2], None)
    for stream in (HEL, ROLE, b"", HEL + LO[:20]):
        _, failure = relayed(ChatPassing(), stream, end=True)
        assert failure is not None
        assert failure.kind == "incomplete"
        assert failure.after_first_token is stream.startswith(HEL)
    assert relayed(MessagesPassing(), MESSAGE[:-30], end=True)[1] is not None


def test_nothing_behind_the_end_matters() -> None:
    out, failure = relayed(ChatPassing(), HEL + END + DONE + b"data: {broken\n\n")
    assert failure is None
    assert out.startswith(HEL + END + DONE)


def test_an_event_without_end_is_not_kept_for_ever() -> None:
    _, failure = relayed(ChatPassing(), HEL, b"data: " + b"x" * MAX_EVENT_BYTES)
    assert failure is not None
    assert failure.kind == "garbage"
