"""Redis frozen, killed and wiped, PostgreSQL away: rules are answered all the time, LLM turns by what the database knows."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.client import Client
from tests.support.odd_api import OddApi
from tests.support.redis_client import redis_command
from tests.support.services import PostgresServer, RedisServer
from tests.support.split import Split, metric
from tests.support.waiting import wait_until_sync

HOURS = "opening hours"


def ask_rules(client: Client, session: str, count: int) -> list[float]:
    """The seconds of each of so many rule hits, all of which must be answered."""
    times = []
    for n in range(count):
        start = time.monotonic()
        answer = client.ask(HOURS, f"{session}-{n}")
        times.append(time.monotonic() - start)
        assert (answer.status, answer.json["message"]) == (200, "We open at 9.")
    return times


def is_recorded(split: Split) -> bool:
    """Whether a rule hit is journalled now, and an LLM turn knows the hot store again."""
    before = metric(split.client, "unrecorded_turns_total")
    split.client.ask(HOURS, "probe")
    checks = split.heavy[0].client.call("GET", "/api/v1/health").json
    return metric(split.client, "unrecorded_turns_total") == before and checks["status"] == "healthy"


@pytest.fixture
def whole_redis(redis: RedisServer, split: Split) -> Iterator[RedisServer]:
    yield redis
    redis.thaw()
    if redis.process is None:
        redis.start()
    wait_until_sync(lambda: is_recorded(split), "Redis is used again", 5)


@pytest.fixture
def whole_postgres(postgres: PostgresServer, split: Split) -> Iterator[PostgresServer]:
    yield postgres
    if postgres.process is None:
        postgres.start()
    wait_until_sync(lambda: split.client.ask("tell me something", "probe").status == 200, "PostgreSQL is used again", 10)


def test_a_frozen_redis(split: Split, whole_redis: RedisServer) -> None:
    """One short delay in each tier, then the bypass; what was not recorded is counted; nothing of it is written late."""
    client, redis = split.client, whole_redis
    ask_rules(client, "frozen-warm", 3)
    assert client.ask("returns desk, which one?", "frozen-1").json["message"] == "Which order is it?"
    unrecorded = metric(client, "unrecorded_turns_total")
    redis.freeze()
    times = ask_rules(client, "frozen-rule", 30)
    assert max(times) < 0.5
    assert sorted(times)[-2] < 0.1
    assert metric(client, "unrecorded_turns_total") == unrecorded + 30
    start = time.monotonic()
    assert client.ask("tell me something", "frozen-2").json["message"] == "Plain words."
    assert time.monotonic() - start < 2
    assert client.ask("tell me something", "frozen-2").json["message"] == "Plain words."
    events = list(client.stream("returns desk please", "frozen-3"))
    assert [e.type for e in events if e.type.startswith("tool")] == ["tool_call", "tool_result"] * 2
    assert events[-1].type == "complete"
    # The conversation goes on by what the database knows, and this turn ends it.
    assert client.ask("returns desk please", "frozen-1").json["route"]["action_target"] == "returns_desk"
    redis.thaw()
    wait_until_sync(lambda: is_recorded(split), "Redis is used again", 5)
    assert len(client.messages("frozen-2")) == 4
    assert client.ask(HOURS, "frozen-2").json["route"]["matched_by"] == "rule"
    wait_until_sync(lambda: len(client.messages("frozen-2")) == 6, "the rule's turn is in the history")
    assert client.ask("tell me something", "frozen-1").json["message"] == "Plain words."
    said = [text for role, text in client.messages("frozen-1") if role == "user"]
    assert said == ["returns desk, which one?", "returns desk please", "tell me something"]


def test_what_was_sent_to_a_frozen_redis_does_no_harm_after_the_thaw(split: Split, whole_redis: RedisServer) -> None:
    """The end of a turn is told to a frozen Redis; the next turn changes the session's state; then the old word arrives."""
    client, redis = split.client, whole_redis
    events = client.stream("returns desk, take your time", "late-write")
    events.take(2)
    redis.freeze()
    assert list(events)[-1].type == "complete"
    assert client.ask("returns desk please", "late-write").json["message"].endswith("Your return is open.")
    assert client.call("GET", "/api/v1/session/late-write").json["workflow_state"]["status"] == "ready"
    redis.thaw()
    wait_until_sync(lambda: is_recorded(split), "Redis is used again", 5)
    assert client.ask(HOURS, "late-write").json["message"] == "We open at 9."  # by whichever tier: the database knows the state
    assert client.ask(HOURS, "late-write").json["route"]["tier"] == "lightweight"


