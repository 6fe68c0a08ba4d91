"""Work that goes to its end although who waits for it is cancelled: a commit that may have been made must not be unknown to its maker."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any


async def unbroken(work: Coroutine[Any, Any, None]) -> None:
    """Waits for `work`. A cancellation meanwhile is raised behind its end, a second one at once; then an error of `work` itself is not."""
    running = asyncio.ensure_future(work)
    running.add_done_callback(_seen)
    try:
        await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise


def _seen(work: asyncio.Future[None]) -> None:
    """An error that nobody waits for any more is not told as one that was forgotten."""
    if not work.cancelled():
        work.exception()
