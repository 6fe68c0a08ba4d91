"""The span of an attempt to deliver a message to a webhook: part of the trace of the turn that the message is about."""

from __future__ import annotations

import orjson

from common.endpoints.post import Posted
from common.telemetry.tracing import NO_TRACING, Tracing
from heavy.turns.stores import DatabaseUnavailable, TurnStore
from heavy.turns.webhooks import DeliveryRow


class Traced:
    """Makes them. It reads a row for each, where there are traces at all."""

    def __init__(self, tracing: Tracing = NO_TRACING, turns: TurnStore | None = None) -> None:
        self._tracing = tracing
        self._turns = turns

    async def attempt(self, row: DeliveryRow, began: float, seconds: float, posted: Posted) -> None:
        """One attempt; `began` is Unix seconds. Neither the URL, which may hold a token, nor the message is told."""
        if not self._tracing.on:
            return
        span = self._tracing.begin(f"deliver {row.type}", parent=await self._parent(row))
        told = {"messaging.message.id": row.delivery_id, "server.address": row.host, "loadsplit.tenant": row.tenant}
        span.set({**told, "loadsplit.attempt": row.attempts, "http.response.status_code": posted.status})
        error = None if posted.reason is None else "not_delivered"
        span.child(f"POST {row.host}", began=began, seconds=seconds, error=error, attributes={"http.response.status_code": posted.status})
        span.end(error=error)

    async def _parent(self, row: DeliveryRow) -> str:
        """The traceparent of the request that brought the message's turn; empty where there is none, or the database is away."""
        about = orjson.loads(row.data)
        turn_id = about.get("turn_id") or about.get("task_id")
        if self._turns is None or not isinstance(turn_id, str):
            return ""
        try:
            turn = await self._turns.get(row.tenant, turn_id)
        except DatabaseUnavailable:
            return ""
        return str(turn.request.get("traceparent", "")) if turn is not None else ""


NOT_TRACED = Traced()
