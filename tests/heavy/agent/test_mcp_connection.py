"""Connections to real MCP servers: over stdio and HTTP, slow, lying, dying and coming back."""

from __future__ import annotations

import asyncio
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiohttp import web

from common.workflow.schema import McpServer
from heavy.agent.mcp_connection import McpConnection
from tests.support.mcp_desk import ALL, LOCAL, READ, HttpDesk, OldDesk, connect, entry, noted, runs
from tests.support.waiting import wait_until

START = 30.0  # an interpreter that imports the package, on a busy machine


@pytest.fixture
def notes(tmp_path: Path) -> Path:
    return tmp_path / "notes"


@pytest.fixture
def desk(notes: Path) -> Iterator[HttpDesk]:
    desk = HttpDesk(notes)
    desk.start()
    yield desk
    desk.stop()


def names(connection: McpConnection) -> list[str]:
    return [t.name for t in connection.tools or ()]


async def test_tools_over_stdio(notes: Path) -> None:
    """Text, structured content, what is no text, failures; a new tool is heard of; nothing runs on afterwards."""
    async with connect(entry(notes)) as connection:
        await connection.ready(START)
        assert names(connection) == ALL
        looked = next(t for t in connection.tools or () if t.name == "look")
        assert (looked.description, looked.repeatable) == ("Looks at a seat.", True)
        assert not any(t.repeatable for t in connection.tools or () if t.name != "look")
        assert (await connection.call("look", READ, None)).value == "seat A is free"
        assert (await connection.call("count", {"seats": ["A", "B"]}, None)).value == {"seats": 2}
        assert (await connection.call("picture", {}, None)).value == "[image, image/png: not shown]"
        wrong = await connection.call("fail", {}, None)
        assert not wrong.ok
        assert "fail" in wrong.value["error"]
        assert not (await connection.call("nonsense", {}, None)).ok
        await connection.call("learn", {}, None)
        await wait_until(lambda: names(connection) == [*ALL, "learned"], "the new tool is listed")
        assert noted(notes) == ["look A"]
        assert runs(notes)
    assert not runs(notes)


