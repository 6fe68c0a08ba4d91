"""The summary of a hand-off: a model's where one answers, else the lines themselves; none where nobody spoke."""

from __future__ import annotations

import pytest

from common.workflow.load import load_text
from heavy.agent.scripted import Say, ScriptedGateway
from heavy.llm.types import LLMCallFailed
from heavy.turns.summary import MOST_CHARACTERS, summarise

WORKFLOW = load_text('{"agent_id": "shop", "models": {"default": "big", "compaction": "small"}}')
LINES = ["user: my kettle is broken", "colleague: A new one is on its way."]


AWAY = Say(error=LLMCallFailed("no target answers", kind="connect"))


async def test_a_models_words() -> None:
    gateway = ScriptedGateway(lambda request: Say(" A new kettle was sent. "))
    assert await summarise(gateway, WORKFLOW, LINES) == "A new kettle was sent."
    request = gateway.requests[0]
    assert (request.model, request.purpose, request.timeout) == ("small", "compaction", 15.0)
    assert request.messages[1].content == "\n".join(LINES)
    await summarise(gateway, WORKFLOW, ["user: " + "x" * 100_000, "colleague: bye"])
    long = gateway.requests[1].messages[1].content
    assert len(long) == MOST_CHARACTERS
    assert long.endswith("colleague: bye")


@pytest.mark.parametrize("answer", [AWAY, Say("  ")], ids=["away", "silent"])
async def test_the_lines_themselves(answer: Say) -> None:
    assert await summarise(ScriptedGateway([answer]), WORKFLOW, LINES) == "\n".join(LINES)


async def test_nobody_spoke() -> None:
    gateway = ScriptedGateway(lambda request: Say("Something."))
    assert await summarise(gateway, WORKFLOW, []) is None
    assert gateway.requests == []
