"""Names that every provider takes: actions and tools of a workflow may be called anything, a tool in an LLM request may not."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

DONE = "done"
_REFUSED = re.compile(r"[^A-Za-z0-9_-]+")
_LONGEST = 64


def wire_names(names: Iterable[str], reserved: Collection[str] = ()) -> list[str]:
    """One name of [A-Za-z0-9_-]{1,64} for each given one, in order, all different and none reserved; a good name stays as it is."""
    taken = set(reserved)
    out = []
    for number, name in enumerate(names, 1):
        clean = _REFUSED.sub("_", name)[:_LONGEST]
        if not clean.strip("_-"):
            clean = f"action_{number}"
        unique, copy = clean, 1
        while unique in taken:
            copy += 1
            unique = f"{clean[: _LONGEST - 6]}_{copy}"
        taken.add(unique)
        out.append(unique)
    return out
