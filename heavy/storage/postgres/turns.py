"""Turns on PostgreSQL: each step of a turn's life is one statement, so one round trip and one commit; claiming locks the session first.

Why FIFO holds: whatever makes a turn active (accept, decide) or running (accept, claim) locks the session's row until the commit, and
`claim` looks only when it has that lock: so it sees every turn that is active, and of two claims the second sees the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import asyncpg

from common.contracts.journal import JournalEntry
from common.contracts.query import Usage
from common.errors import InvalidRequest
from heavy.llm.types import Message
from heavy.storage.postgres import turn_statements as sql
from heavy.storage.postgres.rule_turns import record
from heavy.storage.postgres.sessions import GET as GET_SESSION
from heavy.storage.postgres.sessions import Runner, either
from heavy.storage.rows import (
    accepted_of,
    event_values,
    keyed_of,
    known_of,
    message_json,
    opening_of,
    session_of,
    stored_message_of,
    text,
    timer_values,
    to_json,
    turn_of,
    usage_values,
)
from heavy.turns import merging
from heavy.turns.rows import Accepted, ArmTimer, Fence, Finish, NewTurn, SessionEvent, SessionRow, StoredMessage, TurnRow
from heavy.turns.stores import Busy, LeaseLost, Outrun


class PostgresTurns:
    """TurnStore over PostgreSQL."""

    def __init__(self, database: Runner) -> None:
        self._database = database

    async def accept(self, turn: NewTurn, *, owner: str, lease_seconds: float) -> Accepted:
        """Creates session, turn and message 0; `new_session` stays true when the first turn's accept is repeated."""
        if turn.when_busy == "merge" and (joined := await self._join(turn)) is not None:
            return joined
        opening = opening_of(turn)
        values = [
            turn.tenant, turn.session_id, turn.turn_id, turn.agent_id, text(turn.user_id), turn.config_hash,
            owner, lease_seconds, to_json(turn.request), to_json(turn.plan), opening, 0 if opening is None else 1, turn.when_busy,
        ]  # fmt: skip
        write = (sql.ACCEPT, *values) if turn.after_seq is None else (sql.FOLLOW, *values, turn.after_seq)
        tries = 0

        async def accept(connection: Any) -> Any:
            nonlocal tries
            tries += 1
            return await connection.fetchrow(*write)

        try:
            row = await self._database.run(accept)
        except asyncpg.UniqueViolationError:  # the same turn id came twice at once
            row = None
        if row:
            return accepted_of(row, turn, owner, lease_seconds)
        before = await self._accepted_before(turn)
        # When a connection broke behind the commit, the turn is new to the caller, and nobody else will run it.
        ours = tries > 1 and before.turn.owner == owner and before.turn.finished_at is None
        return replace(before, new_turn=ours)

    async def _accepted_before(self, turn: NewTurn) -> Accepted:
        """What there is of a turn that an accept did not write. Raises InvalidRequest or Outrun when that is nothing."""
        known = await self.get(turn.tenant, turn.turn_id)
        session = await self._database.fetchrow(GET_SESSION, turn.tenant, known.session_id if known else turn.session_id)
        if known is not None and session is not None:
            return Accepted(session_of(session), known, new_session=known.seq == 1)
        if turn.after_seq is not None and (session is None or session["agent_id"] == turn.agent_id):
            raise Outrun
        if turn.when_busy == "reject" and session is not None and session["agent_id"] == turn.agent_id:
            busy = await self.busy(turn.tenant, turn.session_id)
            raise Busy("a turn of this session runs", turn_id=busy.turn_id if busy else None)
        raise InvalidRequest("the session belongs to another agent", field="agent_id")

    async def _join(self, turn: NewTurn) -> Accepted | None:
        """Makes the message part of the last turn that waits, if that one merges; None when there is none."""
        place = (turn.tenant, turn.session_id)

        async def join(connection: Any) -> tuple[Any, Any] | None:
            async with connection.transaction():
                last = await connection.fetchrow(sql.MERGEABLE, *place, turn.agent_id)
                into = await connection.fetchrow(sql.ALIAS, *place, turn.turn_id)
                if into is None:
                    if last is None or last["state"] != "waiting" or not last["merges"]:
                        return None
                    if await connection.fetchrow(sql.GET, turn.tenant, turn.turn_id):
                        return None
                    request, plan = merging.join(turn_of(last), turn)
                    message = message_json(Message("user", request["message"], author=turn.author))
                    values = (last["turn_id"], turn.turn_id, to_json(request), to_json(plan), message, turn.request.get("fingerprint"))
                    into = await connection.fetchrow(sql.MERGE, *place, *values)
                return into, await connection.fetchrow(GET_SESSION, *place)

        found = await self._database.run(join)
        return Accepted(session_of(found[1]), turn_of(found[0]), new_session=False) if found else None

    async def claim(self, tenant: str, turn_id: str, *, owner: str, lease_seconds: float) -> TurnRow | None:
        """Makes a waiting turn running if its time has come."""

        tries = 0

        async def claim(connection: Any) -> Any:
            nonlocal tries
            tries += 1
            async with connection.transaction():
                if await connection.fetchrow(sql.CLAIM_LOCK, tenant, turn_id) is None:
                    return await connection.fetchrow(sql.CLAIMED, tenant, turn_id, owner) if tries > 1 else None
                return await connection.fetchrow(sql.CLAIM, tenant, turn_id, owner, lease_seconds)

        row = await self._database.run(claim)
        return turn_of(row) if row else None

    async def take_over(self, *, owner: str, lease_seconds: float, limit: int) -> Sequence[TurnRow]:
        """Claims up to `limit` active turns whose lease has run out, the longest overdue first."""

        async def take(connection: Any) -> list[Any]:
            async with connection.transaction():
                found = await connection.fetch(sql.TAKE_OVER_LOCK, limit)
                keys = [[r[name] for r in found] for name in ("tenant", "session_id", "seq")]
                return await connection.fetch(sql.TAKE_OVER, owner, lease_seconds, *keys) if found else []

        return [turn_of(r) for r in await self._database.run(take)]

    async def renew(self, owner: str, turn_ids: Sequence[str], *, lease_seconds: float) -> Sequence[str]:
        """Prolongs leases; the ids of those that this owner still holds."""
        if not turn_ids:
            return []
        return [r["turn_id"] for r in await self._database.fetch(sql.RENEW, owner, list(turn_ids), lease_seconds)]

    async def release(self, owner: str, turn_ids: Sequence[str]) -> None:
        """Gives up leases."""
        await self._database.fetch(sql.RELEASE, owner, list(turn_ids))

    async def cancel_requests(self, owner: str) -> Mapping[str, str]:
        """Running turns of this owner whose end was asked for, with the reason."""
        return {r["turn_id"]: r["cancel_reason"] or "cancelled" for r in await self._database.fetch(sql.CANCEL_REQUESTS, owner)}

    async def step(
        self, fence: Fence, *, first_idx: int, messages: Sequence[Message], usage: Usage, decision: Mapping[str, Any] | None = None
    ) -> None:
        """Commits messages of a running turn. Raises LeaseLost."""
        if not await self._database.fetchrow(sql.STEP, *_fenced(fence, usage, first_idx, messages), to_json(decision)):
            raise LeaseLost

    async def finish(self, fence: Fence, finish: Finish) -> SessionRow:
        """Ends a running turn and updates its session. Raises LeaseLost."""
        values = (
            *_fenced(fence, finish.usage, finish.first_idx, finish.messages), finish.state, to_json(finish.reply),
            to_json(finish.error), finish.session_status, text(finish.current_skill), finish.greeting, finish.config_hash,
            to_json(finish.profile), to_json(finish.handoff),
        )  # fmt: skip
        write: tuple[Any, ...] = (sql.FINISH, *values)
        if finish.events or finish.timers:
            events, timers = _columns(event_values(finish.events), 2), _columns(timer_values(finish.timers), 4)
            write = (sql.FINISH_WITH_MORE, *values, *events, *timers)
        before = (fence.tenant, fence.turn_id, fence.attempt, finish.state)
        row = await self._database.run(either(write, (sql.FINISHED, *before)))
        if row is None:
            raise LeaseLost
        return session_of(row)

    async def pause(
        self,
        fence: Fence,
        *,
        first_idx: int,
        messages: Sequence[Message],
        usage: Usage,
        approval: Mapping[str, Any],
        reply: Mapping[str, Any],
        events: Sequence[SessionEvent],
    ) -> SessionRow:
        """A running turn awaits an approval. Raises LeaseLost."""
        written = _fenced(fence, usage, first_idx, messages)
        values = (*written, to_json(approval), to_json(reply), *_columns(event_values(events), 2))
        before = (fence.tenant, fence.turn_id, fence.attempt, "awaiting_approval")
        row = await self._database.run(either((sql.PAUSE, *values), (sql.FINISHED, *before)))
        if row is None:
            raise LeaseLost
        return session_of(row)

    async def postpone(
        self, fence: Fence, *, first_idx: int, messages: Sequence[Message], usage: Usage, error: Mapping[str, Any], delay_seconds: float
    ) -> SessionRow:
        """A running turn becomes accepted again. Raises LeaseLost."""
        values = (*_fenced(fence, usage, first_idx, messages), to_json(error), delay_seconds)
        before = (fence.tenant, fence.turn_id, fence.attempt, "accepted")
        row = await self._database.run(either((sql.POSTPONE, *values), (sql.FINISHED, *before)))
        if row is None:
            raise LeaseLost
        return session_of(row)

    async def reopen(self, tenant: str, turn_id: str, *, owner: str, lease_seconds: float) -> Accepted | None:
        """An accepted turn whose time has come waits."""
        place = (tenant, turn_id, owner)
        session = await self._database.run(either((sql.REOPEN, *place, lease_seconds), (sql.REOPENED, *place)))
        turn = await self.get(tenant, turn_id) if session else None
        return Accepted(session_of(session), turn, new_session=False, new_turn=True) if turn else None

    async def busy(self, tenant: str, session_id: str) -> TurnRow | None:
        """The session's running turn, else the first one that waits."""
        row = await self._database.fetchrow(sql.BUSY, tenant, session_id)
        return turn_of(row) if row else None

    async def awaiting(self, tenant: str, session_id: str) -> Sequence[TurnRow]:
        """The turns of a session that await an approval, the oldest first."""
        return [turn_of(r) for r in await self._database.fetch(sql.AWAITING, tenant, session_id)]

    async def decide(
        self,
        tenant: str,
        turn_id: str,
        *,
        before: Mapping[str, Any],
        approval: Mapping[str, Any],
        resume: bool,
        owner: str,
        lease_seconds: float,
        events: Sequence[SessionEvent],
    ) -> TurnRow | None:
        """Stores a decision on a turn that awaits one, if its approval is still `before`; else None."""
        decided, place = to_json(approval), (tenant, turn_id)
        values = (*place, to_json(before), decided, resume, owner, lease_seconds, *_columns(event_values(events), 2))
        row = await self._database.run(either((sql.DECIDE, *values), (sql.DECIDED, *place, decided)))
        return turn_of(row) if row else None

    async def cancel(
        self, tenant: str, turn_id: str, *, reply: Mapping[str, Any] | None = None, reason: str = "cancelled"
    ) -> TurnRow | None:
        """Cancels a turn that does not run, asks the owner of a running one; the turn as it is afterwards."""
        row = await self._database.fetchrow(sql.CANCEL, tenant, turn_id, to_json(reply), reason)
        return turn_of(row) if row else await self.get(tenant, turn_id)

    async def get(self, tenant: str, turn_id: str) -> TurnRow | None:
        """The turn, None when unknown to this tenant."""
        row = await self._database.fetchrow(sql.GET, tenant, turn_id)
        return turn_of(row) if row else None

    async def known(self, tenant: str, session_id: str, ids: Sequence[str]) -> tuple[TurnRow, str | None] | None:
        """The turn of one of these ids or further names, with the fingerprint of the request that came under it."""
        row = await self._database.fetchrow(sql.KNOWN, tenant, session_id, list(ids))
        return known_of(row) if row else None

    async def name(self, tenant: str, session_id: str, alias: str, turn_id: str, fingerprint: str | None) -> None:
        """Gives a turn of the session a further name."""
        await self._database.fetch(sql.NAME, tenant, session_id, alias, turn_id, fingerprint)

    async def keyed(self, seconds: float, most: int) -> Sequence[tuple[str, str, str]]:
        """Tenant, id and fingerprint of the newest turns with an Idempotency-Key, none older than so many seconds."""
        return [keyed_of(r) for r in await self._database.fetch(sql.KEYED, seconds, most)]

    async def turn_messages(self, tenant: str, turn_id: str) -> Sequence[StoredMessage]:
        """All messages of one turn in order."""
        return [stored_message_of(r) for r in await self._database.fetch(sql.TURN_MESSAGES, tenant, turn_id)]

    async def record_rule_turns(self, entries: Sequence[JournalEntry], timers: Mapping[str, ArmTimer] = MappingProxyType({})) -> int:
        """Stores rule-answered turns and arms the timers of their agents; how many were new."""
        return await record(self._database, entries, timers) if entries else 0


def _fenced(fence: Fence, usage: Usage, first_idx: int, messages: Sequence[Message]) -> tuple[Any, ...]:
    return (fence.tenant, fence.turn_id, fence.attempt, *usage_values(usage), first_idx, [message_json(m) for m in messages])


def _columns(rows: Sequence[tuple[Any, ...]], width: int) -> list[list[Any]]:
    """Rows as `width` arrays for unnest."""
    return [[row[i] for row in rows] for i in range(width)]
