"""The conversation modes and the iteration strategies, as a client sees them."""

from __future__ import annotations

from tests.support.client import Client, StreamEvent, said
from tests.support.running import Running
from tests.support.split import Split
from tests.support.waiting import wait_until_sync


def route(answer: dict) -> tuple[str, str | None, str]:
    found = answer["route"]
    return found["action_type"], found["action_target"], found["matched_by"]


def state(client: Client, session: str) -> tuple[str, str | None]:
    found = client.call("GET", f"/api/v1/session/{session}").json["workflow_state"]
    return found["status"], found["current_skill"]


def calls_of(llm: Running, user: str) -> list[dict]:
    """The last calls to the model about a message."""
    return [c for c in llm.client.call("GET", "/stats").json["last"] if c["user"] == user]


def dialogue(call: dict) -> int:
    """How many messages a call to the model had, without the system prompt (a message of its own with OpenAI only)."""
    return int(call["messages"]) - call["path"].endswith("/chat/completions")


class TestRouter:
    """One agent has every action as a tool, and the whole history."""

    def test_it_calls_a_tool_and_answers(self, desks: Client, desks_llm: Running) -> None:
        answer = desks.ask("status of my thing, router 1", "router-1", agent_id="router").json
        assert answer["message"] == "It is on its way."
        assert route(answer) == ("tool", "get_order", "llm")
        calls = calls_of(desks_llm, "status of my thing, router 1")
        assert answer["usage"]["llm_calls"] == 2
        assert {"get_order", "apology", "returns", "human", "note", "hours"} <= set(calls[-1]["tools"])

    def test_it_has_the_whole_history(self, desks: Client, desks_llm: Running) -> None:
        for n in range(3):
            desks.ask(f"just talking {n}", "router-2", agent_id="router")
        answer = desks.ask("and now, router 2?", "router-2", agent_id="router").json
        assert (answer["message"], answer["usage"]["llm_calls"]) == ("Plain words.", 1)
        assert route(answer) == ("message", None, "llm")
        assert dialogue(calls_of(desks_llm, "and now, router 2?")[-1]) == 7

    def test_a_flow_answers_by_itself(self, desks: Client) -> None:
        events = list(desks.stream("say sorry", "router-3", agent_id="router"))
        assert said(events) == events[-1].data["message"] == "We are sorry."
        assert [e.data["action_target"] for e in events if e.type == "route"] == ["apology"]
        assert events[-1].data["usage"]["llm_calls"] == 1

    def test_it_hands_the_turn_to_a_skill(self, desks: Client) -> None:
        first = desks.ask("which one of them?", "router-4", agent_id="router").json
        assert (first["message"], state(desks, "router-4")) == ("Which order is it?", ("in_conversation", "returns"))
        assert desks.ask("ping", "router-4", agent_id="router").json["message"] == "Pong."
        assert state(desks, "router-4") == ("in_conversation", "returns")
        second = desks.ask("take it back", "router-4", agent_id="router").json
        assert (second["message"], route(second)) == ("It is taken back.", ("skill", "returns", "llm"))
        assert state(desks, "router-4") == ("ready", None)

    def test_rules_come_first(self, desks: Client) -> None:
        answer = desks.ask("opening hours", "router-5", agent_id="router").json
        assert (answer["message"], answer["route"]["matched_by"], answer["usage"]["llm_calls"]) == ("We open at 9.", "rule", 0)


class TestHybrid:
    """Rules, then the conversation in progress, then the intent match with history."""

    def test_a_conversation_and_a_rule_in_the_middle_of_it(self, desks: Client) -> None:
        assert desks.ask("which one of them?", "hybrid-1", agent_id="hybrid").json["message"] == "Which order is it?"
        interrupted = desks.ask("ping", "hybrid-1", agent_id="hybrid").json
        assert (interrupted["message"], interrupted["route"]["tier"]) == ("Pong.", "lightweight")
        assert state(desks, "hybrid-1") == ("in_conversation", "returns")
        end = desks.ask("opening hours", "hybrid-1", agent_id="hybrid").json  # a rule that may not interrupt
        assert route(end) == ("skill", "returns", "conversation")
        assert state(desks, "hybrid-1") == ("ready", None)

    def test_the_intent_match_sees_the_history(self, desks: Client, desks_llm: Running) -> None:
        desks.ask("just talking", "hybrid-2", agent_id="hybrid")
        answer = desks.ask("status of hybrid 2", "hybrid-2", agent_id="hybrid").json
        assert route(answer) == ("tool", "get_order", "llm")
        intent = next(c for c in calls_of(desks_llm, "status of hybrid 2") if c["purpose"] == "intent")
        assert dialogue(intent) == 3


