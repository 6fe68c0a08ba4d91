"""What a workflow file says about the life of a session: timers, hand-offs, the profile, knowledge, servers of tools, how often to act.

It calls nothing. Targets and ids are judged in `lint`, endpoints and templates in `lint_calls`.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from common.workflow.placeholders import placeholders, strings
from common.workflow.problems import Path
from common.workflow.report import Report
from common.workflow.schema import McpServer, SystemAction, Tool, Workflow

QUESTION_NAMES = ("query", "question", "q", "keyword", "keywords", "text", "input", "message", "content")
"""The parameters of a knowledge tool that take the question, the first that there is."""

_SECTIONS = ("flows", "tools", "skills", "system_actions")


def lint_sessions(workflow: Workflow, report: Report) -> None:
    """Adds the problems of what the workflow says about sessions."""
    _timers(workflow, report)
    for i, action in enumerate(workflow.system_actions):
        _deadline(action, ("system_actions", i), report)
    _knowledge(workflow, report)
    _profile(workflow, report)
    _servers(workflow, report)
    _without_effect(workflow, report)


def lacks_server_tool(name: str, servers: Sequence[McpServer]) -> str | None:
    """What is wrong with a skill's tool name that begins with a server's: "" when it is right, None when it names no server.

    A skill names all tools of a server by its name, or one as `<server>__<tool>`.
    """
    for server in servers:
        if name == server.name:
            return ""
        tool = name.removeprefix(server.name + "__")
        if tool != name:
            left_out = server.tools is not None and tool not in server.tools
            return f"the MCP server {server.name!r} has no {tool!r} among its tools" if left_out else ""
    return None


def question_parameter(tool: Tool) -> str | None:
    """The parameter of a knowledge tool that takes the question, None when it has none that can."""
    properties = tool.parameters.get("properties")
    if not isinstance(properties, dict):
        return None
    for name in QUESTION_NAMES:
        if name in properties:
            return name
    required = tool.parameters.get("required")
    texts = [name for name in required if _is_text(properties.get(name))] if isinstance(required, list) else []
    if len(texts) == 1:
        return str(texts[0])
    return next(iter(properties)) if len(properties) == 1 else None


def _is_text(schema: Any) -> bool:
    return isinstance(schema, dict) and schema.get("type", "string") == "string"


def _timers(workflow: Workflow, report: Report) -> None:
    """Timers are a chain in the order of the file: each is armed when the one before it has fired, and none in a session that has ended."""
    ended: str | None = None
    for i, timer in enumerate(workflow.timers):
        if ended:
            hint = "move it before that one; delays count from the timer before"
            report.warning("timer_never_fires", f"timer {timer.timer_id!r} comes after {ended}", ("timers", i, "timer_id"), hint)
        action = workflow.action("system", timer.action_target or "") if timer.action_type == "system" else None
        if isinstance(action, SystemAction) and action.handler in ("close", "handoff") and not ended:
            ended = f"{timer.timer_id!r}, which {'closes the session' if action.handler == 'close' else 'hands the session to a human'}"


def _deadline(action: SystemAction, path: Path, report: Report) -> None:
    if action.handler != "handoff":
        for key in ("deadline_seconds", "deadline_message"):
            if getattr(action, key) is not None:
                _idle(report, f"only a hand-off has a deadline, this is {action.handler}", (*path, key), "remove it")
    elif action.deadline_message is not None and action.deadline_seconds is None:
        _idle(report, "there is no deadline after which it could be said", (*path, "deadline_message"), "add deadline_seconds")


def _knowledge(workflow: Workflow, report: Report) -> None:
    knowledge = workflow.kb_config
    tool = workflow.action("tool", knowledge.tool_name or "")
    if isinstance(tool, Tool):
        here: Path = ("kb_config", "tool_name")
        if tool.parameters.get("properties") and question_parameter(tool) is None:
            hint = f"call one of them {QUESTION_NAMES[0]}, or require only one text"
            report.warning("no_question", f"no parameter of the tool {tool.name!r} can take the question", here, hint)
        if tool.approval:
            hint = "use a tool that only reads, without approval"
            report.warning("no_question", f"the tool {tool.name!r} waits for an approval, so nobody asks it ahead", here, hint)
    if knowledge.enabled and knowledge.auto_enhance and knowledge.enhance_conditions:
        hint = 'write "auto_enhance": false to ask only for messages that hold one of them'
        _idle(report, "every message that reaches the LLM is enhanced (auto_enhance)", ("kb_config", "enhance_conditions"), hint)
    if knowledge.enabled and not knowledge.auto_enhance and not knowledge.enhance_conditions:
        hint = "add enhance_conditions: phrases of the messages that need knowledge"
        _idle(report, "without auto_enhance and enhance_conditions no message is enhanced", ("kb_config",), hint)
    if workflow.retrieve_knowledge_url and knowledge.tool_name:
        _idle(report, f"the knowledge tool {knowledge.tool_name!r} is asked instead", ("retrieve_knowledge_url",), "keep one of the two")


def _profile(workflow: Workflow, report: Report) -> None:
    """Fields of `{profile.x}` that no action of the file ever writes."""
    known = _profile_fields(workflow)
    if known is None:
        return
    used = [(s, i, a) for s in _SECTIONS for i, a in enumerate(getattr(workflow, s))]
    for section, i, action in used:
        for text, path in strings(action.model_dump(include={"endpoint", "response_template", "on_error", "on_empty"}), (section, i)):
            for found in placeholders(text):
                if found.name == "profile" and len(found.names) > 1 and found.names[1] not in known:
                    close = difflib.get_close_matches(found.names[1], sorted(known), n=1)
                    hint = f"did you mean {close[0]!r}?" if close else "let an update_profile action note it"
                    report.warning("unknown_profile", f"nothing ever writes {{{found.expression}}}", path, hint)


def _profile_fields(workflow: Workflow) -> set[str] | None:
    """The fields that update_profile actions declare; None where one may write any field."""
    fields: set[str] = set()
    for action in workflow.system_actions:
        if action.handler == "update_profile":
            properties = action.parameters.get("properties")
            if not isinstance(properties, dict):
                return None
            fields |= set(properties)
    return fields


def _servers(workflow: Workflow, report: Report) -> None:
    tools = {tool.name for tool in workflow.tools}
    for i, server in enumerate(workflow.mcp_servers):
        path: Path = ("mcp_servers", i)
        if (server.command is None) == (server.url is None):
            report.error("bad_server", f"the MCP server {server.name!r} has either command or url", path, "keep one of the two")
        elif server.command is not None and not (server.command and server.command[0]):
            report.error("bad_server", f"the command of the MCP server {server.name!r} is empty", (*path, "command"), "name the program")
        elif server.command is not None and server.headers:
            _idle(report, "a command has no headers", (*path, "headers"), "use env")
        elif server.url is not None and server.env:
            _idle(report, "a server that is reached by its URL is started by somebody else", (*path, "env"), "use headers")
        for name in sorted(tools):
            if name == server.name or name.startswith(server.name + "__"):
                message = f"the tool {name!r} has the name of the MCP server {server.name!r} or of a tool of it"
                report.error("duplicate_id", message, (*path, "name"), "give one of them another name")


def _without_effect(workflow: Workflow, report: Report) -> None:
    given = workflow.model_fields_set
    if workflow.iteration_strategy == "single_shot" and "max_iterations" in given:
        _idle(report, "single_shot acts once", ("max_iterations",), "remove it, or use sop_driven")
    for section in ("flows", "system_actions"):
        for i, action in enumerate(getattr(workflow, section)):
            if action.silent and action.response_template:
                _idle(report, "a silent action answers nothing", (section, i, "response_template"), "remove it or silent")
    for i, skill in enumerate(workflow.skills):
        if skill.execution_mode == "agent" and skill.endpoint is not None:
            hint = 'write "execution_mode": "function", or make it a tool of the skill'
            _idle(report, "an agent skill calls tools, it has no endpoint of its own", ("skills", i, "endpoint"), hint)
    if workflow.learned_routes.enabled and workflow.multi_turn == "router":
        _idle(report, "routes are learned from the intent match, which router leaves out", ("learned_routes",), "use hybrid or single")


def _idle(report: Report, why: str, path: tuple[Any, ...], hint: str) -> None:
    report.warning("no_effect", f"{path[-1]} has no effect: {why}", path, hint, at_key=True)
