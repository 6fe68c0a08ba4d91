"""Fixtures of the provider suite: each test runs over both providers, against the LLM simulator over real HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from heavy.llm.types import Provider
from tests.providers.calls import open_provider


@pytest.fixture(params=["openai", "anthropic"])
def name(request: pytest.FixtureRequest) -> str:
    """The provider's name."""
    return str(request.param)


@pytest.fixture
async def provider(name: str) -> AsyncIterator[Provider]:
    """A provider whose connections are closed after the test."""
    async with open_provider(name) as opened:
        yield opened
