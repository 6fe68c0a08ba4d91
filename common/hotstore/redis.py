"""The hot store in Redis, shared by all replicas: which command each method is, and the Lua scripts that make steps atomic.

It knows no connection: `coalesce` batches commands and bounds them in time, `subscribe` has the subscriptions. What a turn needs is
packed here (with 32 callers at once `record` takes 13 µs of CPU so, 27 µs through redis-py), the rest by redis-py's methods.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

from hiredis import pack_command
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from common.contracts.gate import GATE_TTL
from common.hotstore import accounts
from common.hotstore.accounts import Account, Amounts
from common.hotstore.coalesce import TIMEOUT, Call, CoalescingRedis, CommandRefused, ScriptMissing
from common.hotstore.counting import DRAW, ENTER, READ_VERSION, STAY, THROTTLE, WRITE_VERSION
from common.hotstore.keys import JOURNAL, JOURNAL_GROUP, PENDING_TTL
from common.hotstore.protocol import JOURNAL_SILENT, Draw, JournalItem, StoreSize
from common.hotstore.subscribe import Subscriptions

TLS_FILES = {"ssl_ca_certs", "ssl_certfile", "ssl_keyfile"}
TLS_OPTIONS = {*TLS_FILES, "ssl_cert_reqs", "ssl_check_hostname"}

# KEYS gate, pending, journal. ARGV turn id, entry, allowed states, new gate or "", gate TTL ms, pending TTL ms.
RECORD = """
local gate = redis.call('GET', KEYS[1])
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 1 then return {1, gate} end
if gate and gate ~= '' and not string.find(ARGV[3], string.sub(gate, 1, 1), 1, true) then return {0, gate} end
local id
if redis.call('EXISTS', KEYS[2]) == 1 then id = redis.call('XADD', KEYS[3], '*', 'e', ARGV[2], 's', KEYS[2], 'b', '')
else id = redis.call('XADD', KEYS[3], '*', 'e', ARGV[2], 's', KEYS[2]) end
redis.call('HSET', KEYS[2], ARGV[1], id .. ' ' .. ARGV[2])
redis.call('PEXPIRE', KEYS[2], ARGV[6])
if ARGV[4] ~= '' then redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[5]) end
return {1, gate}
"""

# KEYS journal. ARGV group, who asks, last id, pending keys… An entry that does not say its session, of an older version, is given, too.
HELD = """
local wanted, found = {}, {}
for i = 4, #ARGV do wanted[ARGV[i]] = true end
for _, other in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1])[4] or {}) do
  if other[1] ~= ARGV[2] then
    for _, held in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', ARGV[3], other[2], other[1])) do
      local item = redis.call('XRANGE', KEYS[1], held[1], held[1])[1]
      if item and (item[2][3] ~= 's' or wanted[item[2][4]]) then found[#found + 1] = {held[1], item[2][2]} end
    end
  end
end
return found
"""

# KEYS log. ARGV expected length, TTL ms, items… A repeated append (its reply was lost) finds its items at the end and succeeds.
LOG_APPEND = """
local at, held, n = tonumber(ARGV[1]), redis.call('LLEN', KEYS[1]), #ARGV - 2
if held ~= at then
  if n == 0 or held ~= at + n then return 0 end
  local last = redis.call('LRANGE', KEYS[1], at, -1)
  for i = 1, n do if last[i] ~= ARGV[i + 2] then return 0 end end
  return 1
end
for i = 3, #ARGV do redis.call('RPUSH', KEYS[1], ARGV[i]) end
if n > 0 then redis.call('PEXPIRE', KEYS[1], ARGV[2]) end
return 1
"""


# KEYS key. ARGV value, TTL ms.
CLAIM = """
local held = redis.call('GET', KEYS[1])
if not held then redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2]) end
return held
"""

pack = cast(Callable[[tuple[str | bytes | int, ...]], bytes], pack_command)  # its stub knows tuples of one item only

MOST_PATIENCE = 1e15  # µs; Lua's tonumber reads no "inf"

# Bytes need no conversion: 1 µs less than numbers for each `record`.
THREE_KEYS = b"3"
GATE_MS, PENDING_MS = b"%d" % (GATE_TTL * 1000), b"%d" % (PENDING_TTL * 1000)


class Script:
    """A Lua script, called by its digest; only a server that does not know it (yet) gets the text."""

    def __init__(self, call: Call, text: str) -> None:
        self._call = call
        self._text = text.encode()
        self._digest = hashlib.sha1(self._text, usedforsecurity=False).hexdigest().encode()

    async def run(self, *args: str | bytes | int) -> Any:
        """The script's reply. `args` are the number of keys, the keys and what follows them."""
        try:
            return await self._call(pack((b"EVALSHA", self._digest, *args)))
        except ScriptMissing:
            return await self._call(pack((b"EVAL", self._text, *args)))  # the server remembers it from now on


