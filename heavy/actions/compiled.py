"""All actions of a workflow compiled, once when it is loaded: parsed templates, endpoints, tool schemas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from common.endpoints.answer import CompiledAction, compile_action
from common.errors import ConfigInvalid
from common.workflow.schema import Flow, Skill, SystemAction, Tool, Workflow
from heavy.agent.http_tools import HttpTool


@dataclass(frozen=True, slots=True)
class CompiledWorkflow:
    """A workflow with its actions by (kind, id), as declared and compiled, and its tools by name."""

    workflow: Workflow
    declared: Mapping[tuple[str, str], Tool | Skill | Flow | SystemAction]
    actions: Mapping[tuple[str, str], CompiledAction]
    tools: Mapping[str, HttpTool]


def compile_workflow(workflow: Workflow, env: Mapping[str, str]) -> CompiledWorkflow:
    """Compiles everything. `env` fills `${NAME}`. Raises ConfigInvalid that names the action."""
    try:
        actions: dict[tuple[str, str], CompiledAction] = {(kind, a.id): compile_action(kind, a, env) for kind, a in workflow.actions()}
    except ValueError as e:
        raise ConfigInvalid(str(e)) from None
    tools = {t.name: HttpTool(t, actions["tool", t.name]) for t in workflow.tools}
    return CompiledWorkflow(workflow, {(kind, a.id): a for kind, a in workflow.actions()}, actions, tools)
