"""`loadsplit purge`: erases what is older than the retention, now and with a progress bar; servers do the same once a day.

Who opens the stores is given: this room knows the purge only.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.hotstore.protocol import HotStore
    from heavy.jobs.stores import JobStores
    from heavy.jobs.upkeep import Progress, Retention

Opens = Callable[[], Awaitable["JobStores"]]


async def run(opens: Opens, hotstore: HotStore, retention: Retention) -> int:
    """The exit code: 0 when it is done, 1 where a server does it just now."""
    from rich.console import Console
    from rich.progress import Progress as Bar
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    from heavy.jobs.upkeep import Purge

    stores = await opens()
    try:
        columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
        with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("looking")
            purge = Purge(stores.upkeep, stores.sessions, hotstore, retention, lambda p: bar.update(task, description=_line(p)))
            owner = f"purge {socket.gethostname()}:{os.getpid()}"
            done = await purge.once(owner, every_seconds=0)
        if done is None:
            sys.stderr.write("loadsplit purge: a server is at it just now; /admin/api/purge says how far it is\n")
            return 1
        sys.stdout.write(_line(done) + "\n")
        return 0
    finally:
        await stores.aclose()
        await hotstore.aclose()


def _line(progress: Progress) -> str:
    erased = f"erased {progress.sessions} sessions, {progress.turns} turns of others, {progress.records} records"
    return f"looked at {progress.looked} sessions; {erased}"
