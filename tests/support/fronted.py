"""The whole split as it stands in production, with parts that tests may restart one by one: Nginx, both tiers by X-Accel, shared stores."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from nginx.render import RenderSettings, write
from standalone.up import worker_user
from tests.support.client import Client
from tests.support.running import Running, role
from tests.support.services import find_binary, free_port, is_listening
from tests.support.waiting import wait_until_sync


@dataclass
class Fronted:
    """The processes. `client` talks to Nginx, whose error log tells why it could not reach a replica."""

    client: Client
    lightweight: list[Running]
    heavy: list[Running]
    nginx_log: Path

    def logs(self) -> str:
        """What both tiers wrote."""
        return "".join(r.log() for r in (*self.lightweight, *self.heavy))


@contextmanager
def fronted(config: Path, folder: Path, env: Mapping[str, str], replicas: int = 2) -> Iterator[Fronted]:
    """Starts `replicas` of both tiers behind an Nginx. A dead replica's turns are taken over after three seconds."""
    env = {"LOADSPLIT_LEASE_SECONDS": "3", "LOADSPLIT_HANDOFF": "accel", **env}
    with ExitStack() as stack:
        lightweight = [role("lightweight", config, folder, env) for _ in range(replicas)]
        heavy = [role("heavy", config, folder, env) for _ in range(replicas)]
        with ThreadPoolExecutor() as pool:
            list(pool.map(stack.enter_context, [*lightweight, *heavy]))
        port = free_port()
        log = stack.enter_context(nginx_front(port, *([f"127.0.0.1:{r.port}" for r in tier] for tier in (lightweight, heavy))))
        yield Fronted(Client(f"http://127.0.0.1:{port}"), lightweight, heavy, log)


@contextmanager
def nginx_front(port: int, lightweight: Sequence[str], heavy: Sequence[str]) -> Iterator[Path]:
    """Nginx with the shipped configuration in front of these addresses; its error log."""
    # Not under pytest's own folder: Nginx's workers are another user where root runs the tests.
    folder = Path(tempfile.mkdtemp(prefix="loadsplit-nginx-"))
    os.chmod(folder, 0o711)
    settings = RenderSettings(
        lightweight=tuple(lightweight),
        heavy=tuple(heavy),
        listen=(f"127.0.0.1:{port}",),
        run_dir=str(folder),
        access_log="off",
        error_log=str(folder / "error.log"),
        worker_processes="1",
        worker_connections=4096,
        user=worker_user(),
    )
    write(settings, folder)
    command = [find_binary("nginx"), "-e", str(folder / "error.log"), "-p", str(folder), "-c", "nginx.conf"]
    process = subprocess.Popen(command)
    try:
        wait_until_sync(lambda: is_listening(port) or process.poll() is not None, "Nginx listens")
        yield folder / "error.log"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)
