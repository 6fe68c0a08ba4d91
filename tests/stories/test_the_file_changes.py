"""A new version of the file in the middle of a session: the history stays, a changed greeting is shown again, removed timers never fire."""

from __future__ import annotations

from pathlib import Path

from tests.support.client import Client
from tests.support.desks import write_desks
from tests.support.running import serve
from tests.support.waiting import wait_until_sync


def need_greeting(client: Client, session: str) -> bool:
    return bool(client.call("GET", f"/api/v1/session/{session}").json["workflow_state"]["need_greeting"])


def test_history_and_greeting(desks_env: dict[str, str], tmp_path: Path) -> None:
    with serve(write_desks(tmp_path), tmp_path, desks_env) as server:
        client = server.client
        first = client.ask("tell me a story", "file-1", agent_id="desk").json
        assert first["message"] == "Welcome.\n\nPlain words."
        assert not need_greeting(client, "file-1")
        server.stop()
        write_desks(tmp_path, {"desk": {"fallback_message": "Something else."}})
        server.start()
        assert not need_greeting(client, "file-1")
        second = client.ask("tell me a story", "file-1", agent_id="desk").json
        assert second["message"] == "Plain words."
        assert second["config_hash"] != first["config_hash"]
        server.stop()
        write_desks(tmp_path, {"desk": {"greeting": "Good day."}})
        server.start()
        assert need_greeting(client, "file-1")
        third = client.ask("tell me a story", "file-1", agent_id="desk").json
        assert third["message"] == "Good day.\n\nPlain words."
        assert len(client.messages("file-1")) == 6


def test_a_removed_timer_and_a_removed_skill(desks_env: dict[str, str], tmp_path: Path) -> None:
    with serve(write_desks(tmp_path), tmp_path, desks_env) as server:
        client = server.client
        client.ask("tell me a story", "file-2", agent_id="patient")
        assert client.ask("which one of them?", "file-3", agent_id="hybrid").json["message"] == "Which order is it?"
        server.kill()
        write_desks(tmp_path, {"patient": {"timers": []}, "hybrid": {"skills": []}})
        server.start()
        assert client.ask("opening hours", "file-3", agent_id="hybrid").json["message"] == "We open at 9."
        client.ask("opening hours", "file-4", agent_id="timed")  # due later than the removed one
        wait_until_sync(lambda: ("assistant", "I close this now.") in client.messages("file-4"), "the timers that there are fire", 15)
        assert "Still there?" not in [text for _, text in client.messages("file-2")]
