"""Which target a call goes to next: which may be asked at all, and which of these is the least busy. It makes no call."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

from heavy.llm.aliases import Alias, Group
from heavy.llm.standing import Standing, Standings
from heavy.llm.types import Target

# Of two targets whose load differs by less than this share, neither is the better one.
NOISE = 0.1


class Choice:
    """The targets of one call, in the order in which it should try them; what was tried is left out, or comes again at the end."""

    def __init__(self, alias: Alias, standings: Standings, tokens: int, provider: str | None) -> None:
        self._alias = alias
        self._standings = standings
        self._tokens = tokens
        self._provider = provider
        self._tried: dict[Target, int] = {}
        self._again: list[Target] = []  # tried, and worth another try

    @property
    def possible(self) -> bool:
        """Whether there is any target of the wanted protocol."""
        return any(self._fits(t) for t in self._alias.targets)

    def tried(self, target: Target, *, again: bool) -> None:
        """A target has failed; `again` says that what it failed of may pass by itself."""
        count = self._tried[target] = self._tried.get(target, 0) + 1
        if target in self._again:
            self._again.remove(target)
        if again and count < self._alias.tries:
            self._again.append(target)

    def tries_of(self, target: Target) -> int:
        """How often it was tried."""
        return self._tried.get(target, 0)

    def order(self, now: float) -> Iterator[Target]:
        """Targets that were not tried: the healthy ones of each group in turn, then, rather than none at all, those that are out, the
        soonest back first. When all were tried, those that are worth another try."""
        out: list[Target] = []
        fresh = False
        for group in self._alias.groups:
            well: list[Target] = []
            for target in group.targets:
                if target in self._tried or not self._fits(target):
                    continue
                fresh = True
                (well if self._standings.of(target).health.admits(now) else out).append(target)
            if well:
                yield from self._of_group(group, well)
        yield from sorted(out, key=lambda t: self._standings.of(t).health.back_at)
        if not fresh:
            yield from list(self._again)

    def _fits(self, target: Target) -> bool:
        return self._provider is None or target.provider == self._provider

    def _of_group(self, group: Group, targets: list[Target]) -> Iterator[Target]:
        if group.strategy == "ordered":
            yield from targets
            return
        rest = list(targets)
        while rest:
            target = less_busy(rest, self._standings.of, self._tokens)
            rest.remove(target)
            yield target


def less_busy(
    targets: Sequence[Target], standing: Callable[[Target], Standing], tokens: int, draw: Callable[..., list[Target]] = random.choices
) -> Target:
    """The better of two that are drawn by their weights ("the power of two choices", Mitzenmacher 2001): the one with less to wait for,
    by its outstanding tokens (with the call's own) for its weight, times its latency. Of two equals the first drawn, so that without load
    calls are spread by the weights."""
    if len(targets) == 1:
        return targets[0]
    first, second = draw(targets, [t.weight for t in targets], k=2)
    if first is second:
        return first
    a, b = standing(first), standing(second)
    known = [x.latency for x in (a, b) if x.latency is not None]
    unknown = min(known) if known else 1.0  # a target without calls yet counts as quick as the other
    load_a = (a.outstanding / first.weight + tokens) * (a.latency or unknown)
    load_b = (b.outstanding / second.weight + tokens) * (b.latency or unknown)
    return second if load_b < load_a * (1 - NOISE) else first