class _AccountScripts:
    """The scripts of accounts."""

    def __init__(self, call: Call) -> None:
        self.read, self.open = Script(call, accounts.READ), Script(call, accounts.OPEN)
        self.reserve, self.settle = Script(call, accounts.RESERVE), Script(call, accounts.SETTLE)
        self.renew, self.release = Script(call, accounts.RENEW), Script(call, accounts.RELEASE)


class RedisHotStore:
    """HotStore over one Redis. Connects with the first command; raises ValueError for a URL that is none."""

    def __init__(self, url: str) -> None:
        self._redis = open_client(url)
        self._call = self._redis.call
        self._record = Script(self._call, RECORD)
        self._claim = Script(self._call, CLAIM)
        self._held = Script(self._call, HELD)
        self._log_append = Script(self._call, LOG_APPEND)
        self._read_version, self._write_version = Script(self._call, READ_VERSION), Script(self._call, WRITE_VERSION)
        self._throttle, self._draw = Script(self._call, THROTTLE), Script(self._call, DRAW)
        self._enter, self._stay = Script(self._call, ENTER), Script(self._call, STAY)
        self._accounts = _AccountScripts(self._call)
        self._subscriptions = Subscriptions(self._redis)

    async def get(self, key: str) -> bytes | None:
        """The value, None without one."""
        value: bytes | None = await self._call(pack((b"GET", key)))
        return value

    async def set(self, key: str, value: bytes, ttl: float) -> None:
        """Stores a value for `ttl` seconds."""
        await self._call(pack((b"SET", key, value, b"PX", _ms(ttl))))

    async def claim(self, key: str, value: bytes, ttl: float) -> bytes | None:
        """Stores a value where there is none. (`SET … NX GET` does the same, but only from Redis 7 on.)"""
        held: bytes | None = await self._claim.run(1, key, value, _ms(ttl))
        return held

    async def delete(self, *keys: str) -> None:
        """Removes keys of any type."""
        if keys:
            await self._call(pack((b"DEL", *keys)))

    async def record(
        self, gate_key: str, pending_key: str, turn_id: str, entry: bytes, allowed: bytes, new_gate: bytes | None = None
    ) -> tuple[bool, bytes | None]:
        """Journals a rule-answered turn if the gate allows it. The second result of a repetition is the gate that the first one wrote."""
        recorded, gate = await self._record.run(
            THREE_KEYS, gate_key, pending_key, JOURNAL, turn_id, entry, allowed, new_gate or b"", GATE_MS, PENDING_MS
        )
        return recorded == 1, gate

    async def pending(self, pending_key: str) -> Mapping[str, JournalItem]:
        """Turn id → item, in the order of the journal: turn ids with an Idempotency-Key do not follow the time."""
        held: Any = await self._redis.hgetall(pending_key)
        items = {name.decode(): _waiting(value) for name, value in held.items()}
        return dict(sorted(items.items(), key=lambda named: named[1].place))

    async def journal_read(self, consumer: str, count: int, silent: float = JOURNAL_SILENT) -> Sequence[JournalItem]:
        """The consumer's own unacknowledged entries first; without any, those of silent consumers, then new ones."""
        mine = await self._read_group(consumer, count, "0")
        if mine:
            return mine
        taken = await self._group(lambda: self._redis.xautoclaim(JOURNAL, JOURNAL_GROUP, consumer, _ms(silent), count=count))
        items = await self._items(taken[1])
        if len(items) < count:
            items += await self._read_group(consumer, count - len(items), ">")
        return items

    async def journal_held(self, consumer: str, upto: str, pending_keys: Collection[str]) -> Sequence[JournalItem]:
        """Entries of these sessions that other consumers have in hand, up to an id."""
        found = await self._held.run(1, JOURNAL, JOURNAL_GROUP, consumer, upto, *pending_keys)
        return [JournalItem(item_id.decode(), entry) for item_id, entry in found]

    async def journal_done(self, items: Sequence[tuple[str, str, str]]) -> None:
        """Removes entries that are in the database."""
        ids = [item_id for item_id, _, _ in items]
        fields: dict[str, list[str]] = {}
        for _, pending_key, turn_id in items:
            fields.setdefault(pending_key, []).append(turn_id)
        # The pending hash last: until then a reader finds the turn there or in the database, never in neither.
        calls = [self._redis.xack(JOURNAL, JOURNAL_GROUP, *ids), self._redis.xdel(JOURNAL, *ids)] if ids else []
        calls += [self._redis.hdel(key, *names) for key, names in fields.items()]
        await asyncio.gather(*calls)

    async def journal_size(self) -> int:
        """Entries on their way to the database."""
        size: int = await self._redis.xlen(JOURNAL)
        return size

    async def log_append(self, key: str, at: int, items: Sequence[bytes], ttl: float) -> bool:
        """Appends if the log holds exactly `at` items, or if these very items are already its end (a repeated append)."""
        done: int = await self._log_append.run(1, key, at, _ms(ttl), *items)
        return done == 1

    async def log_read(self, key: str, after: int, limit: int | None = None) -> Sequence[bytes]:
        """The items after the first `after`."""
        items: Any = await self._redis.lrange(key, after, -1 if limit is None else after + limit - 1)
        return items

    async def log_length(self, key: str) -> int:
        """How many items the log holds."""
        length: int = await self._redis.llen(key)
        return length

    async def read_version(self, key: str, known: int | None) -> tuple[int, bytes | None] | None:
        """The version, and the value unless that is `known`."""
        found = await self._read_version.run(1, key, -1 if known is None else known)
        return None if found is None else (int(found[0]), found[1] if len(found) > 1 else None)

    async def write_version(self, key: str, version: int, value: bytes, ttl: float) -> bool:
        """Stores the value unless a higher version is there."""
        written: int = await self._write_version.run(1, key, version, value, _ms(ttl))
        return written == 1

    async def throttle(self, key: str, *, rate: float, burst: int) -> float:
        """Takes one out of the bucket."""
        wait: int = await self._throttle.run(1, key, repr(1e6 / rate), burst)
        return wait / 1e6

    async def draw(self, draws: Sequence[Draw], patience: float) -> float:
        """Takes from several buckets at once. Their keys share a hash tag."""
        args = [text for d in draws for text in (repr(1e6 / d.rate), repr(float(d.amount)), repr(float(d.burst)))]
        keys = [d.key for d in draws]
        wait: int = await self._draw.run(len(keys), *keys, repr(min(patience * 1e6, MOST_PATIENCE)), *args)
        return max(0, wait) / 1e6

    async def enter(self, key: str, member: str, limit: int, ttl: float) -> bool:
        """Adds a member unless the group is full."""
        entered: int = await self._enter.run(1, key, member, limit, _ms(ttl))
        return entered == 1

    async def stay(self, key: str, members: Sequence[str], ttl: float) -> None:
        """Keeps members in."""
        if members:
            await self._stay.run(1, key, _ms(ttl), *members)

    async def leave(self, key: str, *members: str) -> None:
        """Takes members out."""
        if members:
            await self._call(pack((b"ZREM", key, *members)))

    async def account(self, key: str) -> Account | None:
        """What an account says."""
        reply = await self._accounts.read.run(1, key)
        return None if reply is None else Account.of_reply(reply)

    async def open_account(self, key: str, spent: Amounts, ttl: float) -> Account:
        """Begins an account unless it has begun."""
        return Account.of_reply(await self._accounts.open.run(1, key, *spent, _ms(ttl)))

    async def reserve(
        self, key: str, holder: str, amounts: Amounts, limits: tuple[int | None, int | None], ttl: float
    ) -> tuple[bool, Account] | None:
        """Sets amounts aside, if something is left of each limit."""
        bounds = ("" if limit is None else limit for limit in limits)
        reply = await self._accounts.reserve.run(1, key, holder, *amounts, *bounds, _ms(ttl))
        return None if reply is None else (reply[0] == 1, Account.of_reply(reply[1:]))

    async def settle(self, key: str, holder: str, amounts: Amounts, ttl: float) -> None:
        """Counts what was spent in the place of what was set aside."""
        await self._accounts.settle.run(1, key, holder, *amounts, _ms(ttl))

    async def renew(self, key: str, holders: Sequence[str], ttl: float) -> None:
        """Keeps what holders have set aside or settled."""
        if holders:
            await self._accounts.renew.run(1, key, _ms(ttl), *holders)

    async def release(self, key: str, holders: Sequence[str]) -> None:
        """Forgets what holders have set aside."""
        if holders:
            await self._accounts.release.run(1, key, *holders)

    async def publish(self, channel: str, message: bytes) -> None:
        """Tells all current subscribers, on every replica."""
        await self._redis.publish(channel, message)

    def subscribe(self, channel: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """Messages of a channel from the moment the context is entered."""
        return self._subscriptions.subscribe(channel)

    async def size(self) -> StoreSize:
        """Keys of the database and memory of the server."""
        keys, memory = await asyncio.gather(self._redis.dbsize(), self._redis.info("memory"))
        return StoreSize(int(keys), int(memory["used_memory"]))

    async def ping(self) -> float:
        """Seconds of one round trip."""
        start = time.perf_counter()
        await self._redis.ping()
        return time.perf_counter() - start

    async def aclose(self) -> None:
        """Closes connections."""
        await self._subscriptions.aclose()
        await self._redis.aclose()

    async def _group(self, command: Callable[[], Awaitable[Any]]) -> Any:
        """A command of the journal's consumer group, which it makes when it is not there (first use, or a wiped Redis)."""
        try:
            return await command()
        except CommandRefused as e:
            if not e.reply.startswith("NOGROUP"):
                raise
        try:
            await self._redis.xgroup_create(JOURNAL, JOURNAL_GROUP, "0", mkstream=True)
        except CommandRefused as e:
            if not e.reply.startswith("BUSYGROUP"):  # another replica was faster
                raise
        return await command()

    async def _read_group(self, consumer: str, count: int, start: str) -> list[JournalItem]:
        streams = await self._group(lambda: self._redis.xreadgroup(JOURNAL_GROUP, consumer, {JOURNAL: start}, count))
        return await self._items(streams[0][1] if streams else ())

    async def _items(self, raw: Sequence[tuple[bytes, dict[bytes, bytes]]]) -> list[JournalItem]:
        """Entries of a reply; one that was deleted but never acknowledged has no fields and is acknowledged here."""
        gone = [item_id for item_id, fields in raw if not fields]
        if gone:
            await self._redis.xack(JOURNAL, JOURNAL_GROUP, *gone)
        return [JournalItem(item_id.decode(), fields[b"e"], b"b" in fields) for item_id, fields in raw if fields]


def _waiting(value: bytes) -> JournalItem:
    """The item that a value of a pending hash stands for: its id in the journal, then the entry."""
    item_id, _, entry = value.partition(b" ")
    return JournalItem(item_id.decode(), entry)


def _ms(seconds: float) -> int:
    return max(1, int(seconds * 1000))


def open_client(url: str) -> CoalescingRedis:
    """A client that has not connected yet. Raises ValueError for what redis-py would overlook or take for an option of its own."""
    parts = urlsplit(url)
    options = parse_qs(parts.query)
    unknown = options.keys() - {"db"} - (TLS_OPTIONS if parts.scheme == "rediss" else set())
    if unknown:
        raise ValueError(f"unknown option in the Redis URL: {', '.join(sorted(unknown))}")
    for name in TLS_FILES & options.keys():
        if not Path(options[name][0]).is_file():
            raise ValueError(f"{name} in the Redis URL is not a file")
    if parts.scheme == "unix" and not parts.path:
        raise ValueError("a unix:// URL names a socket: unix:///run/redis/redis.sock")
    database = parts.path.strip("/") if parts.scheme != "unix" else ""
    if database and not database.isdecimal():
        raise ValueError(f"the database of a Redis URL is a number, not {database!r}")
    try:
        parts.port  # noqa: B018 - it raises
    except ValueError:
        raise ValueError("the port of the Redis URL is not a number from 1 to 65535") from None
    try:
        pool = ConnectionPool.from_url(
            url,
            protocol=2,  # what we ask looks the same in RESP 3, which costs one more trip on each connection
            socket_connect_timeout=TIMEOUT,
            socket_timeout=None,  # one timer for each command would cost more than the command; the coalescer has one for all
            retry=Retry(NoBackoff(), 0, ()),  # retrying is the coalescer's and the subscriptions' own affair
        )
        return CoalescingRedis(pool)
    except RedisError as e:
        raise ValueError(f"ssl_cert_reqs in the Redis URL is none, optional or required: {e}") from None
