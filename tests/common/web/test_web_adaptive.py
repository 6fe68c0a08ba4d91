"""The limit that finds its own height: between two numbers, down by what was under way, up by itself."""

from __future__ import annotations

from common.web.adaptive import AdaptiveLimit


def test_it_begins_at_the_highest_and_says_so() -> None:
    told: list[float] = []
    limit = AdaptiveLimit(100, 10, told.append)
    assert (limit.now, told) == (100, [100])


def test_it_falls_below_what_was_under_way() -> None:
    limit = AdaptiveLimit(100, 10)
    limit.fall(50, 0.5)
    assert limit.now == 25
    limit.fall(80, 0.5)  # more than may be: then what may be stays
    assert limit.now == 25


def test_few_are_never_too_many() -> None:
    limit = AdaptiveLimit(100, 10)
    limit.fall(3)
    assert limit.now == 10


def test_it_comes_back_by_tenths() -> None:
    told: list[float] = []
    limit = AdaptiveLimit(100, 10, told.append)
    limit.fall(10)
    for _ in range(20):
        limit.rise()
    assert told == [100, *range(10, 101, 10)]


def test_a_small_one_rises_too() -> None:
    limit = AdaptiveLimit(4, 1)
    limit.fall(2)
    limit.rise()
    assert limit.now == 2


def test_without_a_lowest_nothing_changes() -> None:
    for limit in (AdaptiveLimit(100), AdaptiveLimit(100, 500)):
        limit.fall(100)
        assert limit.now == 100
