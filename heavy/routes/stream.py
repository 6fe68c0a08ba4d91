"""A turn's events as server-sent events: for the request that began it, and for readers that come back."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from urllib.parse import parse_qs

import orjson

from common.contracts.events import TERMINAL, event_type, frame
from common.contracts.problem import problem
from common.errors import InvalidRequest, LoadsplitError
from common.web.asgi import Headers, Receive, Scope, Send, header, request_id
from common.web.sse import CUT, SSEWriter
from heavy.routes.state import Heavy
from heavy.turns.owner import OwnedTurn
from heavy.turns.rows import TurnRow

GONE = "the client disconnected"


async def send_turn(
    heavy: Heavy,
    scope: Scope,
    receive: Receive,
    send: Send,
    tenant: str,
    turn: OwnedTurn | TurnRow,
    *,
    after: int = 0,
    cancels: bool,
    headers: Headers = (),
) -> None:
    """Streams the events of a turn after number `after`. A client that leaves stops it only where it said so (`cancels`)."""
    writer = SSEWriter(receive, send, headers=headers, cut=scope.get(CUT))
    finished = await writer.run(frames(heavy, tenant, turn, after, request_id(scope)))
    if not finished and cancels:
        await heavy.stores.turns.cancel(tenant, turn.turn_id, reason=GONE)
        await heavy.owner.cancel_anywhere(turn.turn_id, GONE)


async def frames(heavy: Heavy, tenant: str, turn: OwnedTurn | TurnRow, after: int, rid: str) -> AsyncIterator[bytes]:
    """The frames of a turn's events."""
    async with contextlib.aclosing(bunches(heavy, tenant, turn, after, rid)) as bunched:
        async for first, lines in bunched:
            yield b"".join([frame(n, event_type(line), line) for n, line in enumerate(lines, first)])


async def bunches(heavy: Heavy, tenant: str, turn: OwnedTurn | TurnRow, after: int, rid: str) -> AsyncGenerator[tuple[int, list[bytes]]]:
    """A turn's events as (id of the first, lines), from this process or from wherever they are. Always ends with a terminal event: an error
    where this node cannot tell the end, though the turn may go on."""
    position = after
    if isinstance(turn, OwnedTurn):
        async with contextlib.aclosing(turn.events.batches(position)) as batches:
            async for first, batch in batches:
                yield first, batch
                position = first + len(batch) - 1
                if event_type(batch[-1]) in TERMINAL:
                    return
        if turn.error is not None:  # accepted, but this node cannot end it: the reader may come back for the rest
            yield position + 1, [_error(turn.error, rid)]
            return
    try:
        row = await heavy.reader.open(tenant, turn.turn_id)
        async with contextlib.aclosing(heavy.reader.follow(row, position)) as lines:
            async for position, line in lines:
                yield position, [line]
    except LoadsplitError as e:
        yield position + 1, [_error(e, rid)]


def _error(error: LoadsplitError, rid: str) -> bytes:
    return orjson.dumps({"type": "error", "data": problem(error, rid)})


def cancels_on_disconnect(scope: Scope) -> bool:
    """The query parameter on_disconnect. Raises InvalidRequest for another value than continue or cancel."""
    if not scope["query_string"]:
        return False
    value = parse_qs(scope["query_string"].decode("latin-1")).get("on_disconnect", ["continue"])[-1]
    if value not in ("continue", "cancel"):
        raise InvalidRequest("on_disconnect must be continue or cancel", field="on_disconnect")
    return value == "cancel"


def starting_after(scope: Scope) -> int:
    """The event that the reader has seen last: the header Last-Event-ID, else the query parameter starting_after, else 0. Raises
    InvalidRequest naming the one that is no number."""
    given = header(scope, b"last-event-id")
    name, value = "Last-Event-ID", given.decode("latin-1") if given is not None else ""
    if given is None:
        name = "starting_after"
        value = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True).get(name, ["0"])[-1]
    if not (value.isascii() and value.isdigit()) or len(value) > 9:
        raise InvalidRequest(f"{name} must be the number of an event", field=name)
    return int(value)
