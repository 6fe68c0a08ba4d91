"""The gate of a session: the few bytes in the hot store that tell the rule tier whether a rule may answer in it now.

Form: one letter for the state, then `:` and the hash of the greeting that the session has had (empty without one). No gate means a
session that the hot store does not know: new, or long silent. Heavy writes gates; lightweight only creates one for a new session.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

READY, CONVERSATION, TRANSFERRED, CLOSED = "r", "c", "t", "x"
GATE_TTL = 7 * 86400

_OF_STATUS = {"in_conversation": CONVERSATION, "transferred": TRANSFERRED, "closed": CLOSED}


@dataclass(frozen=True, slots=True)
class Gate:
    """`state` is one of READY, CONVERSATION, TRANSFERRED, CLOSED."""

    state: str = READY
    greeting: str = ""


def read(value: bytes | None) -> Gate | None:
    """The gate in the hot store's bytes, None where there is none."""
    if not value:
        return None
    return Gate(chr(value[0]), value[2:].decode())


def write(gate: Gate) -> bytes:
    """The hot store's bytes of a gate."""
    return f"{gate.state}:{gate.greeting}".encode()


def of_status(status: str, greeting: str) -> Gate:
    """The gate of a session whose workflow_state.status is `status`."""
    return Gate(_OF_STATUS.get(status, READY), greeting)


def greeting_hash(greeting: str | None) -> str:
    """Eight hex digits that stand for a greeting text, empty for none."""
    return hashlib.sha256(greeting.encode()).hexdigest()[:8] if greeting else ""
