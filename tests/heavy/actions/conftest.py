"""The shop's business API and a caller that may reach it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from common.endpoints.call import HttpCaller
from common.endpoints.egress import EgressPolicy
from tests.support.acting import Business


@pytest.fixture
async def business() -> AsyncIterator[Business]:
    business = Business()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", business.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    business.port = runner.addresses[0][1]
    yield business
    await runner.cleanup()


@pytest.fixture
async def caller() -> AsyncIterator[HttpCaller]:
    async with HttpCaller(EgressPolicy(allow=("127.0.0.1",))) as caller:
        yield caller
