"""Files that a process keeps for its next start. One is written whole or not at all, and readable by its owner only."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
from pathlib import Path

log = logging.getLogger(__name__)


def read_kept(path: Path) -> bytes | None:
    """What was kept; None without it, and for a file that cannot be read, which is logged."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as e:
        log.warning("%s cannot be read: %s", path, e.strerror)
        return None


def keep(path: Path, data: bytes) -> None:
    """Puts the whole file in the place of the former one, with the folder where there is none. Raises OSError; nothing is left then."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
