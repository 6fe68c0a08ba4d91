"""Streams under fire on two replicas: dropped and resumed, read after the end, read too slowly, cancelled, and their server told to end."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.faults.test_faults_sessions import ended, ticket, turn
from tests.support.client import Client, StreamEvent, said
from tests.support.fault_agents import write_agents, write_models
from tests.support.odd_api import OddApi
from tests.support.running import Running
from tests.support.services import PostgresServer
from tests.support.split import Split, resident, split_of
from tests.support.waiting import wait_until_sync


def calls(llm: Running) -> int:
    return int(llm.client.call("GET", "/stats").json["calls"])


def assert_whole(events: list[StreamEvent]) -> None:
    """Every event once, in order, and the deltas make the message."""
    assert [e.id for e in events] == list(range(1, len(events) + 1))
    assert [e.type for e in events if e.type != "text"] == ["start", "route", "complete"]
    assert said(events) == events[-1].data["message"]


def test_dropped_at_event_57_and_resumed_on_the_other_replica(split: Split, llm: Running) -> None:
    """58 and all others follow, without a gap or a repeat; the model is not asked again."""
    here, there = (h.client for h in split.heavy)
    before = calls(llm)
    stream = here.stream("a slow story", "drop-1", headers=ticket("drop-1"))
    seen = stream.take(57)
    stream.close()
    rest = list(there.resume(seen[0].data["turn_id"], 57))
    assert rest[0].id == 58
    assert_whole([*seen, *rest])
    assert calls(llm) == before + 2  # the intent match and the story


def test_its_replica_dies_and_the_other_one_goes_on(split: Split) -> None:
    """The reader that comes back sees what it has seen continued to one whole message, though the model tells its story anew."""
    here, there = split.heavy[0], split.heavy[1].client
    stream = here.client.stream("a slow story", "drop-2", headers=ticket("drop-2"))
    seen = stream.take(57)
    here.kill()
    stream.close()
    assert_whole([*seen, *there.resume(seen[0].data["turn_id"], 57)])


def test_read_after_the_end_and_after_the_retention(split: Split, postgres: PostgresServer, database: str) -> None:
    events = list(split.client.stream("tell me something", "late-1"))
    turn_id = events[0].data["turn_id"]
    for replica in split.heavy:
        assert list(replica.client.resume(turn_id, 0)) == events
        assert list(replica.client.resume(turn_id, events[-1].id - 1)) == events[-1:]
    postgres.sql(f"UPDATE turns SET finished_at = finished_at - 3700 WHERE turn_id = '{turn_id}'", database.rpartition("/")[2])
    for replica in split.heavy:
        gone = replica.client.call("GET", f"/api/v1/turns/{turn_id}/stream")
        assert (gone.status, gone.json["code"]) == (410, "gone")
    assert turn(split.client, turn_id)["state"] == "done"


@pytest.mark.parametrize("cursor", ["-1", "57x", "1e3", "9999999999", ""])
def test_cursors_that_lie(split: Split, cursor: str) -> None:
    turn_id = split.client.ask("tell me something", "late-2").json["turn_id"]
    refused = split.client.call("GET", f"/api/v1/turns/{turn_id}/stream", headers={"Last-Event-ID": cursor})
    assert (refused.status, refused.json["field"]) == (400, "Last-Event-ID")


def test_a_cursor_past_the_end_tells_how_it_ended(split: Split) -> None:
    events = list(split.client.stream("tell me something", "late-3"))
    for replica in split.heavy:
        assert [e.type for e in replica.client.resume(events[0].data["turn_id"], 5000)] == ["complete"]


def test_a_cancelled_stream_ends_upstream_at_once(split: Split, llm: Running) -> None:
    """Asked on the other replica: the connection to the model is closed within a second, and `cancelled` is the last event for all."""
    here, there = (h.client for h in split.heavy)
    stream = here.stream("a slow story", "cancel-1", headers=ticket("cancel-1"))
    seen = stream.take(10)
    turn_id = seen[0].data["turn_id"]
    assert there.call("POST", f"/api/v1/turns/{turn_id}/cancel").status == 202
    wait_until_sync(lambda: llm.client.call("GET", "/stats").json["open"] == 0, "the connection to the model is closed", 1)
    events = [*seen, *stream]
    assert [e.type for e in events if e.type != "text"] == ["start", "route", "cancelled"]
    assert list(there.resume(turn_id, 0)) == events
    time.sleep(0.2)  # a later event would come now
    assert list(there.resume(turn_id, 0)) == events


@contextlib.contextmanager
def slow_reader(client: Client, turn_id: str) -> Iterator[socket.socket]:
    """An open stream whose socket takes next to nothing."""
    at = urlsplit(client.url)
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        s.connect((at.hostname or "", at.port or 0))
        s.sendall(f"GET /api/v1/turns/{turn_id}/stream HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        yield s


@contextlib.contextmanager
def read_slowly(split: Split, session: str) -> Iterator[tuple[str, list[socket.socket], int]]:
    """Twenty readers of 4 MB who take a byte in a while; the turn's id, the sockets, and what such a turn alone leaves the replica with."""
    client = split.heavy[0].client
    assert client.ask("a flood of words", f"{session}-alone", headers=ticket(f"{session}-alone")).status == 200
    before = resident(split.heavy[0])
    stream = client.stream("a flood of words", session, headers=ticket(session))
    turn_id = stream.take(1)[0].data["turn_id"]
    stream.close()
    with contextlib.ExitStack() as stack:
        yield turn_id, [stack.enter_context(slow_reader(client, turn_id)) for _ in range(20)], before


