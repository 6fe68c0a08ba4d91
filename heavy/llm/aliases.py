"""What an alias of the models file means: groups of targets, how one is chosen, and what happens when it fails. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from heavy.llm.types import Target

Strategy = Literal["ordered", "balanced"]


@dataclass(frozen=True, slots=True)
class Group:
    """The targets of one alias. `ordered` takes the first that can be had; `balanced` spreads calls over all of them."""

    targets: tuple[Target, ...]
    strategy: Strategy = "ordered"


@dataclass(frozen=True, slots=True)
class Alias:
    """An alias: its own group, then those of its fall-backs, each target once.

    `attempts` is how often one target is tried in a call, None for twice where it is the only one, else once. `backoff` is the pause before
    its second try, in seconds; each further one is twice as long. `retry_share` is how many tries beyond the first the alias may have, as a
    share of its calls. `cache_seconds` is how long replies to deterministic calls are kept (0: not at all). `continues` lets another target
    go on with an answer that broke off.
    """

    groups: tuple[Group, ...]
    attempts: int | None = None
    backoff: float = 0.25
    retry_share: float = 0.2
    cache_seconds: float = 0.0
    continues: bool = False

    @classmethod
    def of(cls, *targets: Target) -> Alias:
        """An alias with these targets in the order of preference."""
        return cls((Group(targets),))

    @property
    def targets(self) -> tuple[Target, ...]:
        """All of them, in the order of the file."""
        return tuple(target for group in self.groups for target in group.targets)

    @property
    def tries(self) -> int:
        """How often one target is tried in a call."""
        if self.attempts is not None:
            return self.attempts
        return 2 if len(self.targets) == 1 else 1
