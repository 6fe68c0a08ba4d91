"""Cron expressions: what is refused and why, and when they tick where clocks are put forward and back."""

from __future__ import annotations

import contextlib
import random
from datetime import UTC, datetime

import pytest

from common.errors import InvalidRequest
from heavy.jobs.cron import Cron


def at(text: str) -> float:
    """Unix seconds of a time in UTC."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()


def ticks(cron: Cron, since: str, count: int) -> list[str]:
    """The first ticks after a time, in UTC."""
    found, now = [], at(since)
    for _ in range(count):
        now = cron.after(now)
        found.append(datetime.fromtimestamp(now, UTC).strftime("%m-%d %H:%M"))
    return found


@pytest.mark.parametrize(
    ("expression", "zone", "field"),
    [
        ("* * * *", "UTC", "cron"),
        ("*/10 * * * * *", "UTC", "cron"),
        ("@daily", "UTC", "cron"),
        ("", "UTC", "cron"),
        ("60 * * * *", "UTC", "cron"),
        ("0 0 30 2 *", "UTC", "cron"),
        ("0 0 * * MON#0", "UTC", "cron"),
        ("*/0 * * * *", "UTC", "cron"),
        ("a b c d e", "UTC", "cron"),
        ("0 0 1,2,3," + "4," * 100 + "5 * *", "UTC", "cron"),
        ("0 9 * * *", "Mars/Olympus", "timezone"),
        ("0 9 * * *", "../../etc/passwd", "timezone"),
        ("0 9 * * *", "America", "timezone"),
        ("0 9 * * *", "", "timezone"),
        ("0 9 * * *", "/etc/localtime", "timezone"),
        ("0 9 * * *", "Europe/Paris\0", "timezone"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(expression: str, zone: str, field: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Cron(expression, zone)
    assert refused.value.extra["field"] == field


def test_seconds_are_named_as_the_reason() -> None:
    with pytest.raises(InvalidRequest, match="once a minute"):
        Cron("0 0 9 * * *", "UTC")


def test_one_that_never_ticks_says_so() -> None:
    with pytest.raises(InvalidRequest, match="never ticks") as refused:
        Cron("0 0 */30 2 MON#5", "UTC").after(0)  # the 1st is no fifth Monday
    assert refused.value.extra["field"] == "cron"
    assert ticks(Cron("0 0 * 2 MON#5", "UTC"), "2026-01-01T00:00", 1) == ["02-29 00:00"]  # while this one does, in 2044


def test_anything_is_read_or_refused() -> None:
    rng = random.Random(7)
    pieces = ["*", "/", "-", ",", "L", "W", "#", "MON", "JAN", "0", "5", "31", "99", "1-5", "*/2", " ", "?", "é"]
    for _ in range(3000):
        fields = ["".join(rng.choices(pieces, k=rng.randint(1, 3))) for _ in range(5)]
        with contextlib.suppress(InvalidRequest):
            assert Cron(" ".join(fields), "Europe/Berlin").after(1.8e9) > 1.8e9


def test_it_ticks_in_its_zone() -> None:
    cron = Cron("0 9 * * MON-FRI", "America/New_York")
    assert ticks(cron, "2026-06-12T12:59", 3) == ["06-12 13:00", "06-15 13:00", "06-16 13:00"]
    assert ticks(Cron("0 9 * * *", "Asia/Kolkata"), "2026-06-12T00:00", 1) == ["06-12 03:30"]


def test_a_tick_is_after_the_time_and_not_at_it() -> None:
    cron = Cron("* * * * *", "UTC")
    assert cron.after(at("2026-06-12T12:00")) == at("2026-06-12T12:01")
    assert cron.after(at("2026-06-12T12:00") + 0.5) == at("2026-06-12T12:01")


def test_an_hour_that_is_left_out() -> None:
    """Berlin, 29 March 2026: 02:00 becomes 03:00 (01:00 UTC)."""
    daily = Cron("30 2 * * *", "Europe/Berlin")
    assert ticks(daily, "2026-03-28T00:00", 3) == ["03-28 01:30", "03-29 01:00", "03-30 00:30"]
    hourly = Cron("30 * * * *", "Europe/Berlin")
    assert ticks(hourly, "2026-03-29T00:00", 3) == ["03-29 00:30", "03-29 01:30", "03-29 02:30"]


def test_an_hour_that_comes_twice() -> None:
    """Berlin, 25 October 2026: 03:00 becomes 02:00 (01:00 UTC). A job at a fixed hour runs once, one of every hour runs twice."""
    daily = Cron("30 2 * * *", "Europe/Berlin")
    assert ticks(daily, "2026-10-24T12:00", 2) == ["10-25 00:30", "10-26 01:30"]
    hourly = Cron("30 * * * *", "Europe/Berlin")
    assert ticks(hourly, "2026-10-25T00:00", 3) == ["10-25 00:30", "10-25 01:30", "10-25 02:30"]
    # Asked in the second of the two hours, the tick that was in the first one is over.
    assert ticks(daily, "2026-10-25T01:10", 1) == ["10-26 01:30"]


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "America/Sao_Paulo", "Africa/Casablanca"])
@pytest.mark.parametrize("expression", ["30 2 * * *", "0 0 * * *", "*/15 * * * *", "5 1-3 * * *", "30 1 * * SUN"])
def test_every_tick_of_a_year_comes_once_and_in_order(expression: str, zone: str) -> None:
    """Walking from tick to tick finds the same ones as asking anew every ten minutes: where a schedule was started makes no difference."""
    cron, start, end = Cron(expression, zone), at("2026-02-01T00:00"), at("2026-11-15T00:00")
    walked, now = [], start
    while (now := cron.after(now)) < end:
        walked.append(now)
    assert walked == sorted(set(walked))
    asked = {cron.after(start + n * 600) for n in range(int((end - start) // 600))}
    assert {t for t in asked if t < end} == set(walked)
