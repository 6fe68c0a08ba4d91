"""Delivers messages to webhooks: what is due is signed and sent, and what did not arrive is sent again, later and later, with the same id.

Every process looks when one tells that there is something, and each second in any case; a message is held by one of them at a time. Of one
host of a tenant only a few are sent at once, so that a slow receiver holds up nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial

from common.contracts.webhooks import body_of, signed_headers, tenant_secret
from common.endpoints.post import Posted, Poster
from common.hotstore import keys
from common.hotstore.protocol import HotStore, HotStoreUnavailable
from common.telemetry.metrics import Metrics
from heavy.jobs.webhook_spans import NOT_TRACED, Traced
from heavy.turns.stores import DatabaseUnavailable
from heavy.turns.webhooks import DISABLED, DeliveryStore, DueDelivery, Room, Verdict

# Seconds before each attempt, from the end of the one before: three days in all. As https://www.standardwebhooks.com advises.
SCHEDULE = (0.0, 5.0, 60.0, 300.0, 1800.0, 7200.0, 18_000.0, 36_000.0, 50_400.0, 72_000.0, 86_400.0)
JITTER = 0.2  # each wait is longer by up to that share of it, so that what failed together does not come back together
LONGEST_RETRY_AFTER = 86_400.0
PATIENCE_SECONDS = 5 * 86_400.0  # without one success, and the webhook is disabled
ATTEMPT_SECONDS = 15.0
HOLD_SECONDS = 25.0  # an attempt and its commit, the database's retries included; and how late a message may be whose node has died
AT_ONCE, PER_TENANT, PER_HOST = 64, 32, 4
EVERY_SECONDS = 1.0
GATHER_SECONDS = 0.02  # after a wake-up, so that many at once make one look
COUNT_SECONDS = 15.0
LEAVE_SECONDS = 2.0
GONE = 410
THROTTLED = (429, 503)
log = logging.getLogger(__name__)


class Deliverer:
    """The deliverer of one process. `ticket_key` is what tenants' secrets follow from."""

    def __init__(
        self,
        deliveries: DeliveryStore,
        hotstore: HotStore,
        poster: Poster,
        metrics: Metrics,
        ticket_key: bytes,
        *,
        traced: Traced = NOT_TRACED,
        schedule: Sequence[float] = SCHEDULE,
        attempt_seconds: float = ATTEMPT_SECONDS,
        hold_seconds: float = HOLD_SECONDS,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._deliveries = deliveries
        self._hotstore = hotstore
        self._poster = poster
        self._metrics = metrics
        self._ticket_key = ticket_key
        self._traced = traced
        self._schedule = schedule
        self._attempt_seconds = attempt_seconds
        self._hold_seconds = hold_seconds
        self._patience_seconds = patience_seconds
        self._sending: set[asyncio.Task[None]] = set()
        self._busy: Counter[tuple[str, str]] = Counter()
        self._news = asyncio.Event()

    async def run(self) -> None:
        """Runs until cancelled; then what is under way gets a moment, and what has not ended by then is due again at once."""
        try:
            async with asyncio.TaskGroup() as group:
                for work in (self._listen, self._count, self._look):
                    group.create_task(work())
        finally:
            if self._sending:
                await asyncio.wait(self._sending, timeout=LEAVE_SECONDS)
            for task in self._sending:
                task.cancel()
            if self._sending:
                await asyncio.wait(self._sending)

    async def deliver_due(self) -> int:
        """Begins to send what is due, as far as there is room; how many that were."""
        limit = AT_ONCE - len(self._sending)
        if limit <= 0:
            return 0
        due = await self._deliveries.due(Room(limit, PER_TENANT, PER_HOST, dict(self._busy)), hold_seconds=self._hold_seconds)
        for message in due:
            lane = (message.row.tenant, message.row.host)
            self._busy[lane] += 1
            task = asyncio.create_task(self._send(message), name=f"webhook {message.row.delivery_id}")
            self._sending.add(task)
            task.add_done_callback(partial(self._sent, lane))
        return len(due)

    def _sent(self, lane: tuple[str, str], task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        self._busy[lane] -= 1
        if not self._busy[lane]:
            del self._busy[lane]
        self._news.set()  # there may be more for its host
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a message to a webhook broke off and is due again when its hold is over", exc_info=error)

    async def _send(self, due: DueDelivery) -> None:
        """One attempt and what is written of it. Where that cannot be written, the end of the hold decides."""
        row = due.row
        try:
            verdict = await self._attempt(due)
            disabled = await self._deliveries.settle(row, verdict, patience_seconds=self._patience_seconds)
            if disabled or due.dead:
                reason = due.dead or DISABLED
                log.warning("webhook %s of tenant %s gets no more messages: %s", row.webhook_id, row.tenant, verdict.error)
                await self._deliveries.abandon(row.tenant, row.webhook_id, reason)
        except asyncio.CancelledError:
            with contextlib.suppress(DatabaseUnavailable):
                await self._deliveries.release(row)
            raise
        except DatabaseUnavailable as e:
            log.warning("what came of message %s cannot be written: %s", row.delivery_id, e.detail)
            return
        outcome = "delivered" if verdict.delivered else "failed" if verdict.after_seconds is None else "again"
        self._metrics.webhook_deliveries_total.labels(outcome).inc()
        if outcome == "failed":
            log.warning("message %s of tenant %s to webhook %s has failed: %s", row.delivery_id, row.tenant, row.webhook_id, verdict.error)

    async def _attempt(self, due: DueDelivery) -> Verdict:
        row = due.row
        if due.url is None:
            return Verdict(False, None, row.last_status, due.dead)
        if row.attempts > len(self._schedule):  # no attempt was ever written down: whatever it is, it must end
            return Verdict(False, None, row.last_status, "none of its attempts came to an end")
        body, now = body_of(row.type, row.at, row.data), int(time.time())
        secret = due.secret or tenant_secret(self._ticket_key, row.tenant)
        began, began_at = time.monotonic(), time.time()
        headers = signed_headers(secret, row.delivery_id, now, body)
        posted = await self._poster.post(due.url, body, headers, seconds=self._attempt_seconds)
        seconds = time.monotonic() - began
        self._metrics.webhook_seconds.observe(seconds)
        await self._traced.attempt(row, began_at, seconds, posted)
        return self._judge(row.attempts, posted)

    def _judge(self, attempts: int, posted: Posted) -> Verdict:
        if posted.reason is None:
            return Verdict(True, status=posted.status)
        if posted.status == GONE:
            return Verdict(False, None, posted.status, posted.reason, disable=f"{posted.reason}: it wants no more messages")
        if attempts >= len(self._schedule):
            return Verdict(False, None, posted.status, posted.reason)
        after = self._schedule[attempts] * random.uniform(1, 1 + JITTER)
        if posted.status in THROTTLED and posted.retry_after is not None:
            after = max(after, min(posted.retry_after, LONGEST_RETRY_AFTER))
        return Verdict(False, after, posted.status, posted.reason)

    async def _look(self) -> None:
        while True:
            self._news.clear()
            try:
                await self.deliver_due()
            except DatabaseUnavailable as e:
                log.warning("no messages to webhooks are looked for: %s", e.detail)
                await asyncio.sleep(EVERY_SECONDS)
                continue
            try:
                async with asyncio.timeout(EVERY_SECONDS):
                    await self._news.wait()
            except TimeoutError:
                continue
            await asyncio.sleep(GATHER_SECONDS)

    async def _listen(self) -> None:
        """Looks at once when there is something new, on whichever replica. Without a hot store each second has to do."""
        while True:
            try:
                async with self._hotstore.subscribe(keys.DELIVERIES) as news:
                    async for _ in news:
                        self._news.set()
            except HotStoreUnavailable:
                await asyncio.sleep(EVERY_SECONDS)

    async def _count(self) -> None:
        while True:
            try:
                self._metrics.webhooks_pending.set(await self._deliveries.pending())
            except DatabaseUnavailable as e:
                log.warning("messages to webhooks are not counted: %s", e.detail)
            await asyncio.sleep(COUNT_SECONDS)
