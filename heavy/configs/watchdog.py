"""Compares canaries with the versions that are active, and takes back one that does clearly worse. Any replica may do so, mostly one
does."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import Awaitable, Callable

from common.errors import DependencyUnavailable
from common.hotstore import keys
from common.hotstore.protocol import HotStore, HotStoreUnavailable
from common.telemetry.metrics import Metrics
from heavy.configs.comparison import MOST_TURNS, WINDOW_SECONDS, Figures, complaint, summed
from heavy.configs.force import rolled_back
from heavy.configs.stores import AgentRow, ConfigStore, NewChange

EVERY_SECONDS = 3.0
log = logging.getLogger(__name__)


class Watchdog:
    """The look-out of one process. `changed` is told when something was taken back."""

    def __init__(self, store: ConfigStore, hotstore: HotStore, metrics: Metrics, changed: Callable[[], Awaitable[None]]) -> None:
        self._store = store
        self._hotstore = hotstore
        self._rollbacks = metrics.config_rollbacks_total
        self._changed = changed

    async def run(self) -> None:
        """Looks every few seconds, where no other process has just looked. Runs until cancelled."""
        name = secrets.token_bytes(8)
        while True:
            await asyncio.sleep(EVERY_SECONDS)
            try:
                mine = True
                with contextlib.suppress(HotStoreUnavailable):  # then all look: taking back twice changes nothing
                    mine = await self._hotstore.claim(keys.CONFIGS_WATCH, name, EVERY_SECONDS * 0.9) in (None, name)
                if mine:
                    await self.look()
            except DependencyUnavailable as e:
                log.warning("canaries are not compared: %s", e.detail)

    async def look(self) -> list[str]:
        """Takes back the canaries that have to go; the agents of which that was so."""
        taken = []
        for agent in await self._store.agents():
            if agent.canary is None or agent.active is None:
                continue
            active, canary = await compared(self._store, agent)
            why = complaint(active, canary)
            if why is None:
                continue
            after, version = rolled_back(agent)
            change = NewChange(secrets.token_hex(8), "auto_rollback", version, agent.percent, "", why)
            if await self._store.change(agent, after, change):  # else somebody has changed it meanwhile
                taken.append(agent.agent_id)
                self._rollbacks.inc()
                log.error("the canary %d of %s is taken back: %s", version, agent.agent_id, why, extra={"agent_id": agent.agent_id})
        if taken:
            await self._changed()
        return taken


async def compared(store: ConfigStore, agent: AgentRow) -> tuple[Figures, Figures]:
    """The figures of the active version and of the canary, since the canary began. Without a canary: since the active one did."""
    since = max(agent.canary_since or agent.since or 0.0, time.time() - WINDOW_SECONDS)
    active = await _figures(store, agent.agent_id, agent.active_hash, since)
    return active, await _figures(store, agent.agent_id, agent.canary_hash, since)


async def _figures(store: ConfigStore, agent_id: str, config_hash: str | None, since: float) -> Figures:
    if config_hash is None:
        return Figures()
    return summed(await store.figures(agent_id, config_hash, since=since, limit=MOST_TURNS))
