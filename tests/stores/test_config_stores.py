"""Versions of agents and what is in force of them, over SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import Any

from common.contracts.query import Usage
from common.contracts.rollout import Serving
from heavy.configs.stores import AgentRow, ConfigStore, NewChange, NewVersion
from heavy.jobs.stores import JobStores
from heavy.turns.rows import Finish
from tests.support.turns import accept, journal_entry, talk


def new(number: int, agent_id: str = "shop", **more: Any) -> NewVersion:
    return NewVersion(agent_id, f"{number:016x}", "json", f'{{"n": {number}}}', **more)


async def put(store: ConfigStore, before: AgentRow, action: str = "activate", **changes: Any) -> AgentRow:
    """Changes what is in force; the agent afterwards."""
    change = NewChange(f"c{time.monotonic_ns()}", action, changes.get("canary") or changes.get("active") or 1)  # type: ignore[arg-type]
    assert await store.change(before, replace(before, **changes), change)
    after = await store.agent(before.agent_id)
    assert after is not None
    return after


async def test_versions_count_up_and_the_same_content_is_the_same_version(stores: JobStores) -> None:
    store = stores.configs
    first = await store.add(new(1, author="k1", note="the first", problems=[{"code": "no_fallback"}], tests={"passed": 2}))
    again = await store.add(new(1, note="another note"))
    second = await store.add(new(2))
    other = await store.add(new(1, "desk"))
    assert [first.version, again.version, second.version, other.version] == [1, 1, 2, 1]
    assert again == first
    assert first.note == "the first"
    assert first.author == "k1"
    assert (first.problems, first.tests) == ([{"code": "no_fallback"}], {"passed": 2})
    listed = await store.versions("shop", limit=10)
    assert [(v.version, v.text) for v in listed] == [(2, ""), (1, "")]
    assert await store.versions("shop", limit=1) == listed[:1]
    assert await store.version("shop", 1) == first
    assert first.text == '{"n": 1}'
    assert await store.of_hash("shop", second.config_hash) == second
    assert await store.version("shop", 3) is None
    assert await store.of_hash("shop", "0" * 16) is None
    assert [(a.agent_id, a.version_count, a.active) for a in await store.agents()] == [("shop", 2, None), ("desk", 1, None)]
    assert await store.agent("unknown") is None


async def test_versions_that_come_at_once_get_numbers_of_their_own(stores: JobStores, other_stores: JobStores) -> None:
    both = (stores.configs, other_stores.configs)
    rows = await asyncio.gather(*(both[i % 2].add(new(i % 6)) for i in range(12)))
    assert sorted({r.version for r in rows}) == [1, 2, 3, 4, 5, 6]
    assert {r.config_hash: r.version for r in rows} == {v.config_hash: v.version for v in await stores.configs.versions("shop", limit=99)}


async def test_what_is_in_force_and_its_manifest(stores: JobStores) -> None:
    store = stores.configs
    hashes = [(await store.add(new(i))).config_hash for i in (1, 2, 3)]
    await store.add(new(1, "idle"))
    before, revision = await store.agent("shop"), await store.revision()
    assert before is not None
    assert (await store.manifest()).agents == {}
    one = await put(store, before, active=1)
    assert one.since is not None
    assert one.canary_since is None
    assert one.edition == 1
    assert await store.revision() > revision
    with_canary = await put(store, one, "canary", canary=2, percent=5.0)
    assert with_canary.since == one.since
    assert with_canary.canary_since is not None
    grown = await put(store, with_canary, "canary", percent=20.0)
    assert grown.canary_since == with_canary.canary_since
    manifest = await store.manifest()
    assert manifest.agents == {"shop": Serving(hashes[0], hashes[1], 20.0, None)}
    assert manifest.revision == await store.revision()
    two = await put(store, grown, active=2, canary=None, percent=0.0, previous=1)
    assert (two.active_hash, two.canary_hash, two.previous_hash) == (hashes[1], None, hashes[0])
    assert two.canary_since is None
    assert (two.since or 0) >= (one.since or 0)
    assert [(c.action, c.version) for c in await store.changes("shop", limit=9)][-1] == ("activate", 1)
    assert len(await store.changes("shop", limit=2)) == 2


async def test_who_is_late_changes_nothing(stores: JobStores, other_stores: JobStores) -> None:
    store = stores.configs
    for i in (1, 2):
        await store.add(new(i))
    before = await store.agent("shop")
    assert before is not None
    mine, theirs = NewChange("c1", "activate", 1, author="k1", note="mine"), NewChange("c2", "activate", 2)
    after = replace(before, active=1)
    assert await store.change(before, after, mine)
    assert not await other_stores.configs.change(before, replace(before, active=2), theirs)
    assert await store.change(before, after, mine)  # the reply was lost: the same again
    row = await store.agent("shop")
    assert row is not None
    assert (row.active, row.edition) == (1, 1)
    assert [(c.version, c.author, c.note, c.percent) for c in await store.changes("shop", limit=9)] == [(1, "k1", "mine", None)]


async def test_figures_are_those_of_the_version_and_the_time(stores: JobStores) -> None:
    began = time.time() - 5
    await stores.turns.record_rule_turns([journal_entry("t_rule", at=time.time(), reply={"config_hash": "a" * 16})])
    failed = Finish("failed", 1, error={"code": "llm_error"}, usage=Usage(llm_calls=2, cost_usd=0.5))
    await talk(stores, "t_1", failed, session_id="s9", config_hash="b" * 16, plan={"escalated": "it failed"})
    await accept(stores, "t_2", session_id="s9", config_hash="b" * 16)  # it has not ended
    by_rule = await stores.configs.figures("shop", "a" * 16, since=began, limit=10)
    assert [(f.failed, f.escalated, f.llm_calls, f.seconds) for f in by_rule] == [(False, False, 0, 0)]
    figures = await stores.configs.figures("shop", "b" * 16, since=began, limit=10)
    assert [(f.failed, f.escalated, f.llm_calls, f.cost_usd) for f in figures] == [(True, True, 2, 0.5)]
    assert figures[0].seconds >= 0
    assert await stores.configs.figures("shop", "b" * 16, since=time.time() + 60, limit=10) == []
    assert await stores.configs.figures("desk", "b" * 16, since=began, limit=10) == []


async def test_the_last_messages_of_an_agent(stores: JobStores) -> None:
    now = time.time()
    await stores.turns.record_rule_turns([journal_entry("t_a", at=now, message="first"), journal_entry("t_b", at=now, message="second")])
    said = await stores.configs.messages("shop", limit=10)
    assert sorted(m["message"] for m in said) == ["first", "second"]
    assert {m["session_id"] for m in said} != {None}
    assert len(await stores.configs.messages("shop", limit=1)) == 1
    assert await stores.configs.messages("desk", limit=10) == []
