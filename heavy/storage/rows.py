"""Rows to dataclasses and back, the same for every dialect: columns have the same names, JSON is text everywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import orjson

from common.contracts.journal import JournalEntry
from common.contracts.query import Usage
from heavy.llm.types import Message, ToolCall
from heavy.turns.rows import Accepted, ArmTimer, NewTurn, SessionEvent, SessionRow, StoredEvent, StoredMessage, TimerRow, TurnRow


class Row(Protocol):
    """What asyncpg.Record and sqlite3.Row have in common."""

    def __getitem__(self, name: str, /) -> Any: ...


def text(value: str | None) -> str | None:
    """A value for a text column: PostgreSQL can't store NUL. (JSON needs no such care: there it is the escape \\u0000.)"""
    return value.replace("\0", "\ufffd") if value and "\0" in value else value


def to_json(value: Mapping[str, Any] | None) -> str | None:
    """A JSON object as text, None stays None."""
    return None if value is None else orjson.dumps(value).decode()


def from_json(value: str | None) -> Any:
    """The value of `to_json`."""
    return None if value is None else orjson.loads(value)


def message_json(message: Message) -> str:
    """A message as text."""
    return orjson.dumps(message).decode()


def message_of(content: str) -> Message:
    """The message of `message_json`."""
    doc = orjson.loads(content)
    return Message(
        doc["role"], doc["content"], tuple(ToolCall(**c) for c in doc["tool_calls"]), doc["tool_call_id"], doc.get("author"), doc.get("ms")
    )


def usage_of(row: Row) -> Usage:
    """The five usage columns that sessions and turns share."""
    return Usage(row["llm_calls"], row["input_tokens"], row["cached_tokens"], row["output_tokens"], round(row["cost_usd"], 9))


def usage_values(usage: Usage) -> tuple[int, int, int, int, float]:
    """The values of the usage columns, in the order of `usage_of`."""
    return (usage.llm_calls, usage.input_tokens, usage.cached_tokens, usage.output_tokens, usage.cost_usd)


def session_of(row: Row) -> SessionRow:
    """A row of `sessions`."""
    return SessionRow(
        tenant=row["tenant"],
        session_id=row["session_id"],
        agent_id=row["agent_id"],
        user_id=row["user_id"],
        status=row["status"],
        current_skill=row["current_skill"],
        config_hash=row["config_hash"],
        greeting=row["greeting"],
        profile=from_json(row["profile"]),
        turn_seq=row["turn_seq"],
        active=row["active"],
        message_count=row["message_count"],
        usage=usage_of(row),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        handoff=from_json(row["handoff"]),
        event_seq=row["event_seq"],
    )


