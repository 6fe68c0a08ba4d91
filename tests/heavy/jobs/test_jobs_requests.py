"""What clients ask of tasks, batches and schedules: every field is read, or refused by its name; a broken item breaks only itself."""

from __future__ import annotations

import time
from typing import Any

import orjson
import pytest

from common.contracts.query import Query
from common.errors import InvalidRequest
from heavy.jobs.requests import MAX_ITEMS, Options, read_batch, read_options, read_schedule

ITEM = {"message": "hello", "session_id": "s1"}


def refused(doc: Any) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as caught:
        read_options(doc)
    return caught.value


def test_without_options_it_is_due_now_and_tried_three_times() -> None:
    options = read_options(ITEM)
    assert options == Options(None, 0.0, 3, None, (None, None, 3, None))
    assert options.due_now


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("2026-06-15T09:00:00+02:00", 1781506800.0),
        ("2026-06-15T07:00:00Z", 1781506800.0),
        (1781506800, 1781506800.0),
        (1781506800.25, 1781506800.25),
    ],
)
def test_a_time_is_read_in_both_forms(given: Any, expected: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1781500000.0)
    options = read_options({"run_at": given})
    assert (options.run_at, options.due_now) == (expected, False)


@pytest.mark.parametrize(
    ("doc", "field"),
    [
        ({"run_at": "2026-06-15T09:00:00"}, "run_at"),
        ({"run_at": "tomorrow"}, "run_at"),
        ({"run_at": True}, "run_at"),
        ({"run_at": {}}, "run_at"),
        ({"run_at": 0}, "run_at"),
        ({"run_at": time.time() * 1000}, "run_at"),
        ({"run_at": 1e300}, "run_at"),
        ({"run_at": "9999-12-31T23:59:59Z"}, "run_at"),
        ({"run_at": "0001-01-01T00:00:00+14:00"}, "run_at"),
        ({"delay_seconds": -1}, "delay_seconds"),
        ({"delay_seconds": "5"}, "delay_seconds"),
        ({"delay_seconds": True}, "delay_seconds"),
        ({"delay_seconds": 1e12}, "delay_seconds"),
        ({"run_at": time.time(), "delay_seconds": 1}, "delay_seconds"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": 21}, "max_attempts"),
        ({"max_attempts": 2.5}, "max_attempts"),
        ({"max_attempts": None}, "max_attempts"),
        ({"max_attempts": True}, "max_attempts"),
    ],
)
def test_an_option_that_does_not_hold_is_named(doc: Any, field: str) -> None:
    error = refused(doc)
    assert error.extra["field"] == field
    assert field in error.detail


def test_a_little_in_the_past_is_now() -> None:
    assert read_options({"run_at": time.time() - 60}).due_now
    assert not read_options({"delay_seconds": 0.5}).due_now


def test_a_batch_is_read_item_by_item() -> None:
    body = orjson.dumps(
        {"items": [ITEM, {"message": ""}, 7, {**ITEM, "context": {"a": {}}}, {**ITEM, "agent_id": "x y"}], "max_attempts": 5}
    )
    batch = read_batch(body)
    assert batch.options.max_attempts == 5
    assert batch.items[0] == Query("hello", "s1")
    broken = [(i.extra["field"], i.detail) for i in batch.items if isinstance(i, InvalidRequest)]
    assert [field for field, _ in broken] == ["items[1].message", "items[2]", "items[3].context.a", "items[4].agent_id"]
    assert broken[0][1].startswith("message")


def test_a_key_that_stands_twice_breaks_its_item() -> None:
    body = b'{"items": [{"message": "a", "message": "b", "session_id": "s1"}, {"message": "a", "session_id": "s1"},'
    body += b' {"message": "a", "session_id": "s1", "context": {"x": 1, "x": 2}}]}'
    first, second, third = read_batch(body).items
    assert isinstance(first, InvalidRequest)
    assert first.extra["field"] == "items[0].message"
    assert isinstance(second, Query)
    assert isinstance(third, InvalidRequest)
    assert third.extra["field"] == "items[2].x"


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"[]", "object"),
        (b"{", "JSON"),
        (b"\xff", "JSON"),
        (b'{"items": NaN}', "JSON"),
        (b'{"items": []}', "items"),
        (b'{"items": {}}', "items"),
        (b"{}", "items"),
        (b'{"items": [1], "items": [2]}', "twice"),
        (b'{"items": [' + b"[" * 500 + b"]" * 500 + b"]}", "deeper"),
        (b'{"items": [' + b"1" * 5000 + b"]}", "number"),
        (b'{"items": [1], "max_attempts": 99}', "max_attempts"),
        (orjson.dumps({"items": [ITEM] * (MAX_ITEMS + 1)}), "10000"),
    ],
)
def test_what_is_no_batch_at_all(body: bytes, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        read_batch(body)


def test_the_largest_batch_is_read() -> None:
    body = orjson.dumps({"items": [{**ITEM, "message": "x" * 1500}] * MAX_ITEMS})
    assert len(body) > 15_000_000
    assert len(read_batch(body).items) == MAX_ITEMS


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"cron": None}, "cron"),
        ({"cron": "* * * * * *"}, "cron"),
        ({"cron": "0 0 */30 2 MON#5"}, "cron"),
        ({"timezone": "Nowhere"}, "timezone"),
        ({"timezone": 5}, "timezone"),
        ({"message": ""}, "message"),
        ({"session_id": "a b"}, "session_id"),
        ({"run_at": 5}, "run_at"),
        ({"delay_seconds": 5}, "delay_seconds"),
        ({"max_attempts": 50}, "max_attempts"),
    ],
)
def test_a_schedule_that_does_not_hold_names_its_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read_schedule({**ITEM, "cron": "0 9 * * *", **change})
    assert caught.value.extra["field"] == field


def test_a_schedule_is_read() -> None:
    read = read_schedule({**ITEM, "cron": "0 9 * * *", "timezone": "Asia/Tokyo", "max_attempts": 1})
    assert (read.expression, read.timezone, read.query.message, read.options.max_attempts) == ("0 9 * * *", "Asia/Tokyo", "hello", 1)
    assert read_schedule({**ITEM, "cron": "0 9 * * *"}).timezone == "UTC"
