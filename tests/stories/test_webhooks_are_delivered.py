"""Webhooks: what happens to sessions is told to who registered, signed, once for each event, again where it did not arrive, whatever dies.

The receiver checks signatures with the library of Standard Webhooks.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.stories.conftest import environment
from tests.support.client import Client
from tests.support.desks import write_desks
from tests.support.receiver import Message, Receiver
from tests.support.running import Running, serve
from tests.support.services import PostgresServer, RedisServer
from tests.support.split import Split, split_of
from tests.support.waiting import wait_until_sync

HOOKS = "/api/v1/webhooks"
ALLOW = {"LOADSPLIT_EGRESS_ALLOW": "127.0.0.1"}


@pytest.fixture(scope="module", params=["single", "split"])
def client(
    request: pytest.FixtureRequest,
    desks_llm: Running,
    business: Running,
    postgres_server: PostgresServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Client]:
    """A loadsplit that may reach receivers on this machine."""
    place = tmp_path_factory.mktemp(f"hooks-{request.param}")
    env = {**environment("openai", desks_llm, business), **ALLOW}
    if request.param == "single":
        with serve(write_desks(place), place, env) as server:
            yield server.client
        return
    redis = RedisServer()
    redis.start()
    try:
        stores = {"LOADSPLIT_REDIS_URL": redis.url, "LOADSPLIT_DATABASE_URL": postgres_server.create_database()}
        with split_of(write_desks(place), place, {**env, **stores}) as split:
            yield split.client
    finally:
        redis.close()


@pytest.fixture
def there() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


def register(client: Client, url: str, *events: str) -> Any:
    answer = client.call("POST", HOOKS, {"url": url, **({"events": list(events)} if events else {})})
    assert answer.status == 201, answer.body
    return answer.json


@pytest.fixture
def registered(client: Client) -> Iterator[Any]:
    """Registers webhooks that are gone after the test."""
    made: list[str] = []

    def make(url: str, *events: str) -> Any:
        document = register(client, url, *events)
        made.append(document["webhook_id"])
        return document

    yield make
    for webhook_id in made:
        client.call("DELETE", f"{HOOKS}/{webhook_id}")


def about(there: Receiver, session: str, path: str = "/hook") -> list[Message]:
    """The attempts that tell of one session."""
    return [m for m in there.at(path) if m.json["data"]["session_id"] == session]


def told(there: Receiver, session: str, count: int, secret: str) -> list[tuple[str, Any]]:
    """Type and data of a session's messages, once there are so many; each is verified."""
    wait_until_sync(lambda: len(about(there, session)) >= count, f"{count} messages about {session}", 15)
    found = about(there, session)
    assert len({m.id for m in found}) == len(found)
    return [(v["type"], v["data"]) for v in (m.verified(secret) for m in found)]


def delivery(client: Client, message_id: str) -> Any:
    return client.call("GET", f"{HOOKS}/deliveries/{message_id}").json


def desk(client: Client, session: str, action: str, **fields: Any) -> None:
    assert client.call("POST", f"/api/v1/session/{session}/handoff", {"action": action, **fields}).status == 200


def test_a_hand_over_and_what_follows(client: Client, there: Receiver, registered: Any) -> None:
    secret = registered(there.url + "/hook")["secret"]
    client.ask("talk to a human", "hook-1", agent_id="desk")
    client.ask("my parcel is gone", "hook-1", agent_id="desk")
    desk(client, "hook-1", "message", text="I call you on Monday.", by="ada")
    desk(client, "hook-1", "release", text="All is well.")
    client.ask("goodbye", "hook-1", agent_id="desk")
    found = told(there, "hook-1", 4, secret)
    assert sorted(kind for kind, _ in found) == ["session.closed", "session.message", "session.message", "session.transferred"]
    said = sorted((d["from"], d["text"]) for kind, d in found if kind == "session.message")
    assert said == [("human", "I call you on Monday."), ("user", "my parcel is gone")]
    assert next(d for kind, d in found if kind == "session.transferred")["action"] == "human"
    assert next(d for kind, d in found if kind == "session.closed")["by"] == "bot"


def test_timers(client: Client, there: Receiver, registered: Any) -> None:
    secret = registered(there.url + "/hook", "session.message", "session.closed")["secret"]
    client.ask("tell me a story", "hook-2", agent_id="timed")
    found = told(there, "hook-2", 3, secret)
    assert sorted((kind, d.get("timer_id")) for kind, d in found if kind == "session.message") == [
        ("session.message", "end"),
        ("session.message", "still"),
    ]
    assert [d["by"] for kind, d in found if kind == "session.closed"] == ["timer"]


def test_each_hears_what_it_asked_for(client: Client, there: Receiver, registered: Any) -> None:
    one, other = registered(there.url + "/hook", "session.closed"), registered(there.url + "/other", "session.transferred")
    client.ask("talk to a human", "hook-3", agent_id="desk")
    desk(client, "hook-3", "release", text="ok")
    client.ask("goodbye", "hook-3", agent_id="desk")
    assert [kind for kind, _ in told(there, "hook-3", 1, one["secret"])] == ["session.closed"]
    wait_until_sync(lambda: about(there, "hook-3", "/other"), "the other one hears of it")
    (message,) = about(there, "hook-3", "/other")
    assert message.verified(other["secret"])["type"] == "session.transferred"


