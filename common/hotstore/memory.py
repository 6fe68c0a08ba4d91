"""The hot store in this process, for the single-machine deployment and for tests. It knows no other process: nothing is shared or kept."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from common.contracts.gate import GATE_TTL
from common.hotstore.accounts import KEEP_SECONDS, Account, Amounts, HeldAccount
from common.hotstore.inbox import Inbox
from common.hotstore.keys import PENDING_TTL
from common.hotstore.protocol import JOURNAL_SILENT, Draw, HotStoreUnavailable, JournalItem, StoreSize

SWEEP_EVERY = 1000  # writes between two sweeps: a sweep looks at every key once

NUMBER_SIZE = 24  # bytes that a number counts as
ACCOUNT_SIZE = 200  # bytes that an account counts as, and each holder in it
MICROSECOND = 1e-6  # Redis counts in these; here a shorter wait is a rounding error


@dataclass(slots=True)
class _Group:
    """Members and when each is out."""

    until: dict[str, float]


Value = bytes | dict[str, JournalItem] | list[bytes] | tuple[int, bytes] | float | _Group | HeldAccount


@dataclass(slots=True)
class _Item:
    value: Value
    expires: float
    size: int


@dataclass(slots=True)
class _Entry:
    item: JournalItem
    consumer: str = ""
    read_at: float = 0.0


class MemoryHotStore:
    """HotStore over dicts. `max_bytes` bounds the values (the least recently written go first), `max_journal` the journal's entries:
    a full journal refuses `record`, because what it holds is not yet anywhere else. `clock` is in seconds, for tests."""

    def __init__(self, *, max_bytes: int = 256 * 2**20, max_journal: int = 200_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes, self._max_journal, self._clock = max_bytes, max_journal, clock
        self._items: dict[str, _Item] = {}
        self._bytes = 0
        self._writes = 0
        self._new: OrderedDict[str, JournalItem] = OrderedDict()  # of the journal: what nobody has read yet
        self._taken: dict[str, _Entry] = {}  # and what somebody has
        self._journal_seq = 0
        self._channels: dict[str, set[Inbox]] = {}

    async def get(self, key: str) -> bytes | None:
        """The value, None without one."""
        value = self._value(key)
        return value if isinstance(value, bytes) else None

    async def set(self, key: str, value: bytes, ttl: float) -> None:
        """Stores a value for `ttl` seconds."""
        self._put(key, _kept(value), ttl, len(value))

    async def claim(self, key: str, value: bytes, ttl: float) -> bytes | None:
        """Stores a value where there is none."""
        held = await self.get(key)
        if held is None:
            await self.set(key, value, ttl)
        return held

    async def delete(self, *keys: str) -> None:
        """Removes keys of any type."""
        for key in keys:
            self._drop(key)

    async def record(
        self, gate_key: str, pending_key: str, turn_id: str, entry: bytes, allowed: bytes, new_gate: bytes | None = None
    ) -> tuple[bool, bytes | None]:
        """Journals a rule-answered turn if the gate allows it. Raises HotStoreUnavailable when the journal is full."""
        gate = self._value(gate_key)
        before = gate if isinstance(gate, bytes) else None
        waiting = self._hash(pending_key)
        if turn_id in waiting:
            return True, before
        if before and before[0] not in allowed:
            return False, before
        if len(self._new) + len(self._taken) >= self._max_journal:
            raise HotStoreUnavailable("the journal is full")
        self._journal_seq += 1
        item = JournalItem(f"{self._journal_seq:020d}", _kept(entry), behind=bool(waiting))
        self._new[item.id] = waiting[turn_id] = item
        self._put(pending_key, waiting, PENDING_TTL, self._size(pending_key) + len(entry))
        if new_gate is not None:
            self._put(gate_key, new_gate, GATE_TTL, len(new_gate))
        return True, before

    async def pending(self, pending_key: str) -> Mapping[str, JournalItem]:
        """Turn id → item, in the order in which they were recorded."""
        return dict(self._hash(pending_key))

    async def journal_read(self, consumer: str, count: int, silent: float = JOURNAL_SILENT) -> Sequence[JournalItem]:
        """The consumer's own unacknowledged entries first; without any, those of silent consumers, then new ones."""
        now = self._clock()
        mine = [e.item for e in self._taken.values() if e.consumer == consumer]
        if mine:
            return mine[:count]
        found = [e.item for e in self._taken.values() if now - e.read_at > silent][:count]
        found += [self._new.popitem(last=False)[1] for _ in range(min(count - len(found), len(self._new)))]
        for item in found:
            self._taken[item.id] = _Entry(item, consumer, now)
        return found

    async def journal_held(self, consumer: str, upto: str, pending_keys: Collection[str]) -> Sequence[JournalItem]:
        """Entries that other consumers have in hand, up to an id."""
        return [e.item for e in self._taken.values() if e.consumer != consumer and e.item.id <= upto]

    async def journal_done(self, items: Sequence[tuple[str, str, str]]) -> None:
        """Removes entries that are in the database."""
        for item_id, pending_key, turn_id in items:
            self._taken.pop(item_id, None)
            self._new.pop(item_id, None)
            waiting = self._hash(pending_key)
            if waiting.pop(turn_id, None) is not None and not waiting:
                self._drop(pending_key)

    async def journal_size(self) -> int:
        """Entries on their way to the database."""
        return len(self._new) + len(self._taken)

    async def log_append(self, key: str, at: int, items: Sequence[bytes], ttl: float) -> bool:
        """Appends if the log holds exactly `at` items, or if these very items are already its end (a repeated append)."""
        log = self._list(key)
        if len(log) != at:
            return bool(items) and len(log) == at + len(items) and log[at:] == list(items)
        if items:
            log.extend(items)
            self._put(key, log, ttl, self._size(key) + sum(map(len, items)))
        return True

    async def log_read(self, key: str, after: int, limit: int | None = None) -> Sequence[bytes]:
        """The items after the first `after`."""
        return self._list(key)[after : None if limit is None else after + limit]

    async def log_length(self, key: str) -> int:
        """How many items the log holds."""
        return len(self._list(key))

    async def read_version(self, key: str, known: int | None) -> tuple[int, bytes | None] | None:
        """The version, and the value unless that is `known`."""
        value = self._value(key)
        if not isinstance(value, tuple):
            return None
        return value if value[0] != known else (value[0], None)

    async def write_version(self, key: str, version: int, value: bytes, ttl: float) -> bool:
        """Stores the value unless a higher version is there."""
        held = self._value(key)
        if isinstance(held, tuple) and held[0] > version:
            return False
        self._put(key, (version, _kept(value)), ttl, len(value))
        return True

    async def throttle(self, key: str, *, rate: float, burst: int) -> float:
        """Takes one out of the bucket. What is kept is the time at which it will be full."""
        now, held = self._clock(), self._value(key)
        full = max(now, held) if isinstance(held, float) else now
        wait = full + (1 - burst) / rate - now
        if wait > MICROSECOND:
            return wait
        self._put(key, full + 1 / rate, full + 1 / rate - now, NUMBER_SIZE)
        return 0.0

    async def draw(self, draws: Sequence[Draw], patience: float) -> float:
        """Takes from several buckets at once, on credit."""
        now, wait, full = self._clock(), 0.0, []
        for d in draws:
            value = self._value(d.key)
            held = max(now, value) if isinstance(value, float) else now
            wait = max(wait, held + (min(d.amount, d.burst) - d.burst) / d.rate - now)
            full.append(held + d.amount / d.rate)
        wait = wait if wait > MICROSECOND else 0.0
        if wait <= patience:
            for d, at in zip(draws, full, strict=True):
                if at > now:
                    self._put(d.key, at, at - now, NUMBER_SIZE)
                else:
                    self._drop(d.key)
        return wait

    async def enter(self, key: str, member: str, limit: int, ttl: float) -> bool:
        """Adds a member unless the group is full."""
        now, group = self._clock(), self._group(key)
        if member not in group and len(group) >= limit:
            for gone in [name for name, until in group.items() if until <= now]:
                del group[gone]
            if len(group) >= limit:
                return False
        group[member] = now + ttl
        self._put(key, _Group(group), ttl, NUMBER_SIZE * len(group))
        return True

    async def stay(self, key: str, members: Sequence[str], ttl: float) -> None:
        """Keeps members in."""
        group, until = self._group(key), self._clock() + ttl
        group.update((member, until) for member in members)
        self._put(key, _Group(group), ttl, NUMBER_SIZE * len(group))

    async def leave(self, key: str, *members: str) -> None:
        """Takes members out."""
        group = self._group(key)
        for member in members:
            group.pop(member, None)

    async def account(self, key: str) -> Account | None:
        """What an account says."""
        return self._account(key).read()

    async def open_account(self, key: str, spent: Amounts, ttl: float) -> Account:
        """Begins an account unless it has begun."""
        return self._account(key).open(spent, ttl)

    async def reserve(
        self, key: str, holder: str, amounts: Amounts, limits: tuple[int | None, int | None], ttl: float
    ) -> tuple[bool, Account] | None:
        """Sets amounts aside, if something is left of each limit."""
        return self._account(key).reserve(holder, amounts, limits, ttl)

    async def settle(self, key: str, holder: str, amounts: Amounts, ttl: float) -> None:
        """Counts what was spent in the place of what was set aside."""
        self._account(key).settle(holder, amounts, ttl)

    async def renew(self, key: str, holders: Sequence[str], ttl: float) -> None:
        """Keeps what holders have set aside or settled."""
        self._account(key).renew(holders, ttl)

    async def release(self, key: str, holders: Sequence[str]) -> None:
        """Forgets what holders have set aside."""
        self._account(key).release(holders)

    async def publish(self, channel: str, message: bytes) -> None:
        """Tells all current subscribers of this process."""
        for inbox in self._channels.get(channel, ()):
            inbox.put(message)

    @asynccontextmanager
    async def subscribe(self, channel: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """Messages of a channel from now on."""
        inbox = Inbox()
        self._channels.setdefault(channel, set()).add(inbox)
        try:
            yield inbox
        finally:
            listeners = self._channels[channel]
            listeners.discard(inbox)
            if not listeners:
                del self._channels[channel]

    async def size(self) -> StoreSize:
        """Keys and bytes of values; the journal is not among them."""
        return StoreSize(len(self._items), self._bytes)

    async def ping(self) -> float:
        """Always 0: there is no trip."""
        await asyncio.sleep(0)
        return 0.0

    async def aclose(self) -> None:
        """Forgets everything."""
        self._items.clear()
        self._new.clear()
        self._taken.clear()
        self._bytes = 0

    def _value(self, key: str) -> Value | None:
        item = self._items.get(key)
        if item is None:
            return None
        if item.expires <= self._clock():
            self._drop(key)
            return None
        return item.value

    def _hash(self, key: str) -> dict[str, JournalItem]:
        value = self._value(key)
        return value if isinstance(value, dict) else {}

    def _list(self, key: str) -> list[bytes]:
        value = self._value(key)
        return value if isinstance(value, list) else []

    def _group(self, key: str) -> dict[str, float]:
        value = self._value(key)
        return value.until if isinstance(value, _Group) else {}

    def _account(self, key: str) -> HeldAccount:
        value = self._value(key)
        account = value if isinstance(value, HeldAccount) else HeldAccount(self._clock)
        self._put(key, account, KEEP_SECONDS, ACCOUNT_SIZE + ACCOUNT_SIZE * len(account.held))
        return account

    def _size(self, key: str) -> int:
        item = self._items.get(key)
        return item.size if item else 0

    def _put(self, key: str, value: Value, ttl: float, size: int) -> None:
        self._drop(key)  # so that the dict's order is the order of the last writes
        self._items[key] = _Item(value, self._clock() + ttl, size)
        self._bytes += size
        self._writes += 1
        if self._writes % SWEEP_EVERY == 0 or self._bytes > self._max_bytes:
            self._sweep()

    def _drop(self, key: str) -> None:
        item = self._items.pop(key, None)
        if item is not None:
            self._bytes -= item.size

    def _sweep(self) -> None:
        now = self._clock()
        for key in [k for k, item in self._items.items() if item.expires <= now]:
            self._drop(key)
        goal = self._max_bytes * 9 // 10 if self._bytes > self._max_bytes else self._bytes
        # Gates and windows first: an event log or a pending entry that goes is missed sooner.
        for key in sorted(self._items, key=lambda k: not isinstance(self._items[k].value, bytes)):
            if self._bytes <= goal or len(self._items) == 1:
                return
            self._drop(key)


def _kept(value: bytes) -> bytes:
    """A copy of its own size: bytes that orjson made keep 4 KB each for as long as they live."""
    return b"%s" % value
