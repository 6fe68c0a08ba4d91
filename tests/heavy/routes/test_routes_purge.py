"""The purge as an operator sees it, and as a user does: what is erased is gone from every page, what goes on goes on."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from common.web.auth import hash_key
from heavy.jobs import upkeep
from tests.heavy.routes.conftest import WORKFLOW
from tests.support.in_process import InProcess, in_process


async def test_the_server_purges_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upkeep, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(upkeep, "EVERY_SECONDS", 0.3)
    monkeypatch.setattr(upkeep, "SIZES_SECONDS", 0.1)
    day = 2 / upkeep.DAY
    async with in_process(WORKFLOW, tmp_path, retention_days=str(day), record_days="0") as shop:
        status, first = await shop.call("GET", "/admin/api/purge")
        assert (status, first["retention_days"], first["record_days"]) == (200, day, None)
        began = time.monotonic()
        turn_id = (await shop.ask("opening hours", "old"))["turn_id"]
        erased = 0
        while time.monotonic() - began < 10 and not erased:
            await shop.ask("opening hours", "young")
            await asyncio.sleep(0.2)
            _, purge = await shop.call("GET", "/admin/api/purge")
            erased += purge["last"]["erased"]["sessions"]
        assert time.monotonic() - began >= 2
        assert (await shop.call("GET", "/api/v1/session/old"))[0] == 404
        assert (await shop.call("GET", f"/api/v1/turns/{turn_id}"))[0] == 404
        _, young = await shop.call("GET", "/api/v1/session/young?include=messages&limit=500")
        assert 2 <= len(young["messages"]) == young["message_count"]
        async with shop.http.get(shop.url + "/metrics") as page:
            text = await page.text()
    assert 'loadsplit_purged_total{kind="sessions"} 1.0' in text
    assert 'loadsplit_database_bytes{table="all"}' in text
    assert "loadsplit_hotstore_keys" in text


async def test_only_an_operator_sees_the_purge_of_all(tmp_path: Path) -> None:
    keys = [
        {"id": "op", "tenant": "*", "scopes": ["admin"], "hash": hash_key("operator")},
        {"id": "a", "tenant": "acme", "scopes": ["admin", "query"], "hash": hash_key("admin")},
        {"id": "q", "tenant": "acme", "scopes": ["query"], "hash": hash_key("user")},
    ]
    (tmp_path / "keys.json").write_text(json.dumps(keys))
    async with in_process(WORKFLOW, tmp_path, api_keys=str(tmp_path / "keys.json")) as shop:

        async def asks(key: str) -> int:
            return (await shop.call("GET", "/admin/api/purge", headers={"Authorization": f"Bearer {key}"}))[0]

        assert [await asks(key) for key in ("operator", "admin", "user", "nobody")] == [200, 403, 403, 401]


@pytest.mark.parametrize("message", ["opening hours", "a human"])
async def test_a_deleted_session_leaves_no_reply_of_a_keyed_request(shop: InProcess, message: str) -> None:
    body = {"message": message, "session_id": "s1"}
    headers = {"Idempotency-Key": "k1"}
    status, first = await shop.call("POST", "/api/v1/query", body, headers=headers)
    assert status == 200
    assert (await shop.call("DELETE", "/api/v1/session/s1"))[0] == 200
    assert "ls:idem:" not in " ".join(shop.heavy.hotstore._items)  # type: ignore[attr-defined]
    status, again = await shop.call("POST", "/api/v1/query", body, headers=headers)
    assert (status, again["message"]) == (200, first["message"])
