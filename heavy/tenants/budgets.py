"""Whether a tenant or one of its keys may spend more today: the limits of tokens and of money, and how a refusal is told."""

from __future__ import annotations

from dataclasses import dataclass

from common.contracts.access import KeyLimits, Limits
from common.errors import BudgetExceeded
from common.hotstore.accounts import Account
from common.web.rate import beyond
from heavy.llm.prices import NANO, nano_dollars
from heavy.tenants.spending import Place, Spending

SOON = 1.0  # seconds after which a call that runs may have ended
NAMES = ("tokens_per_day", "cost_usd_per_day")


@dataclass(frozen=True, slots=True)
class Budget:
    """What a tenant (or, with a key id in `place`, a key of it) may spend in a day; at least one of both is limited."""

    place: Place
    tokens: int | None
    cost_usd: float | None

    @classmethod
    def of(cls, place: Place, limits: Limits | KeyLimits) -> Budget | None:
        """The budget that limits give, None where they give none."""
        if limits.tokens_per_day is None and limits.cost_usd_per_day is None:
            return None
        return cls(place, limits.tokens_per_day, limits.cost_usd_per_day)

    @property
    def limits(self) -> tuple[int | None, int | None]:
        """As amounts of an account."""
        return self.tokens, None if self.cost_usd is None else nano_dollars(self.cost_usd)

    def refusal(self, account: Account, until_midnight: float, *, with_reserved: bool) -> BudgetExceeded | None:
        """The refusal where something of the budget is used up, `with_reserved` also by what is set aside for calls that run."""
        whose, prefix = ("this tenant", "") if self.place[1] is None else ("this key", "key_")
        for n, (name, limit) in enumerate(zip(NAMES, self.limits, strict=True)):
            spent, reserved = account.spent[n], account.reserved[n] if with_reserved else 0
            if limit is None or spent + reserved < limit:
                continue
            what = f"use {limit} tokens" if n == 0 else f"spend {self.cost_usd:g} US dollars"
            detail, wait = f"{whose} may {what} a day (UTC)", until_midnight
            if spent < limit:
                detail, wait = f"{detail}; the rest is set aside for calls that run now", SOON
            value, used = (limit, spent) if n == 0 else (self.cost_usd or 0.0, round(spent / NANO, 6))
            return BudgetExceeded(**beyond(prefix + name, value, used, detail, wait))
        return None


async def check(spending: Spending, tenant: str, limits: Limits) -> None:
    """Raises BudgetExceeded where a tenant has spent what it may today, DependencyUnavailable when that cannot be known. Where there is no
    budget nothing is asked."""
    budget = Budget.of((tenant, None), limits)
    if budget is None:
        return
    refusal = budget.refusal(await spending.account(budget.place), spending.until_midnight, with_reserved=False)
    if refusal is not None:
        raise refusal
