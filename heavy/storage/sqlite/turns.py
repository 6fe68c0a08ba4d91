"""Turns on SQLite: each step of a turn's life is one function that runs in the writer thread inside one transaction."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from common.contracts.journal import JournalEntry
from common.contracts.query import Usage
from common.errors import InvalidRequest
from heavy.llm.types import Message
from heavy.storage.rows import (
    accepted_of,
    keyed_of,
    known_of,
    message_json,
    opening_of,
    session_of,
    stored_message_of,
    text,
    to_json,
    turn_of,
    usage_values,
)
from heavy.storage.sqlite import turn_statements as sql
from heavy.storage.sqlite.rule_turns import record
from heavy.storage.sqlite.sessions import GET as GET_SESSION
from heavy.storage.sqlite.sessions import INSERT_MESSAGE, Run, append_events, arm, one
from heavy.turns import merging
from heavy.turns.rows import Accepted, ArmTimer, Fence, Finish, NewTurn, SessionEvent, SessionRow, StoredMessage, TurnRow
from heavy.turns.stores import Busy, LeaseLost, Outrun


class SqliteTurns:
    """TurnStore over SQLite."""

    def __init__(self, read: Run, write: Run) -> None:
        self._read, self._write = read, write

    async def accept(self, turn: NewTurn, *, owner: str, lease_seconds: float) -> Accepted:
        """Creates session, turn and message 0; `new_session` stays true when the first turn's accept is repeated."""
        request, plan = to_json(turn.request), to_json(turn.plan)
        opening = opening_of(turn)
        asked = 0 if opening is None else 1
        key = (turn.tenant, turn.session_id)

        def accept(c: sqlite3.Connection) -> Accepted:
            known = c.execute(sql.GET, (turn.tenant, turn.turn_id)).fetchone()
            if known:
                session = c.execute(GET_SESSION, (turn.tenant, known["session_id"])).fetchone()
                return Accepted(session_of(session), turn_of(known), new_session=known["seq"] == 1)
            if turn.when_busy == "merge" and (into := _join(c, turn)) is not None:
                return Accepted(session_of(c.execute(GET_SESSION, key).fetchone()), turn_of(into), new_session=False)
            there = c.execute(GET_SESSION, key).fetchone()
            if there and there["agent_id"] != turn.agent_id:
                raise InvalidRequest("the session belongs to another agent", field="agent_id")
            if turn.after_seq is not None and (there is None or there["active"] or there["turn_seq"] != turn.after_seq):
                raise Outrun
            if turn.when_busy == "reject" and there and there["active"]:
                busy = c.execute(sql.BUSY, key).fetchone()
                raise Busy("a turn of this session runs", turn_id=busy["turn_id"] if busy else None)
            row = one(c, sql.UPSERT_SESSION, (*key, turn.agent_id, text(turn.user_id), turn.config_hash, time.time(), asked))
            accepted = accepted_of(row, turn, owner, lease_seconds)
            t = accepted.turn
            head = (*key, t.seq, t.turn_id, t.agent_id, t.state, t.attempt, owner, t.lease_until, t.config_hash)
            c.execute(sql.INSERT_TURN, (*head, request, plan, t.created_at, t.started_at, asked, turn.when_busy == "merge"))
            if opening is not None:
                c.execute(INSERT_MESSAGE, (*key, t.seq, 0, t.turn_id, opening, t.created_at))
            return accepted

        return await self._write(accept)

    async def claim(self, tenant: str, turn_id: str, *, owner: str, lease_seconds: float) -> TurnRow | None:
        """Makes a waiting turn running if its time has come."""

        def claim(c: sqlite3.Connection) -> Any:
            now = time.time()
            return one(c, sql.CLAIM, (tenant, turn_id, owner, now + lease_seconds, now))

        row = await self._write(claim)
        return turn_of(row) if row else None

    async def take_over(self, *, owner: str, lease_seconds: float, limit: int) -> Sequence[TurnRow]:
        """Claims up to `limit` active turns whose lease has run out, the longest overdue first."""

        def take(c: sqlite3.Connection) -> list[Any]:
            now = time.time()
            left = c.execute(sql.LEFT, (now, limit)).fetchall()
            return [one(c, sql.TAKE_OVER, (r["tenant"], r["turn_id"], owner, now + lease_seconds, now)) for r in left]

        return [turn_of(r) for r in await self._write(take)]

    async def renew(self, owner: str, turn_ids: Sequence[str], *, lease_seconds: float) -> Sequence[str]:
        """Prolongs leases; the ids of those that this owner still holds."""
        if not turn_ids:
            return []

        def renew(c: sqlite3.Connection) -> list[str]:
            until = time.time() + lease_seconds
            return [i for i in turn_ids if c.execute(sql.RENEW, (owner, i, until)).rowcount]

        return await self._write(renew)

    async def release(self, owner: str, turn_ids: Sequence[str]) -> None:
        """Gives up leases."""
        await self._write(lambda c: c.executemany(sql.RELEASE, [(owner, i) for i in turn_ids]))

    async def cancel_requests(self, owner: str) -> Mapping[str, str]:
        """Running turns of this owner whose end was asked for, with the reason."""
        rows = await self._read(lambda c: c.execute(sql.CANCEL_REQUESTS, (owner,)).fetchall())
        return {r["turn_id"]: r["cancel_reason"] or "cancelled" for r in rows}

    async def step(
        self, fence: Fence, *, first_idx: int, messages: Sequence[Message], usage: Usage, decision: Mapping[str, Any] | None = None
    ) -> None:
        """Commits messages of a running turn. Raises LeaseLost."""
        contents = [message_json(m) for m in messages]

        def step(c: sqlite3.Connection) -> None:
            row = one(c, sql.STEP, (fence.tenant, fence.turn_id, fence.attempt, *usage_values(usage), to_json(decision)))
            if row is None:
                raise LeaseLost
            _append(c, fence, row, first_idx, contents, time.time())

        await self._write(step)

    async def finish(self, fence: Fence, finish: Finish) -> SessionRow:
        """Ends a running turn and updates its session. Raises LeaseLost."""
        contents = [message_json(m) for m in finish.messages]
        usage, reply, error = usage_values(finish.usage), to_json(finish.reply), to_json(finish.error)
        profile, handoff = to_json(finish.profile), to_json(finish.handoff)

        def end(c: sqlite3.Connection) -> Any:
            now = time.time()
            row = one(c, sql.FINISH_TURN, (fence.tenant, fence.turn_id, fence.attempt, *usage, finish.state, reply, error, now))
            if row is None:
                raise LeaseLost
            _append(c, fence, row, finish.first_idx, contents, now)
            became = (finish.session_status, text(finish.current_skill), now, finish.greeting, finish.config_hash, profile, handoff)
            more = finish.first_idx - row["asked"] + len(contents)  # message 0 was counted when it was accepted
            place = (fence.tenant, row["session_id"])
            session = one(c, sql.FINISH_SESSION, (*place, *became, len(finish.events), more, *usage))
            append_events(c, session, finish.events)
            arm(c, session, finish.timers, row["seq"], now)
            return session

        return session_of(await self._write(end))

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
        contents = [message_json(m) for m in messages]
        values = (fence.tenant, fence.turn_id, fence.attempt, *usage_values(usage), to_json(approval), to_json(reply))

        def pause(c: sqlite3.Connection) -> Any:
            now = time.time()
            row = one(c, sql.PAUSE, values)
            if row is None:
                raise LeaseLost
            _append(c, fence, row, first_idx, contents, now)
            session = one(c, sql.TOUCH, (fence.tenant, row["session_id"], -1, len(events), now))
            append_events(c, session, events)
            return session

        return session_of(await self._write(pause))

    async def postpone(
        self, fence: Fence, *, first_idx: int, messages: Sequence[Message], usage: Usage, error: Mapping[str, Any], delay_seconds: float
    ) -> SessionRow:
        """A running turn becomes accepted again. Raises LeaseLost."""
        contents = [message_json(m) for m in messages]
        values = (fence.tenant, fence.turn_id, fence.attempt, *usage_values(usage), to_json(error))

        def postpone(c: sqlite3.Connection) -> Any:
            now = time.time()
            row = one(c, sql.POSTPONE, (*values, now + delay_seconds))
            if row is None:
                raise LeaseLost
            _append(c, fence, row, first_idx, contents, now)
            return one(c, sql.TOUCH, (fence.tenant, row["session_id"], -1, 0, now))

        return session_of(await self._write(postpone))

    async def reopen(self, tenant: str, turn_id: str, *, owner: str, lease_seconds: float) -> Accepted | None:
        """An accepted turn whose time has come waits."""

        def reopen(c: sqlite3.Connection) -> Accepted | None:
            now = time.time()
            row = one(c, sql.REOPEN, (tenant, turn_id, owner, now + lease_seconds, now))
            if row is None:
                return None
            session = one(c, sql.TOUCH, (tenant, row["session_id"], 1, 0, now))
            return Accepted(session_of(session), turn_of(row), new_session=False, new_turn=True)

        return await self._write(reopen)

    async def busy(self, tenant: str, session_id: str) -> TurnRow | None:
        """The session's running turn, else the first one that waits."""
        row = await self._read(lambda c: c.execute(sql.BUSY, (tenant, session_id)).fetchone())
        return turn_of(row) if row else None

    async def awaiting(self, tenant: str, session_id: str) -> Sequence[TurnRow]:
        """The turns of a session that await an approval, the oldest first."""
        return [turn_of(r) for r in await self._read(lambda c: c.execute(sql.AWAITING, (tenant, session_id)).fetchall())]

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
        old, new = to_json(before), to_json(approval)

        def decide(c: sqlite3.Connection) -> Any:
            now = time.time()
            row = one(c, sql.DECIDE, (tenant, turn_id, old, new, resume, owner, now + lease_seconds))
            if row is not None:
                session = one(c, sql.TOUCH, (tenant, row["session_id"], int(resume), len(events), now))
                append_events(c, session, events)
            return row

        row = await self._write(decide)
        return turn_of(row) if row else None

    async def cancel(
        self, tenant: str, turn_id: str, *, reply: Mapping[str, Any] | None = None, reason: str = "cancelled"
    ) -> TurnRow | None:
        """Cancels a turn that does not run, asks the owner of a running one; the turn as it is afterwards."""
        text_of_reply = to_json(reply)

        def cancel(c: sqlite3.Connection) -> Any:
            now = time.time()
            row = one(c, sql.CANCEL, (tenant, turn_id, text_of_reply, now, reason))
            if row is not None and row["state"] == "cancelled":
                c.execute(sql.CANCEL_SESSION, (tenant, turn_id, now))
            return row or c.execute(sql.GET, (tenant, turn_id)).fetchone()

        row = await self._write(cancel)
        return turn_of(row) if row else None

    async def get(self, tenant: str, turn_id: str) -> TurnRow | None:
        """The turn, None when unknown to this tenant."""
        row = await self._read(lambda c: c.execute(sql.GET, (tenant, turn_id)).fetchone())
        return turn_of(row) if row else None

    async def known(self, tenant: str, session_id: str, ids: Sequence[str]) -> tuple[TurnRow, str | None] | None:
        """The turn of one of these ids or further names, with the fingerprint of the request that came under it."""

        def known(c: sqlite3.Connection) -> Any:
            return next((r for i in ids if (r := c.execute(sql.KNOWN, (tenant, session_id, i)).fetchone())), None)

        row = await self._read(known)
        return known_of(row) if row else None

    async def name(self, tenant: str, session_id: str, alias: str, turn_id: str, fingerprint: str | None) -> None:
        """Gives a turn of the session a further name."""
        await self._write(lambda c: c.execute(sql.NAME, (tenant, session_id, alias, turn_id, fingerprint)))

    async def keyed(self, seconds: float, most: int) -> Sequence[tuple[str, str, str]]:
        """Tenant, id and fingerprint of the newest turns with an Idempotency-Key, none older than so many seconds."""
        return [keyed_of(r) for r in await self._read(lambda c: c.execute(sql.KEYED, (time.time() - seconds, most)).fetchall())]

    async def turn_messages(self, tenant: str, turn_id: str) -> Sequence[StoredMessage]:
        """All messages of one turn in order."""
        return [stored_message_of(r) for r in await self._read(lambda c: c.execute(sql.TURN_MESSAGES, (tenant, turn_id)).fetchall())]

    async def record_rule_turns(self, entries: Sequence[JournalEntry], timers: Mapping[str, ArmTimer] = MappingProxyType({})) -> int:
        """Stores rule-answered turns and arms the timers of their agents; how many were new."""
        return await self._write(record(entries, timers)) if entries else 0


