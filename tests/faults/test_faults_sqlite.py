"""A single process on SQLite whose disk is full or whose file another process holds: 503, nothing half written, use again afterwards."""

from __future__ import annotations

import contextlib
import resource
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.running import Running, serve
from tests.support.shop import write_workflow
from tests.support.waiting import wait_until_sync


@pytest.fixture(scope="module")
def single(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`loadsplit serve` on its default database."""
    folder = tmp_path_factory.mktemp("sqlite")
    with serve(write_workflow(folder), folder, env) as server:
        yield server


def database(single: Running) -> Path:
    return single.folder / "data" / "loadsplit.db"


@contextlib.contextmanager
def full_disk(single: Running) -> Iterator[None]:
    """No file of the process may grow: what a write to a full disk looks like."""
    largest = max(f.stat().st_size for f in (single.folder / "data").iterdir())
    before = resource.prlimit(single.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(single.process.pid, resource.RLIMIT_FSIZE, (min(largest, 4096), before[1]))
    try:
        yield
    finally:
        resource.prlimit(single.process.pid, resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def locked(single: Running) -> Iterator[None]:
    """Another connection writes and does not end."""
    other = sqlite3.connect(database(single), isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


@pytest.mark.parametrize("fault", [full_disk, locked])
def test_nothing_can_be_written(single: Running, fault: object) -> None:
    client, session = single.client, f"sqlite-{getattr(fault, '__name__', '')}"
    acknowledged = [client.ask(f"tell me something {n}", session).json["turn_id"] for n in range(3)]
    with fault(single):  # type: ignore[operator]
        answer = client.ask("tell me something", session)
        assert (answer.status, answer.json["code"], answer.json["retryable"]) == (503, "dependency_unavailable", True)
        assert answer.headers["retry-after"]
        assert b"sqlite" not in answer.body.lower()
        for n in range(20):
            assert client.ask("opening hours", f"{session}-rule-{n}").json["message"] == "We open at 9."
        assert client.call("GET", f"/api/v1/turns/{acknowledged[0]}").json["state"] == "done"  # reading goes on
    assert client.ask("tell me something new", session).json["message"] == "Plain words."
    assert [text for role, text in client.messages(session) if role == "user"][:3] == [f"tell me something {n}" for n in range(3)]
    assert client.messages(session)[-2:] == [("user", "tell me something new"), ("assistant", "Plain words.")]
    wait_until_sync(lambda: client.call("GET", f"/api/v1/session/{session}-rule-19").status == 200, "the rules' turns are written")
    check = sqlite3.connect(database(single))
    assert check.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    check.close()
