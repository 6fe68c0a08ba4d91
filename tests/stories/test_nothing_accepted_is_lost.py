"""kill -9 of a replica: its sessions go on elsewhere with their whole history, and a turn that it was running is finished by another."""

from __future__ import annotations

from pathlib import Path

from tests.support.client import Client, said
from tests.support.redis_client import redis_command
from tests.support.running import Running, role, serve
from tests.support.shop import write_workflow
from tests.support.split import Split
from tests.support.waiting import wait_until_sync


def test_the_other_replica_has_the_whole_history(split: Split, env: dict[str, str], tmp_path: Path) -> None:
    split.client.ask("opening hours", "lost-1")
    split.client.ask("returns desk please", "lost-1")
    split.client.ask("tell me something", "lost-1")
    before = split.client.messages("lost-1")
    split.heavy[0].kill()
    dead = split.client.ask("tell me something", "lost-1")
    assert (dead.status, dead.json["code"]) == (503, "dependency_unavailable")
    assert dead.headers["retry-after"] == "1"
    assert split.client.ask("opening hours", "lost-2").json["message"] == "We open at 9."  # rules don't need the LLM tier
    other = split.heavy[1].client
    assert other.messages("lost-1")[: len(before)] == before


def test_a_running_turn_is_taken_over(split: Split, business: Running) -> None:
    """Killed between two tool calls: the other replica goes on behind the first one, which is not made again."""
    effects = business.client.call("GET", "/effects").json["total"]
    stream = split.client.stream("returns desk, slowly please", "lost-3")
    seen = []
    for event in stream:
        seen.append(event)
        if event.type == "tool_result":
            break
    split.heavy[0].kill()
    stream.close()
    turn_id, other = seen[0].data["turn_id"], split.heavy[1].client
    wait_until_sync(lambda: other.call("GET", f"/api/v1/turns/{turn_id}").json["state"] == "done", "the turn is finished elsewhere", 30)
    turn = other.call("GET", f"/api/v1/turns/{turn_id}").json
    assert turn["attempt"] == 2
    assert turn["result"]["usage"]["llm_calls"] == 3
    events = list(other.resume(turn_id, 0))
    assert events[: len(seen)] == seen
    assert [e.id for e in events] == list(range(1, len(events) + 1))
    assert [e.data["name"] for e in events if e.type == "tool_result"] == ["get_order", "open_ticket"]
    assert said(events) == turn["result"]["message"] == "Let me look.\n\nYour return is open."
    assert business.client.call("GET", "/effects").json["total"] == effects + 1


def test_a_single_process_remembers_after_kill(env: dict[str, str], tmp_path: Path) -> None:
    config = write_workflow(tmp_path)
    with serve(config, tmp_path, env) as server:
        server.client.ask("tell me something", "lost-4")
        before = server.client.messages("lost-4")
        server.kill()
        server.start()
        assert server.client.messages("lost-4") == before
        assert server.client.ask("tell me something", "lost-4").json["message"] == "Plain words."
        assert len(server.client.messages("lost-4")) == 4


def test_sigterm_lets_running_turns_end(env: dict[str, str], tmp_path: Path) -> None:
    with serve(write_workflow(tmp_path), tmp_path, env) as server:
        stream = server.client.stream("one by one", "lost-5")
        stream.take(1)
        assert server.stop() == 0
        assert list(stream)[-1].type == "complete"


def test_a_heavy_process_needs_a_ticket_or_a_key(split: Split) -> None:
    direct: Client = split.heavy[0].client
    refused = direct.ask("tell me something", "lost-6")
    assert (refused.status, refused.json["code"]) == (401, "unauthorized")
    forged = direct.ask("tell me something", "lost-6", headers={"X-Loadsplit-Ticket": "v1.e30.AAAA"})
    assert forged.status == 401
    through = split.client.ask("tell me something", "lost-6", headers={"X-Loadsplit-Ticket": "v1.e30.AAAA"})
    assert through.status == 200  # a client's own ticket is dropped on the way in


def test_the_roles_say_why_they_cannot_start(tmp_path: Path, env: dict[str, str]) -> None:
    config = write_workflow(tmp_path)
    heavy = role("heavy", config, tmp_path, {**env, "LOADSPLIT_DATABASE_URL": "postgresql://nobody@127.0.0.1:9/none"})
    try:
        heavy.start()
    except AssertionError:
        assert heavy.process.returncode == 2
    assert "Traceback" not in heavy.log()
    assert "database" in heavy.log().splitlines()[-1]
    assert isinstance(heavy, Running)


def test_a_deleted_session_leaves_nothing_hot(split: Split, redis_database: str) -> None:
    split.client.ask("opening hours", "lost-7")
    list(split.client.stream("returns desk please", "lost-7"))
    port, number = int(redis_database.rpartition(":")[2].partition("/")[0]), int(redis_database.rpartition("/")[2])
    assert [key for key in redis_command(port, "KEYS", "*", database=number) if key.endswith(b":e")]
    assert split.client.call("DELETE", "/api/v1/session/lost-7").status == 200
    shared = {b"ls:journal", b"ls:access"}  # of no session
    assert [key for key in redis_command(port, "KEYS", "*", database=number) if key not in shared] == []
