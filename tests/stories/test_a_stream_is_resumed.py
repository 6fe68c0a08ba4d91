"""A stream that broke is read on from any replica: same ids, same text, the turn never restarted; and a turn can be cancelled."""

from __future__ import annotations

from tests.support.client import Client, said
from tests.support.running import Running
from tests.support.split import Split
from tests.support.waiting import wait_until_sync


def test_resume_while_it_runs(client: Client, llm: Running) -> None:
    calls = llm.client.call("GET", "/stats").json["calls"]
    stream = client.stream("a slow story", "resume-1")
    seen = stream.take(20)
    stream.close()
    rest = list(client.resume(seen[0].data["turn_id"], seen[-1].id))
    events = [*seen, *rest]
    assert [e.id for e in events] == list(range(1, len(events) + 1))
    assert events[-1].type == "complete"
    assert said(events) == events[-1].data["message"]
    assert events[-1].data["message"].endswith("word159")
    assert llm.client.call("GET", "/stats").json["calls"] == calls + 2  # the intent match and the story, once each


def test_resume_on_the_other_replica(split: Split) -> None:
    stream = split.client.stream("a slow story", "resume-2")
    seen = stream.take(10)
    stream.close()
    rest = list(Client(split.heavy[1].url).resume(seen[0].data["turn_id"], seen[-1].id))
    events = [*seen, *rest]
    assert [e.id for e in events] == list(range(1, len(events) + 1))
    assert said(events) == events[-1].data["message"]


def test_replay_after_the_end(client: Client) -> None:
    events = list(client.stream("returns desk please", "resume-3"))
    again = list(client.resume(events[0].data["turn_id"], 0))
    assert again == events


def test_cancel(client: Client, llm: Running) -> None:
    stream = client.stream("a slow story", "cancel-1")
    turn_id = stream.take(5)[0].data["turn_id"]
    cancelled = client.call("POST", f"/api/v1/turns/{turn_id}/cancel")
    assert cancelled.status == 202
    assert list(stream)[-1].type == "cancelled"
    wait_until_sync(lambda: llm.client.call("GET", "/stats").json["open"] == 0, "the LLM connection is closed", 1.5)
    assert client.call("GET", f"/api/v1/turns/{turn_id}").json["state"] == "cancelled"
    assert client.ask("tell me something", "cancel-1").json["message"] == "Plain words."


def test_unknown_turns(client: Client) -> None:
    for method, path in (("GET", "/api/v1/turns/none"), ("GET", "/api/v1/turns/none/stream"), ("POST", "/api/v1/turns/none/cancel")):
        answer = client.call(method, path)
        assert (answer.status, answer.json["code"]) == (404, "not_found")
    events = list(client.stream("opening hours", "resume-4"))
    turn_id = events[0].data["turn_id"]
    bad = client.call("GET", f"/api/v1/turns/{turn_id}/stream", headers={"Last-Event-ID": "x"})
    assert (bad.status, bad.json["field"]) == (400, "Last-Event-ID")


def test_a_wrong_option_begins_no_turn(client: Client) -> None:
    body = {"message": "tell me something", "session_id": "resume-5"}
    bad = client.call("POST", "/api/v1/query/stream?on_disconnect=maybe", body)
    assert (bad.status, bad.json["field"]) == (400, "on_disconnect")
    assert client.call("GET", "/api/v1/session/resume-5").status == 404
