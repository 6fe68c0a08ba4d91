"""Backup and restore: the commands of docs/operations.md, run as they stand there, on both databases, while a server is at work."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.support.running import LOADSPLIT, Running, serve
from tests.support.waiting import wait_until_sync

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
COMMANDS = dict(re.findall(r"```sh\n# ([^\n]*)\n(.*?)```", PAGE.read_text(), re.S))
RULE = {"flow_id": "hours", "trigger_patterns": ["opening hours"], "response_template": "We open at 9."}


def run(commands: str, folder: Path, env: Mapping[str, str]) -> None:
    """The commands of one block of the page, by a shell, as whoever runs the server."""
    path = f"{Path(LOADSPLIT).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=folder,
        env={**os.environ, **env, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def history(server: Running, session: str) -> list[dict[str, Any]] | None:
    """The messages of a session, None where it is not known."""
    answer = server.client.call("GET", f"/api/v1/session/{session}?include=messages&limit=500")
    return answer.json["messages"] if answer.status == 200 else None


@contextmanager
def busy(server: Running, session: str) -> Any:
    """Somebody asks one thing after another meanwhile."""
    stop = threading.Event()

    def ask() -> None:
        while not stop.wait(0.02):
            assert server.client.ask("opening hours", session).status == 200

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        wait_until_sync(lambda: len(history(server, session) or ()) > 10, "somebody is at work")
        yield
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize("database", ["postgresql", "sqlite"])
def test_what_was_backed_up_is_there_again(database: str, request: pytest.FixtureRequest, redis_database: str, tmp_path: Path) -> None:
    env = {"LOADSPLIT_DATA_DIR": str(tmp_path / ".data"), "LOADSPLIT_REDIS_URL": redis_database}
    if database == "postgresql":
        env["LOADSPLIT_DATABASE_URL"] = request.getfixturevalue("postgres_database")
    config = tmp_path / "workflow.json"
    config.write_text(json.dumps({"agent_id": "shop", "flows": [RULE]}))
    with serve(config, tmp_path, env) as server:
        assert server.client.ask("opening hours", "before").status == 200
        wait_until_sync(lambda: len(history(server, "before") or ()) == 2, "the turn is in the database")
        before = history(server, "before")

        with busy(server, "meanwhile"):
            run(COMMANDS[f"backup: {database}"], tmp_path, env)

        assert server.client.ask("opening hours", "after").status == 200
        assert server.client.ask("opening hours", "before").status == 200
        wait_until_sync(lambda: history(server, "after") and len(history(server, "before") or ()) == 4, "the news are in the database")

        assert server.stop() == 0
        run(COMMANDS[f"restore: {database}"], tmp_path, env)
        run(COMMANDS["restore: redis"], tmp_path, env)
        server.start()

        assert history(server, "before") == before
        assert history(server, "after") is None
        meanwhile = history(server, "meanwhile")
        assert meanwhile
        assert [m["role"] for m in meanwhile] == ["user", "assistant"] * (len(meanwhile) // 2)
        assert server.client.ask("opening hours", "before").status == 200
        wait_until_sync(lambda: len(history(server, "before") or ()) == 4, "the session goes on")
        assert "exception" not in server.log()


def test_the_page_has_a_way_back_for_every_way_out() -> None:
    assert {name.partition(": ")[2] for name in COMMANDS if name.startswith("backup")} == {"postgresql", "sqlite"}
    assert {name.partition(": ")[2] for name in COMMANDS if name.startswith("restore")} == {"postgresql", "sqlite", "redis"}
