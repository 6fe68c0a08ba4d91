"""The agent loop against a scripted model: steps, parallel tools, resuming, `done`, repairs, bounds, and the text that users see."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import pytest

from common.contracts.query import Usage
from common.errors import DeadlineExceeded
from common.workflow.schema import Limits
from heavy.agent.ends import BadToolCalls
from heavy.agent.job import Job
from heavy.agent.loop import run_agent
from heavy.agent.scripted import Say, ScriptedGateway
from heavy.agent.steps import Delta, RunStep, Step, ToolEnded, ToolStarted
from heavy.agent.toolbox import Toolbox, ToolResult, failed
from heavy.llm.types import LLMCallFailed, Message, ToolCall
from tests.support.agent_runs import SPECS, USER, Tools, refund_script, run


@pytest.mark.parametrize("streaming", [True, False])
async def test_tools_then_done(streaming: bool) -> None:
    gateway, tools = ScriptedGateway(refund_script()), Tools()
    items, end, committed = await run(gateway, tools, streaming=streaming)
    assert (end.text, end.done, end.open, end.reason) == ("Let me look.\n\nRefunded order A1.", True, False, "done")
    assert [(i, n) for i, n, _ in tools.ran] == [("c1", "get_order"), ("c2", "refund")]
    assert [m.role for m in committed] == ["user", "assistant", "tool", "assistant", "tool", "assistant", "tool", "assistant"]
    usage = Usage()
    for item in items:
        if isinstance(item, Step):
            usage.add(item.usage)
    usage.add(end.usage)
    assert usage.llm_calls == 3
    assert [t.name for t in gateway.requests[0].tools] == ["get_order", "refund", "done"]


async def test_every_step_comes_before_the_next_begins() -> None:
    tools = Tools()
    gateway = ScriptedGateway(refund_script())
    steps = run_agent(gateway, tools.box, Job("s", [USER], "default", 8, done="required"))
    async with aclosing(steps):
        async for item in steps:
            if isinstance(item, Step) and item.messages[0].role == "assistant":
                # the caller commits here: neither the tool nor the next LLM call has begun
                assert item.messages[0].tool_calls[0].id not in {i for i, _, _ in tools.ran}
            if isinstance(item, ToolStarted):
                assert item.call.id not in {i for i, _, _ in tools.ran}
            if isinstance(item, Step) and item.messages[0].role == "tool":
                assert len(gateway.requests) == len(tools.ran)


async def test_an_answer_without_done_leaves_the_conversation_open() -> None:
    _, end, committed = await run(ScriptedGateway([Say("Which order is it?")]))
    assert (end.reason, end.done, end.open) == ("answered", False, True)
    assert committed[-1] == Message("assistant", "Which order is it?")


async def test_an_answer_is_the_end_where_done_is_not_required() -> None:
    gateway = ScriptedGateway([Say("Hello.")])
    _, end, _ = await run(gateway, done="none")
    assert (end.reason, end.done, end.open) == ("answered", True, False)
    assert "done" not in [t.name for t in gateway.requests[0].tools]


async def test_calls_of_one_message_run_side_by_side() -> None:
    tools = Tools(gate=asyncio.Barrier(2))  # each waits until the other runs as well
    items, end, _ = await run(
        ScriptedGateway([Say("", [("get_order", {"order_id": "A1"}), ("get_order", {"order_id": "A2"})]), Say("Two orders.")]), tools
    )
    assert end.text == "Two orders."
    kinds = [type(i).__name__ for i in items]
    assert kinds[:3] == ["Step", "ToolStarted", "ToolStarted"]
    assert kinds[3:7] == ["Step", "ToolEnded", "Step", "ToolEnded"]


async def test_a_resumed_run_executes_only_what_is_missing() -> None:
    calls = (ToolCall("x1", "get_order", '{"order_id": "A1"}'), ToolCall("x2", "refund", '{"order_id": "A1"}'))
    transcript = [USER, Message("assistant", "Let me look.", calls), Message("tool", '{"ok": true}', tool_call_id="x1")]
    tools = Tools()
    gateway = ScriptedGateway([Say("", [("done", {"message": "Refunded."})])])
    items, end, _ = await run(gateway, tools, transcript=transcript)
    assert [(i, n) for i, n, _ in tools.ran] == [("x2", "refund")]
    assert end.text == "Let me look.\n\nRefunded."
    assert "".join(i.text for i in items if isinstance(i, Delta)) == "\n\nRefunded."


async def test_a_resumed_run_whose_done_was_committed_asks_no_model() -> None:
    transcript = [USER, Message("assistant", "", (ToolCall("x1", "done", '{"message": "Refunded."}'),))]
    gateway = ScriptedGateway()
    _, end, _ = await run(gateway, transcript=transcript)
    assert (end.text, end.done, gateway.requests) == ("Refunded.", True, [])


async def test_other_calls_run_before_done() -> None:
    tools = Tools()
    script = [Say("", [("done", {"message": "Refunded."}), ("refund", {"order_id": "A1"})])]
    _, end, _ = await run(ScriptedGateway(script), tools)
    assert end.done
    assert [n for _, n, _ in tools.ran] == ["refund"]


async def test_done_beside_a_failed_call_is_not_accepted() -> None:
    tools = Tools(fail=["refund"])
    script = [
        Say("", [("done", {"message": "Refunded."}), ("refund", {"order_id": "A1"})]),
        Say("", [("done", {"message": "The refund did not work."})]),
    ]
    _, end, _ = await run(ScriptedGateway(script), tools)
    assert end.text == "The refund did not work."


async def test_done_does_not_repeat_what_was_said() -> None:
    _, end, committed = await run(ScriptedGateway([Say("Refunded order A1.", [("done", {"message": "Refunded order A1."})])]))
    assert end.text == "Refunded order A1."
    assert [m.content for m in committed if m.role == "assistant"] == ["Refunded order A1."]


async def test_done_without_a_message_after_text_keeps_the_text() -> None:
    _, end, _ = await run(ScriptedGateway([Say("All set.", [("done", {})])]))
    assert (end.text, end.done) == ("All set.", True)


async def test_done_without_any_text_is_sent_back() -> None:
    _, end, _ = await run(ScriptedGateway([Say("", [("done", {})]), Say("", [("done", {"message": "Ready."})])]))
    assert (end.text, end.done) == ("Ready.", True)


@pytest.mark.parametrize(
    ("name", "arguments", "told"),
    [
        ("get_order", '{"order_id": "A1', "not valid JSON"),
        ("get_order", '{"order_id": 5}', 'order_id: 5 is not of type "string"'),
        ("get_order", "{}", '"order_id" is a required property'),
        ("get_order", "[]", "must be a JSON object"),
        ("drop_table", "{}", "there is no tool 'drop_table'"),
    ],
)
async def test_a_wrong_call_is_not_executed_and_the_model_is_told(name: str, arguments: str, told: str) -> None:
    tools, gateway = Tools(), ScriptedGateway([Say("", [(name, arguments)]), *refund_script()])
    _, end, _ = await run(gateway, tools)
    assert end.done
    assert [n for _, n, _ in tools.ran] == ["get_order", "refund"]
    told_message = gateway.requests[1].messages[-1]
    assert told_message.role == "tool"
    assert told in told_message.content.replace('\\"', '"')


async def test_two_repairs_then_a_typed_error() -> None:
    gateway = ScriptedGateway(lambda _: Say("Hm.", [("get_order", "{")]))
    with pytest.raises(BadToolCalls) as caught:
        await run(gateway)
    assert len(gateway.requests) == 3
    assert caught.value.partial.startswith("Hm.")


async def test_repairs_are_counted_in_a_row() -> None:
    bad, good = [("get_order", "{")], "get_order"
    script = [Say("", bad), Say("", bad), Say("", [(good, {"order_id": "A1"})]), Say("", bad), Say("", bad), Say("Fine.")]
    _, end, _ = await run(ScriptedGateway(script))
    assert end.text == "Fine."


async def test_the_same_call_a_third_time_stops_the_run() -> None:
    def script(request: Any) -> Say:
        return Say("That is all I know.") if request.tool_choice == "none" else Say("", [("get_order", {"order_id": "A1"})])

    tools = Tools()
    _, end, _ = await run(ScriptedGateway(script), tools)
    assert (end.reason, end.text, end.open) == ("repeated_call", "That is all I know.", True)
    assert len(tools.ran) == 2


async def test_max_iterations_ends_with_a_last_answer() -> None:
    numbers = iter(range(100))

    def script(request: Any) -> Say:
        return Say("As far as I see …") if request.tool_choice == "none" else Say("", [("get_order", {"order_id": str(next(numbers))})])

    gateway, tools = ScriptedGateway(script), Tools()
    _, end, _ = await run(gateway, tools, max_iterations=3)
    assert (end.reason, end.text, end.done) == ("max_iterations", "As far as I see …", False)
    assert (len(tools.ran), len(gateway.requests)) == (3, 4)


async def test_a_model_that_never_stops_calling_gets_the_fallback_text() -> None:
    numbers = iter(range(100))
    gateway = ScriptedGateway(lambda _: Say("Again.", [("get_order", {"order_id": str(next(numbers))})]))
    _, end, _ = await run(gateway, max_iterations=2, fallback="Sorry.")
    assert (end.reason, end.open) == ("max_iterations", True)
    gateway = ScriptedGateway(lambda _: Say("", [("get_order", {"order_id": str(next(numbers))})]))
    _, end, _ = await run(gateway, max_iterations=2, fallback="Sorry.")
    assert (end.reason, end.text, end.open) == ("max_iterations", "Sorry.", False)


@pytest.mark.parametrize(
    ("limits", "reason", "executed"),
    [
        (Limits(tool_calls=2), "limit:tool_calls", 2),
        (Limits(tokens=30), "limit:tokens", 2),
        (Limits(cost_usd=0.03), "limit:cost_usd", 3),
    ],
)
async def test_limits_end_a_run_with_its_name(limits: Limits, reason: str, executed: int) -> None:
    numbers = iter(range(100))
    usage = Usage(1, 10, 0, 5, 0.01)
    tools = Tools()
    gateway = ScriptedGateway(lambda _: Say("", [("get_order", {"order_id": str(next(numbers))})], usage=usage))
    _, end, _ = await run(gateway, tools, limits=limits, fallback="Sorry.")
    assert (end.reason, end.text, len(tools.ran)) == (reason, "Sorry.", executed)


async def test_nothing_at_all_is_silent() -> None:
    _, end, _ = await run(ScriptedGateway([Say("")]))
    assert (end.reason, end.text, end.messages) == ("silent", "", ())


async def test_ids_that_a_model_uses_twice_are_made_unique() -> None:
    tools = Tools()
    order = [("get_order", {"order_id": "A1"}), ("get_order", {"order_id": "A2"})]
    script = [Say("", order, ids=["call_0", "call_0"]), Say("", order[:1], ids=["call_0"]), Say("Fine.")]
    await run(ScriptedGateway(script), tools)
    assert sorted(i for i, _, _ in tools.ran) == ["call_0", "call_0_2", "call_0_3"]


async def test_an_llm_error_carries_what_was_said_and_keeps_the_steps() -> None:
    script = [refund_script()[0], Say("I will n", error=LLMCallFailed("reset", kind="reset"))]
    items: list[RunStep] = []

    async def read() -> None:
        async for item in run_agent(ScriptedGateway(script), Tools().box, Job("s", [USER], "m", 5, done="required")):
            items.append(item)

    with pytest.raises(LLMCallFailed) as caught:
        await read()
    assert caught.value.partial == "Let me look.\n\nI will n" == "".join(i.text for i in items if isinstance(i, Delta))
    assert sum(isinstance(i, Step) for i in items) == 2


async def test_a_spent_deadline_makes_no_call() -> None:
    gateway = ScriptedGateway([Say("late")])
    with pytest.raises(DeadlineExceeded):
        await run(gateway, deadline=time.time() - 1)
    assert gateway.requests == []


async def test_closing_the_run_cancels_its_tools() -> None:
    cancelled = asyncio.Event()

    async def hang(call: ToolCall, arguments: Mapping[str, Any]) -> ToolResult:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        return failed("never")

    async def go() -> None:
        async with aclosing(
            run_agent(ScriptedGateway(refund_script()), Toolbox(SPECS, hang), Job("s", [USER], "m", 5, done="required"))
        ) as steps:
            async for item in steps:
                if isinstance(item, ToolStarted):
                    started.set()

    started = asyncio.Event()
    task = asyncio.create_task(go())
    await started.wait()
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled.is_set()


async def test_a_failed_tool_is_told_to_the_model_and_shown() -> None:
    items, end, _ = await run(ScriptedGateway([refund_script()[0], Say("It failed.")]), Tools(fail=["get_order"]))
    ended = next(i for i in items if isinstance(i, ToolEnded))
    assert (ended.ok, ended.result) == (False, {"error": "the API answered 500"})
    assert end.text.endswith("It failed.")


async def test_leading_white_space_of_a_part_is_not_shown() -> None:
    _, end, _ = await run(ScriptedGateway([Say("\n", [("get_order", {"order_id": "A1"})]), Say("\n\nHere it is.")]))
    assert end.text == "Here it is."
