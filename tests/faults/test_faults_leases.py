"""A heavy replica frozen or killed in the middle of turns: another one takes over, late writes are refused, each turn has one answer."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from tests.support.client import Client, StreamEvent, said
from tests.support.running import Running
from tests.support.services import PostgresServer, find_binary
from tests.support.split import Split, metric
from tests.support.waiting import wait_until_sync

# The lease (10 s) and the pass that looks for ended ones (every 2 s), with time to spare.
TAKEN_OVER = 25.0


def state(client: Client, turn_id: str) -> str:
    return str(client.call("GET", f"/api/v1/turns/{turn_id}").json["state"])


def assert_one_answer(client: Client, session: str, turn_id: str, words: str) -> list[StreamEvent]:
    """The history, the turn and its events tell the same, once."""
    answers = [text for role, text in client.messages(session) if role == "assistant"]
    assert answers == [words]
    turn = client.call("GET", f"/api/v1/turns/{turn_id}").json
    assert (turn["state"], turn["result"]["message"]) == ("done", words)
    events = list(client.resume(turn_id, 0))
    assert [e.id for e in events] == list(range(1, len(events) + 1))
    assert [e.type for e in events if e.type != "text"] == ["start", "route", "complete"]
    assert said(events) == words
    return events


def test_a_frozen_owner_writes_nothing_late(split: Split, llm: Running) -> None:
    """It is frozen while its LLM call is open; when it thaws the answer lies in its socket, but the turn is another node's."""
    frozen, other = split.heavy[0], split.heavy[1].client
    logged, lost = len(frozen.log()), metric(frozen.client, "lease_lost_total")
    stream = split.client.stream("a late answer", "frozen-owner")
    turn_id = stream.take(2)[0].data["turn_id"]
    wait_until_sync(lambda: "a late answer" in str(llm.client.call("GET", "/stats").json["last"][-1:]), "the LLM is asked")
    os.killpg(frozen.process.pid, signal.SIGSTOP)
    try:
        wait_until_sync(lambda: state(other, turn_id) == "done", "another replica ends the turn", TAKEN_OVER)
    finally:
        os.killpg(frozen.process.pid, signal.SIGCONT)
    assert stream.take(50)[-1].type in ("complete", "text")
    wait_until_sync(lambda: metric(frozen.client, "turns_inflight") == 0, "the thawed replica lets go of the turn")
    assert metric(frozen.client, "lease_lost_total") == lost + 1
    events = assert_one_answer(other, "frozen-owner", turn_id, "Slow words.")
    assert list(frozen.client.resume(turn_id, 0)) == events
    assert other.call("GET", f"/api/v1/turns/{turn_id}").json["attempt"] == 2
    assert '"exception"' not in frozen.log()[logged:]
    assert split.client.ask("tell me something", "frozen-owner").json["message"] == "Plain words."


@contextlib.contextmanager
def lock_on_session(database: str, session: str) -> Iterator[None]:
    """Holds a session's row: a turn of the session can't commit as long."""
    with subprocess.Popen([find_binary("psql"), "-XAtq", database], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as psql:
        assert psql.stdin is not None
        assert psql.stdout is not None
        psql.stdin.write(f"BEGIN; SELECT 'locked' FROM sessions WHERE session_id = '{session}' FOR UPDATE;\n")
        psql.stdin.flush()
        assert psql.stdout.readline() == "locked\n"
        yield
        psql.stdin.close()


def test_killed_between_the_answer_and_the_commit(split: Split, postgres: PostgresServer, database: str) -> None:
    """Twenty turns at different points when the replica is killed; one more is held exactly before its commit, which never arrives."""
    killed, other = split.heavy[0], split.heavy[1].client
    turns: dict[str, str] = {}
    name = database.rpartition("/")[2]
    waiting = f"FROM pg_stat_activity WHERE datname = '{name}' AND wait_event_type = 'Lock'"

    def begin(number: int) -> None:
        stream = split.client.stream(f"staggered {number}", f"kill-{number}")
        turns[f"kill-{number}"] = stream.take(1)[0].data["turn_id"]
        with contextlib.suppress(OSError, http.client.HTTPException):
            list(stream)

    held = split.client.stream("a slow answer", "kill-held")
    turns["kill-held"] = held.take(1)[0].data["turn_id"]
    with lock_on_session(database, "kill-held"), ThreadPoolExecutor(20) as pool:
        wait_until_sync(lambda: postgres.sql(f"SELECT count(*) {waiting}") != "0", "the answer is there and its commit waits")
        pending = [pool.submit(begin, n) for n in range(20)]
        wait_until_sync(lambda: len(turns) == 21, "all turns are accepted")
        threading.Event().wait(random.Random(5).uniform(0.05, 0.3))
        killed.kill()
        # the commit itself, and at times the renewal of the leases, which waits behind it
        assert postgres.sql(f"SELECT count(pg_terminate_backend(pid)) {waiting}") in ("1", "2")
        for p in pending:
            p.result()
    held.close()
    killed.start()
    answers = {f"kill-{n}": f"Answer {n}." for n in range(20)} | {"kill-held": "Slow words."}
    for session, words in answers.items():
        wait_until_sync(lambda s=session: state(other, turns[s]) == "done", f"the turn of {session} is ended", TAKEN_OVER)  # type: ignore[misc]
        assert_one_answer(other, session, turns[session], words)
    attempts = [other.call("GET", f"/api/v1/turns/{turns[s]}").json["attempt"] for s in answers]
    assert attempts[-1] == 2
    assert set(attempts) == {1, 2}  # some had committed when the replica died
