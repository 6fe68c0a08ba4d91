"""What a call costs. The shipped table is a convenience with a date; prices in the models file win over it.

Money is counted in whole billionths of a dollar (`nano_dollars`), of which the cheapest token costs several: sums of any length are exact.
"""

from __future__ import annotations

from common.contracts.query import Usage
from heavy.llm.types import Prices, Target, cache_writes

# Anthropic's as on its price page in November 2026 (platform.claude.com/docs/en/about-claude/pricing), OpenAI's as of June 2026.
AS_OF = "2026-11"
NANO = 1_000_000_000

# US dollars for a million tokens: input, input read from the cache, output, input written into the cache (for five minutes). Longer names
# come first: the first prefix that fits counts. A model whose price depends on the length of its prompt is not in it: give it prices.
TABLE: tuple[tuple[str, Prices], ...] = (
    ("gpt-5-nano", Prices(0.05, 0.005, 0.40)),
    ("gpt-5-mini", Prices(0.25, 0.025, 2.00)),
    ("gpt-4.1-nano", Prices(0.10, 0.025, 0.40)),
    ("gpt-4.1-mini", Prices(0.40, 0.10, 1.60)),
    ("gpt-4.1-20", Prices(2.00, 0.50, 8.00)),
    ("gpt-4o-mini-20", Prices(0.15, 0.075, 0.60)),
    ("gpt-4o-20", Prices(2.50, 1.25, 10.00)),
    ("claude-haiku-4-5", Prices(1.00, 0.10, 5.00, 1.25)),
    ("claude-sonnet-4-5", Prices(3.00, 0.30, 15.00, 3.75)),
    ("claude-sonnet-4-6", Prices(3.00, 0.30, 15.00, 3.75)),
    ("claude-opus-4-5", Prices(5.00, 0.50, 25.00, 6.25)),
    ("claude-opus-4-6", Prices(5.00, 0.50, 25.00, 6.25)),
    ("claude-opus-4-7", Prices(5.00, 0.50, 25.00, 6.25)),
    ("claude-opus-4-8", Prices(5.00, 0.50, 25.00, 6.25)),
)
# Names that are also the beginning of other models' names: only as they stand.
EXACT: dict[str, Prices] = {
    "gpt-5": Prices(1.25, 0.125, 10.00),
    "gpt-4.1": Prices(2.00, 0.50, 8.00),
    "gpt-4o": Prices(2.50, 1.25, 10.00),
    "gpt-4o-mini": Prices(0.15, 0.075, 0.60),
    "claude-sonnet-5": Prices(2.00, 0.20, 10.00, 2.50),
    "claude-opus-5": Prices(5.00, 0.50, 25.00, 6.25),
    "claude-fable-5": Prices(10.00, 1.00, 50.00, 12.50),
    "claude-fable-5-1": Prices(10.00, 0.25, 50.00, 12.50),
    "demo": Prices(),  # the simulator
}
FREE = Prices()


def prices_of(target: Target) -> Prices | None:
    """The prices that count for a target: its own, else the table's; None when neither is known."""
    if target.prices != FREE:
        return target.prices
    if target.model in EXACT:
        return EXACT[target.model]
    return next((prices for prefix, prices in TABLE if target.model.startswith(prefix)), None)


def cost(usage: Usage, prices: Prices | None) -> float:
    """US dollars, in whole billionths. Unknown prices cost 0; whoever asks has to say so."""
    if prices is None:
        return 0.0
    written = cache_writes(usage)
    fresh = usage.input_tokens - usage.cached_tokens - written
    to_write = prices.input if prices.cache_write is None else prices.cache_write
    dollars = fresh * prices.input + usage.cached_tokens * prices.cached_input + written * to_write + usage.output_tokens * prices.output
    return round(dollars / 1_000_000, 9)


def nano_dollars(dollars: float) -> int:
    """An amount as it is summed and stored."""
    return round(dollars * NANO)
