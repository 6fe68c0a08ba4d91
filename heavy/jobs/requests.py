"""Reads what clients ask of tasks, batches and schedules. It knows no HTTP and no store; every error names its field."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson

from common.contracts.query import MAX_DEPTH, Query, read_query
from common.errors import InvalidRequest
from heavy.jobs.cron import Cron

MAX_ITEMS = 10_000
MAX_ATTEMPTS, DEFAULT_ATTEMPTS = 20, 3
MAX_AHEAD_SECONDS = 366 * 86400
MAX_BEHIND_SECONDS = 86400  # clocks differ, requests wait in queues; what is older than a day is a mistake


@dataclass(frozen=True, slots=True)
class Options:
    """How a task is to run. `webhook` is as it came; `asked` is what counts as the same request, for an Idempotency-Key."""

    run_at: float | None
    delay_seconds: float
    max_attempts: int
    webhook: Any
    asked: Sequence[Any]

    @property
    def due_now(self) -> bool:
        """Whether nothing is to be waited for."""
        return self.delay_seconds == 0 and (self.run_at is None or self.run_at <= time.time())


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """A batch: each item is a query, or the reason why it is none."""

    items: Sequence[Query | InvalidRequest]
    options: Options
    asked: Sequence[Any]


@dataclass(frozen=True, slots=True)
class ScheduleRequest:
    """A schedule: when, and what. `cron` has been read, `expression` and `timezone` are what it says."""

    cron: Cron
    expression: str
    timezone: str
    query: Query
    options: Options


def read_options(doc: Mapping[str, Any]) -> Options:
    """The fields of a task beside its query: run_at or delay_seconds, max_attempts, webhook. Raises InvalidRequest."""
    run_at, delay = doc.get("run_at"), doc.get("delay_seconds")
    if run_at is not None and delay is not None:
        raise InvalidRequest("run_at and delay_seconds exclude each other", field="delay_seconds")
    attempts = doc.get("max_attempts", DEFAULT_ATTEMPTS)
    if type(attempts) is not int or not 1 <= attempts <= MAX_ATTEMPTS:
        raise InvalidRequest(f"max_attempts must be a number from 1 to {MAX_ATTEMPTS}", field="max_attempts")
    webhook = doc.get("webhook")
    asked = (run_at, delay, attempts, webhook)
    return Options(None if run_at is None else _time(run_at), _delay(delay), attempts, webhook, asked)


def read_schedule(doc: Mapping[str, Any]) -> ScheduleRequest:
    """A schedule; its query's fields stand beside `cron` or in `query`. Raises InvalidRequest, also for a cron that never ticks."""
    expression, timezone = doc.get("cron"), doc.get("timezone", "UTC")
    if type(expression) is not str:
        raise InvalidRequest("cron is required: five fields as in 0 9 * * MON-FRI", field="cron")
    if type(timezone) is not str:
        raise InvalidRequest("timezone must be an IANA name such as Europe/Berlin", field="timezone")
    for name in ("run_at", "delay_seconds"):
        if doc.get(name) is not None:
            raise InvalidRequest(f"{name} has no place in a schedule: cron says when it runs", field=name)
    for name in ("time_zone", "tz"):  # it would run at another time than its caller believes
        if doc.get(name) is not None:
            raise InvalidRequest(f"{name} is not known: the time zone goes into timezone", field=name)
    if isinstance(doc.get("query"), Mapping):
        doc = {**doc, **doc["query"]}
    cron = Cron(expression, timezone)
    cron.after(time.time())
    return ScheduleRequest(cron, expression, timezone, read_query(doc), read_options(doc))


