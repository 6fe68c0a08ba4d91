"""More streams at once than the SDKs would open by themselves: none waits for another one to end."""

from __future__ import annotations

import asyncio
import resource

import pytest

from heavy.llm.types import Provider
from tests.providers.calls import ask, target

STREAMS = 1_030  # the SDKs' own pool has 1 000 connections


@pytest.mark.long
async def test_every_stream_has_its_connection(provider: Provider, name: str) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    came = asyncio.Semaphore(0)
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        came.release()
        await over.wait()
        writer.close()

    async def one(where: str) -> None:
        async for _ in provider.stream(target(name, where), ask(), streaming=True):
            raise AssertionError("nobody answers here")

    server = await asyncio.start_server(serve, "127.0.0.1", 0, backlog=STREAMS)
    try:
        port = server.sockets[0].getsockname()[1]
        calls = [asyncio.create_task(one(f"http://127.0.0.1:{port}")) for _ in range(STREAMS)]
        for _ in calls:
            await came.acquire()
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    finally:
        over.set()
        server.close()
        await server.wait_closed()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
