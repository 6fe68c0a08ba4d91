"""The verdict of a chaos run on what is allowed: what may be missing, late or told twice, and where it may not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from loadtests.chaos.history import Attempt, Effect, Evidence, FaultDone, Said, Window, outcome
from loadtests.chaos.scene import marker, message
from loadtests.chaos.verdict.judge import judge
from tests.support.chaos_history import answered, history, reply, rules, said, turn_id


def without_redis(evidence: Evidence, began: float, ended: float) -> Evidence:
    evidence.redis_away.append(Window(began, ended, "frozen"))
    return evidence


def missing_rule(key: str | None) -> Evidence:
    """A rule's answer that is in no history."""
    evidence = history()
    body = reply(8, f"We open at 9, {marker(8)}.", "hours", "lightweight")
    evidence.said.append(said(8, "rule", 9.0, answered(9.0, body), key=key))
    return evidence


def test_a_rule_without_a_key_may_be_missing_while_redis_is_away() -> None:
    assert rules(missing_rule(None)) == {"present", "stored"}
    verdict = judge(without_redis(missing_rule(None), 9.2, 9.4))
    assert verdict.violations == []
    assert verdict.figures["rule answers without a key while Redis was away that are missing"] == 1
    assert rules(without_redis(missing_rule(None), 8.0, 8.5)) == set()  # its process has not noticed yet that Redis is back
    assert rules(without_redis(missing_rule(None), 5.0, 6.0)) == {"present", "stored"}
    assert rules(without_redis(missing_rule(None), 9.6, 9.9)) == {"present", "stored"}


def test_with_a_key_it_may_not() -> None:
    assert rules(without_redis(missing_rule("order 9"), 9.2, 9.4)) == {"present", "stored"}


def test_what_heavy_answered_may_not_be_missing() -> None:
    evidence = without_redis(history(), 0.0, 20.0)
    evidence.sessions[0].messages = evidence.sessions[0].messages[:2]
    assert "present" in rules(evidence)


def test_a_rule_may_be_late_where_redis_was_away() -> None:
    evidence = history()
    messages = evidence.sessions[0].messages
    evidence.sessions[0].messages = [*messages[2:4], *messages[:2], *messages[4:]]
    for place, number in ((0, 1), (1, 1), (2, 2), (3, 2)):
        evidence.sessions[0].messages[place]["turn"] = number
    assert rules(evidence) == {"order"}
    assert rules(without_redis(evidence, 2.0, 2.5)) == set()


def test_text_may_be_lost_to_a_reader_where_redis_was_away() -> None:
    """The numbers and the end must be right all the same."""
    evidence = history()
    evidence.said[1].attempts[1].events = [(4, "complete", evidence.said[1].attempts[1].events[-1][2])]
    assert rules(evidence) == {"stream", "replay"}
    assert rules(without_redis(evidence, 3.1, 3.2)) == set()
    evidence.said[1].attempts[1].events = [(5, "complete", evidence.said[1].attempts[1].events[-1][2])]
    assert rules(evidence) == {"stream"}


def test_a_rule_may_answer_again_in_the_same_words_when_redis_is_back() -> None:
    evidence = history()
    first = evidence.said[0].attempts[0].body
    assert first
    evidence.said[0].attempts[0].body = {**first, "route": {**first["route"], "tier": "heavy"}}
    evidence.turns["amber", turn_id(1)]["result"] = evidence.said[0].attempts[0].body
    assert rules(evidence) == {"repeated"}
    assert rules(without_redis(evidence, 1.0, 1.4)) == set()
    evidence.said[0].attempts[1].body = {**first, "message": f"We open at 10, {marker(1)}."}
    assert rules(evidence) == {"repeated"}
    evidence = without_redis(history(), 1.0, 1.4)
    evidence.said[0].attempts[1].body = {**first, "route": {**first["route"], "tier": "heavy"}}
    assert rules(evidence) == set()


