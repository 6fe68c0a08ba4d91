"""Idempotency-Key: what a request with a key is called, so that the same one again finds the first.

The id of what a keyed request begins follows from tenant, key and the day (UTC), under the secret that all replicas share: so it is the
same on every replica, needs no table, and is nobody else's. Within 24 hours a repetition has the id of today or of yesterday. Ids still
sort by time, if only by the day.

What has become of such a request stands in the hot store, so that the rule tier need not ask the database: a mark says that it is being
answered there, that heavy has it, or which reply it has had. Marks may be lost; heavy knows better.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from dataclasses import dataclass
from typing import Any

import orjson

from common.errors import IdempotencyMismatch, InvalidRequest

HEADER = b"idempotency-key"
REPLAYED = (b"idempotent-replayed", b"true")
KEPT_SECONDS = 86400
OPEN, HANDED, REPLIED = b"o", b"h", b"r"
TOOL_CALL = "intent_1"  # the id of a tool's call that no model has made
DIGITS = 20  # 80 bits
_KEY = re.compile(rb"[\x21-\x7e](?:[\x20-\x7e]{0,253}[\x21-\x7e])?\Z")


@dataclass(frozen=True, slots=True)
class Keyed:
    """A request with a key. `digest` stands for tenant and key, `fingerprint` for what is asked, `ids` are those of today and yesterday;
    they end with the digest."""

    digest: str
    fingerprint: str
    ids: tuple[str, str]

    def refuse_other(self, fingerprint: object) -> None:
        """Raises IdempotencyMismatch where the first request under this key asked for something else."""
        if fingerprint != self.fingerprint:
            raise IdempotencyMismatch("this Idempotency-Key came with another request before; use a new key for a new request")


def keyed(value: bytes | None, tenant: str, asked: Any, secret: bytes, *, kind: str = "query", prefix: str = "t_") -> Keyed | None:
    """The keyed request behind a header's value, None without one. `asked` is what counts as the same body (anything orjson writes),
    `kind` the sort of request: one key goes with one of them. Raises InvalidRequest naming Idempotency-Key."""
    if value is None:
        return None
    if not _KEY.match(value):
        raise InvalidRequest("Idempotency-Key must be 1 to 255 printable ASCII characters", field="Idempotency-Key")
    digest = hmac.digest(secret, b"idempotency\0" + tenant.encode() + b"\0" + value, "sha256").hex()
    today = int(time.time()) // KEPT_SECONDS * KEPT_SECONDS
    ids = (_id(prefix, today, digest[:DIGITS]), _id(prefix, today - KEPT_SECONDS, digest[:DIGITS]))
    body = orjson.dumps([kind, asked], option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    return Keyed(digest[:DIGITS], hashlib.sha256(body).hexdigest()[:32], ids)


def digest_in(turn_id: str) -> str:
    """The digest of the key that a turn may have come with: where a reply of it is kept under."""
    return turn_id[-DIGITS:]


def write_mark(state: bytes, fingerprint: str, turn_id: str, rest: bytes = b"") -> bytes:
    """A mark. `rest` is the reply, or what tells one claim from another."""
    return b" ".join((state, fingerprint.encode(), turn_id.encode(), rest))


def read_mark(value: bytes) -> tuple[bytes, str, str, bytes]:
    """State, fingerprint, turn id and the rest."""
    state, fingerprint, turn_id, rest = value.split(b" ", 3)
    return state, fingerprint.decode(), turn_id.decode(), rest


def call_key(turn_id: str, kind: str, target: str) -> str:
    """The Idempotency-Key with which a turn's own action calls its API, the same in both tiers: the other one may have made the call."""
    return f"{turn_id}:{TOOL_CALL}" if kind == "tool" else f"{turn_id}:{kind}:{target}"


def _id(prefix: str, day: int, digest: str) -> str:
    """The form of common.contracts.query.new_turn_id: 48 bits of milliseconds, then 80 bits that here follow from the key."""
    return f"{prefix}{day * 1000:012x}{digest}"
