"""The verdict of a chaos run, point by point: a history in which all is well, and the same with one thing wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from loadtests.chaos.history import Attempt, Effect, Evidence, Found
from loadtests.chaos.scene import marker, message
from loadtests.chaos.verdict.judge import judge
from tests.support.chaos_history import answered, history, reply, rules, said, turn, turn_id, words

Change = Callable[[Evidence], None]
WRONG: dict[str, tuple[str, Change]] = {}


def wrong(rule: str) -> Callable[[Change], Change]:
    """A change to the history that breaks one rule."""

    def keep(change: Change) -> Change:
        WRONG[change.__name__] = (rule, change)
        return change

    return keep


def test_a_history_in_which_all_is_well() -> None:
    verdict = judge(history())
    assert [str(v) for v in verdict.violations] == []
    assert verdict.figures["messages answered"] == 5
    assert verdict.figures["turns that another attempt ended"] == 1


@wrong("present")
def an_acknowledged_message_is_not_there(e: Evidence) -> None:
    e.sessions[0].messages = e.sessions[0].messages[2:]


@wrong("present")
def an_acknowledged_failure_is_not_there(e: Evidence) -> None:
    problem = {"code": "llm_error", "detail": "x"}
    e.said.append(said(8, "plain", 9.0, Attempt("query", 9.0, 9.5, 502, body=problem, final=True)))


@wrong("present once")
def a_message_is_there_twice(e: Evidence) -> None:
    e.sessions[0].messages += words(9, 6, ("user", message("plain", 2)), ("assistant", ""))


@wrong("present once")
def an_unacknowledged_message_is_there_twice(e: Evidence) -> None:
    e.said[1].attempts = [Attempt("query", 3.0, 3.5, None, "reset")]
    e.sessions[0].messages += words(9, 6, ("user", message("plain", 2)))


@wrong("refused")
def a_refused_message_is_there(e: Evidence) -> None:
    busy = {"code": "session_busy", "title": "The session is busy", "detail": "a turn of this session runs", "turn_id": turn_id(1)}
    e.said.append(said(8, "plain", 9.0, Attempt("query", 9.0, 9.5, 409, body=busy, final=True), turn_id=None))
    e.sessions[0].messages += words(8, 6, ("user", message("plain", 8)), ("assistant", f"You asked for {marker(8)}."))
    e.turns["amber", turn_id(8)] = turn("done", None)


@wrong("order")
def a_later_message_stands_before(e: Evidence) -> None:
    e.said[2].sent, e.said[2].attempts = 0.1, [answered(0.1, e.said[2].attempts[0].body or {})]


@wrong("order")
def a_merged_message_stands_before_what_was_answered(e: Evidence) -> None:
    """It was sent when the skill's answer was known, and became part of a turn before that one."""
    first = e.sessions[0].messages[2]
    first["content"] += f"\n{message('plain', 8)}"
    e.said.append(said(8, "plain", 9.0, answered(9.0, e.said[1].attempts[-1].events[-1][2]), turn_id=turn_id(2)))


@wrong("answer")
def an_answer_to_another_message(e: Evidence) -> None:
    assert e.said[2].attempts[0].body
    e.said[2].attempts[0].body["message"] = f"Booked {marker(4)} for you."


@wrong("answer")
def an_answer_that_names_nothing(e: Evidence) -> None:
    assert e.said[0].attempts[0].body
    e.said[0].attempts[0].body["message"] = "We open at 9."


@wrong("stored")
def another_answer_is_stored(e: Evidence) -> None:
    e.turns["amber", turn_id(3)]["result"] = reply(3, f"No, {marker(3)}.", "desk", kind="skill")


@wrong("stored")
def an_answered_turn_has_failed(e: Evidence) -> None:
    e.turns["amber", turn_id(3)] |= {"state": "failed", "result": None}


@wrong("stored")
def a_failed_turn_is_done(e: Evidence) -> None:
    e.said[2].attempts = [Attempt("query", 4.0, 4.5, 502, body={"code": "llm_error", "detail": "x"}, final=True)]


@wrong("stored")
def a_cancelled_turn_is_done(e: Evidence) -> None:
    e.turns["amber", turn_id(4)] = turn("done", reply(4, marker(4), ""))


@wrong("one answer")
def a_turn_has_two_answers(e: Evidence) -> None:
    messages = e.sessions[0].messages
    messages.insert(4, {**messages[3], "index": 2})
    e.sessions[0].document["message_count"] += 1


