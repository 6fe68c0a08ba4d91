"""One suite for every database: turns found by what is known of them, page by page, and what they come to together."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from common.contracts.query import Usage
from heavy.turns.rows import Finish
from heavy.turns.search import TurnsWanted
from heavy.turns.stores import Stores
from tests.support.turns import accept, answer, fence_of, journal_entry, talk

ALL = TurnsWanted(None, 0.0, 9e9)
MOST = 1000


def route(matched_by: str, target: str | None = "hours", tier: str = "lightweight", pattern: str | None = "hours") -> dict[str, Any]:
    return {"tier": tier, "action_type": "flow", "action_target": target, "matched_by": matched_by, "pattern": pattern}


def by_rule(turn_id: str, at: float, **other: Any) -> Any:
    told = other.pop("route", route("rule"))
    return journal_entry(turn_id, f"s_{turn_id}", at, reply={"message": "At 9.", "route": told}, **other)


async def ids(stores: Stores, wanted: TurnsWanted) -> list[str]:
    return [row.turn_id for row in await stores.search.turns(wanted, limit=99)]


async def test_a_request_is_found_among_others(stores: Stores) -> None:
    await stores.turns.record_rule_turns([by_rule(f"t_{n}", 1000.0 + n, request_id=f"r{n}") for n in range(20)])
    own = {"message": "m", "context": {"request_id": "r7"}, "request_id": "heavy-1"}
    await talk(stores, "t_heavy", request=own)
    assert await ids(stores, replace(ALL, request_id="r7")) == ["t_7"]
    assert await ids(stores, replace(ALL, request_id="heavy-1", tenant="acme")) == ["t_heavy"]
    assert await ids(stores, replace(ALL, request_id="r7", tenant="other")) == []
    assert await ids(stores, replace(ALL, request_id="none")) == []


async def test_words_of_a_user_are_no_request_id(stores: Stores) -> None:
    said = 'I say "request_id":"r1" \0 and so on'
    await talk(stores, "t_1", request={"message": said, "request_id": "mine"}, user_message=said)
    assert await ids(stores, replace(ALL, request_id="r1")) == []
    assert await ids(stores, replace(ALL, request_id="mine")) == ["t_1"]


KNOWN: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["t_w", "t_2", "t_1"]),
    ({"state": "waiting"}, []),
    ({"state": "running"}, ["t_w"]),
    ({"session_id": "s_t_1"}, ["t_1"]),
    ({"turn_id": "t_2"}, ["t_2"]),
    ({"agent_id": "shop"}, ["t_w", "t_2", "t_1"]),
    ({"agent_id": "desk"}, []),
    ({"since": 1001.5, "until": 1002.5}, ["t_2"]),
    ({"matched_by": "rule"}, ["t_1"]),
    ({"tier": "lightweight", "matched_by": "learned"}, ["t_2"]),
    ({"config_hash": "nothing"}, []),
]


async def test_turns_are_found_by_what_is_known(stores: Stores) -> None:
    await stores.turns.record_rule_turns([by_rule("t_1", 1001.0), by_rule("t_2", 1002.0, route=route("learned"))])
    await accept(stores, "t_w")
    for wanted, found in KNOWN:
        assert await ids(stores, replace(ALL, **wanted)) == found, wanted


async def test_pages_hold_every_turn_once(stores: Stores) -> None:
    await stores.turns.record_rule_turns([by_rule(f"t_{n:02}", 1000.0 + n // 3) for n in range(20)])
    seen: list[str] = []
    before = None
    while page := await stores.search.turns(ALL, before=before, limit=7):
        seen += [row.turn_id for row in page]
        before = (page[-1].created_at, page[-1].turn_id)
    assert seen == [f"t_{n:02}" for n in reversed(range(20))]


async def test_a_rules_answer_took_time(stores: Stores) -> None:
    await stores.turns.record_rule_turns([by_rule("t_1", 1000.0, seconds=0.25)])
    (row,) = await stores.search.turns(ALL, limit=9)
    assert (row.created_at, row.started_at, row.finished_at) == (999.75, 999.75, 1000.0)


async def test_sums_by_route(stores: Stores) -> None:
    await stores.turns.record_rule_turns([*(by_rule(f"t_{n}", 1000.0 + n) for n in range(3)), by_rule("t_9", 1.0, route=route("learned"))])
    by_llm = route("llm", "refund", "heavy", None)
    usage = Usage(2, 100, 50, 10, 0.25)
    await talk(stores, "t_h1", answer(reply={"message": "x", "route": by_llm}, usage=usage))
    await talk(stores, "t_h2", answer(reply={"message": "nul \0", "route": by_llm}, usage=Usage()), request={"message": "a \0 b"})
    await talk(stores, "t_h3", Finish("failed", 1, error={"code": "llm_error"}))
    sums = await stores.search.routes(ALL, most=MOST, limit=9)
    assert [(s.matched_by, s.turns, s.with_llm) for s in sums if s.tier == "lightweight"] == [("rule", 3, 0), ("learned", 1, 0)]
    assert (sums[0].agent_id, sums[0].pattern, sums[0].last_at) == ("shop", "hours", 1002.0)
    failed = next(s for s in sums if s.state == "failed")
    assert (failed.turns, failed.matched_by) == (1, None)
    assert next(s.usage for s in sums if s.matched_by == "llm") == usage
    assert sum(s.turns for s in await stores.search.routes(ALL, most=2, limit=9)) == 2
    assert len(await stores.search.routes(ALL, most=MOST, limit=1)) == 1


async def test_percentiles_of_each_tier(stores: Stores) -> None:
    await stores.turns.record_rule_turns([by_rule(f"t_{n}", 1000.0, seconds=n / 1000) for n in range(1, 101)])
    await accept(stores, "t_running")
    (found,) = await stores.search.latency(ALL, most=MOST)
    assert (found.tier, found.turns) == ("lightweight", 100)
    assert [round(v * 1000, 2) for v in (found.mean, found.p50, found.p95, found.p99)] == [50.5, 50, 95, 99]


async def test_messages_without_a_rule(stores: Stores) -> None:
    by_llm = {"message": "x", "route": route("llm", None, "heavy", None)}
    for n, said in enumerate(["Where is it?", " where is IT? ", "a \0 b", "else", "x" * 500]):
        done = answer(reply=by_llm)
        row = await accept(stores, f"t_{n}", request={"message": said}, user_message=said)
        await stores.turns.finish(fence_of(row.turn), done)
    await stores.turns.record_rule_turns([by_rule("t_r", 1000.0)])
    found = await stores.search.unmatched(ALL, most=MOST, limit=9)
    assert (found[0].agent_id, found[0].message, found[0].turns) == ("shop", "where is it?", 2)
    assert max(len(u.message) for u in found) == 200
    assert "else" in {u.message for u in found}
    assert len(await stores.search.unmatched(ALL, most=MOST, limit=1)) == 1


async def test_nothing_is_nothing(stores: Stores) -> None:
    assert await ids(stores, ALL) == []
    assert await stores.search.routes(ALL, most=MOST, limit=9) == []
    assert await stores.search.latency(ALL, most=MOST) == []
    assert await stores.search.unmatched(ALL, most=MOST, limit=9) == []
