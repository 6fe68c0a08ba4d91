"""What a version that came through the API may not do, though a file of the operator's may: run programs, send the server's own secrets."""

from __future__ import annotations

import re
from collections.abc import Sequence

from common.workflow.problems import Problem
from common.workflow.schema import Workflow

_SECRETS = re.compile(r"LOADSPLIT_|OPENAI_|ANTHROPIC_|OTEL_|AWS_|PG|PATH\Z|HOME\Z")


def refused(agent_id: str, workflow: Workflow) -> Sequence[Problem]:
    """The problems of a sound workflow that is to become a version of the agent."""
    found: list[Problem] = []
    if "agent_id" in workflow.model_fields_set and workflow.agent_id != agent_id:
        message = f"the text says agent_id {workflow.agent_id!r}, and is stored as {agent_id!r}"
        found.append(Problem("error", "agent_id_differs", message, "store it under its own agent_id, or leave agent_id out", "$.agent_id"))
    for number, server in enumerate(workflow.mcp_servers):
        if server.command:
            message = f"the MCP server {server.name!r} is a program: only a file of the server's operator may start one"
            found.append(Problem("error", "command_refused", message, "name its url instead", f"$.mcp_servers[{number}].command"))
    for name in sorted(workflow.env):
        if _SECRETS.match(name):
            message = f"${{{name}}} is a setting of the server: only a file of its operator may send it anywhere"
            found.append(Problem("error", "env_refused", message, "give the value another name in the server's environment"))
    return found
