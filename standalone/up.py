"""`loadsplit up`: the split on one machine. Starts stores, both tiers and Nginx in order, keeps them running, drains and stops them.

It knows the tiers only as commands with a port, `/readyz` and the settings of their environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import grp
import os
import pwd
import resource
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from common.settings import CommonSettings
from common.web.children import Child, Program, StartFailed
from common.web.config_source import DATABASE
from common.web.listening import ADMIN_PORT
from nginx.render import RenderSettings, write
from standalone.demo import BUSINESS_PORT, LLM_KEYS, LLM_PORT, Listening
from standalone.stores import find_program, free_port, postgres, redis, write_private

LIGHTWEIGHT_PORT, HEAVY_PORT = 8101, 8201
OPEN_FILES = 65536
LEFT_OUT_SECONDS = 3.2  # longer than Nginx leaves out a replica: two seconds, of which it counts whole ones (nginx.render.SERVER_OPTIONS)
DATABASE_FILE = "database.url"


@dataclass(frozen=True, slots=True)
class UpOptions:
    """What to bring up. The rest comes from the settings; without LOADSPLIT_REDIS_URL or LOADSPLIT_DATABASE_URL a private one is started.

    `environ` replaces the process's environment and `.env`. `command` starts a role: `<command> lightweight --port P`.
    """

    config: Path
    lightweight: int = 2
    heavy: int = 2
    host: str = "127.0.0.1"
    port: int = 8080
    data_dir: Path | None = None
    demo: bool = False
    insecure: bool = False
    environ: Mapping[str, str] | None = None
    command: tuple[str, ...] = (sys.executable, "-m", "standalone.cli")


async def up(options: UpOptions) -> int:
    """Runs the split until SIGINT or SIGTERM; the exit code. 2, with one line on stderr, where options or machine forbid it.

    Raises SettingsError for an environment that cannot be used.
    """
    settings = CommonSettings.load(options.environ, config=str(options.config), data_dir=options.data_dir)
    try:
        _check(options, settings)
        with _only_one(settings.data_dir / "up"):
            _allow_many_files()
            return await _Split(options, settings).run()
    except StartFailed as e:
        print(f"loadsplit up: {e}", file=sys.stderr)
        return e.code


class _Split:
    """The children in the order in which they were started."""

    def __init__(self, options: UpOptions, settings: CommonSettings) -> None:
        self._options, self._settings = options, settings
        self._folder = (settings.data_dir / "up").absolute()
        given = settings.environ.get(ADMIN_PORT, "").strip()
        self._admin_port = int(given) if given.isdecimal() else None  # what is no number, the replicas refuse
        self._children: list[Child] = []
        self._stop, self._hurry, self._rolling = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def run(self) -> int:
        """Up, until a signal, down."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signalled)
        loop.add_signal_handler(signal.SIGHUP, self._rolling.set)
        run_dir = Path(tempfile.mkdtemp(prefix="loadsplit-nginx-"))
        tasks: list[asyncio.Task[Any]] = []
        try:
            starting, stopped = asyncio.create_task(self._start(run_dir)), asyncio.create_task(self._stop.wait())
            tasks += [starting, stopped]
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()
                tasks += [asyncio.create_task(child.keep()) for child in self._children]
                rolling = asyncio.create_task(self._roll())
                tasks.insert(2, rolling)
                self._announce()
                await stopped
            _say(f"stopping: running requests get {self._settings.drain_seconds:g} s (a second signal: none)")
            return 0
        finally:
            for task in tasks[:3]:  # the start, the wait for its end, the rolling restarts
                task.cancel()
            await asyncio.gather(*tasks[:3], return_exceptions=True)
            await self._end()
            await asyncio.gather(*tasks[3:])
            await asyncio.to_thread(shutil.rmtree, run_dir, ignore_errors=True)
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                loop.remove_signal_handler(number)

    async def _roll(self) -> None:
        """At each SIGHUP: one process of the tiers after the other is ended and started again, the others serve meanwhile."""
        while True:
            await self._rolling.wait()
            self._rolling.clear()
            tiers = [c for c in self._children if c.name.startswith(("lightweight", "heavy"))]
            try:
                for child in tiers:
                    await child.renew(self._settings.drain_seconds / 2 + 3)
                    await asyncio.sleep(LEFT_OUT_SECONDS)
                _say(f"{len(tiers)} processes were started again, one after the other")
            except (StartFailed, TimeoutError) as e:
                _say(f"the rolling restart stopped: {e}")

    def _signalled(self) -> None:
        if self._stop.is_set():
            self._hurry.set()
        self._stop.set()

    async def _start(self, run_dir: Path) -> None:
        environ = await self._stores()
        if self._options.demo:
            environ |= await self._simulators(environ)
        tiers = [self._role("lightweight", i, LIGHTWEIGHT_PORT, environ) for i in range(self._options.lightweight)]
        tiers += [self._role("heavy", i, HEAVY_PORT, environ) for i in range(self._options.heavy)]
        ports = {name: port for name, port, _ in tiers}
        await self._bring_up([program for _, _, program in tiers])
        try:
            write(self._nginx_settings(ports, run_dir), self._folder / "nginx")
        except (ValueError, OSError) as e:
            raise StartFailed(f"the Nginx configuration cannot be written: {e}") from None
        await self._bring_up([self._nginx()])
        for name, _, program in tiers:
            operators = program.environ.get(ADMIN_PORT) if program.environ and name.startswith("heavy") else None
            _say(f"  {name:<14} http://127.0.0.1:{operators or ports[name]}  (/metrics{', /admin' if name.startswith('heavy') else ''})")

    async def _bring_up(self, programs: list[Program]) -> None:
        """Starts them together and waits until all serve. The first that fails ends it."""
        children = [Child(program, _say) for program in programs]
        self._children += children
        for child in children:
            await child.start()
        waits = [asyncio.create_task(child.wait_ready()) for child in children]
        try:
            await asyncio.gather(*waits)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    async def _stores(self) -> dict[str, str]:
        """Starts the stores that are not given; the environment of the tiers."""
        given = self._settings
        redis_url = "" if given.redis_url.startswith("memory:") else given.redis_url  # processes cannot share memory://
        database_url = given.environ.get("LOADSPLIT_DATABASE_URL", "").strip()
        programs = []
        if not redis_url:
            program, redis_url = redis(self._folder / "redis")
            programs.append(program)
        if not database_url:
            made = await asyncio.to_thread(postgres, self._folder / "postgres")
            if made:
                programs.append(made[0])
                database_url = made[1]
            else:
                database_url = f"sqlite:///{self._folder / 'loadsplit.db'}"
                _say("PostgreSQL is not installed: the heavy replicas share one SQLite file")
        await self._bring_up(programs)
        write_private(self._folder / DATABASE_FILE, database_url)  # for the commands that work on the database
        for program in programs:
            _say(f"  {program.name:<14} private, its log is {program.log}")
        return {
            **given.environ,
            "PYTHONUNBUFFERED": "1",
            "LOADSPLIT_CONFIG": str(self._options.config),
            "LOADSPLIT_DATA_DIR": str(given.data_dir),
            "LOADSPLIT_REDIS_URL": redis_url,
            "LOADSPLIT_DATABASE_URL": database_url,
            "LOADSPLIT_HANDOFF": "accel",
            "LOADSPLIT_TICKET_SECRET": given.ticket_key.decode(),
            "LOADSPLIT_WORKERS": "1",  # --lightweight and --heavy say how many there are
            "LOADSPLIT_DRAIN_SECONDS": f"{given.drain_seconds / 2:g}",  # the second half is theirs: see _end
        }

    async def _simulators(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Starts the stand-ins; what the tiers need to know of them. The example's file names the port of the business API."""
        programs, more = [], {}
        if free_port(BUSINESS_PORT) == BUSINESS_PORT:
            programs.append(self._simulator("business", BUSINESS_PORT, environ))
        else:
            _say(f"port {BUSINESS_PORT} is taken: what listens there serves as the business API")
        if not any(environ.get(name) for name in (*LLM_KEYS, "LOADSPLIT_MODELS")):
            port = free_port(LLM_PORT)
            programs.append(self._simulator("llm", port, environ))
            more = {"OPENAI_API_KEY": "simulator", "OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1"}
        await self._bring_up(programs)
        return more

    def _simulator(self, kind: str, port: int, environ: Mapping[str, str]) -> Program:
        command = (*self._options.command, "simulate", kind, "--port", str(port))
        return Program(f"{kind}-simulator", command, Listening(port), environ)

    def _role(self, role: str, index: int, first_port: int, environ: Mapping[str, str]) -> tuple[str, int, Program]:
        name, port = f"{role}-{index + 1}", free_port(first_port + index)
        command = (*self._options.command, role, "--port", str(port))
        if role == "heavy" and self._admin_port:  # each replica has its own
            environ = {**environ, ADMIN_PORT: str(self._admin_port + index)}
        # with an empty config centre a process is up, and ready when somebody has activated an agent
        page = "livez" if str(self._options.config) == DATABASE else "readyz"
        return name, port, Program(name, command, _Answers(f"http://127.0.0.1:{port}/{page}"), environ)

    def _nginx_settings(self, ports: Mapping[str, int], run_dir: Path) -> RenderSettings:
        def of(role: str) -> tuple[str, ...]:
            return tuple(f"127.0.0.1:{port}" for name, port in ports.items() if name.startswith(role))

        run_dir.chmod(0o711)  # Nginx's workers, another user where root starts it, pass through to their own folders
        return RenderSettings(
            lightweight=of("lightweight"),
            heavy=of("heavy"),
            listen=(f"{self._options.host}:{self._options.port}",),
            run_dir=str(run_dir),
            access_log=str(self._folder / "nginx" / "access.log"),
            user=worker_user(),
        )

    def _nginx(self) -> Program:
        folder = self._folder / "nginx"
        binary = find_program("nginx") or "nginx"
        host = "127.0.0.1" if self._options.host == "0.0.0.0" else self._options.host  # noqa: S104 - compared, not bound
        ready = _Answers(f"http://{host}:{self._options.port}/livez")
        command = (binary, "-e", "stderr", "-p", str(folder), "-c", "nginx.conf")
        return Program("nginx", command, ready, stop_signal=signal.SIGQUIT)

    def _announce(self) -> None:
        url = f"http://{self._options.host}:{self._options.port}"
        body = '{"message": "What are your opening hours?", "session_id": "s-1"}'
        _say(f"loadsplit is up: {url} (Nginx, {self._options.lightweight} x lightweight, {self._options.heavy} x heavy)")
        _say(f"  chat page      {url}/")
        _say(f"  try            curl -s {url}/api/v1/query -H 'content-type: application/json' -d '{body}'")
        _say(f"  access log     {self._folder / 'nginx' / 'access.log'}")
        _say(f"  API keys       LOADSPLIT_DATABASE_URL=$(cat {self._folder / DATABASE_FILE}) loadsplit keys create")
        _say(f"Ctrl-C drains and stops; kill -HUP {os.getpid()} starts the tiers' processes again, one after the other.")

    async def _end(self) -> None:
        """Nginx takes nothing new from now on. In the first half of the drain all goes on as it was; in the second the tiers are asked to
        end, still behind Nginx, so that what they say last reaches its client. The stores go last.
        """
        for child in self._children:
            child.retire()
        half = self._settings.drain_seconds / 2
        stores = [c for c in self._children if c.name in ("redis", "postgres")]
        front = [c for c in self._children if c.name == "nginx"]
        rest = [c for c in self._children if c not in (*stores, *front)]
        fronts = asyncio.create_task(self._stop_all(front, 2 * half + 2))
        hurried = asyncio.create_task(self._hurry.wait())
        await asyncio.wait({fronts, hurried}, timeout=half, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        await self._stop_all(rest, half + 1)
        await fronts
        await self._stop_all(stores, 10)

    async def _stop_all(self, children: list[Child], grace: float) -> None:
        in_time = await asyncio.gather(*(child.stop(grace, self._hurry) for child in children))
        for child, ended in zip(children, in_time, strict=True):
            if not ended and not self._hurry.is_set():
                _say(f"{child.name} was killed: it did not end in time")


class _Answers:
    """Whether a GET of the URL says 200."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def __call__(self) -> bool:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2), trust_env=False) as http, http.get(self._url) as reply:
                return reply.status == 200
        return False


def _check(options: UpOptions, settings: CommonSettings) -> None:
    """What can be known before anything starts. Raises StartFailed."""
    if str(options.config) != "db:" and not options.config.exists():
        raise StartFailed(f"--config: there is no file {options.config}")
    if options.lightweight < 1 or options.heavy < 1:
        raise StartFailed("--lightweight and --heavy must be at least 1")
    if not find_program("nginx"):
        raise StartFailed("the split needs Nginx: install nginx (Debian: apt install nginx-light)")
    loopback = options.host == "localhost" or options.host.startswith("127.") or options.host == "::1"
    if not (loopback or options.insecure or settings.api_keys):
        raise StartFailed(f"--host {options.host} without API keys: set LOADSPLIT_API_KEYS, or say --insecure")
    try:
        with socket.create_server((options.host, options.port)):
            pass
    except OSError as e:
        # create_server adds to the system's words; a negative number is a failed look-up of the name
        why = os.strerror(e.errno) if e.errno and e.errno > 0 else e.strerror
        raise StartFailed(f"cannot listen on {options.host}:{options.port}: {why}; choose another --port") from None


@contextlib.contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """A second `up` on the same data would write into the same stores. Raises StartFailed."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = open(folder / "lock", "w")  # noqa: SIM115 - closed at the end
    except OSError as e:
        raise StartFailed(f"cannot write to {folder}: {e.strerror}") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StartFailed(f"another `loadsplit up` runs on {folder.parent}: stop it, or choose another --data-dir") from None
        yield


def _allow_many_files() -> None:
    """Raises the soft limit on open files, which the children inherit: a stream through Nginx takes two there and one in each tier."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def worker_user() -> str | None:
    """Whom Nginx's workers run as when root starts it; None where they simply keep the user."""
    if os.geteuid() != 0:
        return None
    for name in ("www-data", "nginx", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return f"{name} {grp.getgrgid(entry.pw_gid).gr_name}"
    return None


def _say(line: str) -> None:
    print(line, flush=True)
