"""Logs: one JSON object a line, and no secret in any of them."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from common.telemetry.bound import bind
from common.telemetry.logs import JsonFormatter, Repeats, set_level, setup_logging


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


async def test_lines_carry_what_their_task_works_for(stream: io.StringIO) -> None:
    async def work() -> None:
        bind(turn_id="t_1")
        logging.getLogger("x").info("inner")

    bind(request_id="r-1")
    await asyncio.create_task(work())
    logging.getLogger("x").info("outer", extra={"request_id": "other"})
    inner, outer = lines(stream)
    assert (inner["request_id"], inner["turn_id"]) == ("r-1", "t_1")
    assert (outer["request_id"], "turn_id" in outer) == ("other", False)


def test_the_level_changes(stream: io.StringIO) -> None:
    set_level("debug")
    logging.getLogger("x").debug("now")
    logging.getLogger("openai").debug("never")
    set_level("warning")
    logging.getLogger("x").info("not now")
    assert [line["message"] for line in lines(stream)] == ["now"]


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
