"""All actions of a workflow compiled, once when it is loaded: parsed templates, endpoints, tool schemas, what knowledge is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from common.contracts.learned import LearnedRoute
from common.contracts.query import Query
from common.contracts.ticket import Plan
from common.endpoints.answer import CompiledAction, compile_action
from common.errors import ConfigInvalid
from common.workflow.placeholders import fill_env
from common.workflow.schema import Flow, Skill, SystemAction, Tool, Workflow
from heavy.actions.knowledge import CompiledKnowledge, compile_knowledge
from heavy.agent.http_tools import HttpTool


class Rules(Protocol):
    """What the rules of a workflow make of messages: the rule tier's part, for what does not pass it."""

    def plan(self, query: Query) -> Plan:
        """The plan of a message."""

    def explain(self, text: str, context: Mapping[str, Any], route: LearnedRoute | None = None) -> dict[str, Any]:
        """How a text is routed, with the learned route of the text, if there is one."""


@dataclass(frozen=True, slots=True)
class CompiledWorkflow:
    """A workflow with its actions by (kind, id), as declared and compiled, and its tools by name. `knowledge` is None where the file
    asks for none, `rules` where this process does not know the rule tier."""

    workflow: Workflow
    declared: Mapping[tuple[str, str], Tool | Skill | Flow | SystemAction]
    actions: Mapping[tuple[str, str], CompiledAction]
    tools: Mapping[str, HttpTool]
    knowledge: CompiledKnowledge | None = None
    rules: Rules | None = None

    @property
    def hosts(self) -> frozenset[str]:
        """The hosts that the file names literally."""
        called = [*self.actions.values(), *([self.knowledge.action] if self.knowledge else [])]
        servers = {host for server in self.workflow.mcp_servers if (host := _host(server.url, self.workflow.env))}
        return frozenset(a.endpoint.host for a in called if a.endpoint is not None) | servers

    @property
    def asks_persons(self) -> bool:
        """Whether a tool of it waits for the approval of a person."""
        return any(tool.approval for tool in self.workflow.tools)

    @property
    def busy(self) -> dict[str, str]:
        """What a refusal says beside its reason when the agent takes no message now: something for a front end to show."""
        return {"message": self.workflow.busy_message} if self.workflow.busy_message else {}

    def is_silent(self, kind: str, target: str | None) -> bool:
        """Whether that action answers nothing: then nobody is greeted before it either."""
        return bool(getattr(self.declared.get((kind, target or "")), "silent", False))


def compile_workflow(workflow: Workflow, env: Mapping[str, str], rules: Rules | None = None) -> CompiledWorkflow:
    """Compiles everything. `env` fills `${NAME}`. Raises ConfigInvalid that names the action."""
    try:
        actions: dict[tuple[str, str], CompiledAction] = {(kind, a.id): compile_action(kind, a, env) for kind, a in workflow.actions()}
        tools = {t.name: HttpTool(t, actions["tool", t.name]) for t in workflow.tools}
        knowledge = compile_knowledge(workflow, tools, env)
    except ValueError as e:
        raise ConfigInvalid(str(e)) from None
    return CompiledWorkflow(workflow, {(kind, a.id): a for kind, a in workflow.actions()}, actions, tools, knowledge, rules)


def _host(url: str | None, env: Mapping[str, str]) -> str | None:
    try:
        return urlsplit(fill_env(url or "", env)).hostname
    except ValueError:  # brackets that hold no address
        return None
