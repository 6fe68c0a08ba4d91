"""Asks the hot store whether a message has a learned route, in the same trip as the session's gate. What the route's action does is not
known here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.contracts import learned
from common.contracts.query import Query
from common.hotstore import keys
from common.hotstore.protocol import HotStore, HotStoreUnavailable
from lightweight.agents import Agent, Answering
from lightweight.gate import IN_READY, Standing, standing
from lightweight.matching.explain import explain
from lightweight.matching.match import Match


@dataclass(slots=True)
class Learned:
    """A learned route that may act now. `ready` is its action where this tier performs it, None where heavy does."""

    match: Match
    ready: Answering | None
    session: Standing


async def ask(hotstore: HotStore, agent: Agent, tenant: str, query: Query) -> Learned | None:
    """The route of this message, None without one or where the session is not free for it. Never raises: without the hot store nothing
    is learned."""
    digest = learned.digest(query.message)
    if digest is None or agent.learned is None:
        return None
    key = keys.learned(tenant, agent.workflow.agent_id, agent.config_hash, digest)
    # gathered, both commands leave in one tick of the loop: one trip
    data, session = await asyncio.gather(_get(hotstore, key), standing(hotstore, tenant, query.session_id))
    route = learned.decode(data) if data else None
    if route is None or not session.allows(IN_READY):
        return None
    known = agent.learned.get((route.kind, route.target))
    if known is None:
        return None
    match = Match(known.kind, known.action, None, {}, -1, arguments=route.parameters(query.message))
    return Learned(match, known.answering, session)


def explained(agent: Agent, text: str, route: learned.LearnedRoute | None, context: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What `explain` tells of a text, and where no rule answers it, the learned route that does, if there is `route`."""
    told = explain(agent.matcher, text, context)
    known = (agent.learned or {}).get((route.kind, route.target)) if route else None
    if route is None or known is None or told["matched_by"] == "rule":
        return told
    tier = "lightweight" if known.answering else "heavy"
    chosen = {"action_type": route.kind, "action_target": route.target, "matched_by": "learned", "parameters": route.parameters(text)}
    return {**told, "tier": tier, **chosen}


async def _get(hotstore: HotStore, key: str) -> bytes | None:
    try:
        return await hotstore.get(key)
    except HotStoreUnavailable:
        return None
