"""Receivers of webhooks that fail in every way, and stores that are away: back-off, an end to each attempt, no redirect, no loss."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import psutil
import pytest

from tests.faults.conftest import TICKET_SECRET
from tests.support.client import Client
from tests.support.receiver import Message, Receiver
from tests.support.services import PostgresServer, RedisServer
from tests.support.split import Split, metric
from tests.support.waiting import wait_until_sync

HOOKS = "/api/v1/webhooks"


@pytest.fixture
def register(split: Split, receiver: Receiver) -> Iterator[Any]:
    """Registers a webhook at a path of the receiver; it is gone after the test."""
    made: list[str] = []

    def make(path: str, host: str = "127.0.0.1") -> Any:
        body = {"url": f"http://{host}:{receiver.port}{path}", "events": ["session.transferred"]}
        answer = split.client.call("POST", HOOKS, body)
        assert answer.status == 201, answer.body
        made.append(answer.json["webhook_id"])
        return answer.json

    yield make
    for webhook_id in made:
        split.client.call("DELETE", f"{HOOKS}/{webhook_id}")


def messages(client: Client, webhook: Any) -> list[Any]:
    return list(client.call("GET", f"{HOOKS}/deliveries?webhook_id={webhook['webhook_id']}").json["deliveries"])


def transfer(client: Client, session: str) -> None:
    assert client.ask("talk to a human", session).json["status"] == "transferred"


def one_id(tries: list[Message], secret: str) -> str:
    """The id and body that all attempts have in common; each is verified."""
    assert len({(m.id, m.body) for m in tries}) == 1
    assert all(m.verified(secret) for m in tries)
    return tries[0].id


def test_500_slow_302_410(split: Split, receiver: Receiver, register: Any) -> None:
    client = split.client
    receiver.answers["/fault-500"] = [500]
    receiver.answers["/fault-slow"] = ["hang", 204]
    receiver.answers["/fault-302"] = [(302, {"Location": receiver.url + "/landing"})]
    receiver.answers["/fault-410"] = [410]
    receiver.answers["/fault-busy"] = [(503, {"Retry-After": "10"}), 204]
    failing, slow, moved, gone, _ = (register(f"/fault-{name}") for name in ("500", "slow", "302", "410", "busy"))
    transfer(client, "hook-faults")

    def is_row(webhook: Any, **values: Any) -> bool:
        return any(all(row[k] == v for k, v in values.items()) for row in messages(client, webhook))

    # 410: disabled, and the message has failed
    wait_until_sync(lambda: not client.call("GET", f"{HOOKS}/{gone['webhook_id']}").json["enabled"], "it is disabled")
    wait_until_sync(lambda: is_row(gone, status="failed", attempts=1, last_status=410), "its message has failed")
    transfer(client, "hook-faults-2")
    # 500 and 302: failures that are tried again after five seconds, and then after a minute
    for path, webhook, status in (("/fault-500", failing, 500), ("/fault-302", moved, 302)):
        wait_until_sync(lambda path=path: len(receiver.at(path)) >= 4, "both messages are sent again", 12)
        for session in ("hook-faults", "hook-faults-2"):
            first, second = [m for m in receiver.at(path) if m.json["data"]["session_id"] == session]
            assert 5 <= second.at - first.at < 9
            one_id([first, second], webhook["secret"])
        wait_until_sync(lambda w=webhook, s=status: is_row(w, status="pending", attempts=2, last_status=s), "the next one is in a minute")
        (row, _) = messages(client, webhook)
        assert row["last_error"] == f"the receiver answered {status}"
    assert receiver.at("/landing") == []
    assert len(receiver.at("/fault-410")) == 1
    # 503 with Retry-After: not before that
    wait_until_sync(
        lambda: [m.json["data"]["session_id"] for m in receiver.at("/fault-busy")].count("hook-faults") == 2, "it comes back", 15
    )
    first, second = [m for m in receiver.at("/fault-busy") if m.json["data"]["session_id"] == "hook-faults"]
    assert second.at - first.at >= 10

    # slow: an attempt ends after 15 s
    def told_slow() -> list[Message]:
        return [m for m in receiver.at("/fault-slow") if m.json["data"]["session_id"] == "hook-faults"]

    wait_until_sync(lambda: is_row(slow, attempts=1, last_error="the receiver did not answer within 15 s"), "the attempt has ended", 20)
    wait_until_sync(lambda: len(told_slow()) == 2, "it is sent again", 15)
    first, second = told_slow()
    assert 20 <= second.at - first.at < 25
    message_id = one_id([first, second], slow["secret"])
    wait_until_sync(lambda: client.call("GET", f"{HOOKS}/deliveries/{message_id}").json["status"] == "delivered", "it is delivered")


def test_a_slow_receiver_and_a_quick_one(split: Split, receiver: Receiver, register: Any) -> None:
    """Thirty messages wait for one that hangs; those to another host come at once."""
    receiver.answers["/fault-hang"] = ["hang"]
    register("/fault-hang")
    register("/fault-quick", host="localhost")
    for n in range(30):
        transfer(split.client, f"hook-slow-{n}")
    wait_until_sync(lambda: len(receiver.at("/fault-quick")) == 30, "the quick one has all of them", 10)
    wait_until_sync(lambda: len(receiver.at("/fault-hang")) == 8, "each process has four under way to the slow one")
    receiver.release("/fault-hang")
    wait_until_sync(lambda: len(receiver.at("/fault-hang")) == 30, "the slow one has all of them")


@pytest.mark.long
def test_a_frozen_owner_reports_too_late(split: Split, receiver: Receiver, register: Any) -> None:
    """A process is frozen with a message under way; another one delivers it; the late word of the first one changes nothing."""
    receiver.answers["/fault-frozen"] = ["hang", 204]
    webhook = register("/fault-frozen")
    transfer(split.client, "hook-frozen")
    wait_until_sync(lambda: len(receiver.at("/fault-frozen")) == 1, "it is under way")
    (begun,) = receiver.at("/fault-frozen")
    owner = next(h for h in split.heavy if begun.peer in {c.laddr.port for c in psutil.Process(h.process.pid).net_connections()})
    reported = metric(owner.client, "webhook_deliveries_total")
    owner.process.send_signal(signal.SIGSTOP)
    try:
        wait_until_sync(lambda: len(receiver.at("/fault-frozen")) == 2, "another process sends it", 40)
    finally:
        owner.process.send_signal(signal.SIGCONT)
    message_id = one_id(receiver.at("/fault-frozen"), webhook["secret"])
    wait_until_sync(lambda: metric(owner.client, "webhook_deliveries_total") > reported, "the first one has reported")
    row = split.client.call("GET", f"{HOOKS}/deliveries/{message_id}").json
    assert (row["status"], row["attempts"], row["last_status"]) == ("delivered", 2, 204)
    assert len(receiver.at("/fault-frozen")) == 2


def test_without_redis(split: Split, redis: RedisServer, receiver: Receiver, register: Any) -> None:
    webhook = register("/fault-no-redis")
    redis.kill()
    try:
        transfer(split.client, "hook-no-redis")
        wait_until_sync(lambda: receiver.at("/fault-no-redis"), "it is told all the same", 10)
    finally:
        redis.start()
    one_id(receiver.at("/fault-no-redis"), webhook["secret"])
    wait_until_sync(lambda: split.heavy[0].client.call("GET", "/api/v1/health").json["status"] == "healthy", "Redis is used again", 10)


@pytest.mark.long
def test_without_postgres_for_a_while(split: Split, postgres: PostgresServer, receiver: Receiver, register: Any) -> None:
    """The answer comes while the database is away, so nobody can write it down: the message comes again, with the same id."""
    receiver.answers["/fault-no-db"] = ["hang", 204]
    webhook = register("/fault-no-db")
    transfer(split.client, "hook-no-db")
    wait_until_sync(lambda: len(receiver.at("/fault-no-db")) == 1, "it is under way")
    postgres.stop()
    try:
        receiver.release("/fault-no-db")
        wait_until_sync(lambda: "cannot be written" in split.logs(), "the answer is in vain")
    finally:
        postgres.start()
    wait_until_sync(lambda: len(receiver.at("/fault-no-db")) == 2, "it comes again", 40)
    message_id = one_id(receiver.at("/fault-no-db"), webhook["secret"])
    wait_until_sync(lambda: split.client.call("GET", f"{HOOKS}/deliveries/{message_id}").json["status"] == "delivered", "it is delivered")


def test_secrets_are_in_no_log_and_no_list(split: Split, receiver: Receiver, register: Any) -> None:
    receiver.answers["/fault-secret?token=hidden-in-the-url"] = [410]
    webhook = register("/fault-secret?token=hidden-in-the-url")
    transfer(split.client, "hook-secret")
    place = f"{HOOKS}/{webhook['webhook_id']}"
    wait_until_sync(lambda: not split.client.call("GET", place).json["enabled"], "it is disabled")
    shown = [split.client.call("GET", path).body.decode() for path in (HOOKS, place, f"{HOOKS}/deliveries", "/api/v1/health")]
    shown += [r.client.call("GET", "/metrics").body.decode() for r in split.heavy]
    shown.append(split.client.call("POST", HOOKS, {"url": "http://127.0.0.1/", "secret": webhook["secret"]}).body.decode())
    logs = split.logs()
    assert webhook["webhook_id"] in logs
    for text in (*shown, logs):
        assert webhook["secret"].removeprefix("whsec_") not in text
        assert TICKET_SECRET not in text
    assert "hidden-in-the-url" not in logs
