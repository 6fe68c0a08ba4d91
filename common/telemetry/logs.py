"""Logs: one JSON object a line on stderr, through the standard library's logging. What is in them is cleaned
(common.telemetry.redaction), whatever was logged."""

from __future__ import annotations

import logging
import math
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson

from common.telemetry.bound import bound
from common.telemetry.redaction import Redaction

REPEAT_SECONDS, MOST_TOLD = 30.0, 1000
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class JsonFormatter(logging.Formatter):
    """time (RFC 3339, UTC), level, logger, message, whatever came by `extra` or is bound to the task, and the trace of an exception."""

    def __init__(self, redaction: Redaction | None = None) -> None:
        super().__init__()
        self._redaction = redaction or Redaction()

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        clean = self._redaction
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": clean.text(record.getMessage()),
        }
        for name, value in vars(record).items():
            if name not in _PLAIN and not name.startswith("_"):
                line[name] = clean.value(name, value)
        for name, value in bound().items():
            line.setdefault(name, clean.text(value))
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = clean.text("".join(traceback.format_exception(*record.exc_info)))
        if record.stack_info:
            line["stack"] = clean.text(record.stack_info)
        return orjson.dumps(line, default=lambda value: clean.text(str(value)), option=orjson.OPT_NON_STR_KEYS).decode()


class Repeats(logging.Filter):
    """Lets a warning that is the same as one before through every `seconds` only: what is tried again all the time says so once while a
    store is away. `repeated` then counts those that were held back. `clock` is monotonic seconds."""

    def __init__(self, seconds: float = REPEAT_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._seconds = seconds
        self._clock = clock
        self._told: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is written."""
        if record.levelno != logging.WARNING or record.exc_info:
            return True
        now, what = self._clock(), (record.name, record.getMessage())
        since, held = self._told.get(what, (-math.inf, 0))
        if now - since < self._seconds:
            self._told[what] = (since, held + 1)
            return False
        self._told[what] = (now, 0)
        if held:
            record.repeated = held
        while len(self._told) > MOST_TOLD:
            del self._told[next(iter(self._told))]
        return True


# Libraries that log URLs and bodies at info and debug.
CHATTY = ("httpx", "httpx2", "httpcore", "httpcore2", "openai", "anthropic", "mcp", "asyncio", "urllib3")


def setup_logging(level: str = "info", stream: TextIO | None = None, *, redaction: Redaction | None = None) -> None:
    """Sends everything of the root logger at `level` and above to stderr as JSON lines. Calling it again replaces the former handler."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(redaction))
    handler.addFilter(Repeats())
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h.formatter, JsonFormatter)]:
        root.removeHandler(old)
    root.addHandler(handler)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):  # their own handlers would print the same again, as plain text
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    set_level(level)


def set_level(level: str) -> None:
    """From now on lines of `level` and above are written; those of chatty libraries from warning on."""
    root = logging.getLogger()
    root.setLevel(level.upper())
    for name in CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
