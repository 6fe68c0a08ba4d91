"""How a target stands in this process now: its calls under way, how quick it is, whether it is well, and whether it wants a pause."""

from __future__ import annotations

from heavy.llm.health import Health
from heavy.llm.slots import Slots
from heavy.llm.types import Target

NEWEST = 0.3  # the weight of the newest latency in the mean
MOST_PAUSE = 3600.0  # seconds; a provider that asks for more is asked again


class Standing:
    """What is known of one model at one account. Times are the event loop's, in seconds."""

    def __init__(self, target: Target) -> None:
        self.health = Health(target.eject_after)
        self.slots = Slots(target.max_concurrency)
        self.outstanding = 0  # tokens of the calls under way
        self.latency: float | None = None  # mean seconds to the first token
        self.seconds: float | None = None  # mean seconds of a call
        self.paused_until = 0.0

    def learn(self, target: Target) -> None:
        """The models file was read again."""
        self.health.eject_after = target.eject_after
        self.slots.limit = target.max_concurrency

    def quick(self, seconds: float) -> None:
        """A first token has come after so many seconds."""
        self.latency = _mean(self.latency, seconds)

    def took(self, seconds: float) -> None:
        """A call has ended after so many seconds."""
        self.seconds = _mean(self.seconds, seconds)

    def pause(self, seconds: float, now: float) -> None:
        """The provider wants no call for so many seconds."""
        self.paused_until = max(self.paused_until, now + min(seconds, MOST_PAUSE))


class Standings:
    """The standings of all targets; those that share an account and a model share one."""

    def __init__(self) -> None:
        self._by_account: dict[tuple[str, str | None, str, str], Standing] = {}
        self._known: dict[Target, Standing] = {}

    def of(self, target: Target) -> Standing:
        """The standing of a target."""
        standing = self._known.get(target)
        if standing is None:
            standing = self._by_account.setdefault(target.account, Standing(target))
            self._known[target] = standing
        return standing

    def keep(self, targets: set[Target]) -> None:
        """The models file was read again: these are its targets, others are forgotten."""
        accounts = {target.account: target for target in targets}
        self._by_account = {account: standing for account, standing in self._by_account.items() if account in accounts}
        self._known = {}
        for account, standing in self._by_account.items():
            standing.learn(accounts[account])


def _mean(mean: float | None, newest: float) -> float:
    return newest if mean is None else mean + NEWEST * (newest - mean)
