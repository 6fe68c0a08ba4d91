"""Logs: one JSON object a line, and no secret in any of them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from common.telemetry.logs import JsonFormatter, Repeats, redact, setup_logging


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """Where the lines go; the root logger is put back afterwards."""
    root = logging.getLogger()
    level = root.level
    out = io.StringIO()
    setup_logging("info", out)
    yield out
    for handler in [h for h in root.handlers if isinstance(h.formatter, JsonFormatter)]:
        root.removeHandler(handler)
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_one_object_a_line(stream: io.StringIO) -> None:
    logging.getLogger("heavy.turns").info("turn %s\nended", "t_1", extra={"request_id": "r-1", "took": 0.5, "of": {"a": [1, object()]}})
    logging.getLogger("heavy.turns").debug("not this")
    (line,) = lines(stream)
    assert line["message"] == "turn t_1\nended"
    assert (line["level"], line["logger"], line["request_id"], line["took"]) == ("info", "heavy.turns", "r-1", 0.5)
    assert line["time"].endswith("+00:00")


def test_exceptions_are_in_the_line(stream: io.StringIO) -> None:
    try:
        raise ValueError("Bearer abcdef123456")
    except ValueError:
        logging.getLogger("x").exception("failed")
    (line,) = lines(stream)
    assert "ValueError" in line["exception"]
    assert "abcdef123456" not in line["exception"]


def test_setting_up_twice_prints_once(stream: io.StringIO) -> None:
    setup_logging("info", stream)
    logging.getLogger("x").info("once")
    assert len(lines(stream)) == 1


SECRETS = [
    ("Authorization: Bearer abc.def-123456", "abc.def-123456"),
    ("key sk-proj-AbCdEf123456 used", "AbCdEf123456"),
    ("sk-ant-api03-abcdefghij", "abcdefghij"),
    ("postgresql://app:pa55word@db/x", "pa55word"),
    ("redis://:pa55word@h:1/0", "pa55word"),
    ("api_key=abcd1234", "abcd1234"),
    ('{"api-key": "abcd1234"}', "abcd1234"),
    ("LOADSPLIT_TICKET_SECRET=abcd1234", "abcd1234"),
    ("x-api-key: abcd1234", "abcd1234"),
    ("ticket v1.eyJhIjoxMjM0NTY3ODkw.c2lnbmF0dXJlc2lnbmF0dXJl", "c2lnbmF0dXJlc2lnbmF0dXJl"),
    ("https://h/x?access_token=abcd1234&y=1", "abcd1234"),
]


@pytest.mark.parametrize(("text", "secret"), SECRETS)
def test_secrets_are_struck_out(text: str, secret: str) -> None:
    assert secret not in redact(text)
    assert "***" in redact(text)


@pytest.mark.parametrize(
    "text", ["tokens: 1234 used", "session s-1 of user u-1", "input_tokens=5123", "GET /orders/A1001 200", "task-12345678 done"]
)
def test_other_words_stay(text: str) -> None:
    assert redact(text) == text


def test_secrets_in_extra_fields(stream: io.StringIO) -> None:
    extra = {
        "api_key": "abcd",
        "headers": {"Authorization": "x1y2", "accept": "json"},
        "url": "http://u:pass@h",
        "input_tokens": "5",
        "raw": b"sk-abcdefghijk",
    }
    logging.getLogger("x").info("call", extra=extra)
    (line,) = lines(stream)
    assert line["api_key"] == "***"
    assert line["headers"] == {"Authorization": "***", "accept": "json"}
    assert line["url"] == "http://u:***@h"
    assert line["input_tokens"] == "5"
    assert "abcdefghijk" not in line["raw"]


def test_the_same_warning_is_written_every_half_minute() -> None:
    """Others are not held up, nor are errors; the next one counts those that were."""
    now, out = [0.0], io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(Repeats(30, lambda: now[0]))
    log = logging.Logger("repeats")
    log.addHandler(handler)
    for now[0] in (0.0, 1.0, 29.0, 30.0, 31.0):
        log.warning("the store is away: %s", "gone")
    now[0] = 60.0
    log.warning("the store is away: %s", "refused")
    log.warning("the store is away: %s", "gone")
    log.error("broken")
    log.error("broken")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(line["message"].rpartition(": ")[2], line.get("repeated")) for line in lines] == [
        ("gone", None),
        ("gone", 2),
        ("refused", None),
        ("gone", 1),
        ("broken", None),
        ("broken", None),
    ]
