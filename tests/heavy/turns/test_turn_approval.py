"""Approvals: what is asked, who may decide what, and which short messages are a clear yes or no."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from common.contracts.query import Usage
from common.errors import Conflict, NotFound
from common.workflow.load import load_text
from heavy.agent.steps import ApprovalDecision, HeldCall
from heavy.llm.types import ToolCall
from heavy.turns import approval
from heavy.turns.rows import TurnRow

HELD = [HeldCall(ToolCall(f"c{n}", "refund", "{}"), {"order_id": f"A-{n}"}) for n in (1, 2)]
YES, NO = ApprovalDecision(True), ApprovalDecision(False, "ann", "too much")


def turn(asked: Any, state: Any = "awaiting_approval") -> TurnRow:
    nothing: dict[str, Any] = {"owner": None, "lease_until": None, "cancel_requested": False, "plan": None, "reply": None, "error": None}
    times = {"created_at": 100.0, "started_at": 101.0, "finished_at": None}
    return TurnRow(
        "acme", "s1", "t_1", "shop", 3, state, 1, config_hash="c1", request={}, usage=Usage(), **nothing, **times, approval=asked
    )


def test_one_call_after_the_other() -> None:
    row = turn(approval.ask(HELD))
    merged, complete = approval.merge(row, "c1", NO)
    assert not complete
    assert approval.open_calls(merged) == ["c2"]
    told = approval.events(row, merged)
    assert [e.data for e in told] == [{"session_id": "s1", "turn_id": "t_1", "call_id": "c1", "decision": "deny", "by": "ann"}]
    row = replace(row, approval=merged)
    merged, complete = approval.merge(row, None, YES)
    assert complete
    assert approval.decisions(merged) == {"c1": NO, "c2": YES}
    assert [e.data["call_id"] for e in approval.events(row, merged)] == ["c2"]


def test_without_a_call_id_all_are_decided() -> None:
    merged, complete = approval.merge(turn(approval.ask(HELD)), None, YES)
    assert complete
    assert set(approval.decisions(merged)) == {"c1", "c2"}


def test_the_same_again_changes_nothing_and_another_is_refused() -> None:
    row = turn(approval.ask(HELD))
    merged, _ = approval.merge(row, "c1", YES)
    row = replace(row, approval=merged)
    assert approval.merge(row, "c1", ApprovalDecision(True, "bob"))[0] is merged
    with pytest.raises(Conflict) as other:
        approval.merge(row, "c1", NO)
    assert (other.value.status, other.value.extra) == (409, {"call_id": "c1", "decision": "approve"})
    with pytest.raises(NotFound):
        approval.merge(row, "c9", YES)
    ended = replace(row, state="cancelled")
    assert approval.merge(ended, "c1", YES)[0] is merged
    with pytest.raises(Conflict):
        approval.merge(ended, "c2", YES)


def test_a_turn_that_asks_for_nothing() -> None:
    with pytest.raises(Conflict):
        approval.merge(turn(None, "done"), None, YES)
    assert approval.decisions(None) == {}


def test_what_was_decided_earlier_in_the_turn_stays() -> None:
    first, _ = approval.merge(turn(approval.ask(HELD[:1])), None, NO)
    second = approval.ask(HELD[1:], row_approval=first)
    assert approval.open_calls(second) == ["c2"]
    assert approval.decisions(second) == {"c1": NO}
    assert [c["call_id"] for c in approval.asked_event(turn(second), second).data["calls"]] == ["c2"]


def test_the_question_names_the_open_calls_in_the_users_language() -> None:
    workflow = load_text('{"agent_id": "shop"}')
    merged, _ = approval.merge(turn(approval.ask(HELD)), "c1", YES)
    asked = approval.question(workflow, merged, "refund it")
    assert 'refund {"order_id":"A-2"}' in asked
    assert "A-1" not in asked
    assert approval.question(workflow, merged, "请退款").startswith("在继续之前")
    long = approval.ask([HeldCall(ToolCall("c1", "refund", "{}"), {"why": "x" * 5000})])
    assert len(approval.question(workflow, long, "refund")) < 500


@pytest.mark.parametrize("message", ["yes", " Yes! ", "YES PLEASE.", "ok", "ｏｋ", "go ahead 👍", "好的。", "是", "可以！", "是的", "oui"])
def test_a_clear_yes(message: str) -> None:
    assert approval.yes_or_no(message) is True


@pytest.mark.parametrize("message", ["no", "No, thanks", "don't", "Nope.", "不用了", "不要！", "取消", "算了", "non"])
def test_a_clear_no(message: str) -> None:
    assert approval.yes_or_no(message) is False


@pytest.mark.parametrize(
    "message", ["", "👍👎", "yes, but only half of it", "no idea what you mean", "好的，不过先等等", "what would it cost?", "yes " * 400]
)
def test_everything_else_is_neither(message: str) -> None:
    assert approval.yes_or_no(message) is None
