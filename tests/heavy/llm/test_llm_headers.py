"""What providers' headers say about how long to wait."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from heavy.llm.headers import pause, retry_after, wanted_pause


@pytest.mark.parametrize(
    ("reset", "seconds"),
    [("20ms", 0.02), ("1s", 1), ("6m0s", 360), ("1m30.5s", 90.5), ("1h2m3s", 3723), ("7", 7), ("2h", 7200), ("5m", 300)],
)
@pytest.mark.parametrize("what", ["requests", "tokens"])
def test_openais_durations(reset: str, seconds: float, what: str) -> None:
    assert pause({f"x-ratelimit-remaining-{what}": "0", f"x-ratelimit-reset-{what}": reset}) == pytest.approx(seconds)


@pytest.mark.parametrize("what", ["requests", "tokens", "input-tokens", "output-tokens"])
def test_anthropics_times(what: str) -> None:
    at = (datetime.now(UTC) + timedelta(seconds=40)).isoformat().replace("+00:00", "Z")
    seconds = pause({f"anthropic-ratelimit-{what}-remaining": "0", f"anthropic-ratelimit-{what}-reset": at})
    assert seconds == pytest.approx(40, abs=2)


def test_the_longest_counts_and_room_is_no_reason_to_wait() -> None:
    both = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "2s"}
    both |= {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "30s"}
    assert pause(both) == 30
    assert pause(both | {"x-ratelimit-remaining-tokens": "17"}) == 2
    assert pause({"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "2s"}) is None
    assert pause({}) is None


@pytest.mark.parametrize("reset", ["", "soon", "-", "nan", "inf", "1x", "2026-13-45T00:00:00Z", "9" * 400 + "s"])
def test_nonsense_is_no_pause(reset: str) -> None:
    assert pause({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": reset}) is None


def test_retry_after_comes_first() -> None:
    headers = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "20s"}
    assert wanted_pause(headers) == 20
    assert wanted_pause(headers | {"retry-after": "3"}) == 3
    assert wanted_pause(headers | {"retry-after-ms": "250"}) == 0.25


def test_retry_after_as_a_date() -> None:
    at = format_datetime(datetime.fromtimestamp(time.time() + 90, UTC), usegmt=True)
    assert retry_after({"retry-after": at}) == pytest.approx(90, abs=2)
    assert retry_after({"retry-after": "tomorrow"}) is None
    assert retry_after({"retry-after": "-5"}) == 0
