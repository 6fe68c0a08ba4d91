"""Which version of each agent's workflow is in force, as heavy tells it to every replica: one signed manifest of hashes, without texts.

A version is named by its config hash, and its text is checked against it: who can write to the hot store can put nothing else in its
place. How manifest and texts travel is not known here.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import orjson

SHARES = 10_000  # a canary's share is counted in hundredths of a per cent
Form = Literal["json", "yaml"]
FORMS: tuple[Form, ...] = ("json", "yaml")


@dataclass(frozen=True, slots=True)
class Serving:
    """What an agent serves: the hash of the active version; that of the canary, which `percent` of its sessions get; and that of the
    version before, for a replica that cannot use the active one."""

    active: str
    canary: str | None = None
    percent: float = 0.0
    previous: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """All agents that are served; the first one answers requests that name none. `revision` rises with every change."""

    revision: int = 0
    agents: Mapping[str, Serving] = field(default_factory=dict)


def in_canary(serving: Serving, tenant: str, session_id: str) -> bool:
    """Whether a session belongs to the share of the canary. The same session always does, also when the share grows; another canary gets
    other sessions."""
    if not serving.canary:
        return False
    place = "\0".join((serving.canary, tenant, session_id)).encode()
    number = int.from_bytes(hashlib.blake2b(place, digest_size=8).digest(), "big")
    return number % SHARES < serving.percent * (SHARES / 100)


def encode(manifest: Manifest, secret: bytes) -> bytes:
    """The manifest as bytes that only who has the secret can make."""
    agents = [[i, s.active, s.canary, s.percent, s.previous] for i, s in manifest.agents.items()]
    data = orjson.dumps({"revision": manifest.revision, "agents": agents})
    return _mac(data, secret) + b"\n" + data


def decode(data: bytes, secret: bytes) -> Manifest | None:
    """The manifest of `encode`; None for anything else."""
    mac, _, body = data.partition(b"\n")
    if not hmac.compare_digest(mac, _mac(body, secret)):
        return None
    try:
        doc = orjson.loads(body)
        agents = {str(i): Serving(active, canary, percent, previous) for i, active, canary, percent, previous in doc["agents"]}
        return Manifest(int(doc["revision"]), agents)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def pack(form: Form, text: str) -> bytes:
    """A version's text as it is kept and sent."""
    return form.encode() + b"\n" + text.encode()


def unpack(data: bytes) -> tuple[Form, str]:
    """Form and text. Raises ValueError for what `pack` has not made."""
    head, _, text = data.partition(b"\n")
    for form in FORMS:
        if head == form.encode():
            return form, text.decode()
    raise ValueError("this is no version of a workflow")


def _mac(data: bytes, secret: bytes) -> bytes:
    return hmac.new(secret, b"rollout:" + data, hashlib.sha256).hexdigest().encode()
