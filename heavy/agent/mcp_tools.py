"""Tools of MCP servers as a toolbox: which of them may be offered, under which names, and what may be called again.

It knows no protocol: a `Connection` does, and what a server lists is taken as data that may lie.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import orjson

from common.errors import ConfigInvalid
from heavy.agent.names import DONE, wire_names
from heavy.agent.tool_schema import Arguments
from heavy.agent.toolbox import Check, Toolbox, ToolResult, failed
from heavy.llm.types import ToolCall, ToolSpec

MAX_SCHEMA_BYTES, MAX_SCHEMA_DEPTH = 32_768, 16
MAX_TOOLS = 128  # of one server
MAX_DESCRIPTION = 1024
WAIT_SECONDS = 5.0  # how long a turn waits for a server that has not answered since the start of the process
IN_DOUBT = "this call was interrupted and may have been executed: its outcome is not known. Do not make it again without asking the user."
_NAME = re.compile(r"[A-Za-z0-9_./-]{1,128}")
_ANYTHING: Mapping[str, Any] = {"type": "object"}
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Listed:
    """A tool as its server lists it. `repeatable`: the server says that a second call changes nothing."""

    name: str
    description: str
    schema: Any
    repeatable: bool = False


@dataclass(frozen=True, slots=True)
class McpTool:
    """A tool that may be offered. `full_name` is `<server>__<tool>`."""

    server: str
    name: str
    description: str
    schema: Mapping[str, Any]
    check: Check
    repeatable: bool = False

    @property
    def full_name(self) -> str:
        """How a workflow file calls it."""
        return f"{self.server}__{self.name}"


class Connection(Protocol):
    """A connection to one server. `allowed` are the tools that the file allows, None for all; `tools` what the server has listed, None
    as long as it never has."""

    name: str
    allowed: Collection[str] | None
    tools: Sequence[McpTool] | None

    async def ready(self, seconds: float) -> None:
        """Returns once the server has listed its tools or could not be reached, or after `seconds`."""

    async def call(self, tool: str, arguments: Mapping[str, Any], deadline: float | None) -> ToolResult:
        """Calls a tool; `deadline` is Unix seconds. Raises nothing that the server can cause."""


def accept(server: str, allowed: Collection[str] | None, listed: Iterable[Listed]) -> list[McpTool]:
    """The tools of a server that may be offered. One that is not allowed is passed over; one that lies is left out with a warning."""
    taken: dict[str, McpTool] = {}
    for tool in listed:
        if allowed is not None and tool.name not in allowed:
            continue
        try:
            if len(taken) >= MAX_TOOLS:
                raise ConfigInvalid(f"the server has more than {MAX_TOOLS} tools")
            if not _NAME.fullmatch(tool.name):
                raise ConfigInvalid("its name is no tool's name")
            if tool.name in taken:
                raise ConfigInvalid("its name is taken already")
            schema = checked_schema(tool.schema)
            check = Arguments(f"{server}__{tool.name}", schema)
        except ConfigInvalid as e:
            _log.warning("MCP server %s: tool %r is left out: %s", server, tool.name[:64], e.detail)
            continue
        taken[tool.name] = McpTool(server, tool.name, tool.description[:MAX_DESCRIPTION], schema, check, tool.repeatable)
    return list(taken.values())


def checked_schema(schema: Any) -> dict[str, Any]:
    """The schema of an object, within bounds. Raises ConfigInvalid."""
    if not isinstance(schema, Mapping) or schema.get("type") != "object":
        raise ConfigInvalid("its schema is not that of an object")
    if not isinstance(schema.get("properties", {}), Mapping):
        raise ConfigInvalid("its properties are no object")
    if _deeper(schema, MAX_SCHEMA_DEPTH):
        raise ConfigInvalid(f"its schema is nested more than {MAX_SCHEMA_DEPTH} levels deep")
    try:
        size = len(orjson.dumps(schema))
    except TypeError:  # a number of more than 64 bits, a lone surrogate
        raise ConfigInvalid("its schema is no JSON") from None
    if size > MAX_SCHEMA_BYTES:
        raise ConfigInvalid(f"its schema has {size} bytes, {MAX_SCHEMA_BYTES} are allowed")
    for word in ("$dynamicRef", "$recursiveRef", "$id", "$schema"):
        if _holds_remote(schema, word):
            raise ConfigInvalid(f"its schema points elsewhere with {word}")
    return {"properties": {}, **schema}


def _deeper(node: Any, levels: int) -> bool:
    inner = node.values() if isinstance(node, Mapping) else node if isinstance(node, list | tuple) else None
    if inner is None:
        return False
    return levels == 0 or any(_deeper(value, levels - 1) for value in inner)


def _holds_remote(node: Any, word: str) -> bool:
    """Whether the word's value, anywhere inside, is an address; the names of the well-known drafts are not fetched by anyone."""
    if isinstance(node, Mapping):
        value = node.get(word)
        if isinstance(value, str) and not value.startswith("#") and "json-schema.org/" not in value:
            return True
        return any(_holds_remote(inner, word) for inner in node.values())
    return isinstance(node, list | tuple) and any(_holds_remote(inner, word) for inner in node)


