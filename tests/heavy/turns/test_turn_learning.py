"""Learning: which turns teach a route, when it is shown to the rule tier, and how it is forgotten."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from common.contracts.learned import LearnedRoute, decode
from common.contracts.query import Usage
from common.hotstore.memory import MemoryHotStore
from common.hotstore.protocol import HotStoreUnavailable
from common.workflow.load import load_text
from heavy.llm.types import Message, ToolCall
from heavy.turns.agents import Agents
from heavy.turns.decide import Decision
from heavy.turns.learned_routes import LearnedRow
from heavy.turns.learning import Learner
from heavy.turns.rows import TurnRow
from heavy.turns.stores import Stores
from tests.support.turns import LEASE, answer, fence_of, journal_entry, new_turn
from tests.support.waiting import wait_until

TOOL = {"endpoint": {"url": "http://127.0.0.1/{id}"}, "parameters": {"type": "object", "properties": {"id": {"type": "string"}}}}
SHOP: dict[str, Any] = {
    "agent_id": "shop",
    "learned_routes": {"enabled": True, "repeat": 2, "ttl_seconds": 3600},
    "flows": [
        {"flow_id": "hours", "type": "intent", "response_template": "At 9."},
        {"flow_id": "order", "type": "intent", "response_template": "{order_id} comes."},
    ],
    "tools": [{**TOOL, "name": "raw"}, {**TOOL, "name": "told", "response_template": "{result}"}],
    "skills": [{"skill_id": "desk", "system_prompt": "x"}],
}
HOURS = Decision("flow", "hours", "llm")
ONE_CALL = Usage(llm_calls=1)


class School:
    """A learner and the turns that it is told of; its clock stands still unless it is moved."""

    def __init__(self, stores: Stores, hotstore: MemoryHotStore, workflow: dict[str, Any]) -> None:
        self.now = 1000.0
        self.stores, self.hotstore = stores, hotstore
        self.agents = Agents({"shop": load_text(json.dumps(workflow))})
        self.learner = Learner(stores.learned, hotstore, self.agents, clock=lambda: self.now)
        self.numbers = itertools.count(1)

    async def turn(
        self, message: str, decision: Decision = HOURS, usage: Usage = ONE_CALL, messages: Sequence[Message] = (), **changes: Any
    ) -> None:
        """A turn that has ended well, the first of a new session unless `changes` say otherwise."""
        agent = await self.agents.choose("shop")
        number = next(self.numbers)
        new = new_turn(f"t_{number}", f"s{number}", config_hash=agent.workflow.config_hash, request={"message": message})
        row: TurnRow = (await self.stores.turns.accept(new, owner="a", lease_seconds=LEASE)).turn
        self.learner.observe(agent, replace(row, **changes), decision, usage, messages)

    async def taught(self, message: str, decision: Decision = HOURS, usage: Usage = ONE_CALL, **changes: Any) -> LearnedRow | None:
        """What the store has after two equal turns of different sessions."""
        await self.turn(message, decision, usage, **changes)
        await self.turn(message, decision, usage, **changes)
        await self.learner.caught_up()
        rows = await self.learner.routes("acme", "shop")
        return rows[0] if rows else None

    async def shown(self, message: str) -> LearnedRoute | None:
        """The route by which the rule tier would answer."""
        return await self.learner.route_for("acme", await self.agents.choose("shop"), message)


@contextlib.asynccontextmanager
async def school(stores: Stores, hotstore: MemoryHotStore, **changes: Any) -> AsyncIterator[School]:
    """A learner at work."""
    at = School(stores, hotstore, {**SHOP, **changes})
    working = asyncio.create_task(at.learner.work())
    try:
        yield at
    finally:
        working.cancel()
        await asyncio.wait([working])


@pytest.fixture
async def shop(stores: Stores, hotstore: MemoryHotStore) -> AsyncIterator[School]:
    async with school(stores, hotstore) as at:
        yield at


async def test_a_choice_that_repeats_becomes_a_route_of_the_rule_tier(shop: School) -> None:
    await shop.turn("when do you open")
    await shop.learner.caught_up()
    assert await shop.shown("when do you open") is None
    await shop.turn("When do you  OPEN")
    await shop.learner.caught_up()
    assert await shop.shown("when do you open") == LearnedRoute("flow", "hours")
    [row] = await shop.learner.routes("acme", "shop")
    assert (row.state, row.message, row.seen, row.expires_at) == ("active", "when do you open", 2, 4600)


async def test_parameters_that_stand_in_the_message_are_learned(shop: School) -> None:
    found = Decision("flow", "order", "llm", parameters={"order_id": "A7"})
    row = await shop.taught("where is A7", found)
    assert row is not None
    assert decode(row.route) == LearnedRoute("flow", "order", {"order_id": (9, 11)})


async def test_a_different_choice_takes_the_route_back(shop: School) -> None:
    await shop.taught("when do you open")
    await shop.turn("when do you open", Decision("message"))
    await shop.learner.caught_up()
    assert await shop.shown("when do you open") is None
    row = await shop.taught("when do you open")
    assert row is not None
    assert row.state == "blocked"
    shop.now += 3601
    row = await shop.taught("when do you open")
    assert row is not None
    assert row.state == "active"


@pytest.mark.parametrize(
    ("message", "decision", "usage", "changes"),
    [
        ("i do not want that", HOURS, ONE_CALL, {}),
        ("open it", HOURS, ONE_CALL, {}),
        ("when do you open", replace(HOURS, matched_by="rule"), ONE_CALL, {}),
        ("when do you open", Decision("skill", "desk", "conversation"), ONE_CALL, {}),
        ("when do you open", HOURS, ONE_CALL, {"seq": 2}),
        ("when do you open", HOURS, ONE_CALL, {"plan": {"action_type": "flow", "escalated": "it failed"}}),
        ("when do you open", HOURS, Usage(llm_calls=2), {}),  # the flow did not answer alone
        ("when do you open", Decision("flow", "gone", "llm"), ONE_CALL, {}),
        ("where is my order", Decision("flow", "order", "llm", parameters={"order_id": "A7"}), ONE_CALL, {}),
        ("state of a7", Decision("tool", "told", "llm", parameters={"id": "a7"}), Usage(llm_calls=2), {}),
    ],
)
async def test_what_is_no_lesson_is_not_learned(
    shop: School, message: str, decision: Decision, usage: Usage, changes: dict[str, Any]
) -> None:
    assert await shop.taught(message, decision, usage, **changes) is None


@pytest.mark.parametrize("decision", [Decision("skill", "desk", "llm"), Decision("tool", "raw", "llm", parameters={"id": "a7"})])
async def test_an_action_that_needs_a_model_is_learned_though_it_called_one(shop: School, decision: Decision) -> None:
    call = ToolCall("c1", "raw", '{"id": "a7"}')
    messages = [Message("assistant", "", (call,)), Message("tool", '{"state": 1}', (), "c1"), Message("assistant", "It is 1.")]
    row = await shop.taught("state of a7", decision, Usage(llm_calls=3), messages=messages)
    assert row is not None
    assert row.state == "active"


async def test_one_session_alone_teaches_nothing(stores: Stores, hotstore: MemoryHotStore) -> None:
    async with school(stores, hotstore, multi_turn="single") as single:
        row = await single.taught("when do you open", session_id="the-same", seq=5)
        assert row is not None
        assert (row.state, row.seen) == ("candidate", 1)
        await single.turn("when do you open", seq=9)
        await single.learner.caught_up()
        assert await single.shown("when do you open") is not None


@pytest.mark.parametrize("changes", [{"learned_routes": {"enabled": False}}, {"multi_turn": "router"}])
async def test_nothing_is_learned_without_the_switch_or_for_a_router(
    stores: Stores, hotstore: MemoryHotStore, changes: dict[str, Any]
) -> None:
    off = School(stores, hotstore, {**SHOP, **changes})
    await off.turn("when do you open")
    await off.learner.caught_up()  # nobody works here: it returns only because nothing was noted
    assert await off.learner.routes("acme", "shop") == []


async def test_forgetting_takes_routes_away_at_once(shop: School) -> None:
    await shop.taught("when do you open")
    await shop.taught("when do you close")
    assert await shop.learner.forget("acme", "shop", "When do you CLOSE") == 1
    assert await shop.shown("when do you close") is None
    assert await shop.shown("when do you open") is not None
    assert await shop.learner.forget("acme", "shop") == 1
    assert await shop.shown("when do you open") is None
    assert await shop.learner.forget("other", "shop") == 0


async def test_a_hot_store_that_was_emptied_is_filled_again(shop: School) -> None:
    row = await shop.taught("when do you open")
    assert row is not None
    await shop.hotstore.aclose()
    assert await shop.shown("when do you open") is None
    await shop.learner.refresh()
    assert await shop.shown("when do you open") is not None
    shop.now += 3601
    await shop.hotstore.aclose()
    await shop.learner.refresh()
    assert await shop.shown("when do you open") is None
    assert await shop.learner.routes("acme", "shop") == []


async def test_hits_of_both_tiers_are_counted(shop: School) -> None:
    await shop.taught("when do you open")
    route = {"action_type": "flow", "action_target": "hours", "matched_by": "learned"}
    version = shop.agents.in_force("shop")
    reply = {"route": route, "config_hash": version}
    shop.learner.answered([journal_entry("t_a", message="When do you open", reply=reply), journal_entry("t_b", message="when do you open")])
    await shop.turn("when do you open", replace(HOURS, matched_by="learned"))
    await shop.learner.caught_up()

    async def counted() -> bool:
        return (await shop.learner.routes("acme", "shop"))[0].hits == 2

    await wait_until(counted, "the hits are counted", 5)


async def test_proposals_are_tried_on_the_log(shop: School) -> None:
    await shop.taught("when do you open the shop")
    await shop.taught("when does the shop open doors")
    turn = (await shop.stores.turns.accept(new_turn("t_x", "sx", request={"message": "open a shop"}), owner="a", lease_seconds=LEASE)).turn
    await shop.stores.turns.finish(fence_of(turn), answer(reply={"route": {"action_type": "message", "action_target": None}}))
    found = await shop.learner.proposals("acme", "shop")
    assert {p.action_target for p in found} == {"hours"}
    assert any(e.message == "open a shop" for p in found for e in p.caught_wrongly)
    assert await shop.learner.proposals("other", "shop") == []


async def test_without_a_hot_store_nothing_is_forgotten(stores: Stores) -> None:
    class Away(MemoryHotStore):
        async def delete(self, *names: str) -> None:
            raise HotStoreUnavailable("away")

    away = School(stores, Away(), SHOP)
    working = asyncio.create_task(away.learner.work())
    await away.turn("when do you open")
    await away.learner.caught_up()
    with pytest.raises(HotStoreUnavailable):
        await away.learner.forget("acme", "shop")
    assert len(await away.learner.routes("acme", "shop")) == 1
    working.cancel()
    await asyncio.wait([working])
