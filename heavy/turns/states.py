"""The life of a turn as a state machine, as the database keeps it. Every store method that changes a turn's state stands here.

                           ┌──────────── postpone ─────────────┐
                           ▼                                   │
     (submit a task) ─▶ accepted ─reopen─▶ waiting ─claim─▶ running ─finish─▶ done | failed | cancelled
                           │                ▲ │ ▲            │   ▲                          ▲
                           │           accept │ └── decide ──┼─┐ └ take_over (attempt + 1)  │
                           │          (a query)              │ │                            │
                           │                  │        pause ▼ │                            │
                           │                  │      awaiting_approval                      │
                           └──────────────────┴───────────────┴────────── cancel ───────────┘

`waiting` and `running` are active: such a turn has an owner and a lease, and holds its place in its session, where one turn runs at a time,
in the order of `seq`. `accepted` and `awaiting_approval` are not: nobody owns such a turn and nobody waits for it; a task that is to be
tried again later is accepted, a turn whose calls a person has to decide on awaits an approval. `accept` makes a turn running at once
where its session is idle. Human messages and rule-answered turns are stored as done (`note`, `record_rule_turns`).

`attempt` is the fencing token: `accept`, `claim` and `take_over` raise it, every write of a running turn names it, and a write with an old
one changes nothing (LeaseLost). A lease is a time until which the owner is believed to live; owners renew it, `release` gives it up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

TurnState = Literal["accepted", "waiting", "running", "awaiting_approval", "done", "failed", "cancelled"]

ACTIVE: frozenset[TurnState] = frozenset({"waiting", "running"})
TERMINAL: frozenset[TurnState] = frozenset({"done", "failed", "cancelled"})
BEGINNINGS: frozenset[TurnState] = frozenset({"waiting", "running", "done"})

# From a state to those that may follow it; running follows itself when another attempt begins.
TRANSITIONS: Mapping[TurnState, frozenset[TurnState]] = {
    "accepted": frozenset({"waiting", "cancelled"}),
    "waiting": frozenset({"running", "cancelled"}),
    "running": frozenset({"running", "accepted", "awaiting_approval", "done", "failed", "cancelled"}),
    "awaiting_approval": frozenset({"waiting", "cancelled"}),
    "done": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
}
