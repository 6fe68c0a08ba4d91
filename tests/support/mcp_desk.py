"""The MCP server of `mcp_server.py` as a program, over stdio or HTTP, and what it has noted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
from aiohttp import web

from common.endpoints.egress import EgressPolicy
from common.workflow.schema import McpServer
from heavy.agent.mcp_connection import McpConnection
from tests.support.services import free_port

PROGRAM = str(Path(__file__).with_name("mcp_server.py"))
ALL = ["look", "book", "count", "picture", "fail", "slow", "die", "environment", "learn"]
READ = {"seat": "A"}
LOCAL = EgressPolicy(trusted_hosts=frozenset({"127.0.0.1", "localhost"}))


def entry(notes: Path, how: str = "stdio", **more: Any) -> dict[str, Any]:
    """The server's entry in a workflow file."""
    return {"name": "desk", "command": [sys.executable, PROGRAM, how], "env": {"MCP_NOTES": str(notes)}, "timeout": 20, **more}


def connect(document: dict[str, Any], env: dict[str, str] | None = None) -> McpConnection:
    """A connection to it, not yet opened."""
    return McpConnection(McpServer.model_validate(document), LOCAL, env or {})


def noted(notes: Path) -> list[str]:
    """What the server has done."""
    return notes.read_text().split("\n")[:-1] if notes.exists() else []


def runs(notes: Path) -> bool:
    """Whether the program that was started last is still there."""
    try:
        return psutil.Process(int(Path(f"{notes}.pid").read_text())).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class OldDesk:
    """A server of an older protocol over HTTP, as an aiohttp handler: it knows sessions, and forgets them when told to."""

    def __init__(self) -> None:
        self.sessions: set[str] = set()
        self.opened = 0
        self.tokens: set[str | None] = set()

    async def handle(self, request: web.Request) -> web.Response:
        """One message."""
        if request.method != "POST":
            return web.Response(status=405)
        self.tokens.add(request.headers.get("Authorization"))
        message = await request.json()
        method, given = message["method"], {}
        headers = {}
        if method == "initialize":
            self.opened += 1
            headers["Mcp-Session-Id"] = f"s{self.opened}"
            self.sessions.add(headers["Mcp-Session-Id"])
            given = {"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {"name": "old", "version": "1"}}
        elif method == "server/discover":
            error = {"code": -32601, "message": "no such method"}
            return web.json_response({"jsonrpc": "2.0", "id": message["id"], "error": error})
        elif request.headers.get("Mcp-Session-Id") not in self.sessions:
            return web.Response(status=404)
        elif method == "tools/list":
            given = {"tools": [{"name": "look", "inputSchema": {"type": "object"}}]}
        elif method == "tools/call":
            given = {"content": [{"type": "text", "text": f"seen by {request.headers['Mcp-Session-Id']}"}]}
        if "id" not in message:
            return web.Response(status=202)
        return web.json_response({"jsonrpc": "2.0", "id": message["id"], "result": given}, headers=headers)


class HttpDesk:
    """The server over HTTP, on a port that stays its own when it is started again."""

    def __init__(self, notes: Path) -> None:
        self.notes, self.port = notes, free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def entry(self, host: str = "127.0.0.1", **more: Any) -> dict[str, Any]:
        """Its entry in a workflow file."""
        return {"name": "desk", "url": f"http://{host}:{self.port}/mcp", "timeout": 20, **more}

    def start(self) -> None:
        """Starts it; it answers some time later."""
        env = {**os.environ, "MCP_NOTES": str(self.notes)}
        nothing = subprocess.DEVNULL
        self._process = subprocess.Popen([sys.executable, PROGRAM, str(self.port)], env=env, stdout=nothing, stderr=nothing)

    def stop(self) -> None:
        """Kills it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
