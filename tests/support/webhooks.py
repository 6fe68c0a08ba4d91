"""Webhooks and the messages of sessions, for tests of the stores."""

from __future__ import annotations

import itertools
from typing import Any

from heavy.turns.rows import SessionEvent, SessionRow
from heavy.turns.stores import Stores
from heavy.turns.webhooks import DeliveryRow, DueDelivery, Receiver, Room, Verdict, WebhookRow
from tests.support.turns import answer, talk

HOLD = 30.0
PATIENCE = 5 * 86_400.0
CLOSED = "session.closed"
GOOD = Verdict(True, status=204)
LATER = Verdict(False, 60.0, 500, "the receiver answered 500")
NEVER = Verdict(False, None, 500, "the receiver answered 500")
_numbers = itertools.count(1)


def receiver(path: str = "hook", host: str = "example.com:443", events: tuple[str, ...] = (CLOSED,), **more: Any) -> Receiver:
    """Somebody who wants to hear of closed sessions."""
    return Receiver(f"https://{host}/{path}", host, events, **more)


async def add(stores: Stores, tenant: str = "acme", receives: Receiver | None = None, **more: Any) -> WebhookRow:
    """A registered webhook; its ids count upwards."""
    webhook_id = f"wh_{next(_numbers):032x}"
    row = await stores.webhooks.add(tenant, webhook_id, receives or receiver(**more), most=100)
    assert row is not None
    return row


async def close(stores: Stores, session_id: str = "s1", *types: str, tenant: str = "acme") -> SessionRow:
    """A whole turn that makes events, each with its place in the session."""
    events = [SessionEvent(t, {"session_id": session_id, "n": n, "text": "\0 中文"}) for n, t in enumerate(types or (CLOSED,))]
    return await talk(stores, f"t_{next(_numbers)}", answer(events=events), session_id=session_id, tenant=tenant)


async def due(stores: Stores, limit: int = 100, *, hold: float = HOLD, **room: Any) -> list[DueDelivery]:
    """What is due, with room for everything unless said otherwise."""
    return list(await stores.deliveries.due(Room(limit, **{"per_tenant": 100, "per_host": 100, **room}), hold_seconds=hold))


async def all_of(stores: Stores, tenant: str = "acme", **more: Any) -> list[DeliveryRow]:
    """All messages of a tenant, newest first."""
    return list(await stores.deliveries.of_tenant(tenant, limit=1000, **more))


async def settle(stores: Stores, row: DeliveryRow, verdict: Verdict, patience: float = PATIENCE) -> bool:
    """What came of an attempt; whether the store took it."""
    return await stores.deliveries.settle(row, verdict, patience_seconds=patience)


async def one(stores: Stores) -> DeliveryRow:
    """The only message there is, as it is stored."""
    (row,) = await all_of(stores)
    return row