def test_a_key_that_came_while_redis_was_frozen(split: Split, whole_redis: RedisServer, odd_api: OddApi) -> None:
    """The LLM tier took the rule's place; after the thaw the rule does not answer as if the request were new."""
    client, headers, port = split.client, {"Idempotency-Key": "frozen-key"}, whole_redis.port
    whole_redis.freeze()
    first = client.ask("call apply", "frozen-key", agent_id="odd", headers=headers)
    assert (first.status, first.json["message"], first.json["route"]["tier"]) == (200, "Booked as B-1.", "heavy")
    whole_redis.thaw()
    wait_until_sync(lambda: is_recorded(split), "Redis is used again", 5)
    mark = f" {first.json['turn_id']} ".encode()

    def marked() -> bool:
        held = [redis_command(port, "GET", key) or b"" for key in redis_command(port, "KEYS", "ls:idem:*")]
        return any(value.startswith(b"h") and mark in value for value in held)

    wait_until_sync(marked, "the key is marked", 5)
    again = client.ask("call apply", "frozen-key", agent_id="odd", headers=headers)
    assert (again.body, again.headers["idempotent-replayed"]) == (first.body, "true")
    assert [keys for body, keys in odd_api.applied.items() if "frozen-key" in body] == [[f"{first.json['turn_id']}:flow:apply"]]


def test_a_killed_redis(split: Split, whole_redis: RedisServer) -> None:
    client, redis = split.client, whole_redis
    client.ask("tell me something", "killed-1")
    redis.kill()
    times = ask_rules(client, "killed-rule", 30)
    assert max(times) < 0.5
    assert client.ask("tell me something", "killed-1").json["message"] == "Plain words."
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda n: client.ask(f"one by one {n}", "killed-2"), range(4)))
    assert [a.status for a in together] == [200] * 4
    assert [role for role, _ in client.messages("killed-2")] == ["user", "assistant"] * 4  # one at a time without Redis, too
    redis.start()
    wait_until_sync(lambda: is_recorded(split), "Redis is used again", 5)
    assert len(client.messages("killed-1")) == 4
    turn = client.ask("tell me something", "killed-1").json["turn_id"]
    assert [e.type for e in client.resume(turn, 0)][-1] == "complete"


def test_a_wiped_redis_loses_no_llm_turn(split: Split, whole_redis: RedisServer) -> None:
    """FLUSHALL while turns come in: every turn that was acknowledged is in the history, once and in order."""
    client, redis = split.client, whole_redis
    client.ask("returns desk, which one?", "wiped-desk")

    def talk(session: int) -> list[str]:
        return [client.ask(f"tell me something {n}", f"wiped-{session}").json["turn_id"] for n in range(5)]

    with ThreadPoolExecutor(5) as pool:
        turns = [pool.submit(talk, s) for s in range(4)]
        for _ in range(5):
            redis_command(redis.port, "FLUSHALL")
        acknowledged = [t.result() for t in turns]
    redis_command(redis.port, "FLUSHALL")
    for session, ids in enumerate(acknowledged):
        said = [text for role, text in client.messages(f"wiped-{session}") if role == "user"]
        assert said == [f"tell me something {n}" for n in range(5)]
        for turn_id in ids:
            assert client.call("GET", f"/api/v1/turns/{turn_id}").json["state"] == "done"
            assert [e.type for e in client.resume(turn_id, 0)][-1] == "complete"
    assert client.ask("the A1001 one", "wiped-desk").json["route"]["matched_by"] == "conversation"
    assert is_recorded(split)  # the journal's consumer group is made again


