"""Costs from token counts."""

from __future__ import annotations

import pytest

from common.contracts.query import Usage
from heavy.llm.prices import EXACT, TABLE, cost, nano_dollars, prices_of
from heavy.llm.types import CallUsage, Prices, Target


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


def test_what_is_written_into_the_cache_has_its_own_price() -> None:
    used = CallUsage(1, 1_000_000, 300_000, 0, 0, 200_000)
    assert cost(used, Prices(3, 0.3, 15, 3.75)) == pytest.approx(0.5 * 3 + 0.3 * 0.3 + 0.2 * 3.75)
    assert cost(used, Prices(3, 0.3, 15)) == pytest.approx(0.7 * 3 + 0.3 * 0.3)
    assert cost(used, Prices(3, 0.3, 15, 0)) == pytest.approx(0.5 * 3 + 0.3 * 0.3)


def test_a_cost_is_a_whole_number_of_billionths() -> None:
    used = CallUsage(1, 7, 3, 1)
    dollars = cost(used, Prices(0.05, 0.005, 0.4))
    assert nano_dollars(dollars) == 4 * 50 + 3 * 5 + 400
    assert nano_dollars(dollars) / 1_000_000_000 == dollars


def test_anthropic_writes_cost_a_quarter_more_than_input() -> None:
    claude = [prices for name, prices in (*TABLE, *EXACT.items()) if name.startswith("claude")]
    assert claude
    assert all(prices.cache_write == prices.input * 1.25 for prices in claude)
