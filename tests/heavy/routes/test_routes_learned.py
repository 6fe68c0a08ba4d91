"""The admin endpoints of learned routes: what they show, who may ask, and what a wrong request is told."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from common.contracts.folding import fold
from common.contracts.learned import LearnedRoute, digest, encode
from common.web.auth import hash_key
from heavy.turns.learned_routes import LearnedKey, Sighting
from tests.support.in_process import InProcess, in_process

SHOP: dict[str, Any] = {
    "agent_id": "shop",
    "learned_routes": {"enabled": True, "repeat": 2},
    "flows": [
        {"flow_id": "hours", "trigger_patterns": ["opening hours"], "response_template": "At 9."},
        {"flow_id": "order", "type": "intent", "response_template": "{order_id} comes."},
    ],
}
ROUTE = LearnedRoute("flow", "order", {"order_id": (9, 11)})
AGENT = "/admin/api/agents/shop"


async def teach(shop: InProcess, message: str, times: int = 2) -> None:
    """Shows the store the same choice so often, and the rule tier what has become of it."""
    sign = digest(message)
    assert sign is not None
    key = LearnedKey("default", "shop", shop.heavy.agents.config_hash, sign)
    for i in range(times):
        sighting = Sighting(key, fold(message), encode(ROUTE).decode(), f"w{i}", 2, 3600)
        await shop.heavy.stores.learned.observe(sighting, time.time())
    await shop.heavy.learner.refresh()


async def test_routes_are_listed_explained_and_forgotten(tmp_path: Path) -> None:
    async with in_process(SHOP, tmp_path) as shop:
        await teach(shop, "where is A7")
        await teach(shop, "what of A8", times=1)
        status, listed = await shop.call("GET", f"{AGENT}/learned")
        assert (status, listed["enabled"], listed["repeat"]) == (200, True, 2)
        first, second = listed["routes"]
        assert (first["message"], first["state"], first["matched_by"], first["parameters"]) == (
            "where is a7",
            "active",
            "learned",
            ["order_id"],
        )
        assert (second["message"], second["state"], second["seen"]) == (None, "candidate", 1)
        assert first["expires_at"] > first["updated_at"]

        reply = await shop.ask("Where is A7")
        assert (reply["message"], reply["route"]["matched_by"]) == ("A7 comes.", "learned")
        _, told = await shop.call("POST", f"{AGENT}/match", {"text": "Where is A7"})
        assert (told["tier"], told["action_target"], told["matched_by"]) == ("lightweight", "order", "learned")
        assert told["parameters"] == {"order_id": "A7"}
        _, by_rule = await shop.call("POST", f"{AGENT}/match", {"text": "opening hours"})
        assert (by_rule["matched_by"], by_rule["pattern"]) == ("rule", "opening hours")

        assert await shop.call("DELETE", f"{AGENT}/learned?message=WHERE%20is%20a7") == (200, {"forgotten": 1})
        _, told = await shop.call("POST", f"{AGENT}/match", {"text": "Where is A7"})
        assert told["matched_by"] == "none"
        assert await shop.call("DELETE", f"{AGENT}/learned") == (200, {"forgotten": 1})
        _, listed = await shop.call("GET", f"{AGENT}/learned")
        assert listed["routes"] == []
        assert (await shop.call("GET", f"{AGENT}/learned/proposals"))[1]["proposals"] == []


async def test_only_an_admin_key_may_ask_and_sees_its_own_tenant(tmp_path: Path) -> None:
    keys = [
        {"id": "a", "tenant": "default", "scopes": ["admin", "query"], "hash": hash_key("admin")},
        {"id": "b", "tenant": "default", "scopes": ["query"], "hash": hash_key("user")},
        {"id": "c", "tenant": "other", "scopes": ["admin"], "hash": hash_key("other")},
    ]
    (tmp_path / "keys.json").write_text(json.dumps(keys))
    async with in_process(SHOP, tmp_path, api_keys=str(tmp_path / "keys.json")) as shop:
        await teach(shop, "where is A7")

        async def call(key: str, method: str = "GET", path: str = "learned") -> tuple[int, Any]:
            return await shop.call(method, f"{AGENT}/{path}", headers={"authorization": f"Bearer {key}"} if key else {})

        assert len((await call("admin"))[1]["routes"]) == 1
        assert (await call("other"))[1]["routes"] == []
        assert await call("other", "DELETE") == (200, {"forgotten": 0})
        for path in ("learned", "learned/proposals"):
            assert (await call("user", path=path))[0] == 403
            assert (await call("", path=path))[0] == 401
        assert (await call("user", "DELETE"))[0] == 403
        assert (await call("user", "POST", "match"))[0] == 403
        assert len((await call("admin"))[1]["routes"]) == 1


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/admin/api/agents/nobody/learned", None, 404),
        ("GET", "/admin/api/agents/a b/learned", None, 400),
        ("POST", f"{AGENT}/match", b"{", 400),
        ("POST", f"{AGENT}/match", {"text": ""}, 400),
        ("POST", f"{AGENT}/match", {"text": 7}, 400),
        ("POST", f"{AGENT}/match", {"text": "x" * 33_000}, 400),
        ("POST", f"{AGENT}/match", {"text": "x" * 70_000}, 413),
        ("PUT", f"{AGENT}/learned", None, 405),
    ],
)
async def test_wrong_requests_are_told_so(tmp_path: Path, method: str, path: str, body: Any, status: int) -> None:
    async with in_process(SHOP, tmp_path) as shop:
        answer = await shop.call(
            method, path, body, **({"headers": {"content-type": "application/json"}} if isinstance(body, bytes) else {})
        )
        assert answer[0] == status
        assert answer[1]["status"] == status
