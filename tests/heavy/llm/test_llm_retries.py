"""The retry budget of an alias."""

from __future__ import annotations

from heavy.llm.retries import SPARE, RetryBudget


def test_a_fifth_of_the_calls_and_a_few() -> None:
    budget = RetryBudget(0.2)
    made = 0
    for _ in range(1000):
        budget.asked()
        made += budget.take(now=1.0)
    assert 200 <= made <= 200 + SPARE


def test_a_few_come_back_with_the_time() -> None:
    budget = RetryBudget(0.0)
    assert [budget.take(1.0) for _ in range(11)] == [True] * 10 + [False]
    assert not budget.take(4.0)
    assert budget.take(14.0)
    assert [budget.take(1000.0) for _ in range(11)].count(True) == SPARE


def test_a_share_of_one_is_no_bound() -> None:
    budget = RetryBudget(1.0)
    for _ in range(100):
        budget.asked()
        assert budget.take(1.0)
