"""`loadsplit up` as a process, with fake roles: order, private stores, restart of what dies, drain, and everything that forbids a start."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from tests.support import fake_roles
from tests.support.services import free_port
from tests.support.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]
# The fake roles never connect to these.
STORES = {"LOADSPLIT_REDIS_URL": "redis://127.0.0.1:1/0", "LOADSPLIT_DATABASE_URL": "postgresql://u@127.0.0.1:1/d"}
CODE = """
import asyncio, json, sys
from pathlib import Path
from standalone.up import UpOptions, up
given = json.loads(sys.argv[1])
given |= {"config": Path(given["config"]), "data_dir": Path(given["data_dir"]), "command": tuple(given["command"])}
sys.exit(asyncio.run(up(UpOptions(**given))))
"""


@dataclass
class Up:
    """A running supervisor and what it has printed."""

    process: asyncio.subprocess.Process
    url: str
    http: aiohttp.ClientSession
    output: list[str]
    reading: asyncio.Task[None]

    def said(self, pattern: str) -> bool:
        return any(re.search(pattern, line) for line in self.output)

    async def ended(self) -> int:
        code = await asyncio.wait_for(self.process.wait(), 30)
        await self.reading
        return code

    async def ready(self) -> None:
        await wait_until(lambda: self.said("^loadsplit is up") or self.process.returncode is not None, "the split is up", 40)
        assert self.process.returncode is None, "\n".join(self.output)

    async def query(self, message: str = "m", session: str = "s") -> dict[str, Any]:
        async with self.http.post(self.url + "/api/v1/query", json={"message": message, "session_id": session}) as reply:
            assert reply.status == 200, await reply.text()
            return json.loads(await reply.read())

    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


StartUp = Callable[..., Awaitable[Up]]


@pytest.fixture
async def up(tmp_path: Path) -> AsyncIterator[StartUp]:
    """`await up(environ={…}, …UpOptions)` starts a supervisor; it is killed with the test, and its children with it."""
    config = tmp_path / "workflow.json"
    config.write_text("{}")
    async with contextlib.AsyncExitStack() as stack:

        async def start(environ: dict[str, str] | None = None, **options: Any) -> Up:
            # Not under pytest's own folder, which the user of PostgreSQL cannot enter.
            data_dir = tempfile.mkdtemp(prefix="loadsplit-up-")
            os.chmod(data_dir, 0o755)
            stack.callback(shutil.rmtree, data_dir, ignore_errors=True)
            command = [sys.executable, fake_roles.__file__]
            given = {"config": str(config), "data_dir": data_dir, "port": free_port(), "lightweight": 1, "heavy": 1, "command": command}
            given |= options
            path = (environ or {}).get("PATH", os.environ["PATH"])
            given["environ"] = (environ or {}) | {"PATH": path}
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                CODE,
                json.dumps(given),
                cwd=ROOT,
                env=os.environ | {"PATH": path, "TMPDIR": data_dir},  # a killed supervisor leaves Nginx's temporary folder behind
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )
            assert process.stdout
            output: list[str] = []
            reading = asyncio.create_task(_read(process.stdout, output))
            stack.push_async_callback(_kill, process, reading)
            http = await stack.enter_async_context(aiohttp.ClientSession())
            return Up(process, f"http://127.0.0.1:{given['port']}", http, output, reading)

        yield start


async def _read(stream: asyncio.StreamReader, output: list[str]) -> None:
    async for line in stream:
        output.append(line.decode().rstrip())


async def _kill(process: asyncio.subprocess.Process, reading: asyncio.Task[None]) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.wait()
    await reading  # ends when the last child has closed the pipe: none outlives the supervisor


async def test_private_stores_both_tiers_and_nginx(up: StartUp) -> None:
    admin_port = free_port()
    split = await up(environ={"LOADSPLIT_ADMIN_PORT": str(admin_port)}, lightweight=2, heavy=2)
    await split.ready()
    settings = (await split.query())["settings"]
    assert settings["LOADSPLIT_HANDOFF"] == "accel"
    assert re.fullmatch(r"redis://:\w{32}@127\.0\.0\.1:\d+/0", settings["LOADSPLIT_REDIS_URL"])
    assert re.fullmatch(r"postgresql://loadsplit:\w{32}@127\.0\.0\.1:\d+/loadsplit", settings["LOADSPLIT_DATABASE_URL"])
    kept = Path(settings["LOADSPLIT_DATA_DIR"]) / "up" / "database.url"  # for `loadsplit keys`
    assert (kept.read_text(), kept.stat().st_mode & 0o777) == (settings["LOADSPLIT_DATABASE_URL"], 0o600)
    everyone = [(await split.query(session=f"s-{i}")) for i in range(20)]
    assert len({reply["pid"] for reply in everyone}) == 2
    assert len({reply["settings"]["LOADSPLIT_TICKET_SECRET"] for reply in everyone}) == 1
    names = {p.name() for p in split.descendants()}
    assert {"nginx", "redis-server", "postgres"} <= names
    for name in ("lightweight-1", "lightweight-2", "heavy-1", "heavy-2"):
        assert split.said(rf"^{name} \| serving")
    assert split.said(rf"^  heavy-1 .*:{admin_port}  \(/metrics, /admin\)")
    assert split.said(rf"^  heavy-2 .*:{admin_port + 1}  \(/metrics, /admin\)")
    children = split.descendants()
    split.process.send_signal(signal.SIGTERM)
    assert await split.ended() == 0
    assert not [p for p in children if p.is_running()]
    assert not split.said("killed")


async def test_what_dies_is_started_again(up: StartUp) -> None:
    split = await up(environ=STORES, heavy=2)
    await split.ready()
    before = {(await split.query(session=f"s-{i}"))["pid"] for i in range(20)}
    victim = min(before)
    os.kill(victim, signal.SIGKILL)
    await wait_until(lambda: split.said(r"^heavy-\d ended \(SIGKILL\); starting it again in 0.5 s"), "the end is told")
    # every session of the dead one is answered at once by the other
    assert {(await split.query(session=f"s-{i}"))["pid"] for i in range(20)} == before - {victim}

    async def two_again() -> bool:
        return len({(await split.query(session=f"s-{i}"))["pid"] for i in range(20)} - {victim}) == 2

    await wait_until(two_again, "the replica serves again")
    (front,) = [p for p in psutil.Process(split.process.pid).children() if p.name() == "nginx"]
    front.kill()
    await wait_until(lambda: split.said(r"^nginx ended \(SIGKILL\)"), "Nginx's end is told")

    async def answers() -> bool:
        with contextlib.suppress(aiohttp.ClientError):
            return bool(await split.query())
        return False

    await wait_until(answers, "Nginx serves again")


async def test_ctrl_c_drains(up: StartUp) -> None:
    """The running request gets its answer: Nginx waits for it, and only the second part of the drain asks the tier to end."""
    split = await up(environ=STORES | {"LOADSPLIT_DRAIN_SECONDS": "1"})
    await split.ready()
    running = asyncio.create_task(split.query("slow"))
    await wait_until(lambda: split.said("slow began"), "the request runs")
    split.process.send_signal(signal.SIGINT)
    await wait_until(lambda: split.said("^stopping"), "it stops")
    with pytest.raises(aiohttp.ClientConnectionError):
        async with aiohttp.ClientSession() as fresh, fresh.get(split.url + "/livez"):
            raise AssertionError("a new connection is taken while draining")
    assert (await running)["pid"]
    assert await split.ended() == 0


async def test_children_end_with_a_killed_supervisor(up: StartUp) -> None:
    split = await up(environ=STORES)
    await split.ready()
    children = split.descendants()
    assert len(children) >= 4
    split.process.kill()
    await wait_until(lambda: not [p for p in children if p.is_running() and p.status() != psutil.STATUS_ZOMBIE], "no child is left")


async def test_a_signal_during_the_start_ends_it(up: StartUp) -> None:
    split = await up(environ=STORES, command=[sys.executable, "-c", "import signal, sys; print('never ready', flush=True); signal.pause()"])
    await wait_until(lambda: split.said("never ready"), "a role has started")
    split.process.send_signal(signal.SIGTERM)
    assert await split.ended() == 0


async def test_a_role_that_refuses_ends_the_start_with_its_own_line(up: StartUp, tmp_path: Path) -> None:
    config = tmp_path / "broken.json"
    config.write_text("{}")
    split = await up(environ=STORES, config=str(config))
    assert await split.ended() == 2
    assert split.said(r"^(lightweight|heavy)-1 \| workflow.json:3:9: error no_such_thing")
    assert split.said(r"^loadsplit up: (lightweight|heavy)-1 ended at start \(code 2\)")


async def test_a_second_one_on_the_same_data_is_refused(up: StartUp, tmp_path: Path) -> None:
    first = await up(environ=STORES, data_dir=str(tmp_path / "data"))
    await first.ready()
    second = await up(environ=STORES, data_dir=str(tmp_path / "data"))
    assert await second.ended() == 2
    assert second.said("another `loadsplit up` runs on .*data")


@pytest.mark.parametrize(
    ("options", "environ", "line"),
    [
        ({"config": "/nowhere/w.json"}, STORES, "--config: there is no file /nowhere/w.json"),
        ({"heavy": 0}, STORES, "--lightweight and --heavy must be at least 1"),
        ({"host": "0.0.0.0"}, STORES, "--host 0.0.0.0 without API keys: set LOADSPLIT_API_KEYS, or say --insecure"),
        ({}, {"PATH": "/nowhere"}, "the split needs Redis: install redis-server, or set LOADSPLIT_REDIS_URL"),
    ],
)
async def test_what_forbids_a_start_is_one_line(up: StartUp, options: dict[str, Any], environ: dict[str, str], line: str) -> None:
    split = await up(environ=environ, **options)
    assert await split.ended() == 2
    assert split.output == [f"loadsplit up: {line}"]


async def test_a_port_in_use_is_one_line(up: StartUp) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        split = await up(environ=STORES, port=port)
        assert await split.ended() == 2
    assert split.output == [f"loadsplit up: cannot listen on 127.0.0.1:{port}: Address already in use; choose another --port"]
