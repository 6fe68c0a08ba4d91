"""Work that goes to its end although who waits for it is cancelled: a commit that may have been made must not be unknown to its maker."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def unbroken(work: Coroutine[Any, Any, None]) -> None:
    """Waits for `work`. A cancellation meanwhile is raised behind its end; then an error of `work` itself is not."""
    running = asyncio.ensure_future(work)
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        if not running.cancelled():
            running.exception()
        raise
