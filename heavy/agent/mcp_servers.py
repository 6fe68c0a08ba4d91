"""Opens the MCP servers of workflows, each when it is first needed. The package that speaks to them is an extra and is imported only
where a file names a server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from common.endpoints.egress import EgressPolicy
from common.errors import ConfigInvalid
from common.workflow.schema import Workflow
from heavy.agent.mcp_tools import McpTools

if TYPE_CHECKING:
    from heavy.agent.mcp_connection import McpConnection

NO_PACKAGE = "mcp_servers needs a package that is not installed: pip install 'loadsplit[mcp]'"
KEPT = 2  # lists of servers of one agent: the one in force, and the one that turns may still work with


class McpServers:
    """The connections of one process, an async context manager. It waits for no server: one that is away is tried again and again in the
    background. Versions of an agent that name the same servers share them."""

    def __init__(self, policy: EgressPolicy) -> None:
        self._policy = policy
        self._open: dict[str, dict[object, tuple[McpTools, list[McpConnection]]]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._opening = asyncio.Lock()

    async def of(self, workflow: Workflow) -> McpTools | None:
        """The tools of a workflow's servers; None where it names none. Raises ConfigInvalid without the extra `mcp`."""
        if not workflow.mcp_servers:
            return None
        async with self._opening:
            return await self._opened(workflow)

    async def _opened(self, workflow: Workflow) -> McpTools:
        lists = self._open.setdefault(workflow.agent_id, {})
        key = _key(workflow)
        found = lists.pop(key, None)
        if found is None:
            connections = await asyncio.to_thread(_connections, workflow, self._policy)  # the first time it imports a large package
            found = McpTools(connections), connections
            for connection in connections:
                await connection.__aenter__()
        lists[key] = found  # the last one used stands last
        while len(lists) > KEPT:
            closing = asyncio.create_task(_close(lists.pop(next(iter(lists)))[1]))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        return found[0]

    def at_hand(self, workflow: Workflow) -> McpTools | None:
        """The same, once `of` has opened them."""
        found = self._open.get(workflow.agent_id, {}).get(_key(workflow))
        return found[0] if found is not None else None

    async def __aenter__(self) -> McpServers:
        return self

    async def __aexit__(self, *exc: object) -> None:
        every = [connection for lists in self._open.values() for _, connections in lists.values() for connection in connections]
        await asyncio.gather(_close(every), *self._closing)


@asynccontextmanager
async def open_mcp(workflows: Mapping[str, Workflow], policy: EgressPolicy) -> AsyncIterator[Mapping[str, McpTools]]:
    """Agent id → the tools of its servers, for the agents that have any. Raises ConfigInvalid without the extra `mcp`."""
    async with McpServers(policy) as servers:
        opened = {agent_id: await servers.of(workflow) for agent_id, workflow in workflows.items()}
        yield {agent_id: tools for agent_id, tools in opened.items() if tools is not None}


def _key(workflow: Workflow) -> object:
    """What a list of servers is: two versions with the same one share it."""
    return tuple(server.model_dump_json() for server in workflow.mcp_servers), tuple(sorted(workflow.env.items()))


def _connections(workflow: Workflow, policy: EgressPolicy) -> list[McpConnection]:
    try:
        from heavy.agent.mcp_connection import McpConnection
    except ModuleNotFoundError as e:
        if (e.name or "").partition(".")[0] not in ("mcp", "httpx2"):
            raise
        raise ConfigInvalid(NO_PACKAGE) from None
    return [McpConnection(server, policy, workflow.env) for server in workflow.mcp_servers]


async def _close(connections: list[McpConnection]) -> None:
    """Side by side: each may take seconds to end its program."""
    await asyncio.gather(*(connection.__aexit__() for connection in connections))