@wrong("own words")
def an_answer_in_the_history_speaks_of_another_message(e: Evidence) -> None:
    e.sessions[0].messages[3]["content"] += f" {marker(1)}"


@wrong("problem")
def a_fault_of_the_server(e: Evidence) -> None:
    e.said.append(said(8, "plain", 9.0, Attempt("query", 9.0, 9.5, 500, body={"code": "internal", "detail": "x"}, final=True)))


@wrong("problem")
def a_refusal_for_no_reason(e: Evidence) -> None:
    body = {"code": "unauthorized", "detail": "x"}
    e.said.append(said(8, "plain", 9.0, Attempt("query", 9.0, 9.5, 401, body=body, final=True), turn_id=None))


@wrong("repeated")
def another_reply_under_a_key(e: Evidence) -> None:
    e.said[0].attempts[1].body = {**(e.said[0].attempts[1].body or {}), "turn_id": "t_other"}


@wrong("repeated")
def a_repetition_that_does_not_say_so(e: Evidence) -> None:
    e.said[0].attempts[1].replayed = False


@wrong("known")
def a_key_that_never_had_a_reply(e: Evidence) -> None:
    e.said.append(said(8, "plain", 9.0, Attempt("query", 9.0, 9.5, 503, body={"code": "overloaded"}), key="order 9", turn_id=None))


@wrong("foreign")
def a_message_of_the_other_tenant(e: Evidence) -> None:
    e.sessions[0].messages[1]["content"] += f" {marker(5)}"


@wrong("foreign")
def an_event_of_the_other_tenant(e: Evidence) -> None:
    e.said[1].attempts[0].events[0][2]["hint"] = marker(5)


@wrong("foreign")
def a_foreign_turn_is_found(e: Evidence) -> None:
    e.strangers.append(Found("birch", "GET /api/v1/turns/t_1", 404, 200, {"state": "done"}))


@wrong("foreign")
def an_unknown_thing_looks_unlike_a_foreign_one(e: Evidence) -> None:
    e.strangers.append(Found("birch", "GET /api/v1/turns/t_1", 404, 404, {"code": "gone"}))


@wrong("foreign")
def an_effect_in_another_session(e: Evidence) -> None:
    e.effects[0] = replace(e.effects[0], session="own-9")


@wrong("stream")
def a_gap(e: Evidence) -> None:
    del e.said[1].attempts[0].events[1]


@wrong("stream")
def a_repeated_event(e: Evidence) -> None:
    e.said[1].attempts[1].events.insert(0, e.said[1].attempts[0].events[-1])


@wrong("stream")
def two_ends(e: Evidence) -> None:
    e.said[1].attempts[1].events.append((6, "cancelled", {"reason": "x"}))


@wrong("stream")
def something_behind_the_end(e: Evidence) -> None:
    e.said[1].attempts[1].events.append((6, "text", {"delta": ""}))


@wrong("stream")
def deltas_that_make_another_answer(e: Evidence) -> None:
    e.said[1].attempts[0].events[2] = (3, "text", {"delta": "He asked "})


@wrong("replay")
def a_replay_with_other_events(e: Evidence) -> None:
    e.replays[0].events = [*e.replays[0].events[:2], (3, "text", {"delta": "x"}), *e.replays[0].events[3:]]


@wrong("replay")
def a_replay_without_an_end(e: Evidence) -> None:
    e.replays[0].events = e.replays[0].events[:-1]


@wrong("replay")
def a_replay_that_is_refused(e: Evidence) -> None:
    e.replays[0].status, e.replays[0].events = 410, []


@wrong("one effect")
def an_effect_twice(e: Evidence) -> None:
    e.effects.append(replace(e.effects[0], number=2, key=f"{turn_id(3)}:c2"))


@wrong("one effect")
def an_effect_twice_of_what_nobody_acknowledged(e: Evidence) -> None:
    e.said[2].attempts = [Attempt("query", 4.0, 4.5, None, "reset")]
    e.effects.append(replace(e.effects[0], number=2, key=f"{turn_id(3)}:c2"))


@wrong("effect")
def an_answer_without_its_effect(e: Evidence) -> None:
    e.effects.clear()


@wrong("effect")
def an_effect_of_a_message_without_one(e: Evidence) -> None:
    e.effects.append(Effect(2, "/tickets", turn_id(2), marker(2), "own-1"))


@wrong("effect")
def an_effect_of_nobody(e: Evidence) -> None:
    e.effects.append(Effect(2, "/tickets", "t_9", marker(77), "own-1"))


