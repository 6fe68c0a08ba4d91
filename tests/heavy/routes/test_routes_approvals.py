"""Decisions on a turn that awaits an approval, over HTTP: one call, all calls, twice, otherwise, too late, and bad input."""

from __future__ import annotations

from typing import Any

import pytest

from common.contracts.query import Usage
from heavy.agent.steps import HeldCall
from heavy.llm.types import Message, ToolCall
from heavy.turns import approval
from tests.support.in_process import InProcess
from tests.support.turns import fence_of, new_turn
from tests.support.waiting import wait_until

CALLS = tuple(ToolCall(f"c{n}", "refund", f'{{"order_id": "A-{n}"}}') for n in (1, 2))
PATH = "/api/v1/turns/t_1/approval"


async def paused(shop: InProcess) -> None:
    """A turn whose model wants two refunds."""
    turns = shop.heavy.stores.turns
    accepted = await turns.accept(new_turn(tenant="default"), owner="n1", lease_seconds=10)
    asked = approval.ask([HeldCall(call, {"order_id": call.id}) for call in CALLS])
    await turns.pause(
        fence_of(accepted.turn),
        first_idx=1,
        messages=[Message("assistant", "", CALLS)],
        usage=Usage(),
        approval=asked,
        reply={"message": "Shall I?"},
        events=[approval.asked_event(accepted.turn, asked)],
    )


async def decide(shop: InProcess, decision: str, **more: Any) -> tuple[int, Any]:
    return await shop.call("POST", PATH, {"decision": decision, **more})


async def awaiting(shop: InProcess) -> list[str]:
    return (await shop.call("GET", "/api/v1/session/s1"))[1]["awaiting_approval"]


async def test_one_call_after_the_other(shop: InProcess) -> None:
    await paused(shop)
    assert await awaiting(shop) == ["t_1"]
    async with shop.events() as events:
        number, kind, data = await events.next()
        assert (number, kind, [c["call_id"] for c in data["calls"]]) == (1, "session.awaiting_approval", ["c1", "c2"])
        status, turn = await decide(shop, "deny", call_id="c1", by="ann", reason="too much")
        assert (status, turn["state"]) == (202, "awaiting_approval")
        first = turn["approval"]["decisions"]["c1"]
        assert (first["approved"], first["by"], first["reason"]) == (False, "ann", "too much")
        assert (await events.next())[2] == {"session_id": "s1", "turn_id": "t_1", "call_id": "c1", "decision": "deny", "by": "ann"}

        again = await decide(shop, "deny", call_id="c1", by="bob")
        assert (again[0], again[1]["approval"]["decisions"]["c1"]) == (202, first)
        status, problem = await decide(shop, "approve", call_id="c1")
        assert (status, problem["code"], problem["decision"]) == (409, "invalid_request", "deny")

        status, turn = await decide(shop, "approve")
        assert (status, turn["approval"]["decisions"]["c2"]["by"]) == (202, "operator")
        assert turn["state"] != "awaiting_approval"
        assert (await events.next())[2]["call_id"] == "c2"
    assert await awaiting(shop) == []
    await wait_until(lambda: len(shop.heavy.owner) == 0, "the turn has gone on to its end")
    assert (await decide(shop, "approve", call_id="c2"))[0] == 202


async def test_a_cancelled_turn_takes_no_decision(shop: InProcess) -> None:
    await paused(shop)
    assert (await shop.call("POST", "/api/v1/turns/t_1/cancel"))[1]["status"] == "cancelled"
    status, problem = await decide(shop, "approve")
    assert (status, problem["state"]) == (409, "cancelled")
    assert await awaiting(shop) == []


async def test_nothing_to_decide(shop: InProcess) -> None:
    assert (await decide(shop, "approve"))[0] == 404
    reply = await shop.ask("opening hours")
    status, problem = await shop.call("POST", f"/api/v1/turns/{reply['turn_id']}/approval", {"decision": "approve"})
    assert (status, problem["code"]) == (409, "invalid_request")


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({}, 400, "decision"),
        ({"decision": True}, 400, "decision"),
        ({"decision": ["approve"]}, 400, "decision"),
        ({"decision": "approve", "call_id": 5}, 400, "call_id"),
        ({"decision": "approve", "call_id": "c9"}, 404, None),
        ({"decision": "approve", "reason": "x" * 2001}, 400, "reason"),
        ({"decision": "approve", "by": ""}, 400, "by"),
    ],
)
async def test_bad_input(shop: InProcess, body: dict[str, Any], status: int, field: str | None) -> None:
    await paused(shop)
    got, problem = await shop.call("POST", PATH, body)
    assert (got, problem.get("field")) == (status, field)
