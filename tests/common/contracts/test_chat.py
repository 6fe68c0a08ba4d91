"""A chat completion's request becomes a query; what agents don't offer is refused by name."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from common.contracts.chat import asked_model, digest_of, parse_chat, session_of_key
from common.contracts.completions import Chunks, completion, created
from common.errors import InvalidRequest, PayloadTooLarge

HI = {"role": "user", "content": "hi"}


def body(*messages: Any, **members: Any) -> bytes:
    return orjson.dumps({"model": "shop", "messages": list(messages) or [HI], **members})


def test_the_last_message_is_the_query_and_the_rest_its_history() -> None:
    chat = parse_chat(
        body(
            {"role": "system", "content": "You are rude."},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": [{"type": "text", "text": "two"}, {"type": "text", "text": "three"}]},
            {"role": "assistant", "content": None},
            {"role": "user", "content": [{"type": "text", "text": "four"}]},
            {"role": "developer", "content": "Be brief."},
        )
    )
    assert chat.message == "four"
    assert list(chat.history) == [("user", "one"), ("assistant", "two\nthree")]
    assert chat.session_id is None
    assert not chat.stream


@pytest.mark.parametrize(
    ("members", "session"),
    [
        ({"metadata": {"session_id": "s-1"}, "user": "ann"}, "s-1"),
        ({"user": "ann@example.com"}, "ann@example.com"),
        ({}, None),
    ],
)
def test_the_session(members: dict[str, Any], session: str | None) -> None:
    assert parse_chat(body(**members)).session_id == session


def test_a_user_that_is_no_id_has_one_session_all_the_same() -> None:
    first, again, other = (parse_chat(body(user=u)) for u in ("Ann Lee", "Ann Lee", "Ann Li"))
    assert first.session_id == again.session_id != other.session_id
    assert (first.session_id or "").startswith("user-")
    assert first.user_id == "Ann Lee"


def test_the_rest_of_the_metadata_is_the_context() -> None:
    query = parse_chat(body(metadata={"session_id": "s", "city": "Bern"})).query("s")
    assert (query.agent_id, query.session_id, query.context) == ("shop", "s", {"city": "Bern"})


@pytest.mark.parametrize(
    "members",
    [
        {"temperature": 0, "top_p": 1, "max_tokens": 5, "seed": 1, "store": False, "service_tier": "auto"},
        {"n": 1, "tools": [], "tool_choice": "auto", "logprobs": False, "stop": None, "logit_bias": {}, "modalities": ["text"]},
        {"response_format": {"type": "text"}, "stream_options": {"include_usage": True}, "reasoning_effort": "low", "unheard_of": 1},
    ],
)
def test_what_does_no_harm_is_ignored(members: dict[str, Any]) -> None:
    assert parse_chat(body(**members)).message == "hi"


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"model": ""}, "model"),
        ({"model": 5}, "model"),
        ({"n": 2}, "n"),
        ({"logprobs": True}, "logprobs"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logit_bias": {"50": 1}}, "logit_bias"),
        ({"stop": ["."]}, "stop"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"functions": [{}]}, "functions"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "xml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": []}}}, "response_format.json_schema.schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}}},
            "response_format.json_schema.schema",
        ),
        ({"stream": 1}, "stream"),
        ({"stream_options": []}, "stream_options"),
        ({"stream_options": {"include_usage": "yes"}}, "include_usage"),
        ({"user": ""}, "user"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {"session_id": "a b"}}, "metadata.session_id"),
        ({"metadata": {"session_id": 5}}, "metadata.session_id"),
        ({"metadata": {"x": {}}}, "context.x"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [HI, {"role": "assistant", "content": "yes"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "  "}]}, "messages"),
        ({"messages": [{"role": "user", "content": "x" * 32_769}]}, "messages"),
        ({"messages": [HI, {"role": "robot", "content": "x"}]}, "messages[1].role"),
        ({"messages": [HI, 5]}, "messages[1].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "c"}, HI]}, "messages[0]"),
        ({"messages": [{"role": "assistant", "tool_calls": [{}]}, HI]}, "messages[0]"),
    ],
)
def test_what_is_not_offered_is_refused_by_name(members: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        parse_chat(body(**members))
    assert caught.value.extra["field"] == field


def test_a_long_request_to_an_agent_is_too_large() -> None:
    with pytest.raises(PayloadTooLarge):
        parse_chat(body({"role": "assistant", "content": "x" * 262_144}, HI))


@pytest.mark.parametrize(
    ("raw", "model"),
    [
        (b'{"model": "models/a"}', "models/a"),
        (b'{"model": "models\\/a"}', "models/a"),
        (b'{"model": "shop", "x": "models/a"}', None),
        (b'{"model": ["models/a"]}', None),
        (b'["models/a"]', None),
        (b'{"\\u006dodel": "models/a"}', "models/a"),
        (b'{"x": "\\u0041 \\"models", "model": "shop"', None),
    ],
)
def test_which_requests_ask_for_a_model_directly(raw: bytes, model: str | None) -> None:
    assert asked_model(raw) == model


def test_a_conversations_digest_is_its_tenants_and_agents() -> None:
    said = [("user", "hi"), ("assistant", "Hello. ")]
    known = digest_of("acme", "shop", said)
    assert known == digest_of("acme", "shop", [("user", " hi"), ("assistant", "Hello.")])
    others = [digest_of("zeta", "shop", said), digest_of("acme", "desk", said), digest_of("acme", "shop", said[:1])]
    assert len({known, *others}) == 4
    assert session_of_key("k", said) == session_of_key("k", said) != session_of_key("k", said[:1])


REPLY = {
    "session_id": "s",
    "message": 'One "two"\n三',
    "status": "success",
    "turn_id": "t_01a2155ce6ef7140e69dfab6b6dd00b0",
    "route": {"tier": "heavy"},
    "usage": {"llm_calls": 1, "input_tokens": 7, "cached_tokens": 3, "output_tokens": 2, "cost_usd": 0.5},
    "config_hash": "abc",
}


def test_a_completion() -> None:
    doc = orjson.loads(completion(REPLY, "shop"))
    assert (doc["id"], doc["model"], doc["created"]) == ("chatcmpl-t_01a2155ce6ef7140e69dfab6b6dd00b0", "shop", 0x01A2155CE6EF // 1000)
    assert doc["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": REPLY["message"], "refusal": None},
            "logprobs": None,
            "finish_reason": "stop",
        }
    ]
    assert doc["usage"] == {
        "prompt_tokens": 7,
        "completion_tokens": 2,
        "total_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 3},
    }
    assert doc["loadsplit"] == {name: value for name, value in REPLY.items() if name != "message"}
    assert created("t_x") == 0


@pytest.mark.parametrize("include_usage", [True, False])
def test_chunks(include_usage: bool) -> None:
    chunks = Chunks(str(REPLY["turn_id"]), "shop", include_usage=include_usage)
    sent = chunks.opening() + chunks.text(orjson.dumps('"三\n')) + chunks.closing(REPLY)
    *events, done, rest = sent.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    docs = [orjson.loads(e.removeprefix(b"data: ")) for e in events]
    assert [d["choices"][0]["delta"] for d in docs[:3]] == [{"role": "assistant", "content": "", "refusal": None}, {"content": '"三\n'}, {}]
    assert docs[2]["choices"][0]["finish_reason"] == "stop"
    assert docs[2]["loadsplit"]["session_id"] == "s"
    assert len(docs) == 3 + include_usage
    if include_usage:
        assert [d["usage"] for d in docs[:3]] == [None] * 3
        assert docs[3]["choices"] == []
        assert docs[3]["usage"]["total_tokens"] == 9
    else:
        assert not any("usage" in d for d in docs)
