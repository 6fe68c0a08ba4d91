"""What both tiers must know of callers: API keys as digests, and the limits of tenants, in one snapshot that heavy signs and shares.

A key's text is `ls_<key id>_<43 url-safe random characters>`; it is shown once and kept nowhere. Keys are random and long, so a plain
SHA-256 is enough: there is no dictionary to try. How the snapshot travels and who may do what is not known here.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

SCOPES = ("query", "admin", "llm")
DEFAULT_TENANT = "default"
OPERATOR = "*"
"""The tenant of an operator's keys: they have the scope `admin` only, and it reaches every tenant."""

_TENANT = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
# The least and the most that a limit may be.
_BOUNDS: Mapping[str, tuple[float, float]] = {
    "requests_per_minute": (1, 10_000_000),
    "concurrent_turns": (1, 1_000_000),
    "tokens_per_day": (0, 10**15),
    "cost_usd_per_day": (0, 1e9),
    "open_streams": (1, 1_000_000),
}
LIMIT_NAMES = tuple(_BOUNDS)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a tenant may use over all replicas; None is no limit. Days are those of UTC; tokens are input and output together."""

    requests_per_minute: int | None = None
    concurrent_turns: int | None = None
    tokens_per_day: int | None = None
    cost_usd_per_day: float | None = None
    open_streams: int = 5000


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What may be used with one API key, of what its tenant may use; None is no limit."""

    tokens_per_day: int | None = None
    cost_usd_per_day: float | None = None


KEY_LIMIT_NAMES = ("tokens_per_day", "cost_usd_per_day")
NO_LIMITS, NO_KEY_LIMITS = Limits(), KeyLimits()


@dataclass(frozen=True, slots=True)
class Key:
    """An API key as servers know it. `expires` is Unix seconds, None for never."""

    key_id: str
    tenant: str
    scopes: frozenset[str]
    digest: bytes
    expires: float | None = None
    limits: KeyLimits = NO_KEY_LIMITS


@dataclass(frozen=True, slots=True)
class Access:
    """The keys that the database has in force, and its tenants' limits by name. `revision` rises with every change; `required` says that
    callers need a key: there is one, or there was."""

    revision: int = 0
    required: bool = False
    keys: tuple[Key, ...] = ()
    limits: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def digest_of(text: bytes) -> bytes:
    """What is kept of a key's text."""
    return hashlib.sha256(text).digest()


def check_tenant(tenant: Any) -> str:
    """The name of a tenant. Raises ValueError."""
    if not isinstance(tenant, str) or not _TENANT.match(tenant):
        raise ValueError("tenant must be 1 to 64 of A-Z a-z 0-9 . _ -")
    return tenant


def check_key(tenant: Any, scopes: Any) -> tuple[str, frozenset[str]]:
    """Tenant and scopes of a key. Raises ValueError naming what is wrong."""
    if tenant != OPERATOR:
        check_tenant(tenant)
    if not isinstance(scopes, list | tuple) or not scopes or not all(isinstance(s, str) for s in scopes):
        raise ValueError("scopes must be a list of names")
    if unknown := sorted(set(scopes) - set(SCOPES)):
        raise ValueError(f"scopes: {unknown[0][:64]!r} is no scope; there are {', '.join(SCOPES)}")
    if tenant == OPERATOR and set(scopes) != {"admin"}:
        raise ValueError("scopes: a key of the tenant * has the scope admin and no other")
    return tenant, frozenset(scopes)


def check_limits(document: Any, names: Sequence[str] = LIMIT_NAMES) -> dict[str, int | float]:
    """Limits by name, those that are null left out. Raises ValueError naming the one that is wrong."""
    if not isinstance(document, Mapping):
        raise ValueError(f"limits must be an object of {', '.join(names)}")
    if unknown := sorted(set(map(str, document)) - set(names)):
        raise ValueError(f"{unknown[0][:64]!r} is no limit; there are {', '.join(names)}")
    return {name: _limit(name, value) for name, value in document.items() if value is not None}


def check_key_limits(document: Any) -> dict[str, int | float]:
    """The limits of a key, as `check_limits`."""
    return check_limits(document, KEY_LIMIT_NAMES)


def sound_limits(document: Mapping[str, Any], names: Sequence[str] = LIMIT_NAMES) -> dict[str, int | float]:
    """The limits of a store that hold, in the order of their names. A name of another version, or a value that somebody wrote by hand and
    that is none, must not stand in the way of the others."""
    found: dict[str, int | float] = {}
    for name in names:
        with contextlib.suppress(ValueError):
            found |= check_limits({name: document.get(name)})
    return found


def sound_key_limits(document: Mapping[str, Any]) -> KeyLimits:
    """The limits of a key in a store that hold."""
    return KeyLimits(**sound_limits(document, KEY_LIMIT_NAMES))  # type: ignore[arg-type]  # tokens are checked to be whole


def encode(access: Access, secret: bytes) -> bytes:
    """The snapshot as bytes that only who has the secret can make: whoever can write to the hot store cannot let himself in."""
    keys = [[k.key_id, k.tenant, sorted(k.scopes), k.digest.hex(), k.expires] for k in access.keys]
    of_keys = {k.key_id: k.limits for k in access.keys if k.limits != NO_KEY_LIMITS}  # apart: a process of another version reads the rest
    data = orjson.dumps(
        {"revision": access.revision, "required": access.required, "keys": keys, "limits": access.limits, "key_limits": of_keys}
    )
    return _mac(data, secret) + b"\n" + data


def decode(data: bytes, secret: bytes) -> Access | None:
    """The snapshot of `encode`; None for anything else."""
    mac, _, body = data.partition(b"\n")
    if not hmac.compare_digest(mac, _mac(body, secret)):
        return None
    try:
        doc = orjson.loads(body)
        of_keys = {key_id: sound_key_limits(limits) for key_id, limits in doc.get("key_limits", {}).items()}
        keys = tuple(
            Key(i, tenant, frozenset(scopes), bytes.fromhex(digest), until, of_keys.get(i, NO_KEY_LIMITS))
            for i, tenant, scopes, digest, until in doc["keys"]
        )
        limits = {str(tenant): sound_limits(limits) for tenant, limits in doc["limits"].items()}
        return Access(int(doc["revision"]), bool(doc["required"]), keys, limits)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _limit(name: str, value: Any) -> int | float:
    least, most = _BOUNDS[name]
    kind, types = ("number", int | float) if name == "cost_usd_per_day" else ("whole number", int)
    if not isinstance(value, types) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name} must be a {kind} from {least:g} to {most:.0f}")
    return value


def _mac(data: bytes, secret: bytes) -> bytes:
    return hmac.new(secret, b"access:" + data, hashlib.sha256).hexdigest().encode()
