"""How the provider suite makes calls: a provider, a target at a simulator, a request, everything that came."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from heavy.llm.types import Completed, LLMCallFailed, LLMRequest, Message, Provider, Target, TextDelta, ToolSpec
from loadtests.simulators.profile import Profile

ORDER = ToolSpec(
    "get_order",
    "Look an order up",
    {"type": "object", "properties": {"order_id": {"type": "string", "pattern": r"^A\d{4}$"}}, "required": ["order_id"]},
)
ADVICE = ToolSpec("shop.advice", "Recommend a product", {"type": "object", "properties": {"need": {"type": "string"}}})


@asynccontextmanager
async def open_provider(name: str) -> AsyncIterator[Provider]:
    """The provider of that name, closed at the end."""
    module = importlib.import_module(f"heavy.llm.providers.{name}")
    provider: Provider = getattr(module, {"openai": "OpenAIProvider", "anthropic": "AnthropicProvider"}[name])()
    try:
        yield provider
    finally:
        await provider.aclose()


def quick(**members: Any) -> Profile:
    """A profile without waiting times."""
    return Profile.model_validate({"first_token_ms": 0, "token_ms": 0, **members})


def target(name: str, url: str, **members: Any) -> Target:
    """A target at a simulator's address."""
    return Target(name, "demo", base_url=f"{url}/v1", api_key="k-123", **members)  # type: ignore[arg-type]


def ask(text: str = "Hello", *, tools: tuple[ToolSpec, ...] = (), **members: Any) -> LLMRequest:
    """A request with a system prompt and one user message."""
    return LLMRequest("default", [Message("system", "You are brief."), Message("user", text)], tools=tools, **members)


@dataclass
class Outcome:
    """What one call gave."""

    deltas: list[str] = field(default_factory=list)
    completed: Completed | None = None
    error: LLMCallFailed | None = None

    @property
    def done(self) -> Completed:
        """The completed answer; fails when there is none."""
        assert self.completed is not None, self.error
        return self.completed

    @property
    def kind(self) -> str:
        """The kind of the failure; empty when there was none."""
        return self.error.kind if self.error else ""


async def call(provider: Provider, where: Target, request: LLMRequest, *, streaming: bool = True) -> Outcome:
    """Makes the call to its end."""
    out = Outcome()
    try:
        async for chunk in provider.stream(where, request, streaming=streaming):
            if isinstance(chunk, TextDelta):
                out.deltas.append(chunk.text)
            else:
                out.completed = chunk
    except LLMCallFailed as e:
        out.error = e
    return out
