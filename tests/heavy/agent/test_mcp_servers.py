"""Opening MCP servers: nothing without any, one clear line without the package, and no wait for a server."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest

from common.endpoints.egress import EgressPolicy
from common.errors import ConfigInvalid
from common.workflow.schema import Workflow
from heavy.agent.mcp_servers import McpServers, open_mcp
from heavy.turns.agents import Agents


def workflow(*servers: dict[str, Any]) -> Workflow:
    return Workflow.model_validate({"agent_id": "a", "mcp_servers": servers})


async def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that names a server is refused with one line that names the extra; another file is not."""
    monkeypatch.setitem(sys.modules, "mcp", None)
    monkeypatch.delitem(sys.modules, "heavy.agent.mcp_connection", raising=False)
    async with open_mcp({"a": workflow()}, EgressPolicy()) as opened:
        assert opened == {}
    with pytest.raises(ConfigInvalid, match=r"mcp_servers needs .* pip install 'loadsplit\[mcp\]'"):
        async with open_mcp({"a": workflow({"name": "m", "command": ["x"]})}, EgressPolicy()):
            pass


def test_the_package_is_not_imported_in_vain() -> None:
    code = "import sys, heavy.app; print('mcp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


async def test_no_server_is_waited_for() -> None:
    began = time.monotonic()
    quiet = {"name": "m", "command": [sys.executable, "-c", "input()"]}
    async with open_mcp({"a": workflow(quiet), "b": Workflow(agent_id="b")}, EgressPolicy()) as opened:
        assert time.monotonic() - began < 2
        assert list(opened) == ["a"]


def test_the_host_of_a_server_is_one_that_the_file_names() -> None:
    """So it may have a private address, like an endpoint's."""
    server = {"name": "m", "url": "http://${PLACE}:8080/mcp"}
    agents = Agents({"a": workflow(server).with_env({"PLACE": "mcp.internal"}), "b": workflow({"name": "m", "url": "http://[oops"})})
    assert agents.hosts == {"mcp.internal"}


async def test_versions_with_the_same_servers_share_them_and_old_ones_are_closed() -> None:
    quiet = [{"name": "m", "command": [sys.executable, "-c", f"input({i})"]} for i in range(3)]
    async with McpServers(EgressPolicy()) as servers:
        first = await servers.of(workflow(quiet[0]))
        assert first is await servers.of(workflow(quiet[0]).model_copy(update={"config_hash": "another"}))
        assert servers.at_hand(workflow(quiet[0])) is first
        assert servers.at_hand(workflow(quiet[1])) is None
        second = await servers.of(workflow(quiet[1]))
        assert second is not first
        assert servers.at_hand(workflow(quiet[0])) is first, "turns of the version before go on with it"
        await servers.of(workflow(quiet[2]))
        assert servers.at_hand(workflow(quiet[0])) is None
        assert servers.at_hand(workflow(quiet[1])) is second
        assert await servers.of(workflow()) is None
