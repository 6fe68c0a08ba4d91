"""Turns, messages and journal entries with sensible contents, for tests of the stores."""

from __future__ import annotations

from typing import Any

from common.contracts.journal import JournalEntry
from common.contracts.query import Usage
from heavy.llm.types import Message, ToolCall
from heavy.turns.rows import Accepted, Fence, Finish, NewTurn, SessionRow, TurnRow
from heavy.turns.stores import Stores

LEASE = 30.0


def new_turn(turn_id: str = "t_1", session_id: str = "s1", **other: Any) -> NewTurn:
    """A turn of tenant `acme` and agent `shop`."""
    values = {"tenant": "acme", "agent_id": "shop", "user_id": "u1", "config_hash": "c1", "user_message": f"question of {turn_id}"}
    values["request"] = {"message": f"question of {turn_id}"}
    return NewTurn(session_id=session_id, turn_id=turn_id, **{**values, **other})


async def accept(stores: Stores, turn_id: str, owner: str = "a", lease: float = LEASE, **other: Any) -> Accepted:
    """Accepts a turn of session s1, or of `session_id`."""
    return await stores.turns.accept(new_turn(turn_id, **other), owner=owner, lease_seconds=lease)


async def talk(stores: Stores, turn_id: str, end: Finish | None = None, **other: Any) -> SessionRow:
    """A whole turn: accepted and finished."""
    accepted = await accept(stores, turn_id, **other)
    return await stores.turns.finish(fence_of(accepted.turn), end or answer())


async def session_of(stores: Stores, session_id: str = "s1") -> SessionRow:
    """The session as it is stored."""
    session = await stores.sessions.get("acme", session_id)
    if session is None:
        raise LookupError(session_id)
    return session


def fence_of(turn: TurnRow) -> Fence:
    """The right to write that a claimed turn gives."""
    return Fence(turn.tenant, turn.session_id, turn.turn_id, turn.attempt)


def tool_step(number: int = 1) -> list[Message]:
    """An assistant message with a tool call, and its result."""
    call = ToolCall(f"call_{number}", "find_order", '{"order_id": "A-1"}')
    return [Message("assistant", "", (call,)), Message("tool", '{"state": "shipped"}', (), call.id)]


def answer(text: str = "It is on its way.", first_idx: int = 1, **other: Any) -> Finish:
    """The end of a turn that went well."""
    values: dict[str, Any] = {"reply": {"message": text}, "usage": Usage(1, 100, 50, 10, 0.001)}
    return Finish("done", first_idx, [Message("assistant", text)], **{**values, **other})


def journal_entry(turn_id: str, session_id: str = "s1", at: float = 1000.0, **other: Any) -> JournalEntry:
    """A rule-answered turn."""
    reply = {"session_id": session_id, "message": f"answer of {turn_id}", "status": "success", "turn_id": turn_id, "config_hash": "c1"}
    reply.update(other.pop("reply", {}))
    values = {"tenant": "acme", "agent_id": "shop", "user_id": "u1", "message": f"question of {turn_id}"}
    return JournalEntry(reply=reply, at=at, **{**values, **other})
