"""How a message becomes part of a turn that still waits: what the turn asks then. Rules only, it writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from heavy.turns.rows import NewTurn, TurnRow


def join(before: TurnRow, new: NewTurn) -> tuple[dict[str, Any], Mapping[str, Any] | None]:
    """The request and the plan of a turn that answers both: the messages one below the other, the newer context over the older one, the
    later of the deadlines (none where one has none). Two plans of rules cancel out, unless they are the same: a model decides then."""
    old, more = before.request, new.request
    deadlines = (old.get("deadline"), more.get("deadline"))
    request = {
        **old,
        "message": f"{old['message']}\n{more['message']}",
        "context": {**(old.get("context") or {}), **(more.get("context") or {})},
        "deadline": None if None in deadlines else max(d for d in deadlines if d is not None),
        "streaming": bool(old.get("streaming") or more.get("streaming")),
    }
    if "form" in more:  # both readers get one answer: it is in the form that was asked for last
        request["form"] = more["form"]
    return request, new.plan if new.plan == before.plan else None
