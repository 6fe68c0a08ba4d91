"""Tasks, webhooks and the messages to them: what waits, what has failed, and trying it again."""

from __future__ import annotations

from starlette.responses import Response

from common.contracts.query import check_id
from common.errors import InvalidRequest
from heavy.admin.frame import Visit
from heavy.jobs.rows import STATUSES as TASK_STATUSES
from heavy.routes.deliveries import STATUSES as DELIVERY_STATUSES
from heavy.routes.deliveries import get_delivery, list_deliveries, replay_delivery, replay_failed
from heavy.routes.schedules import list_schedules
from heavy.routes.tasks import delete_task, get_task, list_tasks, retry_task
from heavy.routes.webhooks import change_webhook, list_webhooks, send_test

SHOWN = 50


async def tasks(visit: Visit) -> Response:
    """Tasks, the newest first, and the schedules that make some."""
    names = ("status", "session_id", "cursor")
    found = await visit.ask(list_tasks, query={**{name: visit.query.get(name) for name in names}, "limit": SHOWN})
    schedules = await visit.ask(list_schedules, query={"limit": SHOWN})
    return visit.page("tasks.html", found=found, schedules=schedules["schedules"], statuses=TASK_STATUSES)


async def task(visit: Visit) -> Response:
    """One task."""
    task_id = check_id(visit.request.path_params["task_id"], "task_id")
    return visit.page("task.html", found=await visit.ask(get_task, path={"task_id": task_id}))


async def act_on_task(visit: Visit) -> Response:
    """Tries a failed task again, or cancels one."""
    path, action = {"task_id": check_id(visit.request.path_params["task_id"], "task_id")}, visit.form.get("action")
    if action == "retry":
        new = await visit.change("task.retry", retry_task, path=path)
        return visit.go(f"/tasks/{new['task_id']}", "retried")
    if action != "cancel":
        raise InvalidRequest("action must be retry or cancel", field="action")
    await visit.change("task.cancel", delete_task, path=path)
    return visit.go(f"/tasks/{path['task_id']}", "cancelled")


async def webhooks(visit: Visit) -> Response:
    """Webhooks and the messages to them; those that have failed unless another status is asked for."""
    asked = visit.query
    status = asked.get("status", "failed")
    hooks = await visit.ask(list_webhooks, query={"limit": SHOWN, "cursor": asked.get("hooks")})
    wanted = {"status": None if status == "all" else status, "webhook_id": asked.get("webhook_id"), "cursor": asked.get("cursor")}
    found = await visit.ask(list_deliveries, query={**wanted, "limit": SHOWN})
    return visit.page("webhooks.html", hooks=hooks, found=found, wanted=status, statuses=[*DELIVERY_STATUSES, "all"])


async def delivery(visit: Visit) -> Response:
    """One message with its body."""
    delivery_id = check_id(visit.request.path_params["delivery_id"], "delivery_id")
    return visit.page("delivery.html", found=await visit.ask(get_delivery, path={"delivery_id": delivery_id}))


async def replay(visit: Visit) -> Response:
    """Sends a message again."""
    delivery_id = check_id(visit.request.path_params["delivery_id"], "delivery_id")
    await visit.change("delivery.replay", replay_delivery, path={"delivery_id": delivery_id})
    return visit.go("/webhooks", "replayed", status="all")


async def replay_all(visit: Visit) -> Response:
    """Sends all messages again that have failed, or those of one webhook."""
    webhook_id = visit.form.get("webhook_id") or None
    await visit.change("delivery.replay", replay_failed, body={"webhook_id": webhook_id} if webhook_id else {})
    return visit.go("/webhooks", "replayed-all", status="all")


async def act_on_webhook(visit: Visit) -> Response:
    """Enables or disables a webhook, or sends it a test."""
    path, action = {"webhook_id": check_id(visit.request.path_params["webhook_id"], "webhook_id")}, visit.form.get("action")
    if action == "test":
        await visit.change("webhook.test", send_test, path=path)
        return visit.go("/webhooks", "sent-test", status="all")
    if action not in ("enable", "disable"):
        raise InvalidRequest("action must be enable, disable or test", field="action")
    await visit.change("webhook.change", change_webhook, path=path, body={"enabled": action == "enable"})
    return visit.go("/webhooks", f"{action}d")
