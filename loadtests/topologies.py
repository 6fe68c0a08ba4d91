"""Deployments that a bench starts by itself: stores, stand-ins, tiers, Nginx, each on the core that it is given, all on loopback.

Everything ends with the exit stack that it was entered into. The tiers are known only as commands with a port and an environment.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from loadtests.processes import Process, free_port, wait_listening, wait_ready
from loadtests.rows.stage import LOAD_CPU, SERVER_CPU
from loadtests.split import LOADSPLIT, ROOT
from loadtests.turns_bench import postgres_server
from loadtests.workflows import write_workflow

SECRET = secrets.token_hex(16)


@dataclass(frozen=True, slots=True)
class Topology:
    """What to start: `lightweight` + `heavy` processes behind Nginx, or with `single` both tiers in one process. Cores are for each kind;
    the front is Nginx. `environ` are more settings of the tiers, `config` another workflow file or directory; with a `profile` the LLM
    is the simulator, else a stand-in that costs next to nothing."""

    lightweight: int = 1
    heavy: int = 1
    single: bool = False
    front: bool = True
    redis: bool = True
    postgres: bool = True
    rules: int = 1000
    rule_cpu: int | None = SERVER_CPU
    heavy_cpu: int | None = LOAD_CPU
    front_cpu: int | None = SERVER_CPU
    redis_cpu: int | None = SERVER_CPU
    stand_in_cpu: int | None = LOAD_CPU
    config: Path | None = None
    profile: Path | None = None
    environ: dict[str, str] = field(default_factory=dict)

    def name(self) -> str:
        """As a report writes it."""
        stores = f"{'Redis' if self.redis else 'memory'} and {'PostgreSQL' if self.postgres else 'SQLite'}"
        return f"{'single process' if self.single else f'split {self.lightweight}+{self.heavy}'}, {stores}"

    def unpinned(self) -> Topology:
        """The same on whatever cores there are."""
        return replace(self, rule_cpu=None, heavy_cpu=None, front_cpu=None, redis_cpu=None, stand_in_cpu=None)


@dataclass(slots=True)
class Running:
    """A deployment that serves. `port` is where clients go."""

    port: int = 0
    lightweight: list[Process] = field(default_factory=list)
    heavy: list[Process] = field(default_factory=list)
    lightweight_ports: list[int] = field(default_factory=list)
    heavy_ports: list[int] = field(default_factory=list)
    stores: list[Process] = field(default_factory=list)
    redis_port: int = 0
    database: str = ""
    llm_port: int = 0
    front: Path = Path()  # Nginx's folder
    api: str = ""

    @property
    def url(self) -> str:
        """Where clients go."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def query(self) -> str:
        """Where queries go."""
        return f"{self.url}/api/v1/query"


def start(stack: ExitStack, folder: Path, wanted: Topology) -> Running:
    """Starts it; returns when it serves. Raises RuntimeError with the end of the log of what does not come up."""
    folder.chmod(0o755)  # PostgreSQL and Nginx's workers run as other users when we are root
    running = Running()
    running.api = flow_api(stack, folder, wanted.stand_in_cpu)
    if wanted.profile is not None:
        running.llm_port = simulated_llm(stack, folder, wanted.profile, wanted.stand_in_cpu)
    else:
        running.llm_port = stand_in_llm(stack, folder, wanted.stand_in_cpu)
    config = wanted.config or write_workflow(folder, running.api, wanted.rules)
    environ = {
        "LOADSPLIT_TICKET_SECRET": SECRET,
        "LOADSPLIT_DATA_DIR": str(folder / "data"),
        "LOADSPLIT_HANDOFF": "accel",
        "OPENAI_API_KEY": "none",
        "OPENAI_BASE_URL": f"http://127.0.0.1:{running.llm_port}/v1",
        "OPENAI_MODEL": "gpt-4.1-mini",
    }
    if wanted.redis:
        running.redis_port = redis_server(stack, folder, wanted.redis_cpu)
        environ["LOADSPLIT_REDIS_URL"] = f"redis://127.0.0.1:{running.redis_port}/0"
    if wanted.postgres:
        running.database = stack.enter_context(postgres_server(folder))
        environ["LOADSPLIT_DATABASE_URL"] = running.database
    environ |= wanted.environ
    if wanted.single:
        environ.pop("LOADSPLIT_HANDOFF", None)
        running.port, process = tier(stack, folder, "serve", config, environ, wanted.rule_cpu)
        running.lightweight, running.heavy = [process], [process]
        running.lightweight_ports = running.heavy_ports = [running.port]
        return running
    started = [(role, *_spawn(stack, folder, role, config, environ, cpu)) for role, cpu in _roles(wanted)]
    for role, port, process in started:
        wait_ready(f"http://127.0.0.1:{port}/readyz", process)
        getattr(running, role).append(process)
        getattr(running, f"{role}_ports").append(port)
    if wanted.front:
        running.port = nginx_front(stack, folder, running.lightweight_ports, running.heavy_ports, wanted.front_cpu)
        running.front = folder / f"nginx-{running.port}"
    else:
        running.port = (running.lightweight_ports or running.heavy_ports)[0]
    return running


