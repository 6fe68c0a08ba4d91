"""The bounds of an agent run: limits over all attempts, decisions of persons, long histories, nonsense from the model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from common.contracts.query import Usage
from common.errors import DeadlineExceeded
from common.workflow.schema import Limits
from heavy.agent.job import Job
from heavy.agent.loop import run_agent
from heavy.agent.scripted import Say, ScriptedGateway
from heavy.agent.steps import ApprovalDecision, Ended
from heavy.agent.toolbox import Toolbox
from heavy.llm.tokens import estimate
from heavy.llm.types import Chunk, LLMCallFailed, LLMRequest, Message, TextDelta, ToolCall
from tests.support.agent_runs import SPECS, USER, Tools, refund_script, run


async def test_the_limit_of_seconds_ends_with_the_partial_answer() -> None:
    class Slow(ScriptedGateway):
        """Says a few words and then nothing until its time is over, as a gateway does that keeps the request's time-out."""

        async def stream(self, request: LLMRequest) -> AsyncIterator[Chunk]:
            yield TextDelta("So far")
            try:
                async with asyncio.timeout(request.timeout):
                    await asyncio.Event().wait()
            except TimeoutError:
                raise LLMCallFailed("no time left", kind="timeout", partial="So far") from None

    _, end, committed = await run(Slow(), limits=Limits(seconds=0.05), fallback="Sorry.")
    assert (end.reason, end.text, end.open) == ("limit:seconds", "So far\n\nSorry.", False)
    assert committed[-1] == Message("assistant", "So far\n\nSorry.")


@pytest.mark.parametrize(
    ("limits", "reason"),
    [(Limits(tokens=100), "limit:tokens"), (Limits(cost_usd=0.5), "limit:cost_usd"), (Limits(seconds=60), "limit:seconds")],
)
async def test_limits_count_what_earlier_attempts_have_used(limits: Limits, reason: str) -> None:
    begun = [USER, Message("assistant", "Let me look.", (ToolCall("x1", "get_order", '{"order_id": "A1"}'),))]
    spent, began = Usage(3, 90, 0, 15, 0.6), time.time() - 61
    tools, gateway = Tools(), ScriptedGateway()
    _, end, _ = await run(gateway, tools, transcript=begun, limits=limits, spent=spent, began=began, fallback="Sorry.")
    assert (end.reason, end.text, end.done) == (reason, "Let me look.\n\nSorry.", False)
    assert (gateway.requests, [n for _, n, _ in tools.ran]) == ([], ["get_order"])
    assert spent == Usage(3, 90, 0, 15, 0.6)
    assert end.usage == Usage()


async def test_the_limit_of_calls_counts_those_of_earlier_attempts() -> None:
    order = [ToolCall(f"x{i}", "get_order", f'{{"order_id": "A{i}"}}') for i in (1, 2)]
    begun = [USER, *(m for c in order for m in (Message("assistant", "", (c,)), Message("tool", "{}", tool_call_id=c.id)))]
    tools = Tools()
    script = [Say("", [("get_order", {"order_id": "A3"}), ("get_order", {"order_id": "A4"})]), Say("Enough.")]
    _, end, _ = await run(ScriptedGateway(script), tools, transcript=begun, limits=Limits(tool_calls=3))
    assert (end.reason, end.text, len(tools.ran)) == ("limit:tool_calls", "Enough.", 1)


async def test_rounds_of_another_run_are_not_counted_but_its_calls_are() -> None:
    order = [ToolCall(f"x{i}", "get_order", f'{{"order_id": "A{i}"}}') for i in (1, 2)]
    begun = [USER, *(m for c in order for m in (Message("assistant", "", (c,)), Message("tool", "{}", tool_call_id=c.id)))]
    tools = Tools()
    script = [Say("", [("get_order", {"order_id": "A3"})]), Say("Fine.")]
    _, end, _ = await run(ScriptedGateway(list(script)), tools, transcript=begun, begins=len(begun), max_iterations=2)
    assert (end.reason, end.text) == ("answered", "Fine.")
    _, end, _ = await run(ScriptedGateway(list(script)), tools, transcript=begun, begins=len(begun), limits=Limits(tool_calls=2))
    assert end.reason == "limit:tool_calls"


async def test_an_unknown_decision_id_approves_nothing() -> None:
    tools = Tools()
    box = Toolbox(SPECS, tools.run, approval=["refund"])
    job = Job("s", [USER], "m", 5, decisions={"other": ApprovalDecision(True)})
    items = [i async for i in run_agent(ScriptedGateway([refund_script()[1]]), box, job)]
    assert isinstance(items[-1], Ended)
    assert (items[-1].end.reason, tools.ran) == ("awaiting_approval", [])


async def test_notes_are_asked_for_once_and_only_where_a_model_is() -> None:
    asked = 0

    async def notes() -> str:
        nonlocal asked
        asked += 1
        return "NOTES"

    gateway = ScriptedGateway(refund_script())
    await run(gateway, notes=notes)
    assert asked == 1
    for request in gateway.requests:  # apart from the prompt, which is the same for all sessions and stays in the provider's cache
        assert [m.content for m in request.messages if m.role == "system"] == [gateway.requests[0].messages[0].content, "NOTES"]
    finished = [USER, Message("assistant", "", (ToolCall("x1", "done", '{"message": "Refunded."}'),))]
    await run(ScriptedGateway(), transcript=finished, notes=notes)
    assert asked == 1


async def test_a_thousand_turns_of_history_fit() -> None:
    history = [m for i in range(1000) for m in (Message("user", f"question {i} " + "x" * 400), Message("assistant", f"answer {i}"))]
    gateway = ScriptedGateway([Say("Summary."), *refund_script()], context_tokens=16_000)
    _, end, _ = await run(gateway, history=history)
    assert end.text == "Let me look.\n\nRefunded order A1."
    assert gateway.requests[0].purpose == "compaction"
    assert all(estimate(r.messages) < 16_000 for r in gateway.requests)
    assert "answer 999" in [m.content for m in gateway.requests[1].messages]


@pytest.mark.parametrize(
    "arguments", ["null", "[]", '"x"', "{'a': 1}", "\x00", "{" * 500, '{"order_id": 1e999}', '{"order_id": {"$ref": "x"}}']
)
async def test_nonsense_arguments_are_told_to_the_model(arguments: str) -> None:
    tools = Tools()
    _, end, committed = await run(ScriptedGateway([Say("", [("get_order", arguments)]), Say("Which order?")]), tools)
    assert (end.text, tools.ran) == ("Which order?", [])
    assert '"error"' in committed[2].content


async def test_a_gateway_that_finds_too_little_time_left_is_the_runs_own_limit_or_the_callers_deadline() -> None:
    class Refusing(ScriptedGateway):
        async def stream(self, request: LLMRequest) -> AsyncIterator[Chunk]:
            raise DeadlineExceeded("too little time")
            yield

    _, end, _ = await run(Refusing(), limits=Limits(seconds=30), deadline=time.time() + 60, fallback="Sorry.")
    assert (end.reason, end.text) == ("limit:seconds", "Sorry.")
    with pytest.raises(DeadlineExceeded):
        await run(Refusing(), limits=Limits(seconds=60), deadline=time.time() + 30)
