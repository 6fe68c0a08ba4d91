"""A journal entry: one rule-answered turn on its way from lightweight to the database of heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class JournalEntry:
    """`at` is Unix seconds. `reply` is the whole reply as the client got it, `greeting` the hash of the greeting shown so far,
    `fingerprint` that of a request with an Idempotency-Key (common.contracts.idempotency), `seconds` how long the answer took."""

    tenant: str
    agent_id: str
    user_id: str | None
    message: str
    reply: dict[str, Any]
    at: float
    greeting: str = ""
    fingerprint: str = ""
    request_id: str = ""
    seconds: float = 0.0

    @property
    def turn_id(self) -> str:
        """The turn's id: what makes moving an entry into the database idempotent."""
        return str(self.reply["turn_id"])

    @property
    def session_id(self) -> str:
        """The session that the turn belongs to."""
        return str(self.reply["session_id"])


def encode(entry: JournalEntry) -> bytes:
    """The entry as JSON."""
    return orjson.dumps(entry)


def decode(data: bytes) -> JournalEntry:
    """The entry of `encode`, or of a newer version: what this one does not know is left out."""
    return JournalEntry(**{name: value for name, value in orjson.loads(data).items() if name in JournalEntry.__slots__})
