"""One suite for every database: lines of the ledger, the sums of their days, and what stays of both."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from heavy.jobs.stores import JobStores
from heavy.llm.stores import Costs, Expense, Wanted
from heavy.llm.types import CallUsage, Spender
from heavy.turns.stores import Stores
from tests.support.ledger import DAY, NOON, SHOP, call
from tests.support.turns import talk

ALL = Wanted(None, 0, NOON * 2)
KEY = Spender("acme", key_id="k1")


async def sums(stores: Stores, *group_by: str, tenant: str | None = None) -> list[Costs]:
    return list(await stores.ledger.costs(tenant, first="2026-01-01", last="2026-12-31", group_by=group_by, limit=99))


async def test_a_line_comes_back_as_it_was(stores: Stores) -> None:
    await talk(stores, "t_1")
    whole = call(streamed=True)
    bare = call("c2", KEY, CallUsage(), outcome="timeout", began=NOON + 1, first_token_seconds=None, estimated=True, cached_reply=True)
    bare.usage.llm_calls = 1
    assert await stores.ledger.record([whole, bare]) == 2
    assert await stores.ledger.calls(ALL, limit=9) == [bare, whole]


async def test_a_call_is_recorded_once(stores: Stores, other_stores: Stores) -> None:
    lines = [call(f"c{n}") for n in range(20)]
    await stores.ledger.record(lines[:5])
    assert await stores.ledger.record([lines[0], lines[5], lines[5]]) == 1
    new = await asyncio.gather(*(s.ledger.record(lines) for s in (stores, other_stores) for _ in range(5)))
    assert sum(new) == 14
    assert len(await stores.ledger.calls(ALL, limit=99)) == 20
    assert [(s.calls, s.input_tokens) for s in await sums(stores)] == [(20, 2000)]


async def test_no_line_is_no_work(stores: Stores) -> None:
    assert await stores.ledger.record([]) == 0
    assert await sums(stores) == []
    assert await sums(stores, "day") == []


async def test_one_id_of_two_tenants_is_two_calls(stores: Stores) -> None:
    assert await stores.ledger.record([call(), call(spender=replace(SHOP, tenant="other"))]) == 2
    assert [(s.group["tenant"], s.calls) for s in await sums(stores, "tenant")] == [("acme", 1), ("other", 1)]
    assert [s.calls for s in await sums(stores, tenant="other")] == [1]
    assert [c.spender.tenant for c in await stores.ledger.calls(replace(ALL, tenant="other"), limit=9)] == ["other"]


async def test_sums_are_kept_by_what_was_asked(stores: Stores) -> None:
    await stores.ledger.record(
        [
            call("c1"),
            call("c2", outcome="cancelled", estimated=True),
            call("c3", replace(SHOP, skill=None, purpose="intent"), CallUsage(1, 7, 0, 1, 0.5), outcome="reset"),
            call("c4", KEY, model="m", target="anthropic/m", began=NOON + 86400),
        ]
    )
    everything = Costs({}, 4, 1, 1, 307, 120, 60, 31, 503_000_000)
    assert await sums(stores) == [everything]
    assert [(s.group, s.calls) for s in await sums(stores, "day")] == [({"day": DAY}, 3), ({"day": "2026-01-03"}, 1)]
    by_skill = {(s.group["agent"], s.group["skill"], s.group["purpose"]): s.calls for s in await sums(stores, "agent", "skill", "purpose")}
    assert by_skill == {("shop", "refund", "skill"): 2, ("shop", None, "intent"): 1, (None, None, "message"): 1}
    by_key = {(s.group["key"], s.group["model"], s.group["target"]): s.cost_nano for s in await sums(stores, "key", "model", "target")}
    assert by_key == {(None, "gpt-4.1-mini", "openai/gpt-4.1-mini"): 502_000_000, ("k1", "m", "anthropic/m"): 1_000_000}
    assert [s.calls for s in await stores.ledger.costs(None, first=DAY, last=DAY, group_by=(), limit=9)] == [3]
    with pytest.raises(ValueError, match="no group"):
        await sums(stores, "day; DROP TABLE turns")


async def test_many_small_amounts_add_up_exactly(stores: Stores) -> None:
    """A hundred nano-dollars, ten thousand times: floats would be off by then."""
    lines = [call(f"c{n}", usage=CallUsage(1, 3, 0, 1, 0.0000001)) for n in range(10_000)]
    for begin in range(0, 10_000, 500):
        await stores.ledger.record(lines[begin : begin + 500])
    found = (await sums(stores))[0]
    assert (found.calls, found.input_tokens, found.cost_nano) == (10_000, 30_000, 1_000_000)


async def test_what_a_tenant_and_its_key_have_spent(stores: Stores) -> None:
    await stores.ledger.record([call(), call("c2", KEY), call("c3", KEY, began=NOON - 86400), call("c4", replace(KEY, tenant="other"))])
    assert await stores.ledger.spent("acme", None, day=DAY) == Expense(220, 2_000_000)
    assert await stores.ledger.spent("acme", "k1", day=DAY) == Expense(110, 1_000_000)
    assert await stores.ledger.spent("acme", "k2", day=DAY) == Expense()
    assert await stores.ledger.spent("nobody", None, day=DAY) == Expense()


async def test_lines_come_in_pages(stores: Stores) -> None:
    lines = [call(f"c{n}", began=NOON + n // 2) for n in range(7)]
    await stores.ledger.record(lines)
    first = await stores.ledger.calls(ALL, limit=4)
    rest = await stores.ledger.calls(ALL, before=(first[-1].began, first[-1].call_id), limit=4)
    assert [c.call_id for c in (*first, *rest)] == ["c6", "c5", "c4", "c3", "c2", "c1", "c0"]


async def test_lines_are_found_by_what_they_are(stores: Stores) -> None:
    await talk(stores, "t_1")
    await stores.ledger.record([call(), call("c2", KEY, outcome="timeout", model="m"), call("c3", began=NOON - 1)])
    for field, value, ids in (
        ("session_id", "s1", ["c1"]),
        ("turn_id", "t_1", ["c1"]),
        ("agent_id", "shop", ["c1"]),
        ("key_id", "k1", ["c2"]),
        ("model", "m", ["c2"]),
        ("outcome", "timeout", ["c2"]),
        ("outcome", "reset", []),
    ):
        found = await stores.ledger.calls(replace(ALL, tenant="acme", since=NOON, until=NOON + 1, **{field: value}), limit=9)
        assert [c.call_id for c in found] == ids, field


async def test_erasing_a_session_leaves_the_money(stores: Stores) -> None:
    await talk(stores, "t_1")
    await talk(stores, "t_9", session_id="s2")
    await stores.ledger.record([call(), call("c2", replace(SHOP, session_id="s2", turn_id="t_9"))])
    before = await sums(stores, "agent", "skill")
    assert await stores.sessions.delete("acme", "s1")
    await stores.ledger.record([call("c3")])  # it was under way
    owners = {c.call_id: (c.spender.session_id, c.spender.turn_id) for c in await stores.ledger.calls(ALL, limit=9)}
    assert owners == {"c1": (None, None), "c2": ("s2", "t_9"), "c3": (None, None)}
    assert [s.cost_nano for s in await sums(stores, "agent", "skill")] == [before[0].cost_nano + 1_000_000]


async def test_old_lines_go_and_their_sums_stay(stores: JobStores) -> None:
    await stores.ledger.record([call(f"c{n}", began=NOON + n) for n in range(5)])
    before = await sums(stores, "day")
    assert [await stores.upkeep.erase_records(before=NOON + 3, limit=2) for _ in range(3)] == [2, 1, 0]
    assert [c.call_id for c in await stores.ledger.calls(ALL, limit=9)] == ["c4", "c3"]
    assert await sums(stores, "day") == before


async def test_a_text_may_hold_anything(stores: Stores) -> None:
    await stores.ledger.record([call(model="m\0'", spender=Spender("acme", "a'; --"))])
    assert [c.model for c in await stores.ledger.calls(ALL, limit=9)] == ["m\ufffd'"]
    assert [s.group["agent"] for s in await sums(stores, "agent")] == ["a'; --"]


async def test_nonsense_of_a_server_is_bounded(stores: Stores) -> None:
    await stores.ledger.record([call("c1", usage=CallUsage(1, 10**30, 10**30, 10**30, 1e30, 10**30)), call("c2")])
    assert [s.calls for s in await sums(stores)] == [2]
