"""What a hot store can do. Two implementations (memory, redis) run one test suite; none of them knows what the bytes mean.

Every method but `aclose` raises HotStoreUnavailable when the store is away or too slow (300 ms); callers decide whether that matters.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from common.errors import DependencyUnavailable
from common.hotstore.accounts import Account, Amounts

JOURNAL_SILENT = 30.0  # seconds after which a consumer of the journal counts as dead


class HotStoreUnavailable(DependencyUnavailable):
    """The hot store did not answer in time. What it holds can be rebuilt, so most callers go on without it."""


@dataclass(frozen=True, slots=True)
class JournalItem:
    """One entry of the journal and the id that acknowledges it. `behind` says that earlier entries of the session were not in the database
    yet when it was written."""

    id: str
    entry: bytes
    behind: bool = False

    @property
    def place(self) -> tuple[int, int]:
        """Sorts items as they were recorded."""
        first, _, second = self.id.partition("-")
        return int(first), int(second or 0)


@dataclass(frozen=True, slots=True)
class StoreSize:
    """Keys, and bytes of memory (of the whole server, where others use it, too)."""

    keys: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Draw:
    """What is wanted of one bucket: `amount` of it. The bucket holds `burst` and fills at `rate` a second. A negative amount gives back."""

    key: str
    amount: float
    rate: float
    burst: float


class HotStore(Protocol):
    """All values are bytes; times to live are seconds."""

    async def get(self, key: str) -> bytes | None:
        """The value, None without one."""

    async def set(self, key: str, value: bytes, ttl: float) -> None:
        """Stores a value for `ttl` seconds."""

    async def claim(self, key: str, value: bytes, ttl: float) -> bytes | None:
        """Stores a value for `ttl` seconds where there is none, in one atomic step; the value that was there, None when this one is stored
        (or was, by the same call whose reply was lost: then the value itself comes back)."""

    async def delete(self, *keys: str) -> None:
        """Removes keys of any type."""

    async def record(
        self, gate_key: str, pending_key: str, turn_id: str, entry: bytes, allowed: bytes, new_gate: bytes | None = None
    ) -> tuple[bool, bytes | None]:
        """Journals a rule-answered turn if the session's gate allows it, in one atomic step and one trip.

        The gate allows when it is absent or its first byte is one of `allowed`. Then the entry goes to the journal and to the session's
        pending hash, and `new_gate`, if given, becomes the gate with its TTL. Returns (recorded, the gate as it was before).
        Repeating it with the same turn id records nothing twice.
        """

    async def pending(self, pending_key: str) -> Mapping[str, JournalItem]:
        """Turn id → item of the journal of one session that is not yet in the database, in the order in which they were recorded."""

    async def journal_read(self, consumer: str, count: int, silent: float = JOURNAL_SILENT) -> Sequence[JournalItem]:
        """Up to `count` entries that no other live consumer has, without waiting. Those of a consumer that was silent for so many seconds
        count as nobody's: moving an entry twice does no harm."""

    async def journal_held(self, consumer: str, upto: str, pending_keys: Collection[str]) -> Sequence[JournalItem]:
        """What other consumers, living or dead, have in hand of these sessions, up to the item id `upto`. Items of other sessions may be
        among it."""

    async def journal_done(self, items: Sequence[tuple[str, str, str]]) -> None:
        """Removes entries that are in the database, whoever has them in hand: (item id, pending key, turn id) each."""

    async def journal_size(self) -> int:
        """Entries on their way to the database."""

    async def log_append(self, key: str, at: int, items: Sequence[bytes], ttl: float) -> bool:
        """Appends to an event log that must hold exactly `at` items now; False, and nothing written, when another writer was there."""

    async def log_read(self, key: str, after: int, limit: int | None = None) -> Sequence[bytes]:
        """The items after the first `after`, at most `limit` of them."""

    async def log_length(self, key: str) -> int:
        """How many items the log holds; 0 when it is not there."""

    async def read_version(self, key: str, known: int | None) -> tuple[int, bytes | None] | None:
        """A versioned value: its version, and the value unless that version is `known`. None when there is none."""

    async def write_version(self, key: str, version: int, value: bytes, ttl: float) -> bool:
        """Stores a versioned value for `ttl` seconds. False, and nothing written, when a higher version is there: whoever was held up on
        his way does not undo what is newer."""

    async def throttle(self, key: str, *, rate: float, burst: int) -> float:
        """Takes one out of a bucket that holds `burst` and fills at `rate` a second (the generic cell rate algorithm). 0.0 when there was
        one; else nothing is taken, and it is the seconds until there will be one. By the store's clock. Repeating it takes another one."""

    async def draw(self, draws: Sequence[Draw], patience: float) -> float:
        """Takes from several buckets at once, on credit: the seconds until all of it is there. When these are more than `patience`, nothing
        is taken. What was taken on credit is waited for by whoever comes later, so callers get their turns in the order of their calls.
        An amount larger than its bucket is there when the bucket is full. By the store's clock. Repeating it takes again."""

    async def enter(self, key: str, member: str, limit: int, ttl: float) -> bool:
        """Adds a member to a group of at most `limit`, for `ttl` seconds (the same for all of a group); one that is in already stays in.
        False, and nothing changed, when the group is full. Who does not `stay` in time is out."""

    async def stay(self, key: str, members: Sequence[str], ttl: float) -> None:
        """Keeps members in for another `ttl` seconds, or brings them back in, also beyond the limit."""

    async def leave(self, key: str, *members: str) -> None:
        """Takes members out."""

    async def account(self, key: str) -> Account | None:
        """What an account says; None where it is not known what was spent."""

    async def open_account(self, key: str, spent: Amounts, ttl: float) -> Account:
        """Begins an account for `ttl` seconds, unless it has begun, with what was spent as far as that is stored elsewhere. What was
        settled, and not released yet, is added."""

    async def reserve(
        self, key: str, holder: str, amounts: Amounts, limits: tuple[int | None, int | None], ttl: float
    ) -> tuple[bool, Account] | None:
        """Sets amounts aside for `ttl` seconds, if something of each limit is left: spent and set aside together are below it. Whether they
        were, and what the account said before; None, and nothing changed, where it is not known what was spent. Repeating it replaces the
        amounts."""

    async def settle(self, key: str, holder: str, amounts: Amounts, ttl: float) -> None:
        """Counts what was spent in the place of what was set aside; `release` says that it is stored elsewhere, too, or `ttl` seconds pass.
        Repeating it replaces the amounts."""

    async def renew(self, key: str, holders: Sequence[str], ttl: float) -> None:
        """Keeps what holders have set aside or settled for another `ttl` seconds."""

    async def release(self, key: str, holders: Sequence[str]) -> None:
        """Forgets what holders have set aside; what was settled stays spent."""

    async def publish(self, channel: str, message: bytes) -> None:
        """Tells all current subscribers, on every replica; nothing is kept."""

    def subscribe(self, channel: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Messages of a channel from the moment the context is entered. It may miss some when the store is away: poll as a safety net."""

    async def size(self) -> StoreSize:
        """How much it holds."""

    async def ping(self) -> float:
        """Seconds of one round trip."""

    async def aclose(self) -> None:
        """Closes connections. Never raises."""
