"""Webhooks as they are kept: who wants to hear of which events, every message on its way to one of them, and the protocols of their stores.

A message is written by the commit that makes its event (an outbox), so there is one for each webhook that wants it, whatever dies:

     (the event's commit) ─▶ pending ──▶ delivered | failed
                              ▲  └─ again, later ─┘     │
                              └──────── replay ─────────┘

A webhook of kind `tenant` was registered and hears of all events of its tenant that it names. One of kind `request` came with a request
for a task, and hears only of what names it. Times are Unix seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

WebhookKind = Literal["tenant", "request"]
DeliveryStatus = Literal["pending", "delivered", "failed"]

# What a message that was not sent is told to have failed for.
DISABLED, DELETED = "the webhook is disabled", "the webhook was deleted"


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where messages go, as a caller gave it and we have checked it. `host` is that of the URL, with its port. Without a secret of its own
    it is the tenant's that signs."""

    url: str = field(repr=False)  # it may hold a token
    host: str
    events: tuple[str, ...]
    secret: str | None = field(default=None, repr=False)
    description: str = ""


@dataclass(frozen=True, slots=True)
class WebhookRow:
    """A webhook. `failing_since` is the first attempt that failed since the last one that did not; a disabled one gets no messages."""

    tenant: str
    webhook_id: str
    kind: WebhookKind
    receiver: Receiver
    created_at: float
    failing_since: float | None = None
    disabled_at: float | None = None
    disabled_reason: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of a webhook; None leaves it as it is. To enable it forgets why it was disabled and since when it failed; another URL
    forgets the latter."""

    url: str | None = field(default=None, repr=False)
    host: str | None = None
    events: tuple[str, ...] | None = None
    description: str | None = None
    enabled: bool | None = None


@dataclass(frozen=True, slots=True)
class DeliveryRow:
    """A message to one webhook. `data` is JSON text, `at` the time of the event. `attempts` counts those that were begun.

    `next_at` is when the next attempt is due; while one is under way, when it will be given up for lost.
    """

    tenant: str
    delivery_id: str
    webhook_id: str
    session_id: str | None
    host: str
    type: str
    data: str
    at: float
    status: DeliveryStatus
    attempts: int
    next_at: float
    last_status: int | None
    last_error: str | None
    created_at: float
    finished_at: float | None


@dataclass(frozen=True, slots=True)
class DueDelivery:
    """A message that this caller is to send, until `row.next_at`. `dead` says why it has no `url`: its webhook is gone or disabled."""

    row: DeliveryRow
    url: str | None = field(repr=False)
    secret: str | None = field(repr=False)
    dead: str | None = None


@dataclass(frozen=True, slots=True)
class Room:
    """How many more messages a process takes: `limit` in all, and at once no more than so many for one tenant, and for one host of a
    tenant. `busy` counts those that it sends now, by tenant and host."""

    limit: int
    per_tenant: int
    per_host: int
    busy: Mapping[tuple[str, str], int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of an attempt: with `delivered` all is well; else it is tried again `after_seconds` later, never where that is None.

    `error` is one line that is safe to show. `disable` is the reason to disable the webhook at once.
    """

    delivered: bool
    after_seconds: float | None = None
    status: int | None = None
    error: str | None = None
    disable: str | None = None


class WebhookStore(Protocol):
    """Who wants to hear of what. Raises DatabaseUnavailable when the database is away."""

    async def add(self, tenant: str, webhook_id: str, receiver: Receiver, *, most: int) -> WebhookRow | None:
        """Registers a webhook of kind tenant; None where the tenant has `most` of them. Repeating it changes nothing."""

    async def ensure(self, tenant: str, receiver: Receiver) -> str:
        """The id of the webhook of kind request for this tenant, URL and secret; made, or enabled again, where need be. Which events each
        request wants is kept with the request."""

    async def get(self, tenant: str, webhook_id: str) -> WebhookRow | None:
        """The webhook, None when unknown to this tenant."""

    async def of_tenant(self, tenant: str, *, kind: WebhookKind | None = None, after: str = "", limit: int) -> Sequence[WebhookRow]:
        """Webhooks with ids above `after`, in the order of their ids."""

    async def change(self, tenant: str, webhook_id: str, change: Change) -> WebhookRow | None:
        """The webhook after the change, None when unknown to this tenant."""

    async def delete(self, tenant: str, webhook_id: str) -> bool:
        """Forgets a webhook; False when there was none."""


class DeliveryStore(Protocol):
    """Messages on their way. Raises DatabaseUnavailable when the database is away."""

    async def send(self, tenant: str, delivery_id: str, webhook_id: str, event_type: str, data: str) -> DeliveryRow | None:
        """One message to one webhook, whatever events it names; None when that is unknown or disabled. Repeating it changes nothing."""

    async def due(self, room: Room, *, hold_seconds: float) -> Sequence[DueDelivery]:
        """As many messages that are due as there is room for, those that are overdue the longest, in the order of their ids.

        Each is given to one caller only for `hold_seconds`, and its attempt counted; then, when nobody has settled it, it is due again.
        """

    async def settle(self, row: DeliveryRow, verdict: Verdict, *, patience_seconds: float) -> bool:
        """Writes what came of an attempt, unless the row's hold is over and another one has begun; what was delivered is so even where the
        message had been given up meanwhile. Whether the webhook is disabled now: at once with `verdict.disable`, else when it has
        failed for `patience_seconds` without a success."""

    async def release(self, row: DeliveryRow) -> None:
        """Gives a message back that was not tried to the end: it is due at once, and the attempt is not counted."""

    async def abandon(self, tenant: str, webhook_id: str, reason: str) -> int:
        """Fails messages that wait for this webhook, some thousands at a time; how many."""

    async def get(self, tenant: str, delivery_id: str) -> DeliveryRow | None:
        """The message, None when unknown to this tenant."""

    async def of_tenant(
        self, tenant: str, *, status: DeliveryStatus | None = None, webhook_id: str | None = None, before: str | None = None, limit: int
    ) -> Sequence[DeliveryRow]:
        """Messages with ids below `before`, newest first."""

    async def replay(self, tenant: str, delivery_id: str) -> DeliveryRow | None:
        """A message that was delivered or has failed is due at once, its attempts counted anew; None, and nothing changed, when it is
        pending, or unknown, or its webhook is gone or disabled."""

    async def replay_failed(self, tenant: str, *, webhook_id: str | None = None, since: float = 0.0, limit: int) -> int:
        """The same for messages that have failed, of events at or after `since`, the oldest first; how many."""

    async def pending(self) -> int:
        """How many messages of all tenants wait."""
