"""Opens the MCP servers of all agents. The package that speaks to them is an extra and is imported only where a file names a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from common.endpoints.egress import EgressPolicy
from common.errors import ConfigInvalid
from common.workflow.schema import Workflow
from heavy.agent.mcp_tools import McpTools

NO_PACKAGE = "mcp_servers needs a package that is not installed: pip install 'loadsplit[mcp]'"


@asynccontextmanager
async def open_mcp(workflows: Mapping[str, Workflow], policy: EgressPolicy) -> AsyncIterator[Mapping[str, McpTools]]:
    """Agent id → the tools of its servers, for the agents that have any. It waits for no server: one that is away is tried again and
    again in the background. Raises ConfigInvalid without the extra `mcp`."""
    with_servers = {agent_id: w for agent_id, w in workflows.items() if w.mcp_servers}
    if not with_servers:
        yield {}
        return
    try:
        from heavy.agent.mcp_connection import McpConnection
    except ModuleNotFoundError as e:
        if (e.name or "").partition(".")[0] not in ("mcp", "httpx2"):
            raise
        raise ConfigInvalid(NO_PACKAGE) from None
    connections = {agent_id: [McpConnection(server, policy, w.env) for server in w.mcp_servers] for agent_id, w in with_servers.items()}
    every = [c for of_agent in connections.values() for c in of_agent]
    try:
        for connection in every:
            await connection.__aenter__()
        yield {agent_id: McpTools(of_agent) for agent_id, of_agent in connections.items()}
    finally:  # side by side: each may take seconds to end its program
        await asyncio.gather(*(connection.__aexit__() for connection in every))
