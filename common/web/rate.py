"""The limit of a tenant's requests a minute, over all replicas of both tiers: one trip to the hot store for tenants that have one, nothing
for the others.
"""

from __future__ import annotations

import math
from typing import Any

from common.contracts.access import Limits
from common.errors import RateLimited
from common.hotstore import keys
from common.hotstore.memory import MemoryHotStore
from common.hotstore.protocol import HotStore, HotStoreUnavailable
from common.telemetry.metrics import Metrics

MINUTE = 60.0


class RequestRate:
    """Counts requests. Without the hot store this process counts its own."""

    def __init__(self, hotstore: HotStore, metrics: Metrics) -> None:
        self._hotstore = hotstore
        self._alone = MemoryHotStore()
        self._refused = metrics.quota_refusals_total.labels("requests_per_minute")

    async def count(self, tenant: str, limits: Limits) -> None:
        """Counts one request of a tenant. Raises RateLimited when it is one too many; a tenant may make a minute's requests at once."""
        most = limits.requests_per_minute
        if most is None:
            return
        key = keys.rate(tenant)
        try:
            wait = await self._hotstore.throttle(key, rate=most / MINUTE, burst=most)
        except HotStoreUnavailable:
            wait = await self._alone.throttle(key, rate=most / MINUTE, burst=most)
        if wait:
            self._refused.inc()
            raise RateLimited(**beyond("requests_per_minute", most, most, f"this tenant may make {most} requests a minute", wait))


def beyond(limit: str, value: float, used: float, detail: str, wait: float) -> dict[str, Any]:
    """The arguments of an error for what is beyond a limit. `wait` is in seconds, and is told as whole ones, at least 1."""
    return {"detail": f"{limit}: {detail}", "retry_after": max(1, math.ceil(wait)), "limit": limit, "value": value, "used": used}
