"""What the database keeps of keys and tenants, as a protocol that `heavy.storage` implements. Times are Unix seconds (float).

Every change of a key or a limit raises the revision. Errors: DependencyUnavailable when the database is away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from common.contracts.access import Access

KEPT_SECONDS = 86400.0
"""How long servers still know a key that has expired, so that they can say so."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key to store. `digest` is the SHA-256 of its text in hex; `limits` are those that are set, by name."""

    tenant: str
    key_id: str
    digest: str
    scopes: tuple[str, ...]
    name: str = ""
    expires_at: float | None = None
    limits: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key as it is stored, without its digest. `limits` are those that are set, by name."""

    tenant: str
    key_id: str
    name: str
    scopes: tuple[str, ...]
    created_at: float
    expires_at: float | None
    revoked_at: float | None
    limits: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TenantRow:
    """A tenant that has keys or limits. `limits` are those that are set, by name."""

    tenant: str
    limits: Mapping[str, Any] = field(default_factory=dict)


class AccessStore(Protocol):
    """Keys, limits, and the turns that count against them. `tenant` None is every tenant."""

    async def revision(self) -> int:
        """The number of the last change."""

    async def access(self) -> Access:
        """What servers need: keys that are neither revoked nor long expired, limits. It is as new as its revision, or newer."""

    async def add_key(self, key: NewKey) -> KeyRow | None:
        """Stores a key; None when another one has its id. Repeating it changes nothing."""

    async def keys(self, tenant: str | None, *, limit: int) -> Sequence[KeyRow]:
        """The keys, revoked and expired ones too, the newest first."""

    async def revoke(self, tenant: str | None, key_id: str) -> KeyRow | None:
        """Revokes a key for ever; None when there is none of that id. Repeating it changes nothing."""

    async def tenants(self, tenant: str | None, *, limit: int) -> Sequence[TenantRow]:
        """The tenants by name."""

    async def set_limits(self, tenant: str, changes: Mapping[str, Any]) -> TenantRow:
        """Sets limits by name; None takes one away, those not named stay."""

    async def active_turns(self, tenant: str) -> int:
        """Turns of the tenant that wait or run now, on all replicas."""
