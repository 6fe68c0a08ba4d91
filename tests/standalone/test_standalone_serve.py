"""The single process: what both tiers share in it reaches what either of them calls, and what a full tier tells a front end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from common.web.middleware import InFlight
from heavy.routes.state import Heavy
from heavy.settings import HeavySettings
from standalone.serve import create_app
from tests.lightweight.asking import call
from tests.support.recording_api import RecordingApi

ASK = b'{"message": "a human please", "session_id": "s-1"}'


@asynccontextmanager
async def served(folder: Path, **workflow: Any) -> AsyncIterator[tuple[Any, Heavy]]:
    """The app of one workflow, called as a server calls it, and its heavy tier."""
    config = folder / "workflow.json"
    config.write_text(json.dumps({"agent_id": "shop", **workflow}))
    app = create_app(HeavySettings.load({}, config=str(config), data_dir=folder), inflight=InFlight())
    async with app.router.lifespan_context(app) as state:

        async def with_state(scope: Any, receive: Any, send: Any) -> None:
            scope["state"] |= state
            await app(scope, receive, send)

        yield with_state, state["heavy"]


async def test_hosts_that_only_heavy_calls_are_trusted_too(tmp_path: Path) -> None:
    async with RecordingApi() as api:
        human = {
            "action_id": "human",
            "handler": "handoff",
            "trigger_patterns": ["a human"],
            "response_template": "One moment.",
            "endpoint": {"url": api.url + "/crm", "method": "POST", "body": {"session": "{session_id}"}},
        }
        async with served(tmp_path, system_actions=[human]) as (app, _):
            reply = await call(app, "POST", "/api/v1/query", ASK)
        assert (reply.json["message"], reply.json["status"], reply.json["route"]["tier"]) == ("One moment.", "transferred", "heavy")
        assert [(a.path, a.body) for a in api.asked] == [("/crm", {"session": "s-1"})]


@pytest.mark.parametrize("path", ["/api/v1/query", "/api/v1/query/stream"])
async def test_a_full_tier_tells_the_agents_busy_message(tmp_path: Path, path: str) -> None:
    async with served(tmp_path, busy_message="One moment, please.") as (app, heavy):
        heavy.turns.entrance.close()
        reply = await call(app, "POST", path, ASK)
    assert (reply.status, reply.json["code"], reply.json["message"]) == (503, "overloaded", "One moment, please.")
    assert reply.headers["retry-after"] == "1"


async def test_an_agent_without_one_tells_nothing(tmp_path: Path) -> None:
    async with served(tmp_path) as (app, heavy):
        heavy.turns.entrance.close()
        reply = await call(app, "POST", "/api/v1/query", ASK)
    assert (reply.status, "message" in reply.json) == (503, False)
