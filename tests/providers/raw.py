"""A server that sends exactly the bytes it is told to: for what no well-behaved simulator would send."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from aiohttp import web

from loadtests.simulators.serving import serving


@asynccontextmanager
async def sending(
    chunks: Sequence[bytes],
    *,
    content_type: str = "text/event-stream",
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    pause: float = 0.0,
    hold: bool = False,
) -> AsyncIterator[str]:
    """Answers every POST with `chunks`, one write each; `hold` keeps the connection open afterwards. Gives the address."""

    async def answer(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(status=status, headers={"Content-Type": content_type, **(headers or {})})
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk)
            await asyncio.sleep(pause)
        if hold:
            await asyncio.sleep(30)
        return response

    app = web.Application()
    app.router.add_post("/{path:.*}", answer)
    async with serving(app, "127.0.0.1", 0) as url:
        yield url
