"""One running loadsplit over SQLite and the memory hot store, for the routes of a session's life."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.in_process import InProcess, in_process

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
