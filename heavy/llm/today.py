"""What every tenant has spent today, as it is shown to people. Budgets look at more than the ledger (heavy.tenants.spending)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from heavy.llm.prices import NANO
from heavy.llm.stores import LedgerStore

MOST_TENANTS = 100_000
NOTHING: Mapping[str, Any] = {"tokens": 0, "cost_usd": 0.0}


async def spent_today(ledger: LedgerStore, tenant: str | None = None) -> dict[str, Mapping[str, Any]]:
    """Tokens (input and output) and US dollars of this UTC day, by tenant: of one, or of all that have spent something."""
    day = datetime.now(UTC).strftime("%Y-%m-%d")
    sums = await ledger.costs(tenant, first=day, last=day, group_by=("tenant",), limit=MOST_TENANTS)
    return {s.group["tenant"] or "": {"tokens": s.input_tokens + s.output_tokens, "cost_usd": s.cost_nano / NANO} for s in sums}
