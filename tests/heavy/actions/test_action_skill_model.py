"""A skill may name the model that it runs with; all others use the agent's default one."""

from __future__ import annotations

import pytest

from common.endpoints.call import HttpCaller
from heavy.agent.scripted import Say
from tests.support.acting import Business, World


@pytest.mark.parametrize(("own", "used"), [({"model": "large"}, "large"), ({}, "medium")])
async def test_a_skill_has_a_model_of_its_own(business: Business, caller: HttpCaller, own: dict[str, str], used: str) -> None:
    doc = {
        "models": {"default": "medium", "intent": "small"},
        "skills": [{"skill_id": "desk", "system_prompt": "Help.", "require_done_tool": False, **own}],
        "action_books": [],
    }
    world = World(business, caller, [Say("Done.")], doc=doc)
    await world.act("skill", "desk")
    assert [request.model for request in world.gateway.requests] == [used]