class McpTools:
    """The tools of all MCP servers of one agent."""

    def __init__(self, connections: Iterable[Connection]) -> None:
        self._connections = tuple(connections)

    async def toolbox(
        self, names: Collection[str] | None = None, *, deadline: float | None = None, open_calls: Sequence[ToolCall] = ()
    ) -> Toolbox:
        """A toolbox over the tools of these names: a server's, for all that it has, or `<server>__<tool>`; None for all of all servers.
        `deadline` is Unix seconds.

        `open_calls` are those that an earlier attempt has left without a result: only a repeatable tool is called again for one of them,
        any other call is answered with what is known, that it may have been executed.
        """
        wanted = [c for c in self._connections if names is None or any(n == c.name or n.startswith(f"{c.name}__") for n in names)]
        seconds = WAIT_SECONDS if deadline is None else min(WAIT_SECONDS, deadline - time.time())
        if wanted and seconds > 0:
            await asyncio.gather(*(c.ready(seconds) for c in wanted))
        pairs = [(c, t) for c in wanted for t in _offered(c, names)]
        by_name = dict(zip(wire_names((t.full_name for _, t in pairs), reserved={DONE}), pairs, strict=True))
        specs = [ToolSpec(name, tool.description or tool.name, tool.schema) for name, (_, tool) in by_name.items()]
        checks: dict[str, Check] = {name: tool.check for name, (_, tool) in by_name.items()}
        doubtful = {c.id for c in open_calls if c.name not in by_name or not by_name[c.name][1].repeatable}
        for call in open_calls:  # one of a tool that is gone since is no mistake of the model's
            if self._is_ours(call.name):
                checks.setdefault(call.name, Arguments(call.name, _ANYTHING))

        async def run(call: ToolCall, arguments: Mapping[str, Any]) -> ToolResult:
            if call.id in doubtful:
                return failed(IN_DOUBT)
            connection, tool = by_name[call.name]
            return await connection.call(tool.name, arguments, deadline)

        return Toolbox(specs, run, checks)

    def _is_ours(self, name: str) -> bool:
        return any(name.startswith(f"{c.name}__") for c in self._connections)


def _offered(connection: Connection, names: Collection[str] | None) -> list[McpTool]:
    """The tools of one server that a run gets. Of a server that has never answered, those that the file names: their calls say so."""
    whole = names is None or connection.name in names
    if connection.tools is not None:
        return [t for t in connection.tools if whole or t.full_name in names]  # type: ignore[operator]
    prefix = f"{connection.name}__"
    named = list(connection.allowed or ()) if whole else []
    named += [n.removeprefix(prefix) for n in names or () if n.startswith(prefix)]
    away = "The server of this tool cannot be reached at the moment."
    good = [n for n in dict.fromkeys(named) if _NAME.fullmatch(n)]
    return [McpTool(connection.name, n, away, _ANYTHING, Arguments(prefix + n, _ANYTHING)) for n in good]
