"""The event stream decoder: bytes cut anywhere, every line ending, fields, comments, ends."""

from __future__ import annotations

import itertools

import pytest

from heavy.llm.sse import MAX_EVENT_BYTES, SSEDecoder, StreamTooLarge

STREAM = (
    "\ufeffdata: eins\n\n: note\n\nevent: ping\ndata: zwei 壶\nid: 7\nretry: 5\n\ndata:drei\ndata:\ndata: ☕ four\n\n\n\n"
    "event: empty\n\ndata:  five\n\n"
).encode()
EVENTS = [
    ("message", b"eins"),
    ("ping", "zwei 壶".encode()),
    ("message", "drei\n\n☕ four".encode()),
    ("message", b" five"),
]


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\r"])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 16, 1000])
def test_any_cut_and_any_line_ending(size: int, ending: bytes) -> None:
    stream = STREAM.replace(b"\n", ending)
    decoder = SSEDecoder()
    parts = (stream[n : n + size] for n in range(0, len(stream), size))
    events = list(itertools.chain.from_iterable(decoder.feed(part) for part in parts))
    assert events == EVENTS
    assert decoder.flush() == []
    assert decoder.unknown is None


def test_flush_gives_what_lacks_its_last_line() -> None:
    decoder = SSEDecoder()
    assert decoder.feed(b"data: a\n\ndata: b\n") == [("message", b"a")]
    assert decoder.flush() == [("message", b"b")]
    assert decoder.flush() == []


def test_a_line_that_is_no_field_is_noted() -> None:
    decoder = SSEDecoder()
    assert decoder.feed(b"data: a\n\noops\ndata: b\n\n") == [("message", b"a"), ("message", b"b")]
    assert decoder.unknown == b"oops"


def test_an_event_without_an_end_is_refused_in_time() -> None:
    decoder = SSEDecoder()
    decoder.feed(b"x" * MAX_EVENT_BYTES)
    with pytest.raises(StreamTooLarge):
        decoder.feed(b"x")


def test_empty_chunks_change_nothing() -> None:
    decoder = SSEDecoder()
    assert decoder.feed(b"data: a\r") == []
    assert decoder.feed(b"") == []
    assert decoder.feed(b"\n\r\n") == [("message", b"a")]