@pytest.mark.timeout(180)
@pytest.mark.parametrize("seconds", [0, pytest.param(60, marks=pytest.mark.long)])
def test_postgres_away(split: Split, whole_postgres: PostgresServer, seconds: int) -> None:
    """Longer than the grace of a restart: 503 for LLM turns, rules as ever, and all that was accepted is there afterwards."""
    client, postgres = split.client, whole_postgres
    acknowledged = [client.ask("tell me something", f"away-{n}").json["turn_id"] for n in range(3)]
    running = client.stream("a slow answer", "away-running")
    turn_id = running.take(2)[0].data["turn_id"]
    postgres.stop()
    try:
        with ThreadPoolExecutor(6) as pool:
            answers = list(pool.map(lambda n: client.ask("tell me something", f"away-new-{n}"), range(6)))
        for answer in answers:
            assert (answer.status, answer.json["code"], answer.json["retryable"]) == (503, "dependency_unavailable", True)
            assert answer.headers["retry-after"] == "1"
            assert b"postgres" not in answer.body.lower()
        start = time.monotonic()
        assert client.ask("tell me something", "away-new-0").status == 503
        assert time.monotonic() - start < 0.5
        assert max(ask_rules(client, "away-rule", 50)) < 0.5
        assert client.call("GET", "/api/v1/session/away-0").status == 503
        for _ in range(seconds):
            time.sleep(1)
            assert client.ask("tell me something", "away-new-0").status == 503
            assert max(ask_rules(client, "away-rule", 5)) < 0.5
    finally:
        postgres.start()
    wait_until_sync(lambda: client.ask("tell me something", "away-new-0").status == 200, "PostgreSQL is used again", 5)
    for n, acknowledged_id in enumerate(acknowledged):
        assert client.call("GET", f"/api/v1/turns/{acknowledged_id}").json["state"] == "done"
        assert client.ask("tell me something", f"away-{n}").json["message"] == "Plain words."
        assert len(client.messages(f"away-{n}")) == 4
    wait_until_sync(lambda: client.call("GET", "/api/v1/session/away-rule-49").status == 200, "the rules' turns are in the database")
    last = list(running)[-1]  # its reader has waited, or was told to come back
    assert last.type == "complete" or last.data["code"] == "dependency_unavailable"
    wait_until_sync(lambda: client.call("GET", f"/api/v1/turns/{turn_id}").json["state"] == "done", "the running turn is ended", 15)
    assert list(client.resume(turn_id, 0))[-1].type == "complete"
    assert client.messages("away-running") == [("user", "a slow answer"), ("assistant", "Slow words.")]


def test_a_restart_of_postgres_is_not_seen(split: Split, whole_postgres: PostgresServer) -> None:
    client, postgres = split.client, whole_postgres
    client.ask("tell me something", "restart-0")
    with ThreadPoolExecutor(4) as pool:
        turns = [pool.submit(client.ask, f"one by one {n}", f"restart-{n % 4}") for n in range(12)]
        postgres.stop()
        postgres.start()
        assert [t.result().status for t in turns] == [200] * 12


@pytest.mark.parametrize(("message", "status"), [("talk to a human", "transferred"), ("returns desk, which one?", "in_conversation")])
def test_a_state_that_redis_missed_is_shown_when_it_is_back(split: Split, whole_redis: RedisServer, message: str, status: str) -> None:
    """A rule must not answer in a session that was handed to a human, or to a skill, while Redis was away."""
    client, session = split.client, f"missed-{status}"
    assert client.ask(HOURS, session).json["message"] == "We open at 9."
    whole_redis.freeze()
    client.ask(message, session)
    whole_redis.thaw()
    wait_until_sync(lambda: is_recorded(split), "Redis is used again", 5)
    key = f"ls:{{default/{session}}}:g"
    first = status[0].encode() if status == "transferred" else b"c"
    wait_until_sync(lambda: (redis_command(whole_redis.port, "GET", key) or b"").startswith(first), "the gate is written", 5)
    answer = client.ask(HOURS, session).json
    assert answer["route"]["tier"] == "heavy"
    assert answer["route"]["matched_by"] == "conversation"
