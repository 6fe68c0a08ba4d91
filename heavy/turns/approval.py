"""The rules of an approval: which calls are asked about, who has decided what, whether everything is decided, and a user's plain yes or no.

`TurnRow.approval` holds: `asked_at`, `attempt` (the one that paused), `calls` [{call_id, name, arguments}], `decisions` {call_id:
{approved, by, reason, at}}; those of calls that were asked about earlier in the turn stay. It knows no store and no model.
"""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from common.contracts import session_events
from common.errors import Conflict, NotFound
from common.workflow.schema import Workflow
from heavy.agent.prompts import language_of
from heavy.agent.steps import ApprovalDecision, HeldCall
from heavy.turns.rows import SessionEvent, TurnRow

MOST_ARGUMENTS = 300  # characters of a call's arguments in the question to the user
_QUESTION = {
    "en": "Before I go on I need your approval: {calls}. Shall I go ahead? (yes / no)",
    "zh": "在继续之前，需要您的确认：{calls}。是否同意？（是 / 否）",
}
_YES = """
y, yes, yes please, yep, yeah, yup, sure, ok, okay, okey, k, alright, all right, agreed, approve, approved, i approve, confirm, confirmed
i confirm, go ahead, do it, please do, proceed, correct, of course, yes do it, yes go ahead, sure go ahead, that is fine, fine, sounds good
是, 是的, 好, 好的, 好吧, 好啊, 行, 行的, 可以, 可以的, 同意, 我同意, 确认, 我确认, 确定, 没问题, 批准, 允许
要, 需要, 对, 对的, 嗯, 嗯嗯, 请继续, 继续, 办吧
はい, お願いします, 네, 예, oui, ja, si, sí, sim, да
"""
_NO = """
n, no, nope, nah, no thanks, no thank you, deny, denied, i deny, decline, declined, reject, rejected, cancel, cancel it, stop, do not, dont
don't, do not do it, don't do it, dont do it, no way, never, not now, no stop, please do not, please don't, no don't, leave it
否, 不, 不是, 不要, 不用, 不用了, 不行, 不可以, 不好, 不同意, 我不同意, 不确认, 不需要, 不批准
拒绝, 取消, 取消吧, 别, 别办, 算了, 停, 停止, 先不要
いいえ, やめて, 아니요, 아니오, non, nein, não, нет
"""
_SILENT = re.compile(r"[\W_]+")


def _folded(text: str) -> str:
    return _SILENT.sub("", unicodedata.normalize("NFKC", text).casefold())


_ANSWERS = {_folded(word): yes for words, yes in ((_YES, True), (_NO, False)) for word in re.split(r",|\n", words) if word.strip()}
_LONGEST = max(map(len, _ANSWERS))


def ask(held: Sequence[HeldCall], *, attempt: int = 1, row_approval: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The approval that a turn awaits for these calls from now on, after this attempt. `row_approval` is the one that it has had before."""
    calls = [{"call_id": h.call.id, "name": h.call.name, "arguments": dict(h.arguments)} for h in held]
    return {
        "asked_at": time.time(),
        "attempt": attempt,
        "calls": calls,
        "decisions": dict(row_approval["decisions"]) if row_approval else {},
    }


def merge(row: TurnRow, call_id: str | None, decision: ApprovalDecision) -> tuple[Mapping[str, Any], bool]:
    """The turn's approval with one more decision, and whether nothing is left to decide. Without a call id it is one on every open call.

    The same decision again changes nothing. Raises Conflict where the turn asks for no approval or the call was decided otherwise,
    NotFound for a call that is not asked about.
    """
    approval = row.approval
    if approval is None:
        raise Conflict("this turn asks for no approval", state=row.state)
    asked = [call["call_id"] for call in approval["calls"]]
    if call_id is not None and call_id not in asked:
        raise NotFound("this turn asks for no approval of such a call")
    decided = approval["decisions"]
    wanted = [call_id] if call_id is not None else open_calls(approval) or asked
    for one in wanted:
        if one in decided and decided[one]["approved"] != decision.approved:
            raise Conflict("this call was decided otherwise", call_id=one, decision=_word(decided[one]["approved"]))
    new = {c: _document(decision) for c in wanted if c not in decided}
    if new and row.state != "awaiting_approval":
        raise Conflict("this turn has ended without a decision", state=row.state)
    merged = {**approval, "decisions": {**decided, **new}} if new else approval
    return merged, not open_calls(merged)


def open_calls(approval: Mapping[str, Any]) -> list[str]:
    """The ids of the calls that nobody has decided on."""
    return [call["call_id"] for call in approval["calls"] if call["call_id"] not in approval["decisions"]]


def decisions(approval: Mapping[str, Any] | None) -> Mapping[str, ApprovalDecision]:
    """What was decided, by call id."""
    found = approval["decisions"] if approval else {}
    return {call_id: ApprovalDecision(d["approved"], d["by"], d["reason"]) for call_id, d in found.items()}


def asked_event(row: TurnRow, approval: Mapping[str, Any]) -> SessionEvent:
    """What tells the session's watchers that a person must decide."""
    place = {"session_id": row.session_id, "turn_id": row.turn_id}
    return SessionEvent(session_events.AWAITING_APPROVAL, {**place, "calls": approval["calls"]})


def events(row: TurnRow, merged: Mapping[str, Any]) -> tuple[SessionEvent, ...]:
    """What tells them of the decisions that `merged` has and the turn's own approval has not."""
    before = row.approval["decisions"] if row.approval else {}
    place = {"session_id": row.session_id, "turn_id": row.turn_id}
    return tuple(
        SessionEvent(session_events.APPROVAL_DECIDED, {**place, "call_id": c, "decision": _word(d["approved"]), "by": d["by"]})
        for c, d in merged["decisions"].items()
        if c not in before
    )


def yes_or_no(message: str) -> bool | None:
    """Whether the message is a clear yes or a clear no and nothing else; None for everything that says more. Signs, case and width do
    not matter."""
    if len(message) > 2 * _LONGEST:
        return None
    return _ANSWERS.get(_folded(message))


def question(workflow: Workflow, approval: Mapping[str, Any], message: str) -> str:
    """The sentence that asks the user about the open calls, in the agent's language or else that of the message."""
    waiting = set(open_calls(approval))
    calls = "; ".join(_shown(c) for c in approval["calls"] if c["call_id"] in waiting)
    return _QUESTION[language_of(workflow, message)].format(calls=calls)


def _shown(call: Mapping[str, Any]) -> str:
    arguments = orjson.dumps(call["arguments"]).decode() if call["arguments"] else ""
    return f"{call['name']} {arguments[:MOST_ARGUMENTS]}{' …' if len(arguments) > MOST_ARGUMENTS else ''}".rstrip()


def _document(decision: ApprovalDecision) -> dict[str, Any]:
    return {"approved": decision.approved, "by": decision.by, "reason": decision.reason, "at": time.time()}


def _word(approved: bool) -> str:
    return "approve" if approved else "deny"
