"""Real Redis and PostgreSQL servers for tests: private, on free ports, data in a temporary directory, killable and freezable.

It knows nothing of loadsplit; `tests/conftest.py` makes fixtures of it, and fault tests start servers of their own.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from pathlib import Path
from typing import IO

from tests.support.waiting import wait_until_sync

PORTS, PORTS_A_WORKER = 12_000, 2_500
_ports = itertools.count(random.randrange(PORTS_A_WORKER))


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nothing listens on now. Each worker of a parallel run draws from a range of its own, below the ports
    that the kernel gives away, so that nobody else takes it before it is used."""
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    first = PORTS + worker % 8 * PORTS_A_WORKER
    while True:
        port = first + next(_ports) % PORTS_A_WORKER
        with contextlib.suppress(OSError), socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("127.0.0.1", port))
            return port


def is_listening(port: int) -> bool:
    """Whether something accepts connections on 127.0.0.1:port."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.5):
        return True
    return False


def find_binary(name: str) -> str:
    """The path of a program, also where Debian hides PostgreSQL's. Raises FileNotFoundError that says what to do."""
    found = shutil.which(name)
    if found:
        return found
    hidden = sorted(glob.glob(f"/usr/lib/postgresql/*/bin/{name}"), key=lambda p: int(re.findall(r"/(\d+)/", p)[0]))
    if hidden:
        return hidden[-1]
    raise FileNotFoundError(f"{name} is not installed: run scripts/install-test-deps")


class Server:
    """One child process that listens on `port`; `start` and `kill` may alternate, the data stays until `close`."""

    def __init__(self, name: str, command: list[str], port: int, directory: Path, user: str | None = None) -> None:
        self.name, self.command, self.port, self.directory, self.user = name, command, port, directory, user
        self.process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    def start(self) -> None:
        """Starts the process and waits until it listens; the failure shows the end of its log."""
        self._log = open(self.directory / "server.log", "ab")  # noqa: SIM115 - stays open as long as the process
        options = {"user": self.user, "group": self.user, "extra_groups": []} if self.user else {}
        self.process = subprocess.Popen(self.command, stdout=self._log, stderr=self._log, cwd=self.directory, **options)  # type: ignore[call-overload]
        try:
            wait_until_sync(self._up_or_dead, f"{self.name} listens on {self.port}", 20)
        except AssertionError:
            self.kill()
            raise
        if self.process.poll() is not None:
            raise AssertionError(f"{self.name} ended at start:\n{self.log()[-2000:]}")

    def _up_or_dead(self) -> bool:
        return is_listening(self.port) or (self.process is not None and self.process.poll() is not None)

    def log(self) -> str:
        """What the process has written so far."""
        return (self.directory / "server.log").read_text(errors="replace")

    def send(self, number: int) -> None:
        """Sends a signal to the process."""
        if self.process is not None:
            self.process.send_signal(number)

    def freeze(self) -> None:
        """SIGSTOP: connections stay open, nothing is answered."""
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT: undoes `freeze`."""
        self.send(signal.SIGCONT)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Ends the process and waits for it; the data stays."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None
        if self._log is not None:
            self._log.close()
            self._log = None

    def kill(self) -> None:
        """SIGKILL, then wait."""
        self.stop(signal.SIGKILL)

    def close(self) -> None:
        """Ends the process and erases its data."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


class RedisServer(Server):
    """A redis-server without persistence."""

    def __init__(self, port: int | None = None) -> None:
        port = port or free_port()
        directory = Path(tempfile.mkdtemp(prefix="loadsplit-redis-"))
        command = [find_binary("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        super().__init__("redis-server", [*command, "--dir", str(directory)], port, directory)

    @property
    def url(self) -> str:
        """redis:// URL of database 0."""
        return f"redis://127.0.0.1:{self.port}/0"


class PostgresServer(Server):
    """A PostgreSQL cluster, trusting connections from 127.0.0.1, fsync off (it need not survive a power cut)."""

    def __init__(self, port: int | None = None) -> None:
        port = port or free_port()
        # Under /tmp and not under pytest's own directory: that one is closed to the user that PostgreSQL must run as.
        directory = Path(tempfile.mkdtemp(prefix="loadsplit-postgres-"))
        user = None
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            user = "postgres"
            entry = pwd.getpwnam(user)
            os.chown(directory, entry.pw_uid, entry.pw_gid)
        data = str(directory / "data")
        command = [find_binary("postgres"), "-D", data, "-p", str(port), "-h", "127.0.0.1"]
        command += [
            "-c",
            f"unix_socket_directories={directory}",
            "-c",
            "fsync=off",
            "-c",
            "shared_buffers=32MB",
            "-c",
            "max_connections=200",
        ]
        super().__init__("postgres", command, port, directory, user)
        self._count = 0
        initdb = [find_binary("initdb"), "-D", data, "-A", "trust", "-U", "loadsplit", "-E", "UTF8", "--no-locale", "--no-sync"]
        options = {"user": user, "group": user, "extra_groups": []} if user else {}
        subprocess.run(initdb, check=True, capture_output=True, cwd=directory, **options)  # type: ignore[call-overload]

    def start(self) -> None:
        """Starts the server and waits until it answers a query (it listens before it is ready)."""
        super().start()
        wait_until_sync(lambda: self.sql("SELECT 1", check=False) == "1", "PostgreSQL answers", 20)

    def stop(self, number: int = signal.SIGINT) -> None:
        """Fast shutdown: open connections are cut."""
        super().stop(number)

    def sql(self, statement: str, database: str = "postgres", *, check: bool = True) -> str:
        """Runs statements through psql; its output without decoration."""
        command = [
            find_binary("psql"),
            "-XAtq",
            "-h",
            "127.0.0.1",
            "-p",
            str(self.port),
            "-U",
            "loadsplit",
            "-d",
            database,
            "-c",
            statement,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise AssertionError(done.stderr)
        return done.stdout.strip()

    def url(self, database: str = "postgres") -> str:
        """postgresql:// URL of a database."""
        return f"postgresql://loadsplit@127.0.0.1:{self.port}/{database}"

    def create_database(self) -> str:
        """Makes an empty database; its URL."""
        self._count += 1
        name = f"t{self._count}"
        self.sql(f"CREATE DATABASE {name}")
        return self.url(name)

    def empty_database(self, url: str) -> None:
        """Makes a database as good as new, five times faster than a new one; whoever is still connected is cut off."""
        cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        self.sql(f"{cut}; DROP SCHEMA public CASCADE; CREATE SCHEMA public", url.rpartition("/")[2])
