"""Rows of `webhooks` and `deliveries` to dataclasses and back, the same for every dialect."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from typing import Any

from heavy.storage.rows import Row, text
from heavy.turns.webhooks import DELETED, DISABLED, Change, DeliveryRow, DueDelivery, Receiver, Verdict, WebhookRow


def names_of(events: Iterable[str]) -> str:
    """Names of events as a column holds them: with a space before and behind each, so that one is found as ` name `."""
    return f" {' '.join(events)} "


def wants(names: str | None, event_type: str) -> bool:
    """Whether an event is among those of `names_of`; None are all."""
    return names is None or f" {event_type} " in names


def new_delivery_id(at: float) -> str:
    """`msg_` and 32 hex digits, laid out as those of a turn: milliseconds of `at`, then random ones, so that ids sort by time."""
    return f"msg_{int(at * 1000):012x}{os.urandom(10).hex()}"


def request_webhook_id(tenant: str, receiver: Receiver) -> str:
    """The id of a request's webhook: the same for the same tenant, URL and secret."""
    place = "\0".join((tenant, receiver.url, receiver.secret or ""))
    return f"wh_{hashlib.sha256(place.encode()).hexdigest()[:32]}"


def receiver_values(receiver: Receiver) -> tuple[Any, ...]:
    """URL, host, events, secret and description as columns hold them."""
    return (receiver.url, receiver.host, names_of(receiver.events), receiver.secret, text(receiver.description))


def change_values(change: Change) -> tuple[Any, ...]:
    """URL, host, events, description, enabled; None for what stays."""
    events = None if change.events is None else names_of(change.events)
    return (change.url, change.host, events, text(change.description), change.enabled)


def verdict_values(verdict: Verdict) -> tuple[Any, ...]:
    """The status of a message after an attempt that failed, the seconds until the next one, and what is told of this one."""
    again = verdict.after_seconds is not None
    return ("pending" if again else "failed", verdict.after_seconds or 0.0, verdict.status, text(verdict.error))


def webhook_of(row: Row) -> WebhookRow:
    """A row of `webhooks`."""
    return WebhookRow(
        tenant=row["tenant"],
        webhook_id=row["webhook_id"],
        kind=row["kind"],
        receiver=Receiver(row["url"], row["host"], tuple(row["events"].split()), row["secret"], row["description"]),
        created_at=row["created_at"],
        failing_since=row["failing_since"],
        disabled_at=row["disabled_at"],
        disabled_reason=row["disabled_reason"],
    )


def delivery_of(row: Row) -> DeliveryRow:
    """A row of `deliveries`."""
    return DeliveryRow(
        tenant=row["tenant"],
        delivery_id=row["delivery_id"],
        webhook_id=row["webhook_id"],
        session_id=row["session_id"],
        host=row["host"],
        type=row["type"],
        data=row["data"],
        at=row["at"],
        status=row["status"],
        attempts=row["attempts"],
        next_at=row["next_at"],
        last_status=row["last_status"],
        last_error=row["last_error"],
        created_at=row["created_at"],
        finished_at=row["finished_at"],
    )


def due_of(row: Row) -> DueDelivery:
    """A row of `deliveries` beside the `url`, `secret` and `disabled_at` of its webhook, all null where that is gone."""
    dead = DELETED if row["url"] is None else None if row["disabled_at"] is None else DISABLED
    return DueDelivery(delivery_of(row), None if dead else row["url"], row["secret"], dead)
