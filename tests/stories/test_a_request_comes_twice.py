"""The same Idempotency-Key and the same body: the first reply, whoever gave it, also while it is still being made. Another body: 422."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.client import Client, said
from tests.support.redis_client import redis_command
from tests.support.running import Running
from tests.support.split import Split

KEY = "Idempotency-Key"


def effects(business: Running) -> int:
    return int(business.client.call("GET", "/effects").json["total"])


def test_a_rule_answers_once(client: Client, business: Running) -> None:
    """Ten at once: one call of the API, one turn, ten times the same reply."""
    before, headers = effects(business), {KEY: "twice-1"}
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: client.ask("call me at 5550101", "twice-1", headers=headers), range(10)))
    assert {(a.status, a.body) for a in answers} == {(200, answers[0].body)}
    assert answers[0].json["route"]["matched_by"] == "rule"
    assert sum("idempotent-replayed" in a.headers for a in answers) == 9
    assert effects(business) == before + 1
    assert len(client.messages("twice-1")) == 2
    assert client.call("GET", f"/api/v1/turns/{answers[0].json['turn_id']}").json["state"] == "done"


def test_an_llm_turn_runs_once(client: Client) -> None:
    headers = {KEY: "twice-2"}
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: client.ask("one by one", "twice-2", headers=headers), range(10)))
    assert {(a.status, a.body) for a in answers} == {(200, answers[0].body)}
    assert sum(a.headers.get("idempotent-replayed") == "true" for a in answers) == 9
    assert client.messages("twice-2") == [("user", "one by one"), ("assistant", "Answered.")]
    late = client.ask("one by one", "twice-2", headers=headers)
    assert (late.body, late.headers["idempotent-replayed"]) == (answers[0].body, "true")


@pytest.mark.parametrize("message", ["opening hours", "returns desk please"])
def test_a_stream_tells_the_same_events(client: Client, message: str) -> None:
    session, headers = f"twice-3-{len(message)}", {KEY: f"twice-3-{len(message)}"}
    first = list(client.stream(message, session, headers=headers))
    again = client.stream(message, session, headers=headers)
    assert again.headers["idempotent-replayed"] == "true"
    assert list(again) == first
    whole = client.ask(message, session, headers=headers)
    assert whole.json == first[-1].data
    assert said(first) == whole.json["message"]


def test_a_second_stream_follows_along(client: Client) -> None:
    headers = {KEY: "twice-4"}
    first = client.stream("a slow story", "twice-4", headers=headers)
    seen = first.take(5)
    second = client.stream("a slow story", "twice-4", headers=headers)
    assert second.headers["idempotent-replayed"] == "true"
    assert second.take(5) == seen
    turn_id = seen[0].data["turn_id"]
    client.call("POST", f"/api/v1/turns/{turn_id}/cancel")
    assert list(first)[-1].type == list(second)[-1].type == "cancelled"


@pytest.mark.parametrize("message", ["opening hours", "tell me something"])
def test_another_body_is_refused(client: Client, message: str) -> None:
    session, headers = f"twice-5-{len(message)}", {KEY: f"twice-5-{len(message)}"}
    assert client.ask(message, session, headers=headers).status == 200
    changes = ({"message": "something else"}, {"session": "twice-5-other"}, {"context": {"a": 1}}, {"user_id": "u2"})
    for change in changes:
        asked = {"message": message, "session": session, **change}
        refused = client.ask(**asked, headers=headers)
        assert (refused.status, refused.json["code"]) == (422, "idempotency_mismatch"), change
        assert "new key" in refused.json["detail"]
    assert len(client.messages(session)) == 2


def test_the_order_of_the_members_does_not_matter(client: Client) -> None:
    headers = {KEY: "twice-6"}
    first = client.call("POST", "/api/v1/query", raw=b'{"message": "opening hours", "session_id": "twice-6"}', headers=headers)
    again = client.call("POST", "/api/v1/query", raw=b'{"session_id":"twice-6","message":"opening hours"}', headers=headers)
    assert again.body == first.body


def test_a_failure_is_told_again(client: Client) -> None:
    headers = {KEY: "twice-7"}
    first = client.ask("fail at once", "twice-7", headers=headers)
    again = client.ask("fail at once", "twice-7", headers=headers)
    assert (first.status, first.json["code"]) == (502, "llm_error")
    assert (again.status, again.json["code"], again.json["detail"]) == (502, "llm_error", first.json["detail"])
    assert len([m for m in client.messages("twice-7") if m[0] == "user"]) == 1


@pytest.mark.parametrize("key", ["", "x" * 256, "ä", " "])
def test_keys_that_are_none(client: Client, key: str) -> None:
    for message in ("opening hours", "tell me something"):
        refused = client.ask(message, "twice-8", headers={KEY: key.encode().decode("latin-1")})
        assert (refused.status, refused.json["field"]) == (400, KEY), message


def test_a_wiped_redis_does_not_double_an_effect(split: Split, business: Running, redis_database: str) -> None:
    """The rule tier has forgotten the key: the API hears the same key of its own again, and the history holds the turn once."""
    before, headers = effects(business), {KEY: "twice-9"}
    first = split.client.ask("call me at 5550109", "twice-9", headers=headers)
    assert len(split.client.messages("twice-9")) == 2
    port, number = int(redis_database.rpartition(":")[2].partition("/")[0]), int(redis_database.rpartition("/")[2])
    redis_command(port, "FLUSHDB", database=number)
    again = split.client.ask("call me at 5550109", "twice-9", headers=headers)
    assert again.json == first.json
    assert effects(business) == before + 1
    assert len(split.client.messages("twice-9")) == 2


def test_the_key_outlives_every_process(split: Split) -> None:
    headers = {KEY: "twice-10"}
    first = split.client.ask("tell me something", "twice-10", headers=headers)
    for process in (*split.heavy, split.lightweight):
        process.kill()
        process.start()
    again = split.client.ask("tell me something", "twice-10", headers=headers)
    assert (again.body, again.headers["idempotent-replayed"]) == (first.body, "true")
    assert len(split.client.messages("twice-10")) == 2
