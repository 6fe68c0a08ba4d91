"""The whole split as the members of a test: private stores with durable commits, the simulators, both tiers, Nginx, all on loopback.

The tiers are known only as commands with a port, `/readyz` and the settings of their environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from loadtests.members import MARK, CannotRun, Member, marked, steady_port

LOADSPLIT = str(Path(sys.executable).with_name("loadsplit"))
ROOT = str(Path(__file__).resolve().parent.parent)
STOP_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What to start. `config` is a workflow file or a directory of them, `profile` the LLM simulator's, `environ` more settings of the
    tiers. Without `front` there is no Nginx and no rule tier. `postgres_port` is given where something stands in front of it."""

    config: Path
    profile: Path
    lightweight: int = 2
    heavy: int = 2
    workers: int = 0
    front: bool = True
    environ: Mapping[str, str] = field(default_factory=dict)
    postgres_port: int | None = None


class Split:
    """The members by name, in the order in which they are started. `url` is Nginx's."""

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.mark = secrets.token_hex(8)
        self.ticket_secret = secrets.token_hex(16)
        self.folder, self.plan = folder, plan
        self.logs = folder / "logs"
        self.logs.mkdir(parents=True, exist_ok=True)
        self.redis_port, self.llm_port, self.business_port, self.port = (steady_port() for _ in range(4))
        self.postgres_port = plan.postgres_port or steady_port()
        self.database = f"postgresql://chaos@127.0.0.1:{self.postgres_port}/postgres"
        self.members: dict[str, Member] = {}
        self.ports: dict[str, int] = {}

    @property
    def url(self) -> str:
        """Where clients go."""
        return f"http://127.0.0.1:{self.port}"

    def of(self, group: str) -> list[Member]:
        """The members of a group: `heavy`, `lightweight` …"""
        return [m for m in self.members.values() if m.group == group]

    def url_of(self, name: str) -> str:
        """The address of one process of the tiers."""
        return f"http://127.0.0.1:{self.ports[name]}"

    async def start(self) -> None:
        """Starts everything in order. Raises CannotRun."""
        await self._together(self._postgres(), self._redis(), self._simulator("business"), self._simulator("llm"))
        await self._together(*self._tiers())
        if self.plan.front:
            await self._together(self._nginx())

    async def stop(self, *groups: str) -> dict[str, int | None]:
        """Asks the members of these groups to end; the exit codes, None for who had to be killed."""
        members = [m for m in self.members.values() if m.group in groups]
        codes = await asyncio.gather(*(m.stop(STOP_SECONDS) for m in members))
        return {m.name: code for m, code in zip(members, codes, strict=True)}

    async def kill(self) -> None:
        """Ends everything at once."""
        await asyncio.gather(*(m.kill() for m in self.members.values()))

    def left_over(self) -> list[str]:
        """The command lines of processes of this run that still live."""
        return [f"{pid} {command}" for pid, command in marked(self.mark)]

    async def sql(self, statement: str) -> str:
        """Runs a statement through psql; what it prints. Raises CannotRun."""
        command = [program("psql"), "-XAtq", self.database, "-c", statement]
        child = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
        out, error = await child.communicate()
        if child.returncode:
            raise CannotRun(f"psql: {error.decode(errors='replace').strip()}")
        return out.decode().strip()

    async def _together(self, *members: Member) -> None:
        for member in members:
            self.members[member.name] = member
            member.spawn()
        await asyncio.gather(*(m.wait_ready() for m in members))

    def _member(self, name: str, command: list[str], ready: Callable[[], Awaitable[bool]], **more: object) -> Member:
        environ = {"PATH": "/usr/local/bin:/usr/bin:/bin", "PYTHONUNBUFFERED": "1", "PYTHONPATH": ROOT, MARK: self.mark}
        extra = more.pop("environ", {})
        return Member(name, command, environ={**environ, **extra}, log=self.logs / f"{name}.log", ready=ready, **more)  # type: ignore[dict-item,arg-type]

    def _postgres(self) -> Member:
        home = self.folder / "postgres"
        home.mkdir()
        become: list[str] = []
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            entry = pwd.getpwnam("postgres")
            os.chown(home, entry.pw_uid, entry.pw_gid)
            user = [f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--clear-groups"]
            become = [program("setpriv"), "--pdeathsig=KILL", *user]  # a change of user forgets what the fork asked for
        options = ["-D", str(home / "data"), "-U", "chaos", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
        done = subprocess.run([*become, program("initdb"), *options], capture_output=True, text=True, cwd="/", check=False)
        if done.returncode:
            raise CannotRun(f"initdb: {done.stderr.strip()}")
        port = str(self.postgres_port)
        command = [*become, program("postgres"), "-D", str(home / "data"), "-p", port, "-h", "127.0.0.1", "-k", ""]
        command += ["-c", "max_connections=200"]
        ready = _Succeeds([program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", port, "-t", "1"])
        return self._member("postgres", command, ready, stop_signal=signal.SIGINT)  # fast shutdown

    def _redis(self) -> Member:
        """What it has acknowledged survives its kill."""
        home = self.folder / "redis"
        home.mkdir()
        command = [program("redis-server"), "--port", str(self.redis_port), "--bind", "127.0.0.1", "--dir", str(home), "--save", ""]
        return self._member("redis", [*command, "--appendonly", "yes", "--appendfsync", "always"], _Pongs(self.redis_port))

    def _simulator(self, kind: str) -> Member:
        port = self.llm_port if kind == "llm" else self.business_port
        command = [LOADSPLIT, "simulate", kind, "--port", str(port), *(["--profile", str(self.plan.profile)] if kind == "llm" else [])]
        return self._member(kind, command, _Answers(f"http://127.0.0.1:{port}/{'stats' if kind == 'llm' else 'health'}"))

    def _tiers(self) -> list[Member]:
        environ = {
            "LOADSPLIT_CONFIG": str(self.plan.config),
            "LOADSPLIT_DATABASE_URL": self.database,
            "LOADSPLIT_REDIS_URL": f"redis://127.0.0.1:{self.redis_port}/0",
            "LOADSPLIT_TICKET_SECRET": self.ticket_secret,
            "LOADSPLIT_DATA_DIR": str(self.folder / "data"),
            "LOADSPLIT_HANDOFF": "accel",
            "OPENAI_API_KEY": "simulator",
            "OPENAI_BASE_URL": f"http://127.0.0.1:{self.llm_port}/v1",
            "BUSINESS_URL": f"http://127.0.0.1:{self.business_port}",
            **self.plan.environ,
        }
        members = []
        counts = {"lightweight": self.plan.lightweight if self.plan.front else 0, "heavy": self.plan.heavy, "worker": self.plan.workers}
        for role, count in counts.items():
            for number in range(1, count + 1):
                name, port = f"{role}-{number}", steady_port()
                self.ports[name] = port
                ready = _Answers(f"http://127.0.0.1:{port}/readyz")
                members.append(self._member(name, [LOADSPLIT, role, "--port", str(port)], ready, environ=environ))
        return members

    def _nginx(self) -> Member:
        home = self.folder / "nginx"
        (home / "run").mkdir(parents=True)
        for folder in (self.folder, home, home / "run"):
            folder.chmod(0o755)  # its workers are another user where root starts it

        def addresses(role: str) -> list[str]:
            return [f"127.0.0.1:{port}" for name, port in self.ports.items() if name.startswith(role)]

        command = [sys.executable, "-m", "nginx", "--out", str(home), "--listen", f"127.0.0.1:{self.port}", "--run-dir", str(home / "run")]
        command += ["--lightweight", *addresses("lightweight"), "--heavy", *addresses("heavy")]
        command += ["--access-log", str(home / "access.log"), "--worker-processes", "1"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
        if done.returncode:
            raise CannotRun(done.stderr.strip())
        command = [program("nginx"), "-e", "stderr", "-p", str(home), "-c", "nginx.conf"]
        return self._member("nginx", command, _Answers(f"{self.url}/livez"), stop_signal=signal.SIGQUIT)


@contextlib.asynccontextmanager
async def split(folder: Path, plan: Plan) -> AsyncIterator[Split]:
    """A running split; whatever happens, nothing of it runs afterwards. Raises CannotRun."""
    running = Split(folder, plan)
    try:
        await running.start()
        yield running
    finally:
        await asyncio.shield(running.kill())


def program(name: str) -> str:
    """The path of a program, also where Debian hides PostgreSQL's. Raises CannotRun that says what to do."""
    hidden = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parent.parent.name))
    found = shutil.which(name) or (str(hidden[-1]) if hidden else None)
    if found is None:
        raise CannotRun(f"{name} is not installed: run scripts/install-test-deps")
    return found


class _Answers:
    """Whether a GET of the URL says 200."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def __call__(self) -> bool:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            timeout = aiohttp.ClientTimeout(total=2)
            async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as http, http.get(self._url) as reply:
                return reply.status == 200
        return False


class _Pongs:
    """Whether a Redis answers PING; not while it still loads its file."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __call__(self) -> bool:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                try:
                    writer.write(b"PING\r\n")
                    return (await reader.readline()).startswith(b"+PONG")
                finally:
                    writer.close()
        return False


class _Succeeds:
    """Whether a command ends with 0."""

    def __init__(self, command: list[str]) -> None:
        self._command = command

    async def __call__(self) -> bool:
        child = await asyncio.create_subprocess_exec(*self._command, stderr=asyncio.subprocess.DEVNULL)
        return await child.wait() == 0
