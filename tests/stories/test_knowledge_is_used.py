"""Knowledge: asked beside the first LLM call, used in the answer, never waited for beyond its time-out."""

from __future__ import annotations

import time

from tests.support.client import Client


def test_the_answer_knows_it(desks: Client) -> None:
    answer = desks.ask("How do I descale my kettle?", "kb-1", agent_id="learned").json
    assert answer["message"] == "With citric acid."


def test_a_slow_tool_delays_no_longer_than_its_time_out(desks: Client) -> None:
    began = time.monotonic()
    answer = desks.ask("How do I descale my kettle?", "kb-2", agent_id="slowly").json
    assert answer["message"] == "Plain words."
    assert time.monotonic() - began < 3  # the tool takes 5 s


def test_conditions_say_when(desks: Client) -> None:
    assert desks.ask("tell me a story", "kb-3", agent_id="slowly").json["message"] == "Plain words."