def _append(c: sqlite3.Connection, fence: Fence, turn: Any, first_idx: int, contents: Sequence[str], now: float) -> None:
    place = (fence.tenant, turn["session_id"], turn["seq"])
    c.executemany(INSERT_MESSAGE, [(*place, first_idx + i, fence.turn_id, content, now) for i, content in enumerate(contents)])


def _join(c: sqlite3.Connection, turn: NewTurn) -> Any:
    """Makes the message part of the last turn that waits, if that one merges; that turn's row, None when there is none."""
    place = (turn.tenant, turn.session_id)
    before = c.execute(sql.ALIAS, (*place, turn.turn_id)).fetchone()
    if before is not None:
        return before
    last = c.execute(sql.LAST_ACTIVE, (*place, turn.agent_id)).fetchone()
    if last is None or last["state"] != "waiting" or not last["merges"]:
        return None
    request, plan = merging.join(turn_of(last), turn)
    c.execute(sql.MERGE_MESSAGE, (*place, last["seq"], message_json(Message("user", request["message"], author=turn.author))))
    c.execute(sql.NAME, (*place, turn.turn_id, last["turn_id"], turn.request.get("fingerprint")))
    return one(c, sql.MERGE, (turn.tenant, last["turn_id"], to_json(request), to_json(plan)))