def turn_of(row: Row) -> TurnRow:
    """A row of `turns`."""
    return TurnRow(
        tenant=row["tenant"],
        session_id=row["session_id"],
        turn_id=row["turn_id"],
        agent_id=row["agent_id"],
        seq=row["seq"],
        state=row["state"],
        attempt=row["attempt"],
        owner=row["owner"],
        lease_until=row["lease_until"],
        cancel_requested=bool(row["cancel_requested"]),
        config_hash=row["config_hash"],
        request=from_json(row["request"]),
        plan=from_json(row["plan"]),
        reply=from_json(row["reply"]),
        error=from_json(row["error"]),
        usage=usage_of(row),
        created_at=row["created_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        approval=from_json(row["approval"]),
        decision=from_json(row["decision"]),
        tries=row["tries"],
        not_before=row["not_before"],
        cancel_reason=row["cancel_reason"],
    )


def known_of(row: Row) -> tuple[TurnRow, str | None]:
    """A turn with the fingerprint of the request that is asked for: its own, or that of the further name under which it was found."""
    turn = turn_of(row)
    return turn, row["fingerprint"] if row["alias"] else turn.request.get("fingerprint")


def keyed_of(row: Row) -> tuple[str, str, str]:
    """Tenant, id and fingerprint of a turn that came with an Idempotency-Key."""
    return row["tenant"], row["turn_id"], from_json(row["request"])["fingerprint"]


def stored_message_of(row: Row) -> StoredMessage:
    """A row of `messages`."""
    return StoredMessage(row["turn_seq"], row["turn_id"], row["idx"], message_of(row["content"]), row["at"])


def event_of(row: Row) -> StoredEvent:
    """A row of `session_events`."""
    return StoredEvent(row["id"], row["type"], from_json(row["data"]), row["at"])


def event_values(events: Sequence[SessionEvent]) -> list[tuple[str, str | None]]:
    """The types of the events and their data as text."""
    return [(e.type, to_json(e.data)) for e in events]


def timer_of(row: Row) -> TimerRow:
    """A row of `timers`."""
    return TimerRow(
        tenant=row["tenant"],
        session_id=row["session_id"],
        agent_id=row["agent_id"],
        kind=row["kind"],
        timer_id=row["timer_id"],
        position=row["position"],
        seq=row["seq"],
        due_at=row["due_at"],
    )


def timer_values(timers: Sequence[ArmTimer]) -> list[tuple[str, str, int, float]]:
    """Kind, id, position and delay of the timers; of several of one kind the last one counts."""
    return [(t.kind, t.timer_id, t.position, t.delay_seconds) for t in {t.kind: t for t in timers}.values()]


def opening_of(turn: NewTurn) -> str | None:
    """Message 0 of a turn as text, None for one that nobody's words begin."""
    return None if turn.user_message is None else message_json(Message("user", turn.user_message, author=turn.author))


def accepted_of(row: Row, turn: NewTurn, owner: str, lease_seconds: float) -> Accepted:
    """The result of an accept that wrote: `row` is the session right after it, whose `active` says whether the turn runs."""
    session = session_of(row)
    now, runs = session.updated_at, session.active == 1
    accepted = TurnRow(
        tenant=turn.tenant,
        session_id=turn.session_id,
        turn_id=turn.turn_id,
        agent_id=turn.agent_id,
        seq=session.turn_seq,
        state="running" if runs else "waiting",
        attempt=1 if runs else 0,
        owner=owner,
        lease_until=now + lease_seconds,
        cancel_requested=False,
        config_hash=turn.config_hash,
        request=turn.request,
        plan=turn.plan,
        reply=None,
        error=None,
        usage=Usage(),
        created_at=now,
        started_at=now if runs else None,
        finished_at=None,
    )
    return Accepted(session, accepted, new_session=session.turn_seq == 1, new_turn=True)


# One rule-answered turn, as both dialects store it. The names are those of the columns `record_rule_turns` reads.
RULE_COLUMNS = (
    "tenant", "session_id", "turn_id", "agent_id", "user_id", "status", "config_hash", "greeting",
    "request", "reply", "question", "answer", "at", "began",
)  # fmt: skip


def rule_rows(entries: Sequence[JournalEntry]) -> list[tuple[Any, ...]]:
    """The entries as tuples of RULE_COLUMNS, each turn id once, in the order given."""
    rows: dict[tuple[str, str], tuple[Any, ...]] = {}
    for e in entries:
        status = e.reply.get("status")
        rows[(e.tenant, e.turn_id)] = (
            e.tenant,
            e.session_id,
            e.turn_id,
            e.agent_id,
            text(e.user_id),
            status if status in ("transferred", "closed") else "",
            e.reply.get("config_hash") or "",
            e.greeting,
            to_json(_rule_request(e)),
            to_json(e.reply),
            message_json(Message("user", e.message)),
            message_json(Message("assistant", str(e.reply.get("message", "")))),
            e.at,
            e.at - e.seconds,
        )
    return list(rows.values())


def _rule_request(e: JournalEntry) -> dict[str, Any]:
    request = {"message": e.message, "session_id": e.session_id, "user_id": e.user_id, "agent_id": e.agent_id}
    more = {"request_id": e.request_id, "fingerprint": e.fingerprint}
    return {**request, **{name: value for name, value in more.items() if value}}
