"""Tasks: POST /api/v1/query/async, GET and DELETE /api/v1/task/{id}, its retry, and the list."""

from __future__ import annotations

import time

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from common.contracts.idempotency import HEADER, KEPT_SECONDS, REPLAYED, Keyed, keyed
from common.contracts.query import check_id, new_turn_id, parse_object, read_query
from common.errors import Conflict, InvalidRequest, NotFound
from common.web.asgi import header, read_body, request_id
from heavy.jobs.requests import read_options
from heavy.jobs.rows import OPEN, STATUSES, NewTask, TaskRow
from heavy.jobs.tasks import document, retry_of, seen, stored_request
from heavy.routes import hooks
from heavy.routes.paging import next_cursor, read_cursor
from heavy.routes.sessions import number
from heavy.routes.state import Heavy, caller_of, heavy_of

MAX_TASKS = 500


async def post_async(request: Request) -> Response:
    """Takes a query as a task: 202 as soon as it is stored."""
    heavy, tenant = asked(request)
    doc = parse_object(await read_body(request.scope, request.receive))
    query, options = read_query(doc), read_options(doc)
    agent_id, receiver = heavy.agents.id_of(query.agent_id), hooks.checked(heavy, options.webhook)
    asked_for, secret = [query.as_asked(), options.asked], heavy.settings.ticket_key
    key = keyed(header(request.scope, HEADER), tenant, asked_for, secret, kind="async")
    if key is not None and (earlier := await _earlier(heavy, tenant, query.session_id, key)) is not None:
        return _accepted(earlier, replayed=True)
    task = NewTask(
        tenant=tenant,
        task_id=key.ids[0] if key else new_turn_id(),
        session_id=query.session_id,
        agent_id=agent_id,
        request=stored_request(query, request_id(request.scope), traced=True),
        max_attempts=options.max_attempts,
        run_at=options.run_at,
        delay_seconds=options.delay_seconds,
        hook=await hooks.kept(heavy, tenant, receiver),
        fingerprint=key.fingerprint if key else "",
    )
    row, new = await heavy.stores.tasks.submit(task)
    if key is not None:
        key.refuse_other(row.fingerprint)
    if options.due_now:
        await heavy.dispatcher.hint("task")
    return _accepted(row, replayed=key is not None and not new)


async def get_task(request: Request) -> Response:
    """State and result of a task."""
    return JSONResponse(document(await find(request)))


async def delete_task(request: Request) -> Response:
    """Cancels a task: 200 where it is over with that, 202 where its turn runs and is asked to end."""
    heavy, task = heavy_of(request.scope), await find(request)
    if seen(task) not in OPEN:
        if seen(task) == "cancelled":
            return JSONResponse(document(task))
        raise Conflict("the task has ended", task_status=seen(task))
    await heavy.settling.ask_to_cancel(task)
    fresh = await find(request)
    if seen(fresh) in ("success", "failure"):
        raise Conflict("the task has ended", task_status=seen(fresh))
    return JSONResponse(document(fresh), 200 if seen(fresh) == "cancelled" else 202)


async def list_tasks(request: Request) -> Response:
    """Tasks, the newest first: ?status=&session_id=&cursor=&limit=."""
    heavy, tenant = asked(request)
    limit, before = number(request, "limit", 50, MAX_TASKS), read_cursor(request)
    status, session_id = request.query_params.get("status"), request.query_params.get("session_id")
    if status is not None and status not in STATUSES:
        raise InvalidRequest(f"status must be one of {', '.join(STATUSES)}", field="status")
    if session_id is not None:
        check_id(session_id, "session_id")
    rows = await heavy.stores.tasks.page(tenant, status=status, session_id=session_id, before=before, limit=limit + 1)
    page = rows[:limit]
    cursor = next_cursor(page[-1].created_at, page[-1].task_id) if len(rows) > limit else None
    return JSONResponse({"tasks": [document(row) for row in page], "next_cursor": cursor})


async def retry_task(request: Request) -> Response:
    """Tries a failed task again, as a new one; asking twice makes one."""
    heavy, task = heavy_of(request.scope), await find(request)
    row, _ = await heavy.stores.tasks.submit(retry_of(task))
    await heavy.dispatcher.hint(row.lane)
    return JSONResponse({"task_id": row.task_id, "status": "pending", "session_id": row.session_id, "retry_of": row.retry_of}, 202)


async def find(request: Request) -> TaskRow:
    """The task that is asked for. Raises NotFound, Unauthorized, Forbidden, InvalidRequest."""
    heavy, tenant = asked(request)
    row = await heavy.stores.tasks.get(tenant, check_id(request.path_params["task_id"], "task_id"))
    if row is None:
        raise NotFound("there is no such task")
    return row


def asked(request: Request) -> tuple[Heavy, str]:
    """Who asks. Raises Unauthorized, Forbidden."""
    caller = caller_of(request.scope)
    caller.need("query")
    return heavy_of(request.scope), caller.tenant


async def _earlier(heavy: Heavy, tenant: str, session_id: str, key: Keyed) -> TaskRow | None:
    """The task of an earlier request with this key. Raises IdempotencyMismatch where the key came with something else."""
    for task_id in key.ids:
        row = await heavy.stores.tasks.get(tenant, task_id)
        if row is not None and (task_id == key.ids[0] or row.created_at > time.time() - KEPT_SECONDS):
            key.refuse_other(row.fingerprint)
            return row
    await heavy.mover.settle(tenant, session_id)
    found = await heavy.stores.turns.known(tenant, session_id, key.ids)
    if found is not None:
        key.refuse_other(found[1])
    return None


def _accepted(row: TaskRow, *, replayed: bool) -> Response:
    headers = {name.decode(): value.decode() for name, value in (REPLAYED,)} if replayed else {}
    return JSONResponse({"task_id": row.task_id, "status": "pending", "session_id": row.session_id}, 202, headers)
