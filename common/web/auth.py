"""Who calls: API keys from a file of hashes, looked up by bearer token. Without any key configured everyone is the tenant `default`.

File: JSON lines or one JSON list of {"id", "tenant", "scopes": […], "hash": SHA-256 of the key in hex, "expires"?: Unix seconds}. Keys are
random and long, so a plain SHA-256 is enough: there is no dictionary to try.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from common.errors import Forbidden, Unauthorized

ALL_SCOPES = frozenset({"query", "tasks", "sessions", "admin", "llm"})
DEFAULT_TENANT = "default"
_CACHE = 4096
_HEX = re.compile(r"[0-9a-f]{64}\Z")
_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, and what the caller may do. `key_id` is None where no keys are configured."""

    tenant: str
    scopes: frozenset[str]
    key_id: str | None = None

    def need(self, scope: str) -> None:
        """Raises Forbidden without that scope."""
        if scope not in self.scopes:
            raise Forbidden(f"this key lacks the scope {scope}")


ANYONE = Caller(DEFAULT_TENANT, ALL_SCOPES)


@dataclass(frozen=True, slots=True)
class Key:
    """One row of the file. `expires` is Unix seconds, None for never."""

    id: str
    caller: Caller
    digest: bytes
    expires: float | None


class KeyRing:
    """The keys of this process. An empty ring lets everyone in; the server then binds to loopback only (the CLI sees to that)."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys = tuple(keys)
        self._known: dict[bytes, Key] = {}

    @classmethod
    def open(cls, path: Path | str | None) -> KeyRing:
        """Reads the file; None is a ring without keys. Raises ValueError with one line that names the entry at fault."""
        if path is None:
            return cls()
        try:
            text = Path(path).read_bytes()
        except OSError as e:
            raise ValueError(f"{path} cannot be read: {e.strerror}") from None
        keys = tuple(_key(row, f"{path}: entry {n}") for n, row in enumerate(_rows(text, str(path)), 1))
        if not keys:
            raise ValueError(f"{path} holds no key: unset LOADSPLIT_API_KEYS to serve without keys")
        return cls(keys)

    @property
    def empty(self) -> bool:
        """Whether no keys are configured."""
        return not self._keys

    def authenticate(self, headers: Iterable[tuple[bytes, bytes]]) -> Caller:
        """The caller of a request by its raw ASGI headers. Raises Unauthorized."""
        if not self._keys:
            return ANYONE
        for name, value in headers:
            if name == b"authorization":
                scheme, _, token = value.partition(b" ")
                if scheme.lower() != b"bearer" or not token.strip():
                    raise Unauthorized("Authorization must be: Bearer <key>")
                return self._lookup(token.strip())
        raise Unauthorized("an API key is needed: Authorization: Bearer <key>")

    def _lookup(self, token: bytes) -> Caller:
        digest = hashlib.sha256(token).digest()
        key = self._known.get(digest)
        if key is None:
            # all of them are compared, so that the time says nothing of how near a guess was
            for candidate in self._keys:
                if hmac.compare_digest(candidate.digest, digest):
                    key = candidate
            if key is None:
                raise Unauthorized("the API key is not known")
            if len(self._known) < _CACHE:
                self._known[digest] = key
        if key.expires is not None and key.expires <= time.time():
            raise Unauthorized("the API key has expired")
        return key.caller


def hash_key(token: str) -> str:
    """What the file holds of a key."""
    return hashlib.sha256(token.encode()).hexdigest()


def _rows(text: bytes, path: str) -> list[Any]:
    try:
        if text.lstrip().startswith(b"["):
            return list(orjson.loads(text))
        return [orjson.loads(line) for line in text.splitlines() if line.strip()]
    except orjson.JSONDecodeError as e:
        raise ValueError(f"{path} is neither JSON lines nor a JSON list: {e.msg}") from None


def _key(row: Any, where: str) -> Key:
    if not isinstance(row, Mapping):
        raise ValueError(f"{where} is no object")
    key_id, tenant, scopes = row.get("id"), row.get("tenant", DEFAULT_TENANT), row.get("scopes", ["query"])
    digest, expires = row.get("hash"), row.get("expires")
    if not isinstance(key_id, str) or not key_id:
        raise ValueError(f"{where} has no id")
    if not isinstance(tenant, str) or not _TENANT.match(tenant):
        raise ValueError(f"{where}: tenant must be 1 to 64 of A-Z a-z 0-9 . _ -")
    if not isinstance(scopes, list) or not all(isinstance(s, str) for s in scopes):
        raise ValueError(f"{where}: scopes must be a list of names")
    if unknown := sorted(set(scopes) - ALL_SCOPES):
        raise ValueError(f"{where}: {unknown[0]!r} is no scope; there are {', '.join(sorted(ALL_SCOPES))}")
    if not isinstance(digest, str) or not _HEX.match(digest):
        raise ValueError(f"{where}: hash must be the SHA-256 of the key in 64 hex digits")
    if expires is not None and (isinstance(expires, bool) or not isinstance(expires, int | float)):
        raise ValueError(f"{where}: expires must be Unix seconds")
    return Key(key_id, Caller(tenant, frozenset(scopes), key_id), bytes.fromhex(digest), expires)