def _roles(wanted: Topology) -> list[tuple[str, int | None]]:
    return [("lightweight", wanted.rule_cpu)] * wanted.lightweight + [("heavy", wanted.heavy_cpu)] * wanted.heavy


def tier(stack: ExitStack, folder: Path, role: str, config: Path, environ: dict[str, str], cpu: int | None) -> tuple[int, Process]:
    """One process of a tier that serves, and its port."""
    port, process = _spawn(stack, folder, role, config, environ, cpu)
    wait_ready(f"http://127.0.0.1:{port}/readyz", process)
    return port, process


def _spawn(stack: ExitStack, folder: Path, role: str, config: Path, environ: dict[str, str], cpu: int | None) -> tuple[int, Process]:
    port = free_port()
    command = ["env", *(f"{k}={v}" for k, v in environ.items()), LOADSPLIT, role, "--port", str(port), "--config", str(config)]
    return port, stack.enter_context(Process(command, log=folder / f"{role}-{port}.log", cpu=cpu, grace=5))


def reference(stack: ExitStack, folder: Path, module: str, *arguments: str, cpu: int | None = SERVER_CPU) -> tuple[int, Process]:
    """A server of loadtests.references, and its port."""
    port = free_port()
    command = [sys.executable, "-m", f"loadtests.references.{module}", "--port", str(port), *arguments]
    process = stack.enter_context(Process(command, log=folder / f"reference-{port}.log", cpu=cpu, grace=5))
    wait_listening(port, process)
    return port, process


def stand_in_llm(stack: ExitStack, folder: Path, cpu: int | None = LOAD_CPU) -> int:
    """The LLM that costs next to nothing; its port."""
    return reference(stack, folder, "bare_llm", cpu=cpu)[0]


def simulated_llm(stack: ExitStack, folder: Path, profile: Path, cpu: int | None = LOAD_CPU) -> int:
    """The LLM simulator with a profile; its port."""
    port = free_port()
    command = [LOADSPLIT, "simulate", "llm", "--port", str(port), "--profile", str(profile)]
    process = stack.enter_context(Process(command, log=folder / "llm.log", cpu=cpu, grace=5))
    wait_listening(port, process)
    return port


def nginx_static(stack: ExitStack, folder: Path, answer: str, cpu: int | None) -> str:
    """An Nginx that answers everything with the same JSON at once; its URL."""
    port = free_port()
    home = folder / f"static-{port}"
    home.mkdir()
    as_root = "user root; " if os.geteuid() == 0 else ""  # else its worker could not enter the private folder
    config = home / "nginx.conf"
    config.write_text(
        f"{as_root}daemon off; pid {home}/nginx.pid; error_log {home}/error.log; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {home}/body; keepalive_requests 100000000;\n"
        f"server {{ listen 127.0.0.1:{port}; location / {{ default_type application/json; return 200 '{answer}'; }} }} }}\n"
    )
    process = stack.enter_context(Process(["nginx", "-c", str(config), "-p", str(home)], log=home / "out.log", cpu=cpu, grace=5))
    wait_ready(f"http://127.0.0.1:{port}/", process)
    return f"http://127.0.0.1:{port}/"


def flow_api(stack: ExitStack, folder: Path, cpu: int | None = LOAD_CPU) -> str:
    """A business API that answers at once; the URL to book at."""
    return nginx_static(stack, folder, '{"status": "ok", "id": 1}', cpu) + "book"


def redis_server(stack: ExitStack, folder: Path, cpu: int | None = LOAD_CPU) -> int:
    """A private Redis; its port."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = stack.enter_context(Process(command, log=folder / f"redis-{port}.log", cpu=cpu, grace=5))
    wait_listening(port, process)
    return port


def nginx_front(stack: ExitStack, folder: Path, lightweight: Sequence[int], heavy: Sequence[int], cpu: int | None) -> int:
    """Nginx with the project's own configuration in front of these ports; its port."""
    port = free_port()
    home = folder / f"nginx-{port}"
    (home / "run").mkdir(parents=True)
    for path in (folder, home, home / "run"):
        path.chmod(0o755)
    command = [sys.executable, "-m", "nginx", "--out", str(home), "--listen", f"127.0.0.1:{port}", "--run-dir", str(home / "run")]
    for role, ports in (("lightweight", lightweight), ("heavy", heavy)):
        command += [f"--{role}", *(f"127.0.0.1:{one}" for one in ports)]
    command += ["--access-log", "off", "--worker-processes", "1", "--connections-per-client", "20000"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip())
    command = ["nginx", "-e", "stderr", "-p", str(home), "-c", "nginx.conf"]
    process = stack.enter_context(Process(command, log=home / "out.log", cpu=cpu, grace=5))
    wait_listening(port, process)
    return port
