"""The events of a turn's stream, and their form on the wire (server-sent events).

A turn's stream is `start`, `route`, any of `tool_call`, `tool_result`, `text`, `awaiting_approval`, then exactly one of `complete`,
`error`, `cancelled`.
Ids count 1, 2, 3 … without gaps within a turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

TERMINAL = frozenset({"complete", "error", "cancelled"})
AWAITING_APPROVAL = "awaiting_approval"
RETRY = b"retry: 1000\n\n"
HEARTBEAT = b": heartbeat\n\n"
HEARTBEAT_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a turn: its type and its data."""

    type: str
    data: Any


def payload(event: Event) -> bytes:
    """The event as one line of JSON, the form in which it is logged and replayed: a copy, because orjson's own bytes keep 4 KB each."""
    return b"%s" % orjson.dumps({"type": event.type, "data": event.data})


def frame(number: int, event_type: str, line: bytes) -> bytes:
    """One server-sent event. `line` is what `payload` made."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (number, event_type.encode(), line)


def event_type(line: bytes) -> str:
    """The type of a logged event, without decoding all of it: `payload` writes it first."""
    return line[9 : line.index(b'"', 9)].decode()
