"""Turns and sums over HTTP: a turn found from its request, its steps, who sees whose, and what a wrong question is told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from common.web.auth import hash_key
from tests.heavy.routes.conftest import WORKFLOW
from tests.heavy.routes.test_routes_documented import checked
from tests.support.in_process import InProcess, in_process
from tests.support.ledger import call

KEYS = [
    {"id": "op", "tenant": "*", "scopes": ["admin"], "hash": hash_key("operator")},
    {"id": "a", "tenant": "acme", "scopes": ["admin", "query"], "hash": hash_key("admin")},
    {"id": "b", "tenant": "other", "scopes": ["admin"], "hash": hash_key("other")},
    {"id": "q", "tenant": "acme", "scopes": ["query"], "hash": hash_key("user")},
]


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[InProcess]:
    (tmp_path / "keys.json").write_text(json.dumps(KEYS))
    async with in_process(WORKFLOW, tmp_path, api_keys=str(tmp_path / "keys.json"), record_days="0") as running:
        yield running


async def ask(desk: InProcess, path: str, key: str = "admin") -> tuple[int, Any]:
    return await desk.call("GET", f"/admin/api/{path}", headers={"Authorization": f"Bearer {key}"})


async def say(desk: InProcess, message: str, request_id: str, session: str = "s1") -> Any:
    headers = {"Authorization": "Bearer user", "X-Request-Id": request_id}
    status, reply = await desk.call("POST", "/api/v1/query", {"message": message, "session_id": session}, headers=headers)
    assert status in (200, 503), reply
    return reply


async def test_a_rules_turn_is_found_from_its_request(desk: InProcess) -> None:
    reply = await say(desk, "opening hours", "req-1")
    await say(desk, "opening hours", "req-2", "s2")
    status, found = await ask(desk, "turns?request_id=req-1")
    assert status == 200
    (turn,) = found["turns"]
    checked("TurnSummary", turn)
    assert (turn["turn_id"], turn["request_id"], turn["status"], turn["tenant"]) == (reply["turn_id"], "req-1", "done", "acme")
    assert (turn["route"], turn["message_start"]) == (reply["route"], "opening hours")
    assert 0 < turn["ms"] < 5000
    status, trace = await ask(desk, f"turns/{turn['turn_id']}")
    assert status == 200
    checked("TurnTrace", trace)
    assert [(s["kind"], s["text"]) for s in trace["steps"]] == [("asked", "opening hours"), ("said", "We open at 9.")]


async def test_pages_and_filters(desk: InProcess) -> None:
    for n in range(5):
        await say(desk, "opening hours", f"r{n}", f"s{n}")
    seen, cursor = [], ""
    while cursor is not None:
        _, page = await ask(desk, f"turns?limit=2{cursor and f'&cursor={cursor}'}")
        seen += [t["request_id"] for t in page["turns"]]
        cursor = page["next_cursor"]
    assert seen == ["r4", "r3", "r2", "r1", "r0"]
    for query, count in [("session_id=s2", 1), ("status=failed", 0), ("matched_by=rule", 5), ("tier=heavy", 0), ("to=2026-01-01", 0)]:
        _, page = await ask(desk, f"turns?{query}")
        assert len(page["turns"]) == count, query


async def test_only_the_own_tenants_turns(desk: InProcess) -> None:
    reply = await say(desk, "opening hours", "req-1")
    path = f"turns/{reply['turn_id']}"
    assert [(await ask(desk, path, key))[0] for key in ("admin", "operator", "other", "user", "nobody")] == [200, 200, 404, 403, 401]
    for key, count in (("operator", 1), ("other", 0)):
        assert len((await ask(desk, "turns", key))[1]["turns"]) == count
        assert (await ask(desk, "stats", key))[1]["turns"] == count


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("turns?status=odd", "status"),
        ("turns?from=yesterday", "from"),
        ("turns?limit=0", "limit"),
        ("turns?cursor=x", "cursor"),
        ("turns?from=2026-02-01&to=2026-01-01", "from"),
        ("stats?to=never", "to"),
        ("stats?limit=999", "limit"),
    ],
)
async def test_a_wrong_question_names_the_field(desk: InProcess, query: str, field: str) -> None:
    status, problem = await ask(desk, query)
    assert (status, problem["code"], problem["field"]) == (400, "invalid_request", field)


async def test_sums(desk: InProcess) -> None:
    for n in range(3):
        await say(desk, "opening hours", f"r{n}")
    await say(desk, "a human", "r9")
    await desk.heavy.stores.ledger.record([call("c1")])
    status, stats = await ask(desk, "stats?from=2026-01-01")
    assert status == 200
    checked("Stats", stats)
    assert (stats["turns"], stats["counted"], stats["complete"]) == (4, 4, True)
    assert (stats["rule_share"], stats["llm_share"], stats["error_share"]) == (1.0, 0.0, 0.0)
    assert stats["rules"][0]["action_target"] == "hours"
    assert stats["rules"][0]["hits"] == 3
    assert {row["tier"]: row["turns"] for row in stats["latency"]} == stats["by_tier"]
    assert [(row["agent"], row["calls"]) for row in stats["cost"]["by_agent"]] == [("shop", 1)]
    assert [agent["agent_id"] for agent in stats["agents"]] == ["shop"]


async def test_no_turns_are_sums_of_nothing(desk: InProcess) -> None:
    _, stats = await ask(desk, "stats")
    checked("Stats", stats)
    assert (stats["turns"], stats["llm_share"], stats["rules"], stats["latency"], stats["unmatched"]) == (0, 0.0, [], [], [])