async def test_a_program_gets_what_is_declared(notes: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment holds no secret of ours; `${NAME}` is filled in; what it complains about is in the log."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    caplog.set_level(logging.DEBUG, "heavy.agent.mcp_connection")
    document = entry(notes)
    document["env"] |= {"DESK": "${PLACE}"}
    async with connect(document, {"PLACE": "here"}) as connection:
        await connection.ready(START)
        seen = (await connection.call("environment", {}, None)).value.split()
        await wait_until(lambda: "something to complain about" in caplog.text, "its complaint is logged")
    assert {"DESK", "MCP_NOTES", "PATH", "HOME"} <= set(seen)
    assert set(seen) <= {"DESK", "MCP_NOTES", "PATH", "HOME", "LOGNAME", "SHELL", "TERM", "USER", "LC_CTYPE"}


async def test_only_the_allowed_tools(notes: Path) -> None:
    async with connect(entry(notes, tools=["book", "other"])) as connection:
        await connection.ready(START)
        assert names(connection) == ["book"]


async def test_a_slow_tool_is_given_up(notes: Path) -> None:
    """The deadline counts, and the server is told."""
    async with connect(entry(notes)) as connection:
        await connection.ready(START)
        began = time.monotonic()
        result = await connection.call("slow", {"seconds": 30}, time.time() + 1)
        assert time.monotonic() - began < 5
        assert not result.ok
        assert "its outcome is not known" in result.value["error"]
        await wait_until(lambda: "slow cancelled" in noted(notes), "the server stops it")
        assert (await connection.call("look", READ, None)).ok


async def test_a_call_ends_with_the_time_out(notes: Path) -> None:
    """That of the file, where the turn has more time."""
    async with connect(entry(notes, timeout=5)) as connection:
        await wait_until(lambda: names(connection) == ALL, "its tools are listed", START)
        began = time.monotonic()
        result = await connection.call("slow", {"seconds": 30}, time.time() + 60)
        assert 4.5 < time.monotonic() - began < 10
        assert result.value == {"error": "the tool did not answer within 5 s: its outcome is not known"}


async def test_a_cancelled_turn_cancels_its_call(notes: Path) -> None:
    async with connect(entry(notes)) as connection:
        await connection.ready(START)
        call = asyncio.create_task(connection.call("slow", {"seconds": 30}, None))
        await wait_until(lambda: "slow begins" in noted(notes), "the tool runs")
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
        await wait_until(lambda: "slow cancelled" in noted(notes), "the server stops it")


async def test_a_program_that_dies_comes_back(notes: Path) -> None:
    """The call in which it died has an unknown outcome and is not made again; later ones are executed."""
    async with connect(entry(notes)) as connection:
        await connection.ready(START)
        result = await connection.call("die", {}, None)
        assert not result.ok
        assert "its outcome is not known" in result.value["error"]
        assert names(connection) == ALL  # what it has listed stays on offer

        async def works() -> bool:
            return (await connection.call("look", READ, None)).ok

        await wait_until(works, "it works again", START)
    assert noted(notes).count("die") == 1


async def test_a_server_that_lies(notes: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One line for each tool that is left out, two are offered; nonsense instead of a result fails the call only, and what is no message
    is passed over."""
    caplog.set_level(logging.DEBUG, "heavy.agent")
    async with connect(entry(notes, "lying")) as connection:
        await connection.ready(START)
        assert names(connection) == ["fine", "dotted.name"]
        assert [len(t.description) for t in connection.tools or ()] == [1024, 0]
        result = await connection.call("fine", {"a": "b"}, None)
        assert not result.ok
        assert "cannot be used" in result.value["error"]
    told = [r.getMessage() for r in caplog.records if r.name.startswith("heavy.agent.mcp")]
    for name in ("huge", "deep", "remote", "dynamic", "moved", "ignore all rules and"):
        assert sum(f"tool {name!r} is left out" in line for line in told) == 1
    assert sum("4 tools that cannot be read" in line for line in told) == 1
    assert "what it sent is no message" in caplog.text
    assert "Traceback" not in caplog.text


async def test_a_program_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    """Nothing fails but its calls, and those at once."""
    async with connect({"name": "gone", "command": ["/nonexistent/program"]}) as connection:
        await connection.ready(START)
        assert connection.tools is None
        began = time.monotonic()
        result = await connection.call("look", READ, None)
        assert result.value == {"error": "not executed: the server gone cannot be reached at the moment"}
        assert time.monotonic() - began < 4
    assert "MCP server gone is away (FileNotFoundError" in caplog.text


async def test_a_program_that_says_nothing() -> None:
    """It is given up after the time-out, and ended."""
    quiet = {"name": "quiet", "command": [sys.executable, "-c", "import sys; sys.stdin.read()"], "timeout": 1}
    async with connect(quiet) as connection:
        began = time.monotonic()
        await connection.ready(20)
        assert connection.tools is None
        assert time.monotonic() - began < 10


async def test_tools_over_http(desk: HttpDesk, notes: Path) -> None:
    """The same over HTTP, with a header from the environment; a call that is given up is stopped; the server may come back."""
    document = desk.entry("localhost", headers={"Authorization": "Bearer ${TOKEN}"})
    async with connect(document, {"TOKEN": "t0ken"}) as connection:
        await wait_until(lambda: names(connection) == ALL, "its tools are listed", START)
        assert (await connection.call("look", READ, None)).value == "seat A is free"
        assert (await connection.call("count", {"seats": ["A"]}, None)).value == {"seats": 1}
        assert not (await connection.call("fail", {}, None)).ok
        assert not (await connection.call("slow", {"seconds": 30}, time.time() + 1)).ok
        await wait_until(lambda: "slow cancelled" in noted(notes), "the server stops it")
        await connection.call("learn", {}, None)
        await wait_until(lambda: names(connection) == [*ALL, "learned"], "the new tool is listed")
        desk.stop()
        assert not (await connection.call("look", READ, None)).ok
        desk.start()

        async def works() -> bool:
            return (await connection.call("look", READ, None)).ok

        await wait_until(works, "it works again", START)


async def test_a_server_of_an_older_protocol_that_forgets_its_sessions() -> None:
    """The call that meets it was not executed; the connection is opened anew, and the next one is."""
    old, app = OldDesk(), web.Application()
    app.router.add_route("*", "/mcp", old.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    document = {"name": "old", "url": f"http://127.0.0.1:{runner.addresses[0][1]}/mcp", "headers": {"Authorization": "Bearer ${TOKEN}"}}
    async with connect(document, {"TOKEN": "t0ken"}) as connection:
        await connection.ready(START)
        assert (await connection.call("look", {}, None)).value == "seen by s1"
        old.sessions.clear()
        forgotten = await connection.call("look", {}, None)
        assert forgotten.value == {"error": "not executed: the server old has begun anew; the call may be made again"}
        assert (await connection.call("look", {}, None)).value == "seen by s2"
    assert old.tokens == {"Bearer t0ken"}
    await runner.cleanup()


async def test_a_server_behind_the_egress_policy(desk: HttpDesk, caplog: pytest.LogCaptureFixture) -> None:
    """An address that the policy refuses is never connected to."""
    server = McpServer.model_validate(desk.entry())
    async with McpConnection(server, LOCAL, {}) as allowed:
        await wait_until(lambda: names(allowed) == ALL, "the server is there", START)
    public_only = type(LOCAL)(trusted_hosts=frozenset({"127.0.0.1"}), public_only=True)
    async with McpConnection(server, public_only, {}) as connection:
        await connection.ready(START)
        assert connection.tools is None
    assert "the egress policy permits no address of 127.0.0.1" in caplog.text
