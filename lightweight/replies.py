"""Replies of this tier as bytes, whole or as the events of a stream. What a rule's replies share is encoded once, when it is compiled.

The result is byte for byte JSON of `common.contracts.query.Reply`; writing it piece by piece costs a third of encoding the dataclasses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson

from common.contracts.events import RETRY, frame
from common.contracts.query import ActionType, MatchedBy, Route, Usage

NOTHING = b'""'
"""The message of a reply that says nothing, as JSON."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What all replies by one route have in common: `route` as JSON, and the end of the reply behind turn_id."""

    route: bytes
    tail: bytes
    config_hash: bytes


def prepare(action_type: ActionType, target: str | None, pattern: str | None, config_hash: str, matched_by: MatchedBy = "rule") -> Frame:
    """The frame of replies that a rule or a learned route of this tier gives; no LLM was called, so usage is zeros."""
    route = compact(Route("lightweight", action_type, target, matched_by, pattern))
    version = compact(config_hash)
    return Frame(route, b',"route":%s,"usage":%s,"config_hash":%s}' % (route, orjson.dumps(Usage()), version), version)


def compact(value: Any) -> bytes:
    """JSON to be kept for long: orjson's own bytes keep 4 KB of memory each, this copy only what it needs."""
    return b"%s" % orjson.dumps(value)


def whole(frame_of: Frame, session_id: bytes, turn_id: bytes, message: bytes, status: bytes = b"success") -> bytes:
    """The /query reply. `message` is JSON already; the two ids hold no character that JSON escapes."""
    return b'{"session_id":"%s","message":%s,"status":"%s","turn_id":"%s"%s' % (session_id, message, status, turn_id, frame_of.tail)


def stream(frame_of: Frame, session_id: bytes, turn_id: bytes, message: bytes, reply: bytes) -> bytes:
    """The whole stream of the same turn: start, route, the message as one text event (none for an empty one), complete with `reply`."""
    start = b'{"turn_id":"%s","session_id":"%s","config_hash":%s}' % (turn_id, session_id, frame_of.config_hash)
    text = b"" if message == NOTHING else frame(3, "text", b'{"type":"text","data":{"delta":%s}}' % message)
    return b"".join(
        (
            RETRY,
            frame(1, "start", b'{"type":"start","data":%s}' % start),
            frame(2, "route", b'{"type":"route","data":%s}' % frame_of.route),
            text,
            frame(4 if text else 3, "complete", b'{"type":"complete","data":%s}' % reply),
        )
    )


def stream_again(reply: bytes) -> bytes:
    """The whole stream of a turn whose reply was kept."""
    doc = orjson.loads(reply)
    route, version = orjson.dumps(doc["route"]), orjson.dumps(doc["config_hash"])
    return stream(Frame(route, b"", version), doc["session_id"].encode(), doc["turn_id"].encode(), orjson.dumps(doc["message"]), reply)
