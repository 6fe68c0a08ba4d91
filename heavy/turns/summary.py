"""The summary with which a human gives a session back to the bot: made by a model, or, where none answers in time, the lines themselves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from common.errors import LoadsplitError
from common.workflow.schema import Workflow
from heavy.agent import prompts
from heavy.llm.types import Gateway, LLMRequest, Message
from heavy.turns.handoff import plain_summary

SECONDS = 15.0
MOST_CHARACTERS = 24_000
_COLLEAGUE = "`colleague` is a human who spoke with the user in the assistant's place. Say above all what the colleague did and promised."
log = logging.getLogger(__name__)


async def summarise(gateway: Gateway, workflow: Workflow, lines: Sequence[str]) -> str | None:
    """What the lines of a dialogue come to, None without any. Takes at most 15 seconds and never raises for a model that is away."""
    if not lines:
        return None
    request = LLMRequest(
        model=workflow.models.compaction or workflow.models.default,
        messages=[Message("system", f"{prompts.COMPACTION}\n{_COLLEAGUE}"), Message("user", "\n".join(lines)[-MOST_CHARACTERS:])],
        timeout=SECONDS,
        deterministic=True,
        purpose="compaction",
    )
    try:
        async with asyncio.timeout(SECONDS):
            done = await gateway.complete(request)
    except (LoadsplitError, TimeoutError) as e:
        log.warning("a hand-off is summarised without a model: %s", getattr(e, "detail", "it took too long"))
        return plain_summary(lines)
    return done.message.content.strip() or plain_summary(lines)
