"""The models file while it is in use: a changed one is read again, and one that does not hold changes nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

from common.errors import ConfigInvalid
from heavy.llm.gateway import LLMGateway, import_sdks, open_providers
from heavy.llm.targets import Aliases, load_targets

LOOK_SECONDS = 1.0
log = logging.getLogger(__name__)


class ModelsFile:
    """A models file that may be changed while it is in use. `env` is where keys are looked up: a new key needs a new start."""

    def __init__(self, path: Path, env: Mapping[str, str]) -> None:
        self._path = path
        self._env = env
        self._seen: tuple[int, int, int] | None = None

    def read(self) -> Aliases:
        """The aliases. Raises ConfigInvalid with every problem."""
        self._seen = self._mark()
        return load_targets(self._path, self._env)

    def news(self) -> Aliases | None:
        """The aliases of a file that has changed since the last look; None when it has not, or does not hold now, which is logged once."""
        if self._mark() == self._seen:
            return None
        try:
            return self.read()
        except ConfigInvalid as e:
            log.error("the models stay as they are: %s", e.detail)
            return None

    def _mark(self) -> tuple[int, int, int] | None:
        """What changes with the file: an editor may write it in place or put another one there."""
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size


async def watch_models(file: ModelsFile, gateway: LLMGateway) -> None:
    """Brings a changed file into force. Runs until cancelled."""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        aliases = file.news()
        if aliases is not None:
            await asyncio.to_thread(import_sdks, aliases)
            gateway.use(aliases, open_providers(aliases, but=gateway.speaks))
            log.info("the models file has changed and is in force", extra={"count": len(aliases)})
