"""Which version of an agent a turn runs on."""

from __future__ import annotations

import json
import logging

import pytest

from common.contracts.query import Query
from common.contracts.rollout import Manifest, Serving
from common.contracts.ticket import Plan
from common.errors import DependencyUnavailable, InvalidRequest
from common.web.config_source import GivenConfigs
from common.workflow.load import load_text
from common.workflow.schema import Workflow
from heavy.turns.agents import Agents
from heavy.turns.rows import ArmTimer


def workflow(greeting: str, **more: object) -> Workflow:
    return load_text(json.dumps({"agent_id": "shop", "greeting": greeting, **more}))


OLD = workflow("Old.", timers=[{"timer_id": "nudge", "delay_seconds": 60, "action_type": "message", "message": "Still there?"}])
NEW = workflow("New.")


@pytest.fixture
async def agents() -> Agents:
    """The shop, whose file has changed."""

    async def bring(agent_id: str, config_hash: str) -> tuple[Workflow, int]:
        return await source[config_hash].bring(agent_id, config_hash) if config_hash in source else await empty.bring(agent_id, config_hash)

    source, empty = {w.config_hash: GivenConfigs({"shop": w}) for w in (OLD, NEW)}, GivenConfigs({})
    made = Agents({"shop": OLD}, bring)
    assert await made.apply(Manifest(2, {"shop": Serving(NEW.config_hash, previous=OLD.config_hash)}))
    return made


async def greeting(agents: Agents, config_hash: str | None = None) -> str | None:
    return (await agents.choose("shop", "t", "s", config_hash)).workflow.greeting


async def test_the_ticket_says_it(agents: Agents, caplog: pytest.LogCaptureFixture) -> None:
    assert await greeting(agents) == "New."
    assert await greeting(agents, OLD.config_hash) == "Old."
    assert await greeting(agents, NEW.config_hash) == "New."
    caplog.set_level(logging.WARNING)
    for _ in range(3):
        assert await greeting(agents, "f" * 16) == "New."
    assert len(caplog.records) == 1, "a version that is not to be had is told of once"
    assert (await agents.active("shop")).workflow.greeting == "New."


async def test_an_accepted_turn_goes_on_with_its_own(agents: Agents) -> None:
    assert (await agents.of_turn("shop", OLD.config_hash)).workflow.greeting == "Old."
    assert (await agents.of_turn("gone", OLD.config_hash)).workflow.greeting == "New."
    assert await agents.first_timer("shop", OLD.config_hash) == ArmTimer("timer", "nudge", 60, 0)
    assert await agents.first_timer("shop", NEW.config_hash) is None
    assert await agents.first_timer("gone", NEW.config_hash) is None


async def test_who_is_not_there(agents: Agents) -> None:
    with pytest.raises(InvalidRequest) as refused:
        await agents.choose("nobody")
    assert refused.value.extra["field"] == "agent_id"
    with pytest.raises(InvalidRequest):
        agents.id_of("nobody")
    assert agents.id_of(None) == "shop"
    with pytest.raises(DependencyUnavailable):
        await Agents({}).choose(None)


async def test_the_plan_and_the_version_that_makes_it() -> None:
    class Rules:
        def plan(self, query: Query) -> Plan:
            return Plan("flow", query.message)

        def explain(self, text: str, context: object, route: object = None) -> dict[str, object]:
            return {}

    query = Query("hello", "s1")
    assert await Agents({"shop": NEW}).plan(query, "t") == (None, NEW.config_hash)
    assert await Agents({"shop": NEW}, rules_of=lambda w: Rules()).plan(query, "t") == (Plan("flow", "hello"), NEW.config_hash)
