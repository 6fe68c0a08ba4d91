"""A learned route on its way from heavy, which learns, to the rule tier, which acts: one folded message and the action that answers it.

It is kept in the hot store under `common.hotstore.keys.learned`. How routes are learned and how they are acted on is not known here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from common.contracts.folding import fold, original_span

MAX_CHARACTERS = 200  # of the folded message: what is longer is hardly ever said twice


@dataclass(frozen=True, slots=True)
class LearnedRoute:
    """An action and where its parameters stand: `spans` are begin and end in the folded message, `fixed` are the action books' own."""

    kind: str
    target: str
    spans: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def parameters(self, message: str) -> dict[str, Any]:
        """The parameters for this message, cut from it as it was written, not as it was folded."""
        if not self.spans:
            return dict(self.fixed)
        folded = fold(message)
        found = {}
        for name, (start, end) in self.spans.items():
            begin, stop = original_span(message, folded, start, end)
            found[name] = message[begin:stop].strip() if begin >= 0 else folded[start:end]
        return {**self.fixed, **found}


def digest(message: str) -> str | None:
    """32 hex digits that stand for the message's folded form; None for a message that is too long (or too empty) to be learned."""
    if len(message) > 4 * MAX_CHARACTERS:
        return None
    folded = fold(message)
    if not 0 < len(folded) <= MAX_CHARACTERS:
        return None
    return hashlib.blake2b(folded.encode(), digest_size=16).hexdigest()


def encode(route: LearnedRoute) -> bytes:
    """The route as JSON, equal for equal routes."""
    return orjson.dumps(route, option=orjson.OPT_SORT_KEYS)


def decode(data: bytes | str) -> LearnedRoute | None:
    """The route of `encode`; None for anything else, which is then as good as no route."""
    try:
        doc = orjson.loads(data)
        spans = {str(name): (int(start), int(end)) for name, (start, end) in doc["spans"].items()}
        return LearnedRoute(str(doc["kind"]), str(doc["target"]), spans, dict(doc["fixed"]))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
