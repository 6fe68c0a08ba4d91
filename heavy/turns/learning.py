"""Learns routes: what the LLM chose again and again for the same words is shown to the rule tier, which then acts without an LLM.

Everything here happens behind the turns, in one background task: a turn only leaves a note of what was chosen. What it does not know: how
the rule tier acts on a route.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from common.contracts.folding import fold
from common.contracts.journal import JournalEntry
from common.contracts.learned import LearnedRoute, decode, digest, encode
from common.contracts.query import Usage
from common.hotstore import keys
from common.hotstore.protocol import HotStore, HotStoreUnavailable
from heavy.actions.compiled import CompiledWorkflow
from heavy.intents.learned import Parameters, acted_alone, may_be_learned, parameters_of, route_of
from heavy.intents.proposals import Proposal, propose
from heavy.llm.types import Message
from heavy.turns.agents import Agents
from heavy.turns.decide import Decision
from heavy.turns.learned_routes import LearnedKey, LearnedRow, LearnedStore, Sighting
from heavy.turns.rows import TurnRow
from heavy.turns.stores import DatabaseUnavailable

QUEUE = 1000  # notes that wait; what is more is not learned this time
FLUSH_SECONDS = 2.0
REFRESH_SECONDS = keys.LEARNED_TTL / 3
MOST_HOT = 10_000  # routes of one version in the hot store, about 300 bytes each
MOST_LISTED = 1000
MOST_KNOWN = 1000
LOG_LENGTH = 2000
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Note:
    agent: CompiledWorkflow
    row: TurnRow
    decision: Decision


class Learner:
    """What this node learns. `observe` and `answered` never wait and never fail; `work` does the rest. `clock` is Unix seconds."""

    def __init__(self, store: LearnedStore, hotstore: HotStore, agents: Agents, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._hotstore = hotstore
        self._agents = agents
        self._clock = clock
        self._notes: asyncio.Queue[_Note] = asyncio.Queue(QUEUE)
        self._hits: dict[LearnedKey, int] = {}
        self._known: dict[tuple[str, str], dict[tuple[str, str], Parameters]] = {}

    def observe(self, agent: CompiledWorkflow, row: TurnRow, decision: Decision, usage: Usage, messages: Sequence[Message] = ()) -> None:
        """Notes what was decided in a turn that has ended well (state done); `usage` and `messages` are the whole turn's.

        Only a decision without history teaches something: in the first turn of a session, or of an agent that never looks back.
        """
        workflow = agent.workflow
        if not workflow.learned_routes.enabled or workflow.multi_turn == "router":
            return
        message: str = row.request["message"]
        if decision.matched_by == "learned":
            self._hit(row.tenant, row.agent_id, row.config_hash, message)
        first = row.seq == 1 or workflow.multi_turn == "single"
        asked = decision.matched_by == "llm" or (decision.matched_by == "none" and decision.kind == "message")
        told_otherwise = bool(row.plan and row.plan.get("escalated"))
        if not first or not asked or told_otherwise or self._notes.full() or not may_be_learned(message):
            return
        action = agent.declared.get((decision.kind, decision.target or ""))
        if action is None or acted_alone(action, messages, usage.llm_calls):
            self._notes.put_nowait(_Note(agent, row, decision))

    def answered(self, entries: Sequence[JournalEntry]) -> None:
        """Counts what the rule tier has answered by learned routes."""
        for entry in entries:
            if (entry.reply.get("route") or {}).get("matched_by") == "learned":
                self._hit(entry.tenant, entry.agent_id, str(entry.reply.get("config_hash")), entry.message)

    async def work(self) -> None:
        """Learns from what was noted, and keeps the hot store's copies alive: a lost one is there again within minutes. Runs until
        cancelled."""
        refresh_at = 0.0
        while True:
            try:
                if time.monotonic() >= refresh_at:
                    refresh_at = time.monotonic() + REFRESH_SECONDS
                    await self.refresh()
                await self._flush_hits()
                await self._next()
            except (DatabaseUnavailable, HotStoreUnavailable) as e:
                log.warning("nothing learned for now: %s", e.detail)  # the next turn of the same words teaches the same
                await asyncio.sleep(FLUSH_SECONDS)

    async def caught_up(self) -> None:
        """Returns once everything noted so far is learned, or given up because a store was away."""
        await self._notes.join()

    async def refresh(self) -> None:
        """Writes every active route into the hot store once more, and erases what has expired."""
        now, learning = self._clock(), [agent.workflow for agent in self._agents.all() if agent.workflow.learned_routes.enabled]
        if learning:
            await self._store.prune(now)
        for workflow in learning:
            rows = await self._store.active(workflow.agent_id, workflow.config_hash, now=now, limit=MOST_HOT)
            for i in range(0, len(rows), 100):
                await asyncio.gather(*(self._show(row) for row in rows[i : i + 100]))

    async def routes(self, tenant: str, agent_id: str) -> Sequence[LearnedRow]:
        """What is learned or on its way to it, active routes first. Raises DatabaseUnavailable."""
        return await self._store.of_agent(tenant, agent_id, now=self._clock(), limit=MOST_LISTED)

    async def forget(self, tenant: str, agent_id: str, message: str | None = None) -> int:
        """Forgets an agent's routes, or those of one message; how many. Nothing is forgotten when a store is away, which is raised."""
        one = None if message is None else digest(message) or ""
        known = await self._store.of_agent(tenant, agent_id, now=0, limit=10 * MOST_HOT)
        for again in (False, True):  # a refresh between the two stores may just have shown one again
            doomed = [_hot_key(row.key) for row in known if one is None or row.key.digest == one]
            for i in range(0, len(doomed), 500):
                await self._hotstore.delete(*doomed[i : i + 500])
            if not again:
                forgotten = await self._store.forget(tenant, agent_id, one)
        return len(forgotten)

    async def proposals(self, tenant: str, agent_id: str) -> Sequence[Proposal]:
        """Rules that could stand for what was learned, tried on the agent's last messages. Raises DatabaseUnavailable."""
        rows = [row for row in await self.routes(tenant, agent_id) if row.state == "active"]
        if not rows:
            return []
        learned = [(row.message, route, row.hits + row.seen) for row in rows if (route := decode(row.route))]
        logged = await self._store.log(tenant, agent_id, limit=LOG_LENGTH)
        return await asyncio.to_thread(propose, learned, logged)  # some hundred milliseconds for a full log

    async def route_for(self, tenant: str, agent: CompiledWorkflow, message: str) -> LearnedRoute | None:
        """The route by which the rule tier would answer this message now. Raises HotStoreUnavailable."""
        sign = digest(message) if agent.workflow.learned_routes.enabled else None
        if sign is None:
            return None
        found = await self._hotstore.get(keys.learned(tenant, agent.workflow.agent_id, agent.workflow.config_hash, sign))
        return decode(found) if found else None

    async def _next(self) -> None:
        """Waits for a note, not for long, and learns from it."""
        try:
            async with asyncio.timeout(FLUSH_SECONDS):
                note = await self._notes.get()
        except TimeoutError:
            return
        try:
            await self._learn(note)
        finally:
            self._notes.task_done()

    async def _learn(self, note: _Note) -> None:
        workflow, row = note.agent.workflow, note.row
        message = row.request["message"]
        sign = digest(message)
        if sign is None:
            return
        route = self._route(note, message)
        key = LearnedKey(row.tenant, workflow.agent_id, workflow.config_hash, sign)
        witness = hashlib.blake2b(row.session_id.encode(), digest_size=8).hexdigest()
        settings = workflow.learned_routes
        encoded = encode(route).decode() if route else None
        after = await self._store.observe(
            Sighting(key, fold(message), encoded, witness, settings.repeat, settings.ttl_seconds), self._clock()
        )
        if after is not None and after.state == "active":
            await self._show(after)
        elif after is not None and after.state == "blocked":
            await self._hotstore.delete(_hot_key(key))

    def _route(self, note: _Note, message: str) -> LearnedRoute | None:
        """What this turn teaches: a route, or None for a choice that can't be repeated without an LLM."""
        decision, agent = note.decision, note.agent
        action = agent.declared.get((decision.kind, decision.target or ""))
        if action is None:
            return None
        taken = self._parameters(agent).get((decision.kind, action.id), Parameters({}, {}))
        return route_of(taken, decision.kind, action.id, decision.parameters, message, note.row.request.get("context") or ())

    def _parameters(self, agent: CompiledWorkflow) -> dict[tuple[str, str], Parameters]:
        version = (agent.workflow.agent_id, agent.workflow.config_hash)
        if version not in self._known:
            if len(self._known) >= MOST_KNOWN:  # versions come and go
                self._known.clear()
            self._known[version] = parameters_of(agent.workflow)
        return self._known[version]

    def _hit(self, tenant: str, agent_id: str, config_hash: str, message: str) -> None:
        sign = digest(message)
        if sign is not None and len(self._hits) < MOST_HOT:
            key = LearnedKey(tenant, agent_id, config_hash, sign)
            self._hits[key] = self._hits.get(key, 0) + 1

    async def _flush_hits(self) -> None:
        if self._hits:
            hits, self._hits = self._hits, {}  # what can't be written is not counted: hits only order a list
            await self._store.count_hits(hits)

    async def _show(self, row: LearnedRow) -> None:
        left = row.expires_at - self._clock()
        if left > 0:
            await self._hotstore.set(_hot_key(row.key), row.route.encode(), min(left, keys.LEARNED_TTL))


def _hot_key(key: LearnedKey) -> str:
    return keys.learned(key.tenant, key.agent_id, key.config_hash, key.digest)
