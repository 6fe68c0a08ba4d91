"""Costs from token counts."""

from __future__ import annotations

import pytest

from common.contracts.query import Usage
from heavy.llm.prices import cost, prices_of
from heavy.llm.types import Prices, Target


def test_cached_input_has_its_own_price() -> None:
    assert cost(Usage(1, 1_000_000, 400_000, 100_000), Prices(3, 0.3, 15)) == pytest.approx(0.6 * 3 + 0.4 * 0.3 + 1.5)


def test_unknown_prices_cost_nothing() -> None:
    assert prices_of(Target("openai", "some-model")) is None
    assert cost(Usage(1, 10, 0, 10), None) == 0


@pytest.mark.parametrize(
    ("model", "input_price"),
    [
        ("gpt-4.1-mini", 0.4),
        ("gpt-4.1-mini-2025-04-14", 0.4),
        ("gpt-4.1", 2),
        ("gpt-5", 1.25),
        ("gpt-5-mini", 0.25),
        ("claude-sonnet-4-6", 3),
    ],
)
def test_the_table_knows_names_with_and_without_a_date(model: str, input_price: float) -> None:
    prices = prices_of(Target("openai", model))
    assert prices is not None
    assert prices.input == input_price


def test_a_newer_model_is_not_taken_for_an_older_one() -> None:
    assert prices_of(Target("openai", "gpt-5.4")) is None
    assert prices_of(Target("openai", "gpt-4o-audio-preview")) is None


def test_a_targets_own_prices_win() -> None:
    assert prices_of(Target("openai", "gpt-5", prices=Prices(9, 9, 9))) == Prices(9, 9, 9)
