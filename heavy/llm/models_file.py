"""The models file while it is in use: a changed one is read again, and one that does not hold changes nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

from common.errors import ConfigInvalid
from heavy.llm.gateway import LLMGateway, import_sdks, open_providers
from heavy.llm.targets import Aliases, default_targets, load_targets

LOOK_SECONDS = 1.0
log = logging.getLogger(__name__)


class ModelsFile:
    """A models file that may be changed while it is in use. `env` is where keys are looked up: a new key needs a new start. Without a file
    it is what the environment says, `demo_url` being the simulator's OpenAI base URL, and there is never any news."""

    def __init__(self, path: Path | None, env: Mapping[str, str], demo_url: str | None = None) -> None:
        self._path = path
        self._env = env
        self._demo_url = demo_url
        self._seen: tuple[int, int, int] | None = None

    def read(self) -> Aliases:
        """The aliases. Raises ConfigInvalid with every problem."""
        self._seen = self._mark()
        return load_targets(self._path, self._env) if self._path else default_targets(self._env, self._demo_url)

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
        if self._path is None:
            return None
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
