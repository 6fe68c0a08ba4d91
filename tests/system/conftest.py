"""A real Nginx from the shipped templates in front of fake tiers."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from nginx.render import RenderSettings, write
from standalone.up import worker_user
from tests.support.fake_tiers import FakeTier, Front, StartFront
from tests.support.services import find_binary, free_port, is_listening
from tests.support.waiting import wait_until


@pytest.fixture
async def nginx() -> AsyncIterator[StartFront]:
    """`await nginx(lightweight=1, heavy=2, …RenderSettings)` starts a front; everything ends with the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(lightweight: int = 1, heavy: int = 2, **settings: Any) -> Front:
            tiers = [[FakeTier(f"{role}-{i + 1}") for i in range(n)] for role, n in (("lightweight", lightweight), ("heavy", heavy))]
            for tier in (*tiers[0], *tiers[1]):
                await tier.start()
                stack.push_async_callback(tier.stop)
            # Not under pytest's own folder: Nginx's workers are another user where root runs the tests.
            folder = Path(tempfile.mkdtemp(prefix="loadsplit-nginx-"))
            os.chmod(folder, 0o711)
            stack.callback(shutil.rmtree, folder, ignore_errors=True)
            port = free_port()
            given: dict[str, Any] = {
                "listen": (f"127.0.0.1:{port}",),
                "run_dir": str(folder),
                "access_log": str(folder / "access.log"),
                "worker_processes": "1",
                "worker_connections": 512,
                "user": worker_user(),
            }
            addresses = [tuple(t.address for t in some) for some in tiers]
            write(RenderSettings(lightweight=addresses[0], heavy=addresses[1], **{**given, **settings}), folder)
            process = await asyncio.create_subprocess_exec(
                find_binary("nginx"), "-e", "stderr", "-p", str(folder), "-c", "nginx.conf", stderr=asyncio.subprocess.DEVNULL
            )
            stack.push_async_callback(_end, process)
            await wait_until(lambda: is_listening(port) or process.returncode is not None, "Nginx listens")
            assert process.returncode is None, "Nginx ended at start"
            http = await stack.enter_async_context(aiohttp.ClientSession())
            return Front(f"http://127.0.0.1:{port}", folder, *tiers, http, process)

        yield start


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    await process.wait()
