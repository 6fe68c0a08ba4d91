"""Logs: one JSON object a line on stderr, through the standard library's logging. Secrets are struck out here, whatever was logged."""

from __future__ import annotations

import logging
import math
import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TextIO

import orjson

STRUCK = "***"
REPEAT_SECONDS, MOST_TOLD = 30.0, 1000
_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}
_SENSITIVE = r"(?:[\w-]*(?:api[_-]?key|apikey|secret|passw(?:or)?d|token(?!s)|authorization|cookie)[\w-]*)"
_NAMED = re.compile(rf"(?i)\A{_SENSITIVE}\Z")
_COUNTS = re.compile(r"(?i)\Atoken_(?:count|ms)\Z")
_SECRETS = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}"), r"\1 " + STRUCK),
    (re.compile(r"\b(sk|pk|rk|ls|xox[abp]|gh[pousr])[-_][A-Za-z0-9_-]{8,}"), r"\1-" + STRUCK),
    (re.compile(r"\bv1\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"), "v1." + STRUCK),  # tickets
    (re.compile(r"([a-z][a-z0-9+.-]*://[^\s:/@\"']*):[^\s/@\"']+@"), r"\1:" + STRUCK + "@"),
    (re.compile(rf"(?i)\b({_SENSITIVE})(\"?\s*[=:]\s*\"?)(?!bearer|basic)[^\s\"',;&}}]{{4,}}"), r"\1\2" + STRUCK),
)


def redact(text: str) -> str:
    """The text with bearer tokens, API keys, tickets, passwords in URLs and `name=value` secrets struck out."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


class JsonFormatter(logging.Formatter):
    """time (RFC 3339, UTC), level, logger, message, whatever came through `extra`, and the trace of an exception."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        for name, value in vars(record).items():
            if name not in _PLAIN and not name.startswith("_"):
                line[name] = _clean(name, value)
        if record.exc_info and record.exc_info[0] is not None:
            line["exception"] = redact("".join(traceback.format_exception(*record.exc_info)))
        if record.stack_info:
            line["stack"] = redact(record.stack_info)
        return orjson.dumps(line, default=_unknown, option=orjson.OPT_NON_STR_KEYS).decode()


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


def setup_logging(level: str = "info", stream: TextIO | None = None) -> None:
    """Sends everything of the root logger at `level` and above to stderr as JSON lines. Calling it again replaces the former handler."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter())
    handler.addFilter(Repeats())
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h.formatter, JsonFormatter)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):  # their own handlers would print the same again, as plain text
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    for name in CHATTY:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))


def _clean(name: str, value: Any, depth: int = 4) -> Any:
    if isinstance(value, str):
        return STRUCK if _NAMED.match(name) and not _COUNTS.search(name) and value else redact(value)
    if isinstance(value, bytes):
        return redact(value.decode("utf-8", "replace"))
    if depth and isinstance(value, Mapping):
        return {str(k): _clean(str(k), v, depth - 1) for k, v in value.items()}
    if depth and isinstance(value, list | tuple | set | frozenset):
        return [_clean(name, v, depth - 1) for v in value]
    return value if isinstance(value, int | float | bool | None) else redact(str(value))


def _unknown(value: Any) -> str:
    return redact(str(value))
