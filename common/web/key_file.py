"""The file of API keys: JSON lines or one JSON list of

    {"id", "tenant", "scopes": […], "hash": SHA-256 of the key in hex, "expires"?: Unix seconds, "limits"?: {…}, "key_limits"?: {…}}

`limits` are those of the row's tenant (common.contracts.access); one row for each tenant may have them. `key_limits` are the key's own. It
knows no request.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from common.contracts.access import DEFAULT_TENANT, OPERATOR, Key, KeyLimits, check_key, check_key_limits, check_limits

_HEX = re.compile(r"[0-9a-f]{64}\Z")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FileKeys:
    """What a key file says: keys, and limits by tenant."""

    keys: tuple[Key, ...] = ()
    limits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class KeyFile:
    """A key file that may be changed while it is in use."""

    def __init__(self, path: Path | str) -> None:
        self._path = Path(path)
        self._seen: tuple[int, int, int] | None = None

    def read(self) -> FileKeys:
        """The keys. Raises ValueError with one line that names the entry at fault."""
        self._seen = self._mark()
        try:
            text = self._path.read_bytes()
        except OSError as e:
            raise ValueError(f"{self._path} cannot be read: {e.strerror}") from None
        return parse(text, str(self._path))

    def news(self) -> FileKeys | None:
        """The keys of a file that has changed since the last look; None when it has not, or does not hold now, which is logged once."""
        if self._mark() == self._seen:
            return None
        try:
            return self.read()
        except ValueError as e:
            log.error("the API keys stay as they are: %s", e)
            return None

    def _mark(self) -> tuple[int, int, int] | None:
        """What changes with the file: an editor may write it in place or put another one there."""
        try:
            stat = self._path.stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size


def parse(text: bytes, path: str) -> FileKeys:
    """The keys in a file's text. Raises ValueError naming path and entry."""
    keys: list[Key] = []
    limits: dict[str, Mapping[str, Any]] = {}
    for number, row in enumerate(_rows(text, path), 1):
        try:
            key, limited = _key(row)
            if limited is not None and limits.setdefault(key.tenant, limited) != limited:
                raise ValueError(f"limits: an earlier entry has other ones for the tenant {key.tenant}")
            if limited and key.tenant == OPERATOR:
                raise ValueError("limits: the tenant * has none")
        except ValueError as e:
            raise ValueError(f"{path}: entry {number}: {e}") from None
        keys.append(key)
    if not keys:
        raise ValueError(f"{path} holds no key: unset LOADSPLIT_API_KEYS to serve without keys")
    return FileKeys(tuple(keys), limits)


def _rows(text: bytes, path: str) -> list[Any]:
    try:
        if text.lstrip().startswith(b"["):
            return list(orjson.loads(text))
        return [orjson.loads(line) for line in text.splitlines() if line.strip()]
    except orjson.JSONDecodeError as e:
        raise ValueError(f"{path} is neither JSON lines nor a JSON list: {e.msg}") from None


def _key(row: Any) -> tuple[Key, Mapping[str, Any] | None]:
    if not isinstance(row, Mapping):
        raise ValueError("it is no object")
    key_id, digest, expires = row.get("id"), row.get("hash"), row.get("expires")
    if not isinstance(key_id, str) or not key_id:
        raise ValueError("it has no id")
    tenant, scopes = check_key(row.get("tenant", DEFAULT_TENANT), row.get("scopes", ["query"]))
    if not isinstance(digest, str) or not _HEX.match(digest):
        raise ValueError("hash must be the SHA-256 of the key in 64 hex digits")
    if expires is not None and (isinstance(expires, bool) or not isinstance(expires, int | float)):
        raise ValueError("expires must be Unix seconds")
    limits = row.get("limits")
    try:
        own = KeyLimits(**check_key_limits(row.get("key_limits") or {}))  # type: ignore[arg-type]  # tokens are checked to be whole
    except ValueError as e:
        raise ValueError(f"key_limits: {e}") from None
    return Key(key_id, tenant, scopes, bytes.fromhex(digest), expires, own), None if limits is None else check_limits(limits)