class TestSingle:
    """Every message stands for itself."""

    def test_the_intent_match_has_no_history(self, desks: Client, desks_llm: Running) -> None:
        desks.ask("just talking", "solo-1", agent_id="solo")
        desks.ask("status of solo 1", "solo-1", agent_id="solo")
        intent = next(c for c in calls_of(desks_llm, "status of solo 1") if c["purpose"] == "intent")
        assert dialogue(intent) == 1

    def test_no_conversation_goes_on(self, desks: Client) -> None:
        assert desks.ask("which one of them?", "solo-2", agent_id="solo").json["message"] == "Which order is it?"
        assert state(desks, "solo-2") == ("ready", None)


class TestStrategies:
    """`sop_driven` acts, looks and decides again; `single_shot` acts once."""

    def test_sop_driven_acts_again(self, desks: Client, business: Running) -> None:
        before = business.client.call("GET", "/effects").json["total"]
        events = list(desks.stream("please act twice", "sop-1", agent_id="sop"))
        assert [e.data["name"] for e in events if e.type == "tool_result"] == ["get_order", "open_ticket"]
        assert events[-1].data["message"] == said(events) == "It is looked up and a ticket is open."
        assert events[-1].data["usage"]["llm_calls"] == 3
        assert business.client.call("GET", "/effects").json["total"] == before + 1

    def test_single_shot_acts_once(self, desks: Client, business: Running) -> None:
        before = business.client.call("GET", "/effects").json["total"]
        events = list(desks.stream("please act twice", "once-1", agent_id="once"))
        assert [e.data["name"] for e in events if e.type == "tool_result"] == ["get_order"]
        assert (events[-1].data["message"], events[-1].data["usage"]["llm_calls"]) == ("It is looked up.", 2)
        assert business.client.call("GET", "/effects").json["total"] == before

    def test_a_flow_that_has_answered_is_looked_at_too(self, desks: Client) -> None:
        answer = desks.ask("say sorry", "sop-2", agent_id="sop").json
        assert answer["message"] == "We are sorry.\n\nAnything else?"
        assert ("assistant", "We are sorry.\n\nAnything else?") in desks.messages("sop-2")
        once = desks.ask("say sorry", "once-2", agent_id="once").json
        assert (once["message"], once["usage"]["llm_calls"]) == ("We are sorry.", 1)

    def test_what_was_shown_before_a_failure_stays(self, desks: Client) -> None:
        events = list(desks.stream("say sorry and fail", "sop-5", agent_id="sop"))
        assert (events[-1].type, said(events)) == ("error", "We are sorry.")
        assert desks.messages("sop-5") == [("user", "say sorry and fail"), ("assistant", "We are sorry.")]
        assert desks.ask("opening hours", "sop-5", agent_id="sop").json["message"] == "We open at 9."

    def test_a_silent_action_ends_it(self, desks: Client) -> None:
        events = list(desks.stream("end silently", "sop-3", agent_id="sop"))
        assert events[-1].data["status"] == "silent"
        assert said(events) == events[-1].data["message"] == ""

    def test_a_model_that_repeats_itself_is_stopped(self, desks: Client) -> None:
        answer = desks.ask("never stop", "sop-4", agent_id="sop").json
        assert answer["message"] == "That I could not do."
        assert answer["usage"]["llm_calls"] <= 6
        assert desks.ask("opening hours", "sop-4", agent_id="sop").json["message"] == "We open at 9."


KILLED = {
    "sop": ("please act twice slowly", "It is looked up and a ticket is open.", ["get_order", "open_ticket"]),
    "router": ("slowly, the status of it", "It is on its way.", ["get_order"]),
}


def test_a_killed_node_is_not_noticed(desks_split: Split, desks_llm: Running, business: Running) -> None:
    """Killed between two calls of the model: the other replica knows what was chosen, and goes on behind it."""
    before = business.client.call("GET", "/effects").json["total"]
    seen: dict[str, list[StreamEvent]] = {}
    streams = {agent: desks_split.client.stream(case[0], f"kill-{agent}", agent_id=agent) for agent, case in KILLED.items()}
    for agent, stream in streams.items():
        seen[agent] = []
        for event in stream:
            seen[agent].append(event)
            if event.type == "tool_result":
                break
    desks_split.heavy[0].kill()
    other = desks_split.heavy[1].client
    for agent, (message, answer, calls) in KILLED.items():
        streams[agent].close()
        turn_id = seen[agent][0].data["turn_id"]
        wait_until_sync(lambda url=f"/api/v1/turns/{turn_id}": other.call("GET", url).json["state"] == "done", "it ends elsewhere", 30)
        turn = other.call("GET", f"/api/v1/turns/{turn_id}").json
        events = list(other.resume(turn_id, 0))
        assert (turn["attempt"], turn["result"]["message"], said(events)) == (2, answer, answer)
        assert events[: len(seen[agent])] == seen[agent]
        assert [e.data["name"] for e in events if e.type == "tool_result"] == calls
        purposes = [c["purpose"] for c in calls_of(desks_llm, message)]
        assert purposes.count("intent") == (1 if agent == "sop" else 0)  # what was chosen is not asked again
        assert turn["result"]["route"]["action_target"] == "get_order"
    assert business.client.call("GET", "/effects").json["total"] == before + 1
