"""What will be done to the split, and when: a list that follows from the seed alone. It touches no process."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

FaultKind = Literal["kill", "freeze", "restart"]

# What is hit how often, and how. A frozen business API comes back within its callers' time-out: what it does later than that, nobody can
# know, so neither can a verdict. It is never killed, because it keeps the account of what was done.
WEIGHTS: Mapping[tuple[str, FaultKind], float] = {
    ("heavy", "kill"): 20,
    ("heavy", "freeze"): 14,
    ("heavy", "restart"): 9,
    ("lightweight", "kill"): 6,
    ("lightweight", "freeze"): 5,
    ("lightweight", "restart"): 4,
    ("worker", "kill"): 5,
    ("worker", "freeze"): 3,
    ("worker", "restart"): 2,
    ("redis", "kill"): 5,
    ("redis", "freeze"): 5,
    ("redis", "restart"): 3,
    ("postgres", "kill"): 4,
    ("postgres", "freeze"): 3,
    ("postgres", "restart"): 3,
    ("nginx", "kill"): 2,
    ("nginx", "freeze"): 2,
    ("nginx", "restart"): 1,
    ("llm", "kill"): 1,
    ("llm", "freeze"): 2,
    ("business", "freeze"): 3,
}
LONGEST_DOWN = 3.0
LONGEST_FREEZE: Mapping[str, float] = {"heavy": 3.0, "worker": 3.0, "lightweight": 4.0, "redis": 3.0, "postgres": 3.0, "nginx": 2.0}
PAST_THE_LEASE: Mapping[str, float] = {"heavy": 0.5, "worker": 0.5, "postgres": 0.2}  # the share of such freezes


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing to do, once `after` messages have been sent. `seconds`: how long a killed process stays away, or a frozen one frozen."""

    number: int
    after: int
    kind: FaultKind
    target: str
    seconds: float


def plan_faults(seed: int, *, turns: int, faults: int, members: Mapping[str, int], lease_seconds: float) -> list[Fault]:
    """So many faults, spread evenly over so many messages. `members` counts the processes of each group; a group with several has them
    numbered from 1. The same arguments give the same plan."""
    chance = random.Random(f"faults of {seed}")
    choices = {choice: weight for choice, weight in WEIGHTS.items() if members.get(choice[0], 0)}
    plan = []
    for number in range(faults):
        group, kind = chance.choices(list(choices), list(choices.values()))[0]
        index = chance.randrange(members[group]) + 1
        target = f"{group}-{index}" if group in ("heavy", "lightweight", "worker") else group
        at = (number + chance.uniform(0.2, 0.8)) * turns / faults
        plan.append(Fault(number, int(at), kind, target, round(_seconds(chance, group, kind, lease_seconds), 2)))
    return plan


def _seconds(chance: random.Random, group: str, kind: FaultKind, lease_seconds: float) -> float:
    if kind == "restart":
        return 0.0
    if kind == "kill":
        return chance.uniform(0, LONGEST_DOWN)
    if chance.random() < PAST_THE_LEASE.get(group, 0):
        return lease_seconds + chance.uniform(0.5, 4.0)
    return chance.uniform(0.2, LONGEST_FREEZE.get(group, 2.0))
