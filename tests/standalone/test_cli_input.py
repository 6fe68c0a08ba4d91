"""Bad input to a command: one clear line on stderr, exit code 2, no traceback."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from tests.support.running import LOADSPLIT
from tests.support.shop import WORKFLOW, write_workflow


def run(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": "/usr/bin:/bin", **(env or {})}
    return subprocess.run([LOADSPLIT, *arguments], cwd=cwd, env=environ, capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["serve", "--port", "x"], "--port"),
        (["serve"], "LOADSPLIT_CONFIG is not set"),
        (["serve", "--config", "missing.json"], "missing.json:1:1"),
        (["nope"], "nope"),
        (["up"], "--config"),
        (["up", "--config", "w.json", "--heavy", "0"], "--heavy"),
        (["check"], "files"),
        (["check", "missing.json"], "missing.json"),
        (["match", "missing.json", "hello"], "missing.json"),
        (["migrate", "--x"], "--x"),
        (["simulate", "llm", "--profile", "missing.yaml"], "missing.yaml"),
        (["chat", "--url", "http://127.0.0.1:9"], "nothing answers"),
    ],
)
def test_one_line(arguments: list[str], part: str, tmp_path: Path) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert part in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("env", "part"),
    [
        ({"LOADSPLIT_DATABSE_URL": "x"}, "did you mean LOADSPLIT_DATABASE_URL?"),
        ({"LOADSPLIT_DATABASE_URL": "mysql://x"}, "LOADSPLIT_DATABASE_URL"),
        ({"LOADSPLIT_REDIS_URL": "http://x"}, "LOADSPLIT_REDIS_URL"),
        ({"LOADSPLIT_MAX_INFLIGHT": "0"}, "LOADSPLIT_MAX_INFLIGHT"),
        ({"LOADSPLIT_EGRESS_ALLOW": "10.0.0.0/99"}, "10.0.0.0/99"),
        ({"LOADSPLIT_API_KEYS": "missing.json"}, "missing.json"),
        ({"LOADSPLIT_MODELS": "missing.yaml"}, "missing.yaml"),
        ({"LOADSPLIT_DATABASE_URL": "sqlite:////proc/none/x.db"}, "database"),
    ],
)
def test_a_bad_setting_stops_the_start(env: dict[str, str], part: str, tmp_path: Path) -> None:
    config = write_workflow(tmp_path)
    done = run("serve", "--config", str(config), "--port", "0", cwd=tmp_path, env={**env, "BUSINESS": "http://127.0.0.1:9"})
    assert done.returncode == 2
    assert part in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = run("serve", "--config", str(write_workflow(tmp_path)), "--port", port, cwd=tmp_path, env={"BUSINESS": "http://127.0.0.1:9"})
    assert done.returncode == 2
    assert done.stderr == f"loadsplit: port {port} on 127.0.0.1 is in use: stop what listens there, or choose another with --port\n"


def test_no_keys_no_public_address(tmp_path: Path) -> None:
    done = run("serve", "--config", str(write_workflow(tmp_path)), "--host", "0.0.0.0", cwd=tmp_path)
    assert done.returncode == 2
    assert "--insecure" in done.stderr


def test_an_invalid_workflow_tells_every_problem(tmp_path: Path) -> None:
    flows = [*WORKFLOW["flows"], {"flow_id": "hours", "trigger_patterns": ["(?=x)y"], "response_templat": "x"}]
    config = write_workflow(tmp_path, flows=flows)
    done = run("serve", "--config", str(config), cwd=tmp_path, env={"BUSINESS": "http://127.0.0.1:9"})
    assert done.returncode == 2
    assert "did you mean 'response_template'" in done.stderr
    assert "look-ahead" in done.stderr
    assert done.stderr.count("workflow.json:1:") >= 3  # duplicate id too


def test_without_a_command_the_list_of_them(tmp_path: Path) -> None:
    done = run(cwd=tmp_path)
    assert done.returncode == 2
    assert "simulate" in done.stdout
