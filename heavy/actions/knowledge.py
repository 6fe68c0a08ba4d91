"""Knowledge for the message of a turn (`kb_config`): asked beside the first LLM call, used where a model answers, never waited for long.

It knows declared calls only: neither what the result is for nor when a turn needs it.
"""

from __future__ import annotations

import asyncio
import logging
import time
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.endpoints.answer import CompiledAction, compile_action, perform
from common.endpoints.call import HttpCaller
from common.workflow.lint_sessions import question_parameter
from common.workflow.schema import Endpoint, Flow, Workflow
from heavy.agent.http_tools import HttpTool, Variables
from heavy.agent.tool_schema import object_schema

_BODY = {"query": "{raw_input}", "chatbot_id": "{chatbot_id}"}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class CompiledKnowledge:
    """What is asked, and about which messages: those that hold one of `phrases` (folded), None for all. `timeout` is seconds.

    `parameter` of the tool takes the question, as a list of one where `as_list`; None where only templates take it.
    """

    action: CompiledAction
    timeout: float
    phrases: tuple[str, ...] | None = None
    tool: HttpTool | None = None
    parameter: str | None = None
    as_list: bool = False

    def concerns(self, message: str) -> bool:
        """Whether knowledge is asked for this message."""
        if self.phrases is None:
            return True
        folded = _folded(message)
        return any(phrase in folded for phrase in self.phrases)

    def variables(self, variables: Variables, message: str) -> dict[str, Any]:
        """The variables of the call: the system's, with the message as the question."""
        if self.tool is None or self.parameter is None:
            return variables(self.action, {})
        return self.tool.values(variables, {self.parameter: [message] if self.as_list else message})


def compile_knowledge(workflow: Workflow, tools: Mapping[str, HttpTool], env: Mapping[str, str]) -> CompiledKnowledge | None:
    """What the file asks for, None where it asks for nothing or nothing can be asked: such a tool is unknown, waits for an approval, or
    has no parameter for the question. Raises ValueError for a URL that can never be called."""
    config = workflow.kb_config
    phrases = None if config.auto_enhance else tuple(filter(None, map(_folded, config.enhance_conditions)))
    if not config.enabled or phrases == ():
        return None
    if config.tool_name is not None:
        tool = tools.get(config.tool_name)
        if tool is None or tool.tool.approval:
            return None
        schema = object_schema(tool.tool.parameters)
        parameter = question_parameter(tool.tool.model_copy(update={"parameters": schema}))
        if parameter is None and schema["properties"]:
            return None
        declared = schema["properties"].get(parameter)
        as_list = isinstance(declared, Mapping) and declared.get("type") == "array"
        return CompiledKnowledge(tool.action, config.timeout, phrases, tool, parameter, as_list)
    if workflow.retrieve_knowledge_url is None:
        return None
    endpoint = Endpoint(url=workflow.retrieve_knowledge_url, method="POST", body=_BODY, idempotent=True, timeout=config.timeout)
    return CompiledKnowledge(compile_action("knowledge", Flow(flow_id="base", endpoint=endpoint), env), config.timeout, phrases)


def start_knowledge(
    knowledge: CompiledKnowledge | None,
    caller: HttpCaller,
    variables: Variables,
    *,
    message: str,
    turn_id: str,
    deadline: float | None = None,
) -> KnowledgeQuery | None:
    """Asks at once, in a task of its own; None where this message needs no knowledge. `deadline` is Unix seconds. The caller ends it with
    `aclose` when the turn ends, however that is."""
    if knowledge is None or not message.strip() or not knowledge.concerns(message):
        return None
    ends = time.time() + knowledge.timeout
    return KnowledgeQuery(knowledge, caller, variables, message, turn_id, ends if deadline is None else min(ends, deadline))


class KnowledgeQuery:
    """One question under way. A failure, an empty result and a result that comes too late are the same: there is no knowledge."""

    def __init__(
        self, knowledge: CompiledKnowledge, caller: HttpCaller, variables: Variables, message: str, turn_id: str, ends: float
    ) -> None:
        self._knowledge, self._caller, self._ends = knowledge, caller, ends
        self._key = f"{turn_id}:knowledge"
        self._task = asyncio.create_task(self._ask(knowledge.variables(variables, message)), name=f"knowledge of {turn_id}")

    async def found(self) -> str | None:
        """The result as text, None without one. Waits until the time-out at most, counted from the start; may be asked again."""
        if not self._task.done():
            await asyncio.wait((self._task,), timeout=max(0.0, self._ends - time.time()))
        if not self._task.done():
            self._task.cancel()
            _log.info("%s: its result came too late for this turn", self._knowledge.action.name)
        return self._task.result() if self._task.done() and not self._task.cancelled() else None

    async def aclose(self) -> None:
        """Ends the call where it is still under way."""
        self._task.cancel()
        await asyncio.wait((self._task,))

    async def _ask(self, variables: Mapping[str, Any]) -> str | None:
        action = self._knowledge.action
        outcome = await perform(action, variables, self._caller, deadline=self._ends, idempotency_key=self._key)
        if outcome.fault is not None:
            _log.info("%s: no knowledge for this turn: %s", action.name, outcome.fault)
            return None
        return (outcome.text or "").strip() or None


def _folded(text: str) -> str:
    return unicodedata.normalize("NFKC", text).casefold().strip()
