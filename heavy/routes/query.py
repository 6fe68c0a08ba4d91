"""POST /api/v1/query and /api/v1/query/stream in the heavy tier: whose request is it, accept the turn, wait for its end or stream it.

A ticket of the rule tier is trusted; a call without one needs an API key of its own.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson

from common.contracts import ticket as tickets
from common.contracts.events import AWAITING_APPROVAL, TERMINAL, event_type
from common.contracts.idempotency import HEADER, REPLAYED, Keyed, keyed
from common.contracts.query import ON_BUSY_HEADER, Query, new_turn_id, parse_on_busy, parse_query
from common.contracts.ticket import Plan
from common.errors import (
    BudgetExceeded,
    DependencyUnavailable,
    InvalidRequest,
    LoadsplitError,
    Overloaded,
    RateLimited,
    SessionBusy,
    Unauthorized,
)
from common.web.asgi import Headers, Receive, Scope, Send, header, read_body, request_id, send_json
from heavy.routes.state import Heavy, heavy_of
from heavy.routes.stream import cancels_on_disconnect, send_turn
from heavy.turns.life import Submitted
from heavy.turns.owner import OwnedTurn
from heavy.turns.rows import TurnRow

MAX_TIMEOUT_SECONDS = 3600.0
PROBLEM_MEMBERS = frozenset({"type", "title", "status", "detail", "code", "request_id", "retryable", "retry_after"})
COMPLETE = b'{"type":"complete","data":'
ENDS_A_WAIT = TERMINAL | {AWAITING_APPROVAL}


@dataclass(frozen=True, slots=True)
class Admission:
    """What the ticket, or the API key, says of a request. `deadline` is Unix seconds, `config_hash` the version that the rule tier
    chose."""

    tenant: str
    turn_id: str
    plan: Plan | None
    deadline: float | None
    keyed: Keyed | None
    config_hash: str | None = None


class QueryEndpoint:
    """A plain ASGI callable; `streaming` chooses between one JSON reply and a stream of events."""

    def __init__(self, *, streaming: bool) -> None:
        self._streaming = streaming

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        heavy = heavy_of(scope)
        query = parse_query(await read_body(scope, receive))
        cancels = self._streaming and cancels_on_disconnect(scope)
        admission = await admit(heavy, scope, query)
        if not self._streaming:
            submitted = await accept(heavy, scope, query, admission, streaming=self._streaming)
            reply = await outcome_of(heavy, admission.tenant, submitted)
            await send_json(send, 200, reply, replayed(submitted))
            return
        async with heavy.quotas.stream(admission.tenant):
            submitted = await accept(heavy, scope, query, admission, streaming=self._streaming)
            await send_turn(heavy, scope, receive, send, admission.tenant, submitted.turn, cancels=cancels, headers=replayed(submitted))


async def accept(heavy: Heavy, scope: Scope, query: Query, admission: Admission, *, streaming: bool) -> Submitted:
    """The turn. A request that comes twice joins what its first coming began, also where its tenant may begin nothing more."""
    submit = partial(
        heavy.turns.submit,
        query,
        tenant=admission.tenant,
        turn_id=admission.turn_id,
        plan=admission.plan,
        deadline=admission.deadline,
        streaming=streaming,
        request_id=request_id(scope),
        on_busy=parse_on_busy(header(scope, ON_BUSY_HEADER)),
        keyed=admission.keyed,
        config_hash=admission.config_hash,
    )
    agent = await heavy.agents.choose(query.agent_id, admission.tenant, query.session_id, admission.config_hash)
    place = heavy.turns.entrance.place(admission.tenant, admission.deadline, agent.busy)
    try:
        async with heavy.quotas.turn(admission.tenant, partial(heavy.turns.may_cost, query, admission.tenant, admission.plan), place):
            return await submit(placed=True)
    except (RateLimited, BudgetExceeded, Overloaded) as e:
        if isinstance(e, Overloaded) and admission.keyed is None:  # a full node does not look anything up
            raise
        ids = {admission.turn_id, *(admission.keyed.ids if admission.keyed else ())}
        if await heavy.stores.turns.known(admission.tenant, query.session_id, list(ids)) is None:
            raise
        return await submit()


def replayed(submitted: Submitted) -> Headers:
    """The version that the turn runs on, and whether an earlier request with the same Idempotency-Key had this reply."""
    version = (b"x-loadsplit-config", submitted.config_hash.encode())
    return (version, REPLAYED) if submitted.replayed else (version,)


async def admit(heavy: Heavy, scope: Scope, query: Query) -> Admission:
    """Who asks. Raises Unauthorized without a valid ticket or an API key, Forbidden without the scope `query`.

    A ticket that has expired begins nothing, but still finds the turn that it began: Nginx sends the request again when the replica that
    had it has died.
    """
    value = header(scope, tickets.HEADER.encode())
    if value is not None:
        ticket = tickets.verify(value.decode("latin-1"), heavy.settings.ticket_key, late=True)
        if ticket.session_id != query.session_id:
            raise Unauthorized("the ticket does not hold")
        if ticket.expired and await heavy.stores.turns.get(ticket.tenant, ticket.turn_id) is None:
            raise Unauthorized("the ticket does not hold")
        key = _keyed(heavy, scope, ticket.tenant, query)
        turn_id = ticket.turn_id if key is None or ticket.turn_id in key.ids else key.ids[0]
        return Admission(ticket.tenant, turn_id, ticket.plan, ticket.deadline, key, ticket.config_hash)
    if heavy.keys.empty:
        raise Unauthorized("this tier takes queries with a ticket of the lightweight tier or an API key only")
    caller = heavy.keys.authenticate(scope["headers"])
    caller.need("query")
    key = _keyed(heavy, scope, caller.tenant, query)
    return Admission(caller.tenant, key.ids[0] if key else new_turn_id(), None, read_deadline(scope), key)


def _keyed(heavy: Heavy, scope: Scope, tenant: str, query: Query) -> Keyed | None:
    return keyed(header(scope, HEADER), tenant, query.as_asked(), heavy.settings.ticket_key)


def read_deadline(scope: Scope) -> float | None:
    """X-Loadsplit-Timeout as a Unix time. Raises InvalidRequest naming it."""
    value = header(scope, b"x-loadsplit-timeout")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= MAX_TIMEOUT_SECONDS:
        raise InvalidRequest("X-Loadsplit-Timeout must be seconds, more than 0 and at most 3600", field="X-Loadsplit-Timeout")
    return time.time() + seconds


async def outcome_of(heavy: Heavy, tenant: str, submitted: Submitted) -> bytes:
    """The reply of the turn as JSON. Raises what ended it otherwise."""
    try:
        return await outcome(heavy, tenant, submitted.turn)
    except (EndedWith, TurnCancelled) as e:
        e.replayed = submitted.replayed
        raise


async def outcome(heavy: Heavy, tenant: str, turn: OwnedTurn | TurnRow) -> bytes:
    """The reply of a turn as JSON, when it has ended or awaits an approval (then it says what is asked). Raises what ended it otherwise."""
    line = await _last_line(heavy, tenant, turn)
    if line.startswith(COMPLETE):
        return line[len(COMPLETE) : -1]
    if event_type(line) == AWAITING_APPROVAL:
        row = await heavy.reader.open(tenant, turn.turn_id)
        return orjson.dumps(row.reply)
    document = orjson.loads(line)
    if document["type"] == "cancelled":
        raise TurnCancelled("the turn was cancelled before it ended", turn_id=turn.turn_id)
    raise EndedWith(document["data"])


class TurnCancelled(SessionBusy):
    """Somebody ended the turn that the caller waited for. The same request again would begin it anew: that is for the caller to decide."""

    title, retryable = "The turn was cancelled", False


class EndedWith(LoadsplitError):
    """A turn's stored problem, raised again as it was."""

    def __init__(self, document: dict[str, Any]) -> None:
        extra = {k: v for k, v in document.items() if k not in PROBLEM_MEMBERS}
        super().__init__(document["detail"], retry_after=document.get("retry_after"), **extra)
        for name in ("code", "status", "title", "retryable"):
            setattr(self, name, document[name])


async def _last_line(heavy: Heavy, tenant: str, turn: OwnedTurn | TurnRow) -> bytes:
    if isinstance(turn, OwnedTurn):
        await turn.events.wait_end()
        lines = turn.events.lines
        if lines and event_type(lines[-1]) in ENDS_A_WAIT:
            return lines[-1]
        if turn.error is not None:
            raise turn.error
    row = await heavy.reader.open(tenant, turn.turn_id)
    following: AsyncGenerator[tuple[int, bytes]] = heavy.reader.follow(row, 0)
    async with contextlib.aclosing(following) as lines_of:
        async for _, line in lines_of:
            if event_type(line) in TERMINAL or await pauses(heavy, tenant, turn.turn_id, line):
                return line
    raise DependencyUnavailable("the turn was accepted and goes on; ask for it by its id", turn_id=turn.turn_id)


async def pauses(heavy: Heavy, tenant: str, turn_id: str, line: bytes) -> bool:
    """Whether the event says that the turn waits for a person, and it still does."""
    if event_type(line) != AWAITING_APPROVAL:
        return False
    row = await heavy.stores.turns.get(tenant, turn_id)
    return row is not None and row.state == AWAITING_APPROVAL