def test_again_with_the_same_id(client: Client, there: Receiver, registered: Any) -> None:
    there.answers["/hook"] = [500, 204]
    secret = registered(there.url + "/hook", "session.transferred")["secret"]
    client.ask("talk to a human", "hook-4", agent_id="desk")
    wait_until_sync(lambda: len(about(there, "hook-4")) == 2, "it is sent again", 15)
    first, second = about(there, "hook-4")
    assert (first.id, first.body) == (second.id, second.body)
    assert 5 <= second.at - first.at < 9
    assert int(second.headers["webhook-timestamp"]) > int(first.headers["webhook-timestamp"])
    assert first.headers["webhook-signature"] != second.headers["webhook-signature"]
    assert first.verified(secret) == second.verified(secret)
    wait_until_sync(lambda: delivery(client, first.id)["status"] == "delivered", "it is delivered")
    assert delivery(client, first.id)["attempts"] == 2


def test_gone_enabled_again_and_replayed(client: Client, there: Receiver, registered: Any) -> None:
    there.answers["/hook"] = [410, 204]
    document = registered(there.url + "/hook", "session.transferred")
    place = f"{HOOKS}/{document['webhook_id']}"
    client.ask("talk to a human", "hook-5", agent_id="desk")
    wait_until_sync(lambda: not client.call("GET", place).json["enabled"], "it is disabled")
    assert "410" in client.call("GET", place).json["disabled_reason"]
    (refused,) = about(there, "hook-5")
    client.ask("talk to a human", "hook-5b", agent_id="desk")  # nobody is told
    assert client.call("POST", f"{HOOKS}/deliveries/{refused.id}/replay").status == 409
    assert client.call("PATCH", place, {"enabled": True}).json["enabled"]
    assert client.call("POST", f"{HOOKS}/deliveries/{refused.id}/replay").status == 202
    wait_until_sync(lambda: delivery(client, refused.id)["status"] == "delivered", "it is delivered now")
    assert [m.id for m in about(there, "hook-5")] == [refused.id] * 2
    assert about(there, "hook-5b") == []


def test_a_test_event(client: Client, there: Receiver, registered: Any) -> None:
    document = registered(there.url + "/tried")
    sent = client.call("POST", f"{HOOKS}/{document['webhook_id']}/test")
    assert sent.status == 202
    wait_until_sync(lambda: there.at("/tried"), "it arrives")
    (message,) = there.at("/tried")
    assert message.verified(document["secret"])["type"] == "webhook.test"
    assert message.id == sent.json["delivery_id"]


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.2/", "http://10.0.0.1/", "http://169.254.169.254/", "http://[::1]/", "http://2130706433/", "x"],
)
def test_forbidden_addresses(client: Client, url: str) -> None:
    answer = client.call("POST", HOOKS, {"url": url})
    assert (answer.status, answer.json["field"]) == (400, "url")
    assert answer.json["detail"].startswith("url ")


def test_a_deleted_session_leaves_nothing(client: Client, there: Receiver, registered: Any) -> None:
    registered(there.url + "/hook", "session.transferred")
    client.ask("talk to a human", "hook-6", agent_id="desk")
    wait_until_sync(lambda: about(there, "hook-6"), "it is told")
    (message,) = about(there, "hook-6")
    wait_until_sync(lambda: delivery(client, message.id)["status"] == "delivered", "it is delivered")
    assert client.call("DELETE", "/api/v1/session/hook-6").status == 200
    assert client.call("GET", f"{HOOKS}/deliveries/{message.id}").status == 404


@pytest.mark.timeout(150)
@pytest.mark.long
def test_everything_dies_between_the_commit_and_the_delivery(
    desks_env: dict[str, str], redis_database: str, postgres_database: str, tmp_path: Path, there: Receiver
) -> None:
    """Each process has as many messages under way to one host as it takes; those behind them are committed and wait. Then all are killed.
    What nobody had begun arrives once; what was under way arrives again, with the same id."""
    there.answers["/hook"] = ["hang"]
    stores = {"LOADSPLIT_REDIS_URL": redis_database, "LOADSPLIT_DATABASE_URL": postgres_database}
    with split_of(write_desks(tmp_path), tmp_path, {**desks_env, **ALLOW, **stores}) as split:
        secret = register(split.client, there.url + "/hook", "session.transferred")["secret"]
        sessions = [f"hook-7-{n}" for n in range(12)]
        for session in sessions:
            assert split.client.ask("talk to a human", session, agent_id="desk").json["status"] == "transferred"
        wait_until_sync(lambda: len(there.at("/hook")) == 8, "four are under way from each of two processes")
        begun = {m.id for m in there.at("/hook")}
        restart(split)
        there.answers["/hook"] = [204]
        there.release()

        def all_delivered() -> bool:
            rows = split.client.call("GET", f"{HOOKS}/deliveries?status=delivered&limit=100").json["deliveries"]
            return len(rows) == len(sessions)

        wait_until_sync(all_delivered, "everything is delivered", 60)
        every = split.client.call("GET", f"{HOOKS}/deliveries?limit=100").json["deliveries"]
    assert sorted(d["session_id"] for d in every) == sorted(sessions)
    came: dict[str, list[Message]] = {}
    for message in there.at("/hook"):
        came.setdefault(message.id, []).append(message)
    assert came.keys() == {d["delivery_id"] for d in every}
    assert {len(tries) for message_id, tries in came.items() if message_id not in begun} == {1}
    assert {len(tries) for message_id, tries in came.items() if message_id in begun} == {2}
    for tries in came.values():
        assert len({m.body for m in tries}) == 1
        assert all(m.verified(secret)["type"] == "session.transferred" for m in tries)


def restart(split: Split) -> None:
    """kill -9 of every process, then all of them again."""
    for process in (split.lightweight, *split.heavy):
        process.kill()
    for process in (*split.heavy, split.lightweight):
        process.start()
