"""Costs and calls over HTTP: whose are seen by whom, in sums and line by line, and what a wrong question is told."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from common.web.auth import hash_key
from heavy.llm.types import CallUsage, Spender
from tests.heavy.routes.conftest import WORKFLOW
from tests.heavy.routes.test_routes_documented import checked
from tests.support.in_process import InProcess, in_process
from tests.support.ledger import DAY, NOON, SHOP, call

KEYS = [
    {"id": "op", "tenant": "*", "scopes": ["admin"], "hash": hash_key("operator")},
    {"id": "a", "tenant": "acme", "scopes": ["admin", "query"], "hash": hash_key("admin")},
    {"id": "b", "tenant": "other", "scopes": ["admin"], "hash": hash_key("other")},
    {"id": "q", "tenant": "acme", "scopes": ["query"], "hash": hash_key("user")},
]
JANUARY = "from=2026-01-01&to=2026-01-31"


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[InProcess]:
    (tmp_path / "keys.json").write_text(json.dumps(KEYS))
    async with in_process(WORKFLOW, tmp_path, api_keys=str(tmp_path / "keys.json"), record_days="0") as running:
        await running.heavy.stores.ledger.record(
            [
                call("c1"),
                call("c2", began=NOON + 86400, outcome="timeout", usage=CallUsage(1)),
                call("c3", Spender("acme", key_id="k1"), model="m"),
                call("c4", Spender("other")),
            ]
        )
        yield running


async def ask(shop: InProcess, path: str, key: str = "admin") -> tuple[int, Any]:
    return await shop.call("GET", f"/admin/api/{path}", headers={"Authorization": f"Bearer {key}"})


async def test_sums_of_the_own_tenant(shop: InProcess) -> None:
    status, costs = await ask(shop, f"costs?{JANUARY}")
    assert status == 200
    checked("Costs", costs)
    assert (costs["from"], costs["to"], costs["group_by"]) == ("2026-01-01", "2026-01-31", ["day", "model"])
    assert [(r["day"], r["model"], r["calls"], r["failed"], r["cost_usd"]) for r in costs["rows"]] == [
        (DAY, "gpt-4.1-mini", 1, 0, 0.001),
        (DAY, "m", 1, 0, 0.001),
        ("2026-01-03", "gpt-4.1-mini", 1, 1, 0.0),
    ]
    sums = {"calls": 3, "failed": 1, "estimated": 0, "input_tokens": 200, "cached_tokens": 80, "cache_write_tokens": 40}
    assert costs["total"] == {**sums, "output_tokens": 20, "cost_usd": 0.002}


async def test_an_operator_sees_all_tenants(shop: InProcess) -> None:
    _, costs = await ask(shop, f"costs?{JANUARY}&group_by=tenant,key", "operator")
    assert [(r["tenant"], r["key"], r["calls"]) for r in costs["rows"]] == [("acme", None, 2), ("acme", "k1", 1), ("other", None, 1)]
    _, costs = await ask(shop, f"costs?{JANUARY}&group_by=&tenant=other", "operator")
    assert ([r["calls"] for r in costs["rows"]], costs["total"]["calls"]) == ([1], 1)
    _, calls = await ask(shop, f"calls?{JANUARY}", "operator")
    assert {c["tenant"] for c in calls["calls"]} == {"acme", "other"}


async def test_another_tenants_money_is_not_there(shop: InProcess) -> None:
    for path in (f"costs?{JANUARY}&tenant=acme", f"calls?{JANUARY}&tenant=acme"):
        status, found = await ask(shop, path, "other")
        assert (status, found.get("rows", found.get("calls"))) == (200, [])
        assert [(await ask(shop, path, key))[0] for key in ("user", "nobody")] == [403, 401]


async def test_without_days_it_is_the_last_thirty(shop: InProcess) -> None:
    await shop.heavy.stores.ledger.record([call("c5", began=time.time())])
    _, costs = await ask(shop, "costs?group_by=")
    assert costs["total"]["calls"] == 1


async def test_lines_in_pages(shop: InProcess) -> None:
    seen, cursor = [], ""
    while cursor is not None:
        status, page = await ask(shop, f"calls?{JANUARY}&limit=1{cursor and f'&cursor={cursor}'}")
        assert status == 200
        for one in page["calls"]:
            checked("LLMCall", one)
        seen += page["calls"]
        cursor = page["next_cursor"]
    assert [c["call_id"] for c in seen] == ["c2", "c3", "c1"]
    assert {"began": NOON, "agent_id": "shop", "skill": "refund", "cost_usd": 0.001, "cache_write_tokens": 20}.items() <= seen[2].items()
    assert "user" not in str(seen)


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("from=2026-01-03&to=2026-01-04", ["c2"]),
        ("from=2026-01-02T12:00:00Z&to=2026-01-02T12:00:01Z", ["c3", "c1"]),
        (f"{JANUARY}&key_id=k1", ["c3"]),
        (f"{JANUARY}&outcome=timeout&agent_id={SHOP.agent_id}", ["c2"]),
        (f"{JANUARY}&model=nothing", []),
        ("", []),
    ],
)
async def test_lines_are_found(shop: InProcess, query: str, ids: list[str]) -> None:
    _, found = await ask(shop, f"calls?{query}")
    assert [c["call_id"] for c in found["calls"]] == ids


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("costs?from=yesterday", "from"),
        ("costs?to=2026-13-01", "to"),
        ("costs?from=2026-02-01&to=2026-01-01", "from"),
        ("costs?group_by=day,colour", "group_by"),
        ("costs?tenant=a b", "tenant"),
        ("calls?from=yesterday", "from"),
        ("calls?limit=0", "limit"),
        ("calls?cursor=x", "cursor"),
    ],
)
async def test_wrong_questions_name_the_field(shop: InProcess, path: str, field: str) -> None:
    status, problem = await ask(shop, path)
    assert (status, problem["code"], problem["field"]) == (400, "invalid_request", field)
