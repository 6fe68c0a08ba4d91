"""A page of sessions as the purge looks at it, the same for every dialect."""

from __future__ import annotations

from collections.abc import Sequence

from heavy.jobs.upkeep import Page, Place
from heavy.storage.rows import Row


def page_of(rows: Sequence[Row], before: float, limit: int) -> Page:
    """What there is to erase among these sessions; `limit` is how many were asked for."""
    idle: list[Place] = []
    old: list[Place] = []
    for row in rows:
        place = (row["tenant"], row["session_id"])
        if row["updated_at"] < before and not row["active"]:
            idle.append(place)
        elif row["created_at"] < before:
            old.append(place)
    last = (rows[-1]["tenant"], rows[-1]["session_id"]) if len(rows) == limit else None
    return Page(len(rows), last, tuple(idle), tuple(old))
