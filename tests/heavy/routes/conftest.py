"""One running loadsplit over SQLite and the memory hot store: for the routes of a session's life, and for those of tasks."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import heavy.app
from heavy.jobs import dispatch
from heavy.turns import run
from tests.support.in_process import InProcess, in_process
from tests.support.job_node import FailingGateway

WORKFLOW: dict[str, Any] = {
    "agent_id": "shop",
    "flows": [{"flow_id": "hours", "trigger_patterns": ["opening hours"], "response_template": "We open at 9."}],
    "system_actions": [
        {"action_id": "human", "handler": "handoff", "trigger_patterns": ["a human"], "response_template": "One moment."},
        {
            "action_id": "hurry",
            "handler": "handoff",
            "trigger_patterns": ["hurry"],
            "response_template": "One moment.",
            "deadline_seconds": 0.05,
            "deadline_message": "Nobody is free.",
        },
    ],
}


@pytest.fixture
async def shop(tmp_path: Path) -> AsyncIterator[InProcess]:
    async with in_process(WORKFLOW, tmp_path) as running:
        yield running


TALKING: dict[str, Any] = {
    "agent_id": "shop",
    "skills": [{"skill_id": "talk", "description": "Talk", "execution_mode": "agent"}],
}


@pytest.fixture
def gateway(monkeypatch: pytest.MonkeyPatch) -> FailingGateway:
    """The model of the process."""
    scripted = FailingGateway()

    @contextlib.asynccontextmanager
    async def opened(*_: object, **__: object) -> AsyncIterator[FailingGateway]:
        yield scripted

    monkeypatch.setattr(heavy.app, "open_gateway", opened)
    monkeypatch.setattr(run, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(dispatch, "POLL_SECONDS", 0.05)
    return scripted


@pytest.fixture
async def desk(gateway: FailingGateway, tmp_path: Path) -> AsyncIterator[InProcess]:
    async with in_process(TALKING, tmp_path) as running:
        yield running
        gateway.open.set()
