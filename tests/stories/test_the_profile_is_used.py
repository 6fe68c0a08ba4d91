"""What is known of the user: noted by a system action, used in templates and prompts."""

from __future__ import annotations

from tests.support.client import Client


def test_in_templates_and_prompts(desks: Client) -> None:
    assert desks.ask("my name is Ada", "profile-1", agent_id="known").json["message"] == "Hello Ada."
    who = desks.ask("who am i", "profile-1", agent_id="known").json
    assert (who["message"], who["route"]["tier"], who["route"]["matched_by"]) == ("You are Ada.", "heavy", "rule")
    assert desks.ask("tell me a story", "profile-1", agent_id="known").json["message"] == "Your name is Ada."


def test_another_session_knows_nothing(desks: Client) -> None:
    desks.ask("my name is Ada", "profile-2", agent_id="known")
    assert "Ada" not in desks.ask("who am i", "profile-3", agent_id="known").json["message"]


def test_silent_flows_and_actions(desks: Client) -> None:
    """A silent flow makes its call, and nothing is said; in both tiers."""
    answer = desks.ask("report noise", "silent-1", agent_id="quiet").json
    assert (answer["status"], answer["message"], answer["route"]["tier"]) == ("silent", "", "lightweight")
    streamed = list(desks.stream("report noise", "silent-1", agent_id="quiet"))
    assert [e.type for e in streamed] == ["start", "route", "complete"]
    noted = desks.ask("note this", "silent-1", agent_id="quiet").json
    assert (noted["status"], noted["message"]) == ("silent", "")
