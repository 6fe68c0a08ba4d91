"""A connection to one MCP server, by stdio or streamable HTTP: opened in the background, opened again after it broke, closed at the end.

One task owns it, because what the package opens must be closed by the task that opened it; calls come from any task.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Literal

import httpx2
from mcp import Client, MCPError, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost
from mcp.types import CallToolResult, Implementation, JSONRPCResponse, ToolListChangedNotification
from pydantic import BaseModel, Field, ValidationError

from common.endpoints.egress import EgressPolicy
from common.workflow.placeholders import fill_env
from common.workflow.schema import McpServer
from heavy.agent.mcp_http import open_client
from heavy.agent.mcp_tools import MAX_TOOLS, Listed, McpTool, accept
from heavy.agent.toolbox import ToolResult, failed

MAX_PAGES = 50
FIRST_DELAY, LONGEST_DELAY = 0.5, 30.0
STEADY_SECONDS = 5.0  # a connection that lived that long broke by chance: it is opened again at once
PATIENCE = 2.0  # calls wait for a server that comes back within that time, and fail at once where it is away for longer
LIST_AGAIN_SECONDS = 300.0  # for servers that do not tell when their tools change
LIST_PAUSE = 0.2
CLOSE_SECONDS = 10.0  # the package gives a program 2 s to end by itself, 2 s after SIGTERM
CONNECTION_CLOSED, INVALID_PARAMS = -32000, -32602
UNKNOWN = "its outcome is not known"
_OF_TOOLS = frozenset({"name", "title", "description", "inputSchema", "annotations"})
_BROKEN = (OSError, MCPError, httpx2.HTTPError, ValidationError, RuntimeError, ValueError, ExceptionGroup)  # TimeoutError is an OSError
log = logging.getLogger(__name__)


class McpConnection:
    """The connection to one server of a workflow file; an async context manager. `env` fills `${NAME}`."""

    def __init__(self, server: McpServer, policy: EgressPolicy, env: Mapping[str, str]) -> None:
        self.name = server.name
        self.allowed: Collection[str] | None = server.tools
        self.tools: Sequence[McpTool] | None = None
        self._server, self._policy, self._env = server, policy, env
        self._client: Client | None = None
        self._up, self._tried = asyncio.Event(), asyncio.Event()
        self._news = asyncio.Event()  # the tools have changed, or one of these is true
        self._ended = self._closing = False
        self._away = False  # for longer than calls wait
        self._since: float | None = None  # when this life of the connection began
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> McpConnection:
        logging.getLogger("mcp.client.stdio").setLevel(logging.CRITICAL)  # else: a traceback for each line that is no message
        self._task = asyncio.create_task(self._keep_open())
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._task is None:
            return
        self._closing = True
        self._news.set()
        if self._up.is_set():
            await asyncio.wait([self._task], timeout=CLOSE_SECONDS)
        self._task.cancel()
        await asyncio.wait([self._task])

    async def ready(self, seconds: float) -> None:
        """Returns once the server has listed its tools or could not be reached, or after `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._tried.wait()

    async def call(self, tool: str, arguments: Mapping[str, Any], deadline: float | None) -> ToolResult:
        """Calls a tool, within the server's time-out and the deadline (Unix seconds). Raises nothing that the server can cause."""
        seconds = self._server.timeout if deadline is None else min(self._server.timeout, deadline - time.time())
        client: Client | None = None
        try:
            async with asyncio.timeout(max(seconds, 0)):
                client = await self._reach()
                if client is None:
                    return self._unreachable()
                return _result(await client.call_tool(tool, dict(arguments)))
        except TimeoutError:
            if client is None:
                return self._unreachable()
            return failed(f"the tool did not answer within {seconds:.0f} s: {UNKNOWN}")
        except MCPError as e:
            if e.code == CONNECTION_CLOSED:
                self._end_of(client)
                return failed(f"the connection to the server {self.name} broke: {UNKNOWN}")
            if e.message == "Session terminated":  # the server has forgotten this connection
                self._end_of(client)
                return failed(f"not executed: the server {self.name} has begun anew; the call may be made again")
            if e.code == INVALID_PARAMS:
                return failed(f"the server {self.name} refused the arguments: {e.message[:500]}")
            log.warning("MCP server %s: it refused a call of %s: %s", self.name, tool, _reason(e))
            return failed(f"the server {self.name} refused the call (code {e.code})")
        except _BROKEN as e:
            log.warning("MCP server %s: a call of %s failed: %s", self.name, tool, _reason(e))
        except Exception:  # whatever the package raises, it is one call that failed and not the turn
            log.exception("MCP server %s: a call of %s failed", self.name, tool)
        return failed(f"the server {self.name} gave an answer that cannot be used: {UNKNOWN}")

    async def _reach(self) -> Client | None:
        """The open connection; waits for one that is being opened, unless the server is away for longer."""
        if self._client is None and not self._away:
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await self._up.wait()
        return self._client

    def _unreachable(self) -> ToolResult:
        return failed(f"not executed: the server {self.name} cannot be reached at the moment")

    async def _keep_open(self) -> None:
        delay = 0.0
        while not self._closing:
            self._since, self._ended = None, False
            self._news.clear()
            try:
                await self._serve()
                reason = "it closed the connection"
            except _BROKEN as e:
                reason = _reason(e)
            except Exception as e:  # whatever the package raises, the server is tried again
                log.exception("MCP server %s: the connection broke", self.name)
                reason = _reason(e)
            steady = self._since is not None and time.monotonic() - self._since >= STEADY_SECONDS
            self._down()
            if self._closing:
                return
            delay = 0.0 if steady else min(max(2 * delay, FIRST_DELAY), LONGEST_DELAY)
            self._away = delay > PATIENCE
            self._tried.set()
            log.warning("MCP server %s is away (%s); it is tried again in %.1f s", self.name, reason, delay)
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    while not self._closing:
                        await self._news.wait()
                        self._news.clear()

    async def _serve(self) -> None:
        """One life of the connection: until it ends or this node closes it."""
        async with AsyncExitStack() as stack:
            async with asyncio.timeout(self._server.timeout):
                transport = _Watched(await self._transport(stack), self._end)
                info = Implementation(name="loadsplit", version="1")
                client = Client(transport, cache=None, client_info=info, message_handler=self._hear)
                await stack.enter_async_context(client)
                await self._list(client)
            stack.push_async_callback(_stop, asyncio.create_task(self._listen(client)))
            self._client, self._since, self._away = client, time.monotonic(), False
            self._up.set()
            self._tried.set()
            log.info("MCP server %s is connected: %d tools", self.name, len(self.tools or ()))
            while not (self._closing or self._ended):
                with suppress(TimeoutError):
                    async with asyncio.timeout(LIST_AGAIN_SECONDS):
                        await self._news.wait()
                    await asyncio.sleep(LIST_PAUSE)  # a server that tells of a change without end is not asked without end
                self._news.clear()
                if self._closing or self._ended:
                    return
                async with asyncio.timeout(self._server.timeout):
                    await self._list(client)

    async def _transport(self, stack: AsyncExitStack) -> AbstractAsyncContextManager[Any]:
        server = self._server
        if server.url is not None:
            headers = {name: fill_env(value, self._env) for name, value in server.headers.items()}
            client = await stack.enter_async_context(open_client(self._policy, headers))
            return streamable_http_client(fill_env(server.url, self._env), http_client=client)
        program, *arguments = server.command or ("",)
        env = {name: fill_env(value, self._env) for name, value in server.env.items()}
        errors = await stack.enter_async_context(_logged(self.name))
        return stdio_client(StdioServerParameters(command=program, args=arguments, env=env), errlog=errors)

    async def _list(self, client: Client) -> None:
        """Asks for the tools, page by page; a server that never ends is not heard to its end."""
        listed: list[Listed] = []
        cursor: str | None = None
        for _ in range(MAX_PAGES):
            page = await client.list_tools(cursor=cursor)
            for tool in page.tools:
                hints = tool.annotations
                repeatable = bool(hints and (hints.read_only_hint or hints.idempotent_hint))
                listed.append(Listed(tool.name, tool.description or tool.title or "", tool.input_schema, repeatable))
            cursor = page.next_cursor
            if cursor is None or len(listed) > 10 * MAX_TOOLS:
                break
        self.tools = accept(self.name, self.allowed, listed)

    async def _listen(self, client: Client) -> None:
        """Hears of changes where the protocol's version wants one to ask for them."""
        with suppress(ListenNotSupportedError, SubscriptionLost, MCPError, TimeoutError):
            async with client.listen(tools_list_changed=True) as events:
                async for _ in events:
                    self._news.set()

    async def _hear(self, message: object) -> None:
        if isinstance(message, ToolListChangedNotification):
            self._news.set()
        elif isinstance(message, Exception):
            log.debug("MCP server %s: what it sent is no message: %s", self.name, _reason(message))

    def _end(self) -> None:
        """The connection is of no use any more."""
        self._down()
        self._ended = True
        self._news.set()

    def _end_of(self, client: Client | None) -> None:
        """What a call has found out, if the connection that it used is still the present one."""
        if client is not None and client is self._client:
            self._end()

    def _down(self) -> None:
        self._client = None
        self._up.clear()


class _Watched:
    """A transport whose end is told, and whose lists are tidied."""

    def __init__(self, transport: AbstractAsyncContextManager[Any], ended: Callable[[], None]) -> None:
        self._transport, self._ended = transport, ended

    async def __aenter__(self) -> Any:
        read, write = await self._transport.__aenter__()
        return _Reader(read, self._ended), write

    async def __aexit__(self, *exc: Any) -> bool | None:
        return await self._transport.__aexit__(*exc)


class _Reader:
    """The reading side of a transport."""

    def __init__(self, inner: Any, ended: Callable[[], None]) -> None:
        self._inner, self._ended = inner, ended

    async def receive(self) -> Any:
        return _tidied(await self._inner.receive())

    async def aclose(self) -> None:
        await self._inner.aclose()

    def __aiter__(self) -> _Reader:
        return self

    async def __anext__(self) -> Any:
        try:
            return _tidied(await self._inner.__anext__())
        except StopAsyncIteration:
            self._ended()
            raise

    async def __aenter__(self) -> _Reader:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> Any:
        return await self._inner.__aexit__(*exc)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)  # the context of the last message, where the stream has one


def _tidied(item: Any) -> Any:
    """A message; from a list of tools, those are taken for which the package would refuse the whole list, and from the others what would
    let it check results, with a validator that an evil pattern can keep busy for ever."""
    message = getattr(item, "message", None)
    if isinstance(message, JSONRPCResponse) and isinstance(tools := message.result.get("tools"), list):
        good = [{k: v for k, v in tool.items() if k in _OF_TOOLS} for tool in tools if _is_readable(tool)]
        if len(good) < len(tools):
            log.warning("an MCP server listed %d tools that cannot be read; they are left out", len(tools) - len(good))
        message.result["tools"] = good
    return item


def _is_readable(tool: Any) -> bool:
    try:
        _Tool.model_validate(tool)
    except ValidationError:
        return False
    return True


class _Schema(BaseModel):
    """What every version of the protocol asks of a schema."""

    type: Literal["object"]
    draft: str | None = Field(None, alias="$schema")
    properties: dict[str, dict[str, Any] | bool] | None = None
    required: list[str] | None = None


class _Hints(BaseModel):
    read_only: bool | None = Field(None, alias="readOnlyHint")
    idempotent: bool | None = Field(None, alias="idempotentHint")


class _Tool(BaseModel):
    name: str
    title: str | None = None
    description: str | None = None
    schema_: _Schema = Field(alias="inputSchema")
    annotations: _Hints | None = None


def _result(result: CallToolResult) -> ToolResult:
    """A result as a JSON value: what is structured, else the texts; what is no text is only named."""
    text = "\n".join(_part(part) for part in result.content)
    if result.is_error:
        return failed(text[:2000] or "the tool failed")
    if result.structured_content is not None:
        return ToolResult(True, result.structured_content)
    return ToolResult(True, text or {"ok": True})


def _part(part: Any) -> str:
    if part.type == "text":
        return str(part.text)
    if part.type == "resource" and getattr(part.resource, "text", None) is not None:
        return str(part.resource.text)
    where = getattr(part, "uri", None) or getattr(getattr(part, "resource", None), "uri", "")
    kind = getattr(part, "mime_type", None) or getattr(getattr(part, "resource", None), "mime_type", None) or "unknown type"
    return f"[{part.type}, {kind}{f', {where}' if where else ''}: not shown]"


def _reason(error: BaseException) -> str:
    """One line on why a connection broke: of a group, its first member; of several lines the first, as the others quote what came."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    text = "".join(str(error).splitlines()[:1])[:200]
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


@asynccontextmanager
async def _logged(name: str) -> AsyncIterator[Any]:
    """A file for a program to write its complaints into; they stand in the log at debug."""
    read, write = os.pipe()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: _Complaints(name), os.fdopen(read, "rb"))
    try:
        with os.fdopen(write, "w") as errors:
            yield errors
    finally:
        transport.close()


class _Complaints(asyncio.Protocol):
    def __init__(self, name: str) -> None:
        self._name = name

    def data_received(self, data: bytes) -> None:
        for line in data.decode(errors="replace").splitlines():
            if line.strip():
                log.debug("MCP server %s: %s", self._name, line[:500])


async def _stop(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled() and (error := task.exception()) is not None:
        log.debug("an MCP server's news were not heard to the end: %s", _reason(error))
