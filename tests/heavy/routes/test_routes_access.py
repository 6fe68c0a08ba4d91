"""The admin endpoints of keys and tenants: what each kind of key reaches, and what a wrong request is told."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from common.web.auth import hash_key
from tests.heavy.routes.conftest import WORKFLOW
from tests.heavy.routes.test_routes_documented import checked
from tests.support.in_process import InProcess, in_process

FILE = [
    {"id": "op", "tenant": "*", "scopes": ["admin"], "hash": hash_key("operator")},
    {"id": "a", "tenant": "acme", "scopes": ["admin", "query"], "hash": hash_key("acme-admin"), "limits": {"open_streams": 9}},
    {"id": "q", "tenant": "acme", "scopes": ["query"], "hash": hash_key("acme-user")},
    {"id": "b", "tenant": "other", "scopes": ["admin"], "hash": hash_key("other-admin")},
]


@dataclass
class Desk:
    """A running loadsplit and who asks it."""

    shop: InProcess

    async def __call__(self, key: str, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {key}"} | ({"Content-Type": "application/json"} if body is not None else {})
        return await self.shop.call(method, f"/admin/api/{path}", body, headers=headers)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    (tmp_path / "keys.json").write_text(json.dumps(FILE))
    async with in_process(WORKFLOW, tmp_path, api_keys=str(tmp_path / "keys.json")) as shop:
        yield Desk(shop)


async def asks(desk: Desk, key: str) -> int:
    """The status of a query with this key."""
    status, _ = await desk.shop.call(
        "POST", "/api/v1/query", {"message": "opening hours", "session_id": "s1"}, headers={"Authorization": f"Bearer {key}"}
    )
    return status


async def test_a_key_is_made_used_and_revoked(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    new = {"scopes": ["query"], "name": "the shop", "expires_at": time.time() + 3600}
    checked("NewApiKey", new)
    status, made = await desk("acme-admin", "POST", "keys", new)
    assert status == 201
    checked("MadeApiKey", made)
    assert made["key"].startswith(f"ls_{made['key_id']}_")
    assert (made["tenant"], made["scopes"], made["name"], made["state"]) == ("acme", ["query"], "the shop", "active")
    assert await asks(desk, made["key"]) == 200
    status, listed = await desk("acme-admin", "GET", "keys")
    assert (status, [k["key_id"] for k in listed["keys"]]) == (200, [made["key_id"]])
    checked("ApiKey", listed["keys"][0])
    assert made["key"] not in json.dumps(listed)
    for _ in range(2):
        status, gone = await desk("acme-admin", "DELETE", f"keys/{made['key_id']}")
        assert (status, gone["state"]) == (200, "revoked")
    assert await asks(desk, made["key"]) == 401
    assert (await desk("acme-admin", "GET", "keys"))[1]["keys"] == [gone]
    assert made["key"][-20:] not in caplog.text


async def test_a_tenants_admin_reaches_its_own_keys_only(desk: Desk) -> None:
    _, foreign = await desk("other-admin", "POST", "keys", {})
    unknown = await desk("acme-admin", "DELETE", "keys/000000000000")
    status, problem = await desk("acme-admin", "DELETE", f"keys/{foreign['key_id']}")
    assert (status, problem["code"], problem["detail"]) == (404, "not_found", unknown[1]["detail"])
    assert (await desk("acme-admin", "GET", "keys"))[1] == {"keys": []}
    assert (await desk("acme-admin", "GET", "keys?tenant=other"))[1] == {"keys": []}
    assert (await desk("acme-admin", "POST", "keys", {"tenant": "other"}))[0] == 403
    assert (await desk("acme-admin", "POST", "keys", {"tenant": "*", "scopes": ["admin"]}))[0] == 403
    assert await asks(desk, foreign["key"]) == 200


async def test_an_operators_key_reaches_all_and_nothing_else(desk: Desk) -> None:
    _, made = await desk("operator", "POST", "keys", {"tenant": "new", "scopes": ["admin"]})
    assert made["tenant"] == "new"
    assert (await desk("operator", "POST", "keys", {}))[1]["field"] == "tenant"
    assert (await desk("operator", "POST", "keys", {"tenant": "*", "scopes": ["admin"]}))[1]["field"] == "tenant"
    await desk("acme-admin", "POST", "keys", {})
    assert [k["tenant"] for k in (await desk("operator", "GET", "keys"))[1]["keys"]] == ["acme", "new"]
    assert [k["tenant"] for k in (await desk("operator", "GET", "keys?tenant=new"))[1]["keys"]] == ["new"]
    assert len((await desk("operator", "GET", "keys?limit=1"))[1]["keys"]) == 1
    assert (await desk("operator", "DELETE", f"keys/{made['key_id']}"))[1]["state"] == "revoked"
    assert await asks(desk, "operator") == 403
    status, _ = await desk.shop.call("GET", "/api/v1/session/s1", headers={"Authorization": "Bearer operator"})
    assert status == 403


async def test_a_key_may_have_limits_of_its_own(desk: Desk) -> None:
    new = {"scopes": ["query", "llm"], "limits": {"tokens_per_day": 0, "cost_usd_per_day": None}}
    checked("NewApiKey", new)
    status, made = await desk("acme-admin", "POST", "keys", new)
    checked("MadeApiKey", made)
    assert (status, made["limits"]) == (201, {"tokens_per_day": 0})
    held = desk.shop.heavy.keys.limits_of_key("acme", made["key_id"])
    assert (held.tokens_per_day, held.cost_usd_per_day) == (0, None)
    for limits in ({"open_streams": 5}, {"tokens_per_day": -1}, {"tokens_per_day": 1.5}, [], "5"):
        status, problem = await desk("acme-admin", "POST", "keys", {"limits": limits or [1]})
        assert (status, problem["field"]) == (400, "limits"), limits


async def test_limits_are_set_by_an_operator_and_seen_by_their_tenant(desk: Desk) -> None:
    limits = {"requests_per_minute": 60, "cost_usd_per_day": 1.5, "tokens_per_day": None}
    checked("Limits", limits)
    for key in ("acme-admin", "other-admin"):
        assert (await desk(key, "PUT", "tenants/acme", limits))[0] == 403
    status, tenant = await desk("operator", "PUT", "tenants/acme", limits)
    assert status == 200
    checked("Tenant", tenant)
    given = {"requests_per_minute": 60, "concurrent_turns": None, "tokens_per_day": None, "cost_usd_per_day": 1.5, "open_streams": 9}
    assert tenant == {"tenant": "acme", "limits": given, "today": {"tokens": 0, "cost_usd": 0.0}}
    assert (await desk("acme-admin", "GET", "tenants"))[1] == {"tenants": [tenant]}
    assert [t["tenant"] for t in (await desk("other-admin", "GET", "tenants"))[1]["tenants"]] == ["other"]
    assert (await desk("other-admin", "GET", "tenants?tenant=acme"))[1] == {"tenants": []}
    assert [t["tenant"] for t in (await desk("operator", "GET", "tenants"))[1]["tenants"]] == ["acme"]
    _, tenant = await desk("operator", "PUT", "tenants/acme", {"open_streams": 7})
    assert (tenant["limits"]["requests_per_minute"], tenant["limits"]["open_streams"]) == (None, 7)


async def test_the_scope_admin_is_needed(desk: Desk) -> None:
    for method, path in (("GET", "keys"), ("POST", "keys"), ("DELETE", "keys/x"), ("GET", "tenants"), ("PUT", "tenants/acme")):
        assert (await desk("acme-user", method, path, {} if method in ("POST", "PUT") else None))[0] == 403
        assert (await desk("nobody", method, path, {} if method in ("POST", "PUT") else None))[0] == 401


async def test_without_keys_nobody_makes_one(tmp_path: Path) -> None:
    async with in_process(WORKFLOW, tmp_path) as shop:
        assert (await shop.call("GET", "/admin/api/keys"))[1] == {"keys": []}
        assert [t["tenant"] for t in (await shop.call("GET", "/admin/api/tenants"))[1]["tenants"]] == ["default"]
        for method, path in (("POST", "keys"), ("DELETE", "keys/x"), ("PUT", "tenants/default")):
            status, problem = await shop.call(method, f"/admin/api/{path}", {} if method != "DELETE" else None)
            assert (status, problem["code"]) == (403, "forbidden")
            assert "loadsplit keys create" in problem["detail"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"scopes": ["fly"]}, "scopes"),
        ({"scopes": "query"}, "scopes"),
        ({"scopes": []}, "scopes"),
        ({"name": 5}, "name"),
        ({"name": "x" * 201}, "name"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"expires_at": True}, "expires_at"),
        ({"expires_at": 1}, "expires_at"),
        (b"{", None),
        (b"[]", None),
    ],
)
async def test_what_is_no_key(desk: Desk, body: Any, field: str | None) -> None:
    status, problem = await desk("acme-admin", "POST", "keys", body)
    assert (status, problem["code"], problem.get("field")) == (400, "invalid_request", field)


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("acme", {"requests_per_minute": 0}, "requests_per_minute"),
        ("acme", {"open_streams": "many"}, "open_streams"),
        ("acme", {"tokens_per_hour": 5}, "tokens_per_hour"),
        ("a%20b", {}, "tenant"),
        ("*", {}, "tenant"),
        ("acme", b"5", None),
    ],
)
async def test_what_are_no_limits(desk: Desk, path: str, body: Any, field: str | None) -> None:
    status, problem = await desk("operator", "PUT", f"tenants/{path}", body)
    assert (status, problem["code"], problem.get("field")) == (400, "invalid_request", field)


async def test_what_is_no_number_and_no_name(desk: Desk) -> None:
    for key in ("acme-admin", "operator"):
        assert (await desk(key, "GET", "keys?limit=0"))[1]["field"] == "limit"
        assert (await desk(key, "GET", "keys?tenant=%00"))[1]["field"] == "tenant"
        assert (await desk(key, "GET", "tenants?tenant=a%20b"))[1]["field"] == "tenant"
        assert (await desk(key, "DELETE", "keys/%00"))[1]["field"] == "key_id"
