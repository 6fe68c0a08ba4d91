"""Calls with sensible contents, for tests of the ledger, and what it adds up to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from heavy.llm.legs import CallRecord
from heavy.llm.types import CallUsage, Spender, cache_writes

# 2026-01-02 12:00 UTC
NOON = 1767355200.0
DAY = "2026-01-02"
SHOP = Spender("acme", "shop", "refund", "s1", "t_1", None, "skill")


def call(call_id: str = "c1", spender: Spender = SHOP, usage: CallUsage | None = None, **other: Any) -> CallRecord:
    """A call of the shop's agent at noon: 100 tokens in, 40 of them from the cache and 20 into it, 10 out, for 0.001 dollars."""
    values: dict[str, Any] = {"outcome": "ok", "began": NOON, "seconds": 1.5, "first_token_seconds": 0.25}
    used = usage or CallUsage(1, 100, 40, 10, 0.001, 20)
    place = {"alias": "default", "target": "openai/gpt-4.1-mini", "model": "gpt-4.1-mini"}
    return CallRecord(call_id, spender, usage=used, **{**place, **values, **other})


def total(calls: Iterable[CallRecord]) -> tuple[int, int, int, int]:
    """Input, cached, cache-write and output tokens of calls."""
    used = [c.usage for c in calls]
    return (
        sum(u.input_tokens for u in used),
        sum(u.cached_tokens for u in used),
        sum(cache_writes(u) for u in used),
        sum(u.output_tokens for u in used),
    )
