"""Who calls: API keys from a file and from the database, looked up by bearer token. Without any key everyone is the tenant `default`.

A ring is swapped as a whole when keys or limits change; a request costs one digest and one look-up. How news reach it: `key_news`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from common.contracts.access import DEFAULT_TENANT, NO_KEY_LIMITS, NO_LIMITS, OPERATOR, SCOPES, Access, Key, KeyLimits, Limits, digest_of
from common.errors import DependencyUnavailable, Forbidden, Unauthorized
from common.web.key_file import FileKeys, KeyFile

ALL_SCOPES = frozenset(SCOPES)
DATABASE = "db:"
"""The value of LOADSPLIT_API_KEYS that asks for keys of the database."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, what the caller may do, and how much its tenant may use. `key_id` is None where no keys are configured."""

    tenant: str
    scopes: frozenset[str]
    key_id: str | None = None
    limits: Limits = NO_LIMITS

    def need(self, scope: str) -> None:
        """Raises Forbidden without that scope."""
        if scope not in self.scopes:
            raise Forbidden(f"this key lacks the scope {scope}")

    @property
    def operator(self) -> bool:
        """Whether its scope `admin` reaches every tenant."""
        return self.tenant == OPERATOR


ANYONE = Caller(DEFAULT_TENANT, ALL_SCOPES)


@dataclass(frozen=True, slots=True)
class _Held:
    """What the ring knows at one moment. `anyone` is who calls without a key, where that is allowed; `complete` says that a key that is
    not here does not exist."""

    callers: Mapping[bytes, tuple[Caller, float | None]] = field(default_factory=dict)
    digests: Mapping[tuple[str, str], bytes] = field(default_factory=dict)
    limits: Mapping[str, Limits] = field(default_factory=dict)
    of_keys: Mapping[tuple[str, str], KeyLimits] = field(default_factory=dict)
    anyone: Caller | None = ANYONE
    complete: bool = True
    counts_requests: bool = False


class KeyRing:
    """The keys that hold in this process. Without any, and none asked for, everyone is let in; the server then binds to loopback only (the
    CLI sees to that)."""

    def __init__(self, file: KeyFile | None = None, *, required: bool = False) -> None:
        self._file = file
        self._required = required
        self._of_file = file.read() if file else FileKeys()
        self._of_database: Access | None = None
        self._held = self._build()

    @classmethod
    def open(cls, source: Path | str | None) -> KeyRing:
        """The ring of LOADSPLIT_API_KEYS: a file, `db:` where callers need a key of the database, None where they need one only if it has
        any. Raises ValueError with one line that names the file's entry at fault."""
        if source is None:
            return cls()
        return cls(required=True) if str(source) == DATABASE else cls(KeyFile(source))

    @property
    def empty(self) -> bool:
        """Whether no keys are configured: everyone is let in."""
        return self._held.anyone is not None

    @property
    def counts_requests(self) -> bool:
        """Whether any tenant has a limit of requests."""
        return self._held.counts_requests

    @property
    def state(self) -> object:
        """Another object whenever keys or limits have changed."""
        return self._held

    @property
    def revision(self) -> int | None:
        """The revision of what is known of the database, None while nothing is."""
        return self._of_database.revision if self._of_database else None

    def limits_of(self, tenant: str) -> Limits:
        """The limits of a tenant, for who comes with a ticket."""
        return self._held.limits.get(tenant, NO_LIMITS)

    def limits_of_key(self, tenant: str, key_id: str) -> KeyLimits:
        """The limits of a tenant's key; none for one that is not known (any more)."""
        return self._held.of_keys.get((tenant, key_id), NO_KEY_LIMITS)

    def authenticate(self, headers: Iterable[tuple[bytes, bytes]]) -> Caller:
        """The caller of a request by its raw ASGI headers. Raises Unauthorized, or DependencyUnavailable while the keys of the database are
        needed and not known."""
        held = self._held
        if held.anyone is not None:
            return held.anyone
        for name, value in headers:
            if name == b"authorization":
                scheme, _, token = value.partition(b" ")
                token = token.strip()
                if scheme.lower() != b"bearer" or not token:
                    raise Unauthorized("Authorization must be: Bearer <key>")
                found = held.callers.get(digest_of(token))
                if found is None:
                    raise self._unknown(held)
                caller, expires = found
                if expires is not None and expires <= time.time():
                    raise Unauthorized("the API key has expired")
                return caller
        raise Unauthorized("an API key is needed: Authorization: Bearer <key>")

    def holder(self, tenant: str, key_id: str) -> tuple[Caller, bytes] | None:
        """Who has the key of that tenant and id, and the key's digest: for who has shown it before. None when it does not hold any more."""
        held = self._held
        digest = held.digests.get((tenant, key_id))
        if digest is None:
            return None
        caller, expires = held.callers[digest]
        return None if expires is not None and expires <= time.time() else (caller, digest)

    def use(self, access: Access) -> None:
        """Takes what the database has now."""
        self._of_database = access
        self._held = self._build()

    def reread(self) -> bool:
        """Takes a key file that has changed; one that does not hold is left, and logged. Whether anything was taken."""
        news = self._file.news() if self._file else None
        if news is None:
            return False
        self._of_file = news
        self._held = self._build()
        return True

    async def check(self) -> None:
        """Raises DependencyUnavailable while keys are needed and not known: a check of /api/v1/health."""
        if not self._held.complete:
            raise self._unknown(self._held)

    @staticmethod
    def _unknown(held: _Held) -> Unauthorized | DependencyUnavailable:
        if held.complete:
            return Unauthorized("the API key is not known")
        return DependencyUnavailable("the API keys cannot be read now", retry_after=1)

    def _build(self) -> _Held:
        access = self._of_database or Access()
        limits = _merged(self._of_file.limits, access.limits)
        every = (*access.keys, *self._of_file.keys)
        callers = {key.digest: (_caller(key, limits), key.expires) for key in every}
        open_to_all = not (self._required or access.required or self._of_file.keys)
        return _Held(
            callers=callers,
            digests={(key.tenant, key.key_id): key.digest for key in every},
            limits=limits,
            of_keys={(key.tenant, key.key_id): key.limits for key in every if key.limits != NO_KEY_LIMITS},
            anyone=replace(ANYONE, limits=limits.get(DEFAULT_TENANT, NO_LIMITS)) if open_to_all else None,
            complete=self._of_database is not None or not self._required,
            counts_requests=any(one.requests_per_minute is not None for one in limits.values()),
        )


def hash_key(token: str) -> str:
    """What the file holds of a key."""
    return digest_of(token.encode()).hex()


def _caller(key: Key, limits: Mapping[str, Limits]) -> Caller:
    return Caller(key.tenant, key.scopes, key.key_id, limits.get(key.tenant, NO_LIMITS))


def _merged(of_file: Mapping[str, Mapping[str, Any]], of_database: Mapping[str, Mapping[str, Any]]) -> dict[str, Limits]:
    """The limits of each tenant: the file's, and over them, name by name, the database's."""
    return {tenant: Limits(**{**of_file.get(tenant, {}), **of_database.get(tenant, {})}) for tenant in {*of_file, *of_database}}