@wrong("effect's key")
def an_effect_under_the_key_of_another_turn(e: Evidence) -> None:
    e.effects[0] = replace(e.effects[0], key=f"{turn_id(2)}:c1")


@wrong("call")
def a_result_without_an_effect_of_its_own(e: Evidence) -> None:
    e.effects[0] = replace(e.effects[0], key=f"{turn_id(3)}:c9")


@wrong("stuck")
def a_session_that_is_busy(e: Evidence) -> None:
    e.sessions[1].document["workflow_state"]["status"] = "processing"


@wrong("stuck")
def a_turn_that_runs(e: Evidence) -> None:
    e.turns["amber", turn_id(9)] = turn("running", None)


@wrong("stuck")
def a_task_that_waits(e: Evidence) -> None:
    e.tasks["amber", "t_9"] = {"status": "pending"}


@wrong("webhook")
def a_webhook_that_hears_nothing(e: Evidence) -> None:
    del e.heard[0]


@wrong("webhook")
def a_webhook_that_hears_twice(e: Evidence) -> None:
    e.heard.append(replace(e.heard[0], message_id="msg_3"))


@wrong("webhook")
def a_webhook_that_hears_something_else(e: Evidence) -> None:
    e.heard[0] = replace(e.heard[0], body={**e.heard[0].body, "data": {**e.heard[0].body["data"], "status": "failure"}})


@wrong("webhook")
def a_webhook_that_hears_of_what_nobody_asked_for(e: Evidence) -> None:
    e.said[4].hook = False


@wrong("webhook")
def a_batch_whose_end_is_not_told(e: Evidence) -> None:
    del e.heard[1]


@wrong("event")
def a_session_that_is_told_twice(e: Evidence) -> None:
    e.sessions[0].events.append((2, *e.sessions[0].events[0][1:]))
    e.sessions[0].document["last_event_id"] = 2


@wrong("events")
def an_event_that_is_missing(e: Evidence) -> None:
    e.sessions[0].document["last_event_id"] = 2


@wrong("task")
def a_task_that_is_gone(e: Evidence) -> None:
    e.tasks.clear()


@wrong("task")
def a_task_that_nobody_has_cancelled(e: Evidence) -> None:
    e.tasks["amber", turn_id(6)]["status"] = "cancelled"


@wrong("stuck")
def a_batch_that_never_ends(e: Evidence) -> None:
    e.batches[0].document = None


@wrong("batch")
def a_batch_with_its_items_out_of_order(e: Evidence) -> None:
    e.batches[0].lines.reverse()


@wrong("batch")
def a_batch_that_counts_wrongly(e: Evidence) -> None:
    assert e.batches[0].document
    e.batches[0].document["counts"]["success"] = 2


@wrong("batch")
def a_broken_item_that_ran(e: Evidence) -> None:
    e.batches[0].lines[1] |= {"status": "success"}


@wrong("repeated")
def a_batch_that_was_taken_twice(e: Evidence) -> None:
    again = replace(e.batches[0].attempts[0], body={"batch_id": "b_2"})
    e.batches[0].attempts.append(again)


@wrong("quiet")
def something_went_on(e: Evidence) -> None:
    e.troubles.append("7 entries in the journal")


@wrong("idle")
def a_request_under_way(e: Evidence) -> None:
    e.idle["heavy-1 turns_inflight"] = 1.0


@wrong("time to live")
def a_key_for_ever(e: Evidence) -> None:
    e.redis_keys.append("ls:idem:amber/x")


@wrong("left over")
def a_process_lives_on(e: Evidence) -> None:
    e.left_over.append("4711 loadsplit heavy")


@wrong("count")
def a_session_that_counts_wrongly(e: Evidence) -> None:
    e.sessions[0].document["message_count"] += 1


@wrong("places")
def messages_out_of_place(e: Evidence) -> None:
    e.sessions[0].messages[0]["turn"] = 3


@wrong("history")
def a_call_without_a_result(e: Evidence) -> None:
    del e.sessions[0].messages[6]
    e.effects.clear()


@wrong("history")
def a_result_without_a_call(e: Evidence) -> None:
    e.sessions[0].messages[6]["tool_call_id"] = "c9"


@wrong("history")
def a_result_twice(e: Evidence) -> None:
    messages = e.sessions[0].messages
    messages.insert(7, messages[6])


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_found(name: str) -> None:
    rule, change = WRONG[name]
    evidence = history()
    change(evidence)
    assert rule in rules(evidence)
