"""The product's own processes for tests: the console script with a clean environment, on free ports, surely ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tests.support.client import Client
from tests.support.services import free_port
from tests.support.waiting import wait_until_sync

LOADSPLIT = str(Path(sys.executable).with_name("loadsplit"))


class Running:
    """One process group of `loadsplit …`. Its log is a file in `folder`."""

    def __init__(
        self, arguments: Sequence[str], folder: Path, *, port: int, env: Mapping[str, str] | None = None, ready: str = "/readyz"
    ) -> None:
        self.port, self.url = port, f"http://127.0.0.1:{port}"
        self.client = Client(self.url)
        self._command = [LOADSPLIT, *arguments]
        self.folder, self._ready = folder, ready
        self._env = {**os.environ, "LOADSPLIT_DATA_DIR": str(folder / "data"), **(env or {})}
        self._log = folder / f"{arguments[0]}-{port}.log"

    def __enter__(self) -> Running:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Starts it and waits until it is ready."""
        with self._log.open("ab") as out:
            self.process = subprocess.Popen(self._command, cwd=self.folder, env=self._env, stdout=out, stderr=out, start_new_session=True)
        wait_until_sync(self._answers_or_dead, f"{self._command[1]} serves:\n{self.log()}", 60)
        assert self.process.poll() is None, self.log()

    def stop(self) -> int:
        """SIGTERM, then SIGKILL after 30 s; the exit code."""
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
        return self.process.returncode

    def kill(self) -> None:
        """kill -9 of everything."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def log(self) -> str:
        """What it wrote."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def _answers_or_dead(self) -> bool:
        if self.process.poll() is not None:
            return True
        try:
            with urllib.request.urlopen(self.url + self._ready, timeout=2) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def serve(config: Path, folder: Path, env: Mapping[str, str]) -> Running:
    """`loadsplit serve` on a free port, not yet started."""
    port = free_port()
    return Running(["serve", "--config", str(config), "--port", str(port)], folder, port=port, env=env)


def role(name: str, config: Path, folder: Path, env: Mapping[str, str]) -> Running:
    """`loadsplit lightweight` or `loadsplit heavy` on a free port, not yet started."""
    port = free_port()
    return Running([name, "--config", str(config), "--port", str(port)], folder, port=port, env=env)
