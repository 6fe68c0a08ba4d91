"""Schedules: POST, GET, PATCH and DELETE under /api/v1/schedules."""

from __future__ import annotations

import time
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from common.contracts.query import check_id, new_turn_id, parse_object
from common.errors import InvalidRequest, NotFound
from common.web.asgi import read_body, request_id
from heavy.jobs.cron import Cron
from heavy.jobs.requests import read_schedule
from heavy.jobs.rows import NewSchedule, ScheduleRow
from heavy.jobs.tasks import stored_request
from heavy.routes import hooks
from heavy.routes.paging import next_cursor, read_cursor
from heavy.routes.sessions import number
from heavy.routes.state import heavy_of
from heavy.routes.tasks import asked

MAX_SCHEDULES = 500


async def post_schedule(request: Request) -> Response:
    """Stores a schedule, enabled: 201 with its first tick."""
    heavy, tenant = asked(request)
    read = read_schedule(parse_object(await read_body(request.scope, request.receive)))
    receiver = hooks.checked(heavy, read.options.webhook)
    agent_id = heavy.agents.id_of(read.query.agent_id)
    schedule = NewSchedule(
        tenant=tenant,
        schedule_id=f"sch_{new_turn_id()[2:]}",
        cron=read.expression,
        timezone=read.timezone,
        session_id=read.query.session_id,
        agent_id=agent_id,
        request=stored_request(read.query, request_id(request.scope)),
        max_attempts=read.options.max_attempts,
        next_at=read.cron.after(time.time()),
        hook=await hooks.kept(heavy, tenant, receiver),
    )
    return JSONResponse(document(await heavy.stores.schedules.create(schedule)), 201)


async def list_schedules(request: Request) -> Response:
    """Schedules, the newest first: ?cursor=&limit=."""
    heavy, tenant = asked(request)
    limit = number(request, "limit", 50, MAX_SCHEDULES)
    rows = await heavy.stores.schedules.page(tenant, before=read_cursor(request), limit=limit + 1)
    page = rows[:limit]
    cursor = next_cursor(page[-1].created_at, page[-1].schedule_id) if len(rows) > limit else None
    return JSONResponse({"schedules": [document(row) for row in page], "next_cursor": cursor})


async def get_schedule(request: Request) -> Response:
    """One schedule."""
    return JSONResponse(document(await _find(request)))


async def patch_schedule(request: Request) -> Response:
    """Switches a schedule on or off. Switched on, its next tick is the first one from now."""
    row = await _find(request)
    enabled = parse_object(await read_body(request.scope, request.receive)).get("enabled")
    if type(enabled) is not bool:
        raise InvalidRequest("enabled must be true or false", field="enabled")
    next_at = Cron(row.cron, row.timezone).after(time.time()) if enabled and not row.enabled else None
    schedules = heavy_of(request.scope).stores.schedules
    changed = await schedules.enable(row.tenant, row.schedule_id, enabled=enabled, next_at=next_at)
    if changed is None:
        raise NotFound("there is no such schedule")
    return JSONResponse(document(changed))


async def delete_schedule(request: Request) -> Response:
    """Erases a schedule; the tasks that it has made stay."""
    row = await _find(request)
    if not await heavy_of(request.scope).stores.schedules.delete(row.tenant, row.schedule_id):
        raise NotFound("there is no such schedule")
    return JSONResponse({"status": "deleted"})


def document(schedule: ScheduleRow) -> dict[str, Any]:
    """A schedule as clients see it."""
    request = schedule.request
    return {
        "schedule_id": schedule.schedule_id,
        "cron": schedule.cron,
        "timezone": schedule.timezone,
        "enabled": schedule.enabled,
        "next_at": schedule.next_at if schedule.enabled else None,
        "last_at": schedule.last_at,
        "session_id": schedule.session_id,
        "agent_id": schedule.agent_id,
        "message": request["message"],
        "user_id": request["user_id"],
        "context": request["context"],
        "max_attempts": schedule.max_attempts,
        "webhook": {"webhook_id": schedule.hook.webhook_id, "events": schedule.hook.events} if schedule.hook else None,
        "created_at": schedule.created_at,
    }


async def _find(request: Request) -> ScheduleRow:
    heavy, tenant = asked(request)
    row = await heavy.stores.schedules.get(tenant, check_id(request.path_params["schedule_id"], "schedule_id"))
    if row is None:
        raise NotFound("there is no such schedule")
    return row