def test_both_tiers_may_have_given_a_rules_answer_where_redis_was_away() -> None:
    evidence = history()
    stored = evidence.turns["amber", turn_id(1)]
    stored["result"] = {**stored["result"], "route": {**stored["result"]["route"], "tier": "heavy"}}
    assert rules(evidence) == {"stored"}
    assert rules(without_redis(evidence, 1.0, 1.4)) == set()
    stored["result"]["message"] = "We open at 10."
    assert "stored" in rules(evidence)


def test_what_was_seen_before_the_end_may_stand_behind_an_open_call() -> None:
    """Of a turn that was broken off, and as its last words."""
    evidence = history()
    messages = evidence.sessions[0].messages
    result = next(m for m in messages if m["role"] == "tool")
    messages.remove(result)
    evidence.sessions[0].document["message_count"] -= 1
    assert "history" in rules(evidence)
    evidence.turns["amber", turn_id(3)]["state"] = "cancelled"
    assert "history" not in rules(evidence)


def test_a_refusal_keeps_nothing_under_its_key() -> None:
    """Of two that came at once one found the session busy, and the other one did not any more."""
    evidence = history()
    busy = {"code": "session_busy", "title": "Session busy", "turn_id": turn_id(2)}
    evidence.said[0].attempts.append(Attempt("query", 1.0, 1.1, 409, body=busy, final=True))
    assert rules(evidence) == set()


def test_of_messages_that_became_one_the_answer_names_one() -> None:
    evidence = history()
    evidence.sessions[0].messages[2]["content"] += f"\n{message('effect', 8)}"
    end = evidence.said[1].attempts[-1].events[-1][2]
    evidence.said.append(said(8, "effect", 3.1, answered(3.1, end), turn_id=turn_id(2), on_busy="merge"))
    assert rules(evidence) == set()
    evidence.effects.append(Effect(2, "/tickets", turn_id(2), marker(8), "own-1"))  # which of them acts is the model's affair
    assert rules(evidence) == set()


def test_a_webhook_may_hear_of_a_task_whose_acceptance_was_lost() -> None:
    evidence = history()
    lost = Attempt("async", 9.0, 9.5, None, "reset")
    evidence.said.append(said(8, "plain", 9.0, lost, mode="task", hook=True, turn_id=None))
    data = {**evidence.heard[0].body["data"], "task_id": "t_8"}
    evidence.heard.append(replace(evidence.heard[0], message_id="msg_8", body={**evidence.heard[0].body, "data": data}))
    assert rules(evidence) == set()
    evidence.heard.append(replace(evidence.heard[-1], message_id="msg_9"))
    assert rules(evidence) == {"webhook"}


def test_what_a_frozen_process_has_not_noticed() -> None:
    """Redis is back, but a process that was frozen meanwhile goes on without it until some time after its thaw."""
    evidence = without_redis(missing_rule(None), 5.0, 6.0)
    assert rules(evidence) == {"present", "stored"}
    evidence.faults.append(FaultDone(0, "freeze", "lightweight-1", 3.0, 5.5, 8.5))
    assert rules(evidence) == set()


def test_outcomes() -> None:
    unknown = said(1, "plain", 0.0, Attempt("query", 0.0, 1.0, 503, body={"code": "overloaded"}))
    assert outcome(unknown).state == "unknown"
    first, second = answered(1.0, {"turn_id": "t_a"}), answered(0.0, {"turn_id": "t_b"})
    assert outcome(said(1, "plain", 0.0, first, second)).turn_id == "t_b"  # the earliest end counts
    busy = Attempt("query", 0.0, 1.0, 409, body={"title": "The session is busy", "turn_id": "t_of_another"}, final=True)
    assert (outcome(said(1, "plain", 0.0, busy, turn_id=None)).state, outcome(said(1, "plain", 0.0, busy)).turn_id) == ("refused", "t_1")


def test_evidence_is_kept_and_read_again(tmp_path: Path) -> None:
    evidence = without_redis(missing_rule("k"), 1.0, 2.0)
    evidence.tasks["amber", "t_9"] = {"status": "success"}
    evidence.save(tmp_path)
    again = Evidence.load(tmp_path)
    assert again == evidence
    assert isinstance(again.said[0], Said)
    assert rules(again) == rules(evidence)
