"""The `webhook` of a request for tasks: checked, and kept under an id that the tasks carry."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.contracts.webhooks import BATCH_EVENTS, TASK_EVENTS
from heavy.jobs.rows import Hook
from heavy.jobs.webhook_fields import parse_webhook
from heavy.routes.state import Heavy
from heavy.turns.webhooks import Receiver

OF_BATCH = (*TASK_EVENTS, *BATCH_EVENTS)


def checked(heavy: Heavy, value: Any, default: Sequence[str] = TASK_EVENTS) -> Receiver | None:
    """Who is to hear, None for nobody. Raises InvalidRequest naming `webhook` or a field of it."""
    return parse_webhook(value, heavy.given_urls, default=default)


async def kept(heavy: Heavy, tenant: str, receiver: Receiver | None) -> Hook | None:
    """The hook that the tasks of a request carry."""
    if receiver is None:
        return None
    return Hook(await heavy.stores.webhooks.ensure(tenant, receiver), receiver.events)
