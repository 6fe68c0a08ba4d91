"""Runs of the agent loop for tests: a toolbox that keeps what was run, and a run whose transcript is committed as a caller would."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Any

from heavy.agent.job import Job
from heavy.agent.loop import run_agent
from heavy.agent.said import SEPARATOR, said_before
from heavy.agent.scripted import Say, ScriptedGateway
from heavy.agent.steps import Delta, Ended, RunEnd, RunStep, Step
from heavy.agent.toolbox import Toolbox, ToolResult, failed
from heavy.llm.types import Message, ToolCall, ToolSpec
from tests.support.acting import assert_valid

ORDER = {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]}
SPECS = [ToolSpec("get_order", "Look an order up", ORDER), ToolSpec("refund", "Refund an order", ORDER)]
USER = Message("user", "I want my money back")


class Tools:
    """A toolbox over plain functions; keeps what was run."""

    def __init__(self, fail: Sequence[str] = (), gate: asyncio.Barrier | None = None) -> None:
        self.ran: list[tuple[str, str, dict[str, Any]]] = []
        self.fail, self.gate = fail, gate
        self.box = Toolbox(SPECS, self.run)

    async def run(self, call: ToolCall, arguments: Mapping[str, Any]) -> ToolResult:
        if self.gate:
            await self.gate.wait()
        self.ran.append((call.id, call.name, dict(arguments)))
        return failed("the API answered 500") if call.name in self.fail else ToolResult(True, {"tool": call.name, "ok": True})


async def run(gateway: ScriptedGateway, tools: Tools | None = None, **options: Any) -> tuple[list[RunStep], RunEnd, list[Message]]:
    """All items, the end, and the transcript as a caller would have committed it."""
    settings: dict[str, Any] = {
        "system": "You refund.",
        "history": [],
        "transcript": [USER],
        "model": "default",
        "max_iterations": 8,
        "done": "required",
    }
    settings |= options
    items: list[RunStep] = []
    async with aclosing(run_agent(gateway, (tools or Tools()).box, Job(**settings))) as steps:
        async for item in steps:
            items.append(item)
    end = items[-1]
    assert isinstance(end, Ended)
    assert sum(isinstance(i, Ended) for i in items) == 1
    committed = [*settings["transcript"], *(m for i in items if isinstance(i, Step) for m in i.messages), *end.end.messages]
    shown = SEPARATOR.join(said_before(settings["transcript"]))
    assert shown + "".join(i.text for i in items if isinstance(i, Delta)) == end.end.text
    assert_valid(committed)
    return items, end.end, committed


def refund_script() -> list[Say]:
    return [
        Say("Let me look.", [("get_order", {"order_id": "A1"})]),
        Say("", [("refund", {"order_id": "A1"})]),
        Say("", [("done", {"message": "Refunded order A1."})]),
    ]