def read_batch(body: bytes) -> BatchRequest:
    """A batch, of which a broken item breaks only itself. Takes up to a second for the largest body: run it beside the event loop.

    Raises InvalidRequest for a body that is no batch at all.
    """
    try:
        doc = orjson.loads(body)
    except orjson.JSONDecodeError as e:
        raise InvalidRequest(f"the body is not valid JSON: {e.msg} at line {e.lineno} column {e.colno}") from None
    if type(doc) is not dict:
        raise InvalidRequest("the body must be a JSON object")
    if _deeper(doc, MAX_DEPTH):
        raise InvalidRequest(f"the body is nested deeper than {MAX_DEPTH} levels")
    items = doc.get("items")
    if type(items) is not list or not 1 <= len(items) <= MAX_ITEMS:
        raise InvalidRequest(f"items must be a list of 1 to {MAX_ITEMS} queries", field="items")
    options = read_options(doc)
    twice = _given_twice(body)
    read = [_item(item, index, twice[index]) for index, item in enumerate(items)]
    return BatchRequest(read, options, (items, *options.asked))


def _item(item: Any, index: int, twice: str | None) -> Query | InvalidRequest:
    place = f"items[{index}]"
    if type(item) is not dict:
        return InvalidRequest(f"{place} must be an object", field=place)
    if twice is not None:
        return InvalidRequest(f"the key {twice[:64]!r} stands twice in {place}", field=f"{place}.{twice[:64]}")
    try:
        return read_query(item)
    except InvalidRequest as e:
        return InvalidRequest(e.detail, field=f"{place}.{e.extra['field']}")


class _Twice(dict[str, Any]):
    """An object in which `name` stands twice."""

    name = ""


def _pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
    seen = dict(items)
    if len(seen) == len(items):
        return seen
    found = _Twice(seen)
    names = [name for name, _ in items]
    found.name = next(name for name in names if names.count(name) > 1)
    return found


def _given_twice(body: bytes) -> list[str | None]:
    """For each item the key that it holds twice, itself or in an object of its own. orjson would keep the last and say nothing."""
    try:
        doc = json.loads(body, object_pairs_hook=_pairs)
    except ValueError:  # stdlib refuses what orjson takes: integers of more than 4300 digits
        raise InvalidRequest("the body is not valid JSON: a number is too long") from None
    if isinstance(doc, _Twice):
        raise InvalidRequest(f"the key {doc.name[:64]!r} stands twice in the body", field=doc.name[:64])
    found: list[str | None] = []
    for item in doc["items"]:
        inside = [item, *item.values()] if isinstance(item, dict) else []
        found.append(next((part.name for part in inside if isinstance(part, _Twice)), None))
    return found


def _deeper(value: Any, levels: int) -> bool:
    """Whether containers nest deeper than that."""
    kind = type(value)
    if kind is not dict and kind is not list:
        return False
    parts = value.values() if kind is dict else value
    return levels == 0 or any(_deeper(part, levels - 1) for part in parts if type(part) in (dict, list))


def _delay(value: Any) -> float:
    if value is None:
        return 0.0
    if type(value) not in (int, float) or not 0 <= value <= MAX_AHEAD_SECONDS:
        raise InvalidRequest(f"delay_seconds must be a number from 0 to {MAX_AHEAD_SECONDS}", field="delay_seconds")
    return float(value)


def _time(value: Any) -> float:
    """Unix seconds, or ISO 8601 with a zone."""
    if type(value) is str:
        try:
            moment = datetime.fromisoformat(value)
            if moment.tzinfo is None:
                raise InvalidRequest("run_at needs a zone, as in 2026-06-15T09:00:00+02:00 or …Z", field="run_at")
            at = moment.timestamp()
        except (ValueError, OverflowError):
            raise InvalidRequest("run_at must be ISO 8601 with a zone, or Unix seconds", field="run_at") from None
    elif type(value) in (int, float):
        at = float(value)
    else:
        raise InvalidRequest("run_at must be ISO 8601 with a zone, or Unix seconds", field="run_at")
    ahead = at - time.time()
    if ahead > MAX_AHEAD_SECONDS:
        raise InvalidRequest("run_at lies more than 366 days ahead (a number means seconds, not milliseconds)", field="run_at")
    if ahead < -MAX_BEHIND_SECONDS:
        raise InvalidRequest("run_at lies more than a day in the past", field="run_at")
    return at
