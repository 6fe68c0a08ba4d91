"""A gateway whose calls all go on one account: who makes requests need not know on whose behalf."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

from heavy.llm.types import Chunk, Completed, Gateway, LLMRequest, Spender


class OnAccount:
    """Implements heavy.llm.types.Gateway over another one. A request that names a spender of its own keeps it."""

    def __init__(self, gateway: Gateway, spender: Spender) -> None:
        self._gateway = gateway
        self._spender = spender

    def stream(self, request: LLMRequest) -> AsyncIterator[Chunk]:
        """As the gateway below."""
        return self._gateway.stream(self._charged(request))

    async def complete(self, request: LLMRequest) -> Completed:
        """As the gateway below."""
        return await self._gateway.complete(self._charged(request))

    def context_tokens(self, model: str) -> int:
        """As the gateway below."""
        return self._gateway.context_tokens(model)

    def of_skill(self, skill: str) -> OnAccount:
        """The same account, for a skill."""
        return OnAccount(self._gateway, replace(self._spender, skill=skill))

    def _charged(self, request: LLMRequest) -> LLMRequest:
        spender = replace(request.spender or self._spender, purpose=request.purpose)
        return replace(request, spender=spender)


def account_of(gateway: Gateway, tenant: str, agent_id: str, session_id: str, turn_id: str | None = None) -> OnAccount:
    """A gateway for the calls of a turn, or of its session."""
    return OnAccount(gateway, Spender(tenant, agent_id, None, session_id, turn_id))


def of_skill(gateway: Gateway, skill: str) -> Gateway:
    """A gateway whose calls are those of a skill, where they go on an account at all."""
    return gateway.of_skill(skill) if isinstance(gateway, OnAccount) else gateway
