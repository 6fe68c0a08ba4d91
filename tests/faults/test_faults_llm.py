"""LLM faults through both tiers and providers: what can be hidden is, what was begun ends typed, nothing broken counts as complete."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.client import said
from tests.support.fault_agents import BREAKING, PASSING, PROVIDERS
from tests.support.running import Running
from tests.support.split import Split

pytestmark = pytest.mark.parametrize("provider", PROVIDERS)


def asked(llm: Running, words: str, provider: str, purpose: str = "message") -> list[str]:
    """The models of the last calls with these words, oldest first."""
    path = "completions" if provider == "openai" else "messages"
    last = llm.client.call("GET", "/stats").json["last"]
    return [c["model"] for c in last if words in c["user"] and c["purpose"] == purpose and c["path"].endswith(path)]


@pytest.mark.parametrize("kind", [*PASSING, "stall", "spend_limit", "401", "404"])
def test_before_the_first_token_the_second_target_answers(split: Split, llm: Running, provider: str, kind: str) -> None:
    session = f"pair-{provider}-{kind}"
    events = list(split.client.stream(f"before {kind} alone", session, agent_id=f"pair-{provider}"))
    assert [e.type for e in events if e.type != "text"] == ["start", "route", "complete"]
    assert said(events) == events[-1].data["message"] == "Plain words."
    assert asked(llm, f"before {kind} alone", provider) == ["bad", "good"]
    assert split.client.messages(session) == [("user", f"before {kind} alone"), ("assistant", "Plain words.")]


@pytest.mark.parametrize("kind", PASSING)
def test_a_single_target_is_tried_once_more(split: Split, llm: Running, provider: str, kind: str) -> None:
    """The simulator fails every second such call."""
    for _ in range(2):
        answer = split.client.ask(f"once {kind}", f"once-{provider}-{kind}", agent_id=f"single-{provider}")
        assert (answer.status, answer.json["message"]) == (200, "Plain words.")
    assert asked(llm, f"once {kind}", provider) == ["only"] * 3


@pytest.mark.parametrize("kind", BREAKING)
@pytest.mark.parametrize("alias", ["single", "pair"])
def test_after_the_first_token_the_turn_fails(split: Split, llm: Running, provider: str, kind: str, alias: str) -> None:
    session = f"after-{alias}-{provider}-{kind}"
    events = list(split.client.stream(f"after {kind} {alias}", session, agent_id=f"{alias}-{provider}"))
    assert [e.type for e in events if e.type != "text"] == ["start", "route", "error"]
    assert "These words".startswith(said(events)[:11])
    assert (events[-1].data["code"], events[-1].data["retryable"]) == ("llm_error", True)
    turn = split.client.call("GET", f"/api/v1/turns/{events[0].data['turn_id']}").json
    assert (turn["state"], turn["result"], turn["error"]["code"]) == ("failed", None, "llm_error")
    assert len(asked(llm, f"after {kind} {alias}", provider)) == 1  # nothing is repeated once words were seen
    assert split.client.ask("and now", session, agent_id=f"{alias}-{provider}").json["message"] == "Plain words."
    assert "for good" not in str(split.client.messages(session))


@pytest.mark.parametrize("kind", BREAKING)
def test_after_the_first_token_another_target_goes_on_where_the_alias_says_so(split: Split, llm: Running, provider: str, kind: str) -> None:
    session = f"going-on-{provider}-{kind}"
    events = list(split.client.stream(f"after {kind} going on", session, agent_id=f"going-on-{provider}"))
    assert [e.type for e in events if e.type != "text"] == ["start", "route", "complete"]
    assert said(events) == events[-1].data["message"] == "These words come and then the rest."
    assert events[-1].data["usage"]["llm_calls"] == 3  # the intent, the first half, the second
    assert asked(llm, f"after {kind} going on", provider) == ["bad"]
    assert split.client.messages(session)[-1] == ("assistant", "These words come and then the rest.")


@pytest.mark.parametrize("kind", [k for k in BREAKING if k != "stall"])  # only a stream has a timer for its first piece
def test_without_a_stream_the_second_target_answers_whatever_breaks(split: Split, llm: Running, provider: str, kind: str) -> None:
    answer = split.client.ask(f"after {kind} unstreamed", f"whole-{provider}-{kind}", agent_id=f"pair-{provider}")
    assert (answer.status, answer.json["message"]) == (200, "These words come before it breaks off for good.")
    assert asked(llm, f"after {kind} unstreamed", provider) == ["bad", "good"]


def test_a_short_retry_after_is_waited_for_and_a_long_one_is_not(split: Split, llm: Running, provider: str) -> None:
    agent = f"waiting-{provider}"
    split.client.ask("wait one second", f"wait-{provider}", agent_id=agent)
    start = time.monotonic()
    assert split.client.ask("wait one second", f"wait-{provider}", agent_id=agent).json["message"] == "Plain words."
    assert 1 <= time.monotonic() - start < 3
    start = time.monotonic()
    answer = split.client.ask("wait a minute", f"wait-{provider}", agent_id=agent)
    assert (answer.status, answer.json["code"]) == (502, "llm_error")
    assert time.monotonic() - start < 2
    assert asked(llm, "wait a minute", provider) == ["waiting"]
    start = time.monotonic()
    answer = split.client.ask("after the minute was asked for", f"wait-{provider}", agent_id=agent)
    assert (answer.status, answer.json["code"]) == (429, "rate_limited")  # nobody is asked, and it says when to come back
    assert 50 < int(answer.headers["retry-after"]) <= 60
    assert time.monotonic() - start < 1
    assert asked(llm, "after the minute", provider) == []


@pytest.mark.parametrize(("kind", "level"), [("spend_limit", "error"), ("401", "error"), ("400", "warning")])
def test_what_does_not_pass_is_not_repeated(split: Split, llm: Running, provider: str, kind: str, level: str) -> None:
    answer = split.client.ask(f"always {kind}", f"always-{provider}-{kind}", agent_id=f"single-{provider}")
    assert (answer.status, answer.json["code"]) == (502, "llm_error")
    assert b"simulated" not in answer.body
    assert asked(llm, f"always {kind}", provider) == ["only"]
    name = {"401": "auth", "400": "invalid_request"}.get(kind, kind)
    lines = [line for line in split.heavy[0].log().splitlines() if "LLM call failed" in line and f": {name}" in line]
    assert lines
    assert all(f'"{level}"' in line.lower() or f" {level}" in line.lower() for line in lines)


def test_a_socket_held_open_after_the_end_holds_nobody(split: Split, provider: str) -> None:
    start = time.monotonic()
    events = list(split.client.stream("held open", f"held-{provider}", agent_id=f"single-{provider}"))
    assert events[-1].type == "complete"
    assert time.monotonic() - start < 5


def test_a_dead_first_target_is_passed_over(split: Split, provider: str) -> None:
    """The list crosses providers: the dead one speaks OpenAI's protocol, the living one Anthropic's."""
    answer = split.client.ask("tell me something", f"dead-{provider}", agent_id="dead")
    assert (answer.status, answer.json["message"]) == (200, "Plain words.")


def effects(business: Running) -> int:
    return int(business.client.call("GET", "/effects").json["total"])


def test_wrong_tool_calls_are_repaired(split: Split, business: Running, provider: str) -> None:
    """Arguments cut off, then a tool that does not exist, then a good call."""
    before = effects(business)
    events = list(split.client.stream("repaired desk", f"repaired-{provider}", agent_id=f"desk-{provider}"))
    assert events[-1].type == "complete"
    assert events[-1].data["message"] == "It is done."
    assert events[-1].data["usage"]["llm_calls"] == 4
    assert [e.data["name"] for e in events if e.type == "tool_call"] == ["open_ticket"]
    assert effects(business) == before + 1


def test_after_two_repairs_the_turn_fails(split: Split, llm: Running, business: Running, provider: str) -> None:
    """Arguments cut off, wrong types, an unknown tool with half an argument: nothing of it is executed."""
    before = effects(business)
    answer = split.client.ask("broken desk", f"broken-{provider}", agent_id=f"desk-{provider}")
    assert (answer.status, answer.json["code"]) == (502, "llm_error")
    assert asked(llm, "broken desk", provider, "skill") == ["only"] * 3
    assert effects(business) == before
    assert split.client.ask("and now", f"broken-{provider}", agent_id=f"desk-{provider}").status == 200


def test_two_calls_with_one_id_are_both_made(split: Split, business: Running, provider: str) -> None:
    before = effects(business)
    events = list(split.client.stream("doubled desk", f"doubled-{provider}", agent_id=f"desk-{provider}"))
    calls = [e.data["call_id"] for e in events if e.type == "tool_call"]
    assert len(calls) == len(set(calls)) == 2
    assert events[-1].type == "complete"
    assert effects(business) == before + 1


@pytest.mark.parametrize(("desk", "most_tools", "most_asked"), [("looping", 2, 4), ("many", 10, 2)])
def test_a_model_that_never_ends_is_stopped(split: Split, provider: str, desk: str, most_tools: int, most_asked: int) -> None:
    """The same call for ever; a hundred calls at once."""
    events = list(split.client.stream(f"{desk} desk", f"{desk}-{provider}", agent_id=f"desk-{provider}"))
    assert events[-1].type == "complete"
    assert events[-1].data["message"] == said(events) != ""
    assert len([e for e in events if e.type == "tool_call"]) == most_tools
    assert events[-1].data["usage"]["llm_calls"] <= most_asked
    assert split.client.ask("and now", f"{desk}-{provider}", agent_id=f"desk-{provider}").status == 200


def test_many_faults_at_once_do_not_mix(split: Split, provider: str) -> None:
    kinds = [k for k in PASSING for _ in range(3)]

    def ask(numbered: tuple[int, str]) -> tuple[int, str]:
        number, kind = numbered
        answer = split.client.ask(f"before {kind}", f"mix-{provider}-{number}", agent_id=f"pair-{provider}")
        return answer.status, json.loads(answer.body)["message"]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(ask, enumerate(kinds))) == [(200, "Plain words.")] * len(kinds)
