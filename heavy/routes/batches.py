"""Batches: POST /api/v1/batch, its counts, its results as JSON lines, and what cancels it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from common.contracts.idempotency import HEADER, KEPT_SECONDS, REPLAYED, Keyed, keyed
from common.contracts.problem import problem
from common.contracts.query import Query, check_id, new_turn_id
from common.errors import InvalidRequest, LoadsplitError, NotFound, Overloaded
from common.web.asgi import Headers, Receive, Scope, Send, discard, header, read_body, request_id, send_json
from heavy.jobs.requests import BatchRequest, Options, read_batch
from heavy.jobs.rows import STATUSES, BatchRow, NewBatch, NewTask
from heavy.jobs.tasks import item_document, stored_request
from heavy.routes import hooks
from heavy.routes.state import Heavy, caller_of, heavy_of
from heavy.routes.tasks import asked
from heavy.turns.notes import tell_deliverers
from heavy.turns.webhooks import Receiver

BODY_LIMIT = 16 * 2**20
READ_AT_ONCE = 8  # of such bodies in one process; more are told to come back
PAGE = 500
ERRORS_TOLD = 10
JSON_LINES = "application/jsonl"


class PostBatch:
    """POST /api/v1/batch as an ASGI app."""

    def __init__(self) -> None:
        self._reading = 0
        self._parsing = asyncio.Lock()  # one at a time leaves the event loop its share

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Stores a batch: 202 with its id. Broken items are failures from the start."""
        heavy, caller = heavy_of(scope), caller_of(scope)
        caller.need("query")
        given = await self._read(scope, receive, caller.tenant)
        row, errors, replayed = await _store(heavy, caller.tenant, given)
        if given.options.due_now and not replayed:
            await heavy.dispatcher.hint("batch", row.open)
        told = {"batch_id": row.batch_id, "total": row.total, "accepted": row.total - row.rejected, "rejected": row.rejected}
        headers: Headers = (REPLAYED,) if replayed else ()
        await send_json(send, 202, orjson.dumps(told | {"errors": errors}), headers)

    async def _read(self, scope: Scope, receive: Receive, tenant: str) -> _Given:
        """Reads the body, in a thread: it may be large."""
        heavy, value, rid = heavy_of(scope), header(scope, HEADER), request_id(scope)
        if self._reading >= READ_AT_ONCE:
            await discard(receive)
            raise Overloaded("other batches are being read here now", retry_after=1)
        self._reading += 1
        try:
            body = await read_body(scope, receive, BODY_LIMIT)
            async with self._parsing:
                return await asyncio.to_thread(_given, heavy, tenant, body, value, rid)
        finally:
            self._reading -= 1


async def get_batch(request: Request) -> Response:
    """A batch with its tasks counted by status."""
    return JSONResponse(document(await _find(request)))


async def delete_batch(request: Request) -> Response:
    """Cancels what has not begun; what runs ends by itself."""
    heavy, batch = heavy_of(request.scope), await _find(request)
    after = -1
    while items := await heavy.stores.tasks.items(batch.tenant, batch.batch_id, after=after, limit=PAGE):
        await heavy.settling.cancel_pending(items)
        after = items[-1].position or 0
    return JSONResponse(document(await _find(request)))


async def get_results(request: Request) -> Response:
    """The items in order, each a line of JSON, whatever has become of it by now: ?after=<index> goes on behind one."""
    heavy, batch = heavy_of(request.scope), await _find(request)
    value = request.query_params.get("after", "-1")
    if not (value.removeprefix("-").isascii() and value.removeprefix("-").isdigit() and len(value) <= 9) or int(value) < -1:
        raise InvalidRequest("after must be the index of an item", field="after")
    return StreamingResponse(_lines(heavy, batch, int(value)), media_type=JSON_LINES)


def document(batch: BatchRow) -> dict[str, Any]:
    """A batch as clients see it."""
    counts = batch.counts or {}
    return {
        "batch_id": batch.batch_id,
        "status": "running" if batch.finished_at is None else "finished",
        "total": batch.total,
        "rejected": batch.rejected,
        "counts": {status: counts.get(status, 0) for status in STATUSES},
        "created_at": batch.created_at,
        "finished_at": batch.finished_at,
    }


@dataclass(frozen=True, slots=True)
class _Given:
    """A batch that was read and checked; its tasks have no hook yet."""

    batch_id: str
    tasks: Sequence[NewTask]
    options: Options
    receiver: Receiver | None
    key: Keyed | None