def test_readers_who_take_a_byte_now_and_then(split: Split) -> None:
    """The turn goes on to its end, others are served, and what the server holds for such a reader is bounded: 20 of 4 MB in < 40 MB."""
    with read_slowly(split, "slow-1") as (turn_id, sockets, before):
        assert ended(split.heavy[1].client, turn_id)["state"] == "done"
        assert all(len(s.recv(1)) == 1 for s in sockets)
        assert split.heavy[0].client.ask("tell me something", "slow-2", headers=ticket("slow-2")).json["message"] == "Plain words."
        assert resident(split.heavy[0]) - before < 40_000_000
        assert len(list(split.heavy[1].client.resume(turn_id, 0))) > 100


@pytest.mark.long
@pytest.mark.timeout(120)
def test_a_reader_who_takes_nothing_is_closed(split: Split) -> None:
    """After 60 seconds without progress; the turn has ended long before."""
    with read_slowly(split, "slow-3") as (turn_id, sockets, _):
        assert ended(split.heavy[1].client, turn_id)["state"] == "done"
        assert all(is_connected(split.heavy[0], s) for s in sockets)
        wait_until_sync(lambda: none_connected(split.heavy[0], sockets), "the server has closed them", 90)


def none_connected(server: Running, readers: list[socket.socket]) -> bool:
    return not any(is_connected(server, reader) for reader in readers)


def is_connected(server: Running, reader: socket.socket) -> bool:
    """Whether the server holds its end of the connection."""
    ours, theirs = f":{server.port:04X}", f":{reader.getsockname()[1]:04X}"
    with open("/proc/net/tcp") as table:
        return any(f[1].endswith(ours) and f[2].endswith(theirs) and f[3] == "01" for f in map(str.split, table))


@pytest.fixture
def short_split(env: dict[str, str], redis_database: str, postgres_database: str, odd_api: OddApi, tmp_path: Path) -> Iterator[Split]:
    """A split whose processes have four seconds to end."""
    stores = {"LOADSPLIT_REDIS_URL": redis_database, "LOADSPLIT_DATABASE_URL": postgres_database, "LOADSPLIT_DRAIN_SECONDS": "4"}
    models = {"LOADSPLIT_MODELS": str(write_models(tmp_path, env["OPENAI_BASE_URL"].removesuffix("/v1"), odd_api.url))}
    with split_of(write_agents(tmp_path, odd_api.port), tmp_path, {**env, **stores, **models}) as split:
        yield split


def read_through(split: Split, session: str, message: str, begun: set[str]) -> list[StreamEvent]:
    """All events of a turn that begins on the first replica, read on from the second one where the connection ends."""
    seen: list[StreamEvent] = []
    stream = split.heavy[0].client.stream(message, session, headers=ticket(session))
    while True:
        with contextlib.suppress(OSError, http.client.HTTPException, json.JSONDecodeError):
            for event in stream:
                seen.append(event)
                begun.add(session)
        if seen[-1].type in ("complete", "error", "cancelled"):
            return seen
        stream = split.heavy[1].client.resume(seen[0].data["turn_id"], seen[-1].id)


def test_sigterm_with_fifty_streams(short_split: Split) -> None:
    """Half of them end in time, the others are given up at once and told on by the other replica: none has a gap."""
    split, begun = short_split, set[str]()
    with ThreadPoolExecutor(50) as pool:
        asked = [("a slow answer", "term-a"), ("a very long story", "term-b")] * 25
        reading = [pool.submit(read_through, split, f"{session}-{n}", message, begun) for n, (message, session) in enumerate(asked)]
        wait_until_sync(lambda: len(begun) == 50, "all have begun")
        os.killpg(split.heavy[0].process.pid, signal.SIGTERM)
        assert split.heavy[0].process.wait(20) == 0
        told = [r.result() for r in reading]
    for events in told:
        assert_whole(events)
    assert [events[-1].data["message"].split()[-1] for events in told] == ["words.", "word399"] * 25
    attempts = [turn(split.heavy[1].client, events[0].data["turn_id"])["attempt"] for events in told]
    assert attempts == [1, 2] * 25
