"""Versions of workflows on this machine's disk, by hash, and the last manifest: what a process serves that starts while everything else is
away. It trusts nothing that it reads: a manifest is signed, and a text is checked against its hash by whoever reads it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import time
from collections.abc import Collection
from pathlib import Path

from common.kept import keep, read_kept

FOLDER = "configs"
MANIFEST = "manifest"
UNUSED_SECONDS = 30 * 86400.0  # how long a version stays that nothing serves any more
_HASH = re.compile(r"[0-9a-f]{16}\Z")
log = logging.getLogger(__name__)


class Shelf:
    """A folder of versions, readable by its owner only. Where it cannot be written to nothing is kept, which is logged once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._told = False

    def text(self, config_hash: str) -> bytes | None:
        """What was kept under a hash."""
        return read_kept(self._folder / config_hash) if _HASH.match(config_hash) else None

    def keep(self, config_hash: str, data: bytes) -> None:
        """Keeps a version."""
        if _HASH.match(config_hash) and not (self._folder / config_hash).exists():
            self._write(config_hash, data)

    def manifest(self) -> bytes | None:
        """The last one that was kept."""
        return read_kept(self._folder / MANIFEST)

    def keep_manifest(self, data: bytes, hashes: Collection[str] = ()) -> None:
        """Keeps the manifest in the place of the former one, and throws away what has long not been among `hashes`."""
        self._write(MANIFEST, data)
        with contextlib.suppress(OSError):
            for file in self._folder.iterdir():
                if file.name in hashes:
                    os.utime(file)
                elif _HASH.match(file.name) and file.stat().st_mtime < time.time() - UNUSED_SECONDS:
                    file.unlink(missing_ok=True)

    def _write(self, name: str, data: bytes) -> None:
        try:
            keep(self._folder / name, data)
        except OSError as e:
            if not self._told:
                self._told = True
                log.warning("versions of workflows are not kept for the next start: %s: %s", self._folder, e.strerror)
