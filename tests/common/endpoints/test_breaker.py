"""Circuit breaker and retry budget over a clock that the test turns."""

from __future__ import annotations

from common.endpoints.breaker import Breaker, RetryBudget


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def opened() -> tuple[Breaker, Clock]:
    clock = Clock()
    breaker = Breaker(clock=clock)
    for _ in range(20):
        assert breaker.allow()
        breaker.failure()
    assert breaker.is_open
    return breaker, clock


def test_it_opens_on_the_rate_not_on_one_failure() -> None:
    breaker = Breaker(clock=Clock())
    for _ in range(40):
        breaker.success()
    for _ in range(30):
        breaker.failure()
    assert not breaker.is_open
    for _ in range(10):
        breaker.failure()
    assert breaker.is_open


def test_it_stays_closed_below_the_least_number_of_calls() -> None:
    breaker = Breaker(clock=Clock())
    for _ in range(19):
        breaker.failure()
    assert not breaker.is_open


def test_old_failures_are_forgotten() -> None:
    clock = Clock()
    breaker = Breaker(clock=clock)
    for _ in range(19):
        breaker.failure()
    clock.now += 21
    breaker.failure()
    assert not breaker.is_open


def test_one_probe_closes_it() -> None:
    breaker, clock = opened()
    assert not breaker.allow()
    assert breaker.retry_after == 2.0
    clock.now += 2
    assert breaker.allow()
    assert not breaker.allow()
    breaker.success()
    assert not breaker.is_open
    assert breaker.allow()


def test_a_failed_probe_opens_it_for_longer() -> None:
    breaker, clock = opened()
    for wait in (2, 4, 8, 16, 30, 30):
        assert not breaker.allow()
        clock.now += wait
        assert breaker.allow()
        breaker.failure()
    assert breaker.is_open


def test_results_from_before_the_opening_change_nothing() -> None:
    breaker, _ = opened()
    breaker.success()
    breaker.failure()
    assert breaker.is_open
    assert breaker.retry_after == 2.0


def test_a_probe_that_vanished_does_not_hold_it() -> None:
    breaker, clock = opened()
    clock.now += 2
    assert breaker.allow()
    breaker.release()
    assert breaker.allow()
    clock.now += 20
    assert breaker.allow()


def test_retries_are_a_fifth_of_the_requests() -> None:
    budget = RetryBudget()
    taken = 0
    for _ in range(1000):
        budget.request()
        taken += budget.take()
    assert 190 <= taken <= 201


def test_unused_budget_is_bounded() -> None:
    budget = RetryBudget()
    for _ in range(1000):
        budget.request()
    assert sum(budget.take() for _ in range(50)) == 10
