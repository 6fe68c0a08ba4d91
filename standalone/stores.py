"""A private Redis and a private PostgreSQL for `loadsplit up`: own folders, free ports, own passwords.

It knows nothing of what is stored in them.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
from pathlib import Path

from common.web.children import Program, StartFailed

_USER = "loadsplit"
_DATABASE = "loadsplit"
_ROOTS_FOLDER = Path("/var/lib/loadsplit")


def find_program(name: str) -> str | None:
    """The path of an installed program, also where Debian keeps it off the PATH; None where there is none."""
    if found := shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin:/opt/homebrew/bin"):
        return found
    versions = {int(m[1]): p for p in Path("/usr/lib/postgresql").glob(f"*/bin/{name}") if (m := re.search(r"/(\d+)/bin/", str(p)))}
    return str(versions[max(versions)]) if versions else None


def free_port(preferred: int | None = None) -> int:
    """`preferred` where nothing listens on 127.0.0.1 there, else any free TCP port."""
    for port in (preferred, 0) if preferred else (0,):
        with contextlib.suppress(OSError), socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            s.bind(("127.0.0.1", port))
            return int(s.getsockname()[1])
    raise StartFailed("no free TCP port on 127.0.0.1", 1)


def redis(folder: Path) -> tuple[Program, str]:
    """The program and its redis:// URL. What it holds outlives a restart (append-only file). Raises StartFailed where none is installed."""
    binary = find_program("redis-server")
    if not binary:
        raise StartFailed("the split needs Redis: install redis-server, or set LOADSPLIT_REDIS_URL")
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    port, password = free_port(), _password(folder / "password")
    lines = [
        f"port {port}",
        "bind 127.0.0.1",
        f'dir "{folder}"',
        f"requirepass {password}",
        'save ""',
        "appendonly yes",
        "appendfsync everysec",
    ]
    write_private(folder / "redis.conf", "\n".join(lines) + "\n")
    ready = _RedisReady(port)
    program = Program("redis", (binary, str(folder / "redis.conf")), ready, log=folder / "redis.log")
    return program, f"redis://:{password}@127.0.0.1:{port}/0"


def postgres(folder: Path) -> tuple[Program, str] | None:
    """The program and its postgresql:// URL; None where PostgreSQL is not installed. The first call takes seconds."""
    server, initdb, isready = (find_program(name) for name in ("postgres", "initdb", "pg_isready"))
    if not (server and initdb and isready):
        return None
    user = None
    folder = folder.resolve()
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        user = "postgres"
        try:
            entry = pwd.getpwnam(user)
        except KeyError:
            raise StartFailed("root cannot run PostgreSQL and there is no user postgres: set LOADSPLIT_DATABASE_URL") from None
        folder = _reachable(folder)
        folder.mkdir(parents=True, exist_ok=True)
        os.chown(folder, entry.pw_uid, entry.pw_gid)
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    data, password = folder / "data", _password(folder / "password", user)
    if not (data / "PG_VERSION").exists():
        _initialise(data, initdb, server, folder / "password", user)
    port = free_port()
    command = (server, "-D", str(data), "-p", str(port), "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=")
    ready = _PostgresReady(isready, port)
    # SIGINT is PostgreSQL's fast shutdown; SIGTERM would wait for every connection to close.
    program = Program(
        "postgres", (*command, "-c", "max_connections=200"), ready, stop_signal=signal.SIGINT, log=folder / "postgres.log", user=user
    )
    return program, f"postgresql://{_USER}:{password}@127.0.0.1:{port}/{_DATABASE}"


class _RedisReady:
    """Answers PING, if only to say that a password is wanted; not while it still loads its file."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __call__(self) -> bool:
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1):
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
                try:
                    writer.write(b"PING\r\n")
                    return (await reader.readline()).startswith((b"+PONG", b"-NOAUTH"))
                finally:
                    writer.close()
        return False


class _PostgresReady:
    """Asks pg_isready: it listens before it takes connections."""

    def __init__(self, binary: str, port: int) -> None:
        self._command = (binary, "-q", "-h", "127.0.0.1", "-p", str(port))

    async def __call__(self) -> bool:
        return await (await asyncio.create_subprocess_exec(*self._command)).wait() == 0


def _initialise(data: Path, initdb: str, server: str, password_file: Path, user: str | None) -> None:
    """initdb, then the database. A first try that was broken off is cleared away."""
    if data.exists():
        shutil.rmtree(data)
    options = ["-U", _USER, "-A", "scram-sha-256", f"--pwfile={password_file}", "-E", "UTF8", "--no-locale"]
    _run([initdb, "-D", str(data), *options], user, "")
    # Single-user mode needs no port and no password.
    _run([server, "--single", "-D", str(data), "postgres"], user, f"CREATE DATABASE {_DATABASE}\n")


def _run(command: list[str], user: str | None, text: str) -> None:
    done = subprocess.run(  # noqa: S603 - programs that find_program found, arguments of our own
        command, input=text, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/", user=user, group=user, check=False
    )
    if done.returncode:
        last = (done.stdout.strip().splitlines() or ["no output"])[-1]
        raise StartFailed(f"{Path(command[0]).name} failed: {last}", 1)


def _reachable(folder: Path) -> Path:
    """`folder` where every folder above it lets other users pass, else one of root's that does: another user must work in there."""
    for parent in folder.parents:
        if parent.exists() and not parent.stat().st_mode & stat.S_IXOTH:
            return _ROOTS_FOLDER / hashlib.sha256(str(folder).encode()).hexdigest()[:16] / folder.name
    return folder


def _password(path: Path, user: str | None = None) -> str:
    """The password in the file, made at the first call."""
    if not path.exists():
        write_private(path, secrets.token_hex(16))
    if user:
        shutil.chown(path, user)
    return path.read_text().strip()


def write_private(path: Path, text: str) -> None:
    """Writes a file that only its owner can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as f:
        f.write(text)