def _given(heavy: Heavy, tenant: str, body: bytes, idempotency_key: bytes | None, rid: str) -> _Given:
    """Reads a body; for a thread. Raises InvalidRequest."""
    read = read_batch(body)
    receiver = hooks.checked(heavy, read.options.webhook, hooks.OF_BATCH)
    key = keyed(idempotency_key, tenant, read.asked, heavy.settings.ticket_key, kind="batch", prefix="b_")
    batch_id = key.ids[0] if key else f"b_{new_turn_id()[2:]}"
    tasks = [_task(heavy, tenant, batch_id, index, item, read, rid) for index, item in enumerate(read.items)]
    return _Given(batch_id, tasks, read.options, receiver, key)


async def _store(heavy: Heavy, tenant: str, given: _Given) -> tuple[BatchRow, list[dict[str, Any]], bool]:
    """The stored batch, the first errors of its items, and whether it was there already."""
    key, tasks = given.key, given.tasks
    if key is not None:
        for known_id in key.ids:
            known = await heavy.stores.tasks.batch(tenant, known_id)
            if known is not None and (known_id == given.batch_id or known.created_at > time.time() - KEPT_SECONDS):
                key.refuse_other(known.fingerprint)
                return known, await _errors(heavy, known), True
    hook = await hooks.kept(heavy, tenant, given.receiver)
    row, new = await heavy.stores.tasks.submit_batch(NewBatch(tenant, given.batch_id, hook, key.fingerprint if key else ""), tasks)
    if row.finished_at is not None:
        await tell_deliverers(heavy.hotstore)
    if key is not None:
        key.refuse_other(row.fingerprint)
    errors = [{"index": task.position, "error": task.error} for task in tasks if task.error is not None]
    return row, errors[:ERRORS_TOLD], not new


def _task(heavy: Heavy, tenant: str, batch_id: str, index: int, item: Query | InvalidRequest, read: BatchRequest, rid: str) -> NewTask:
    """An item as a task; a broken one with its problem."""
    error: LoadsplitError | None = None
    session_id = agent_id = ""
    request: dict[str, Any] = {}
    try:
        if isinstance(item, InvalidRequest):
            raise item
        agent_id = heavy.agents.id_of(item.agent_id)
        session_id, request = item.session_id, stored_request(item, rid)
    except InvalidRequest as e:
        place = f"items[{index}]"
        error = e if isinstance(item, InvalidRequest) else InvalidRequest(e.detail, field=f"{place}.agent_id")
    return NewTask(
        tenant=tenant,
        task_id=f"t_{batch_id[2:30]}{index:04x}",  # in the order of the items
        session_id=session_id,
        agent_id=agent_id,
        request=request,
        max_attempts=read.options.max_attempts,
        lane="batch",
        run_at=read.options.run_at,
        delay_seconds=read.options.delay_seconds,
        batch_id=batch_id,
        position=index,
        error=None if error is None else problem(error, rid),
    )


async def _errors(heavy: Heavy, batch: BatchRow) -> list[dict[str, Any]]:
    """The first errors of a batch's broken items, for who asks again."""
    found: list[dict[str, Any]] = []
    after = -1
    while len(found) < min(batch.rejected, ERRORS_TOLD) and (items := await _page(heavy, batch, after)):
        found += [{"index": t.position, "error": t.error} for t in items if t.status == "failure" and not t.attempts]
        after = items[-1].position or 0
    return found[:ERRORS_TOLD]


async def _lines(heavy: Heavy, batch: BatchRow, after: int) -> AsyncIterator[bytes]:
    """A page at a time. When the database goes away in between, the reply ends short: `after` goes on behind its last line."""
    while items := await _page(heavy, batch, after):
        yield b"".join(orjson.dumps(item_document(task), option=orjson.OPT_APPEND_NEWLINE) for task in items)
        after = items[-1].position or 0


async def _page(heavy: Heavy, batch: BatchRow, after: int) -> Any:
    return await heavy.stores.tasks.items(batch.tenant, batch.batch_id, after=after, limit=PAGE)


async def _find(request: Request) -> BatchRow:
    heavy, tenant = asked(request)
    row = await heavy.stores.tasks.batch(tenant, check_id(request.path_params["batch_id"], "batch_id"))
    if row is None:
        raise NotFound("there is no such batch")
    return row
