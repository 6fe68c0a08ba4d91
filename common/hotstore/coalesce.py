"""redis-py's client over one shared connection: all commands of one event-loop tick leave in one write, each caller gets its own reply.

It knows no key. Decisions 3 and 11 of the design: full duplex, 300 ms for a reply, one retry of repeatable commands when the
connection breaks, and after a failure a bypass: everything fails at once until a probe in the background is answered.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import hiredis
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection, DefaultParser
from redis.connection import HiredisRespSerializer
from redis.exceptions import InvalidResponse, NoScriptError, RedisError, ResponseError

from common.hotstore.protocol import HotStoreUnavailable

log = logging.getLogger(__name__)

TIMEOUT = 0.3
PROBE_SECONDS = 0.5
GRACE = 0.02  # uvloop runs timers before it reads sockets: a reply may already be there when the timer rings
MAX_QUEUED = 50_000
QUIET_SECONDS = 5.0
EXPECTED = ("NOSCRIPT", "NOGROUP", "BUSYGROUP")
NOT_REPEATABLE = ("PUBLISH",)
READ_BYTES = 65_536
NOTHING = object()  # no whole reply has come

Call = Callable[[bytes], asyncio.Future[Any]]  # a packed, repeatable command in, its raw reply out
Command = tuple[asyncio.Future[Any], bytes, bool]  # who waits, the bytes, whether they may be sent twice


class CommandRefused(HotStoreUnavailable, ResponseError):
    """Redis answered with an error. `reply` is its text, for code and logs, not for clients."""

    def __init__(self, reply: str) -> None:
        super().__init__("the hot store refused a command")
        self.reply = reply


class ScriptMissing(CommandRefused):
    """The server does not know a script (yet)."""


class CoalescingRedis(Redis):
    """All commands of redis-py, sent by a Coalescer. They raise HotStoreUnavailable; `pubsub()` uses connections of its own."""

    def __init__(self, pool: ConnectionPool) -> None:
        super().__init__(connection_pool=pool)
        self._coalescer = Coalescer(pool.make_connection())
        self._packer = HiredisRespSerializer()  # asyncio connections of redis-py pack in Python: 17 µs for `record`
        self.call: Call = self._coalescer.call  # for who packs and parses without redis-py's methods

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """One command and its parsed reply."""
        name = args[0]
        packed = b"".join(self._packer.pack(*args))
        reply = await self._coalescer.call(packed, name not in NOT_REPEATABLE)
        options.pop("keys", None)  # of interest to redis-py's cache only
        callback = self.response_callbacks.get(name)
        return callback(reply, **options) if callback else reply

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Closes all connections; what still waits fails."""
        await self._coalescer.aclose()
        await self.connection_pool.aclose()


class Coalescer:
    """Commands in, replies out, over a connection of its own, which it opens with the first command and again when it is lost."""

    def __init__(self, connection: AbstractConnection) -> None:
        self._connection = connection
        self._queue: list[Command] = []
        self._in_flight: deque[tuple[float, list[Command]]] = deque()  # batches: (deadline, commands)
        self._wake = asyncio.Event()  # something is queued, or the reader has ended
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._down = False
        self._closed = False
        self._quiet_until = 0.0

    def call(self, packed: bytes, repeatable: bool = True) -> asyncio.Future[Any]:
        """Queues one command; the future gives the raw reply or raises HotStoreUnavailable. Raises at once while Redis is away."""
        queue = self._queue
        if self._down or self._closed or len(queue) >= MAX_QUEUED:
            raise HotStoreUnavailable("the hot store is away")
        future = asyncio.get_running_loop().create_future()
        queue.append((future, packed, repeatable))
        if len(queue) == 1:
            self._wake.set()
            if self._task is None or self._task.done():
                self._task = asyncio.create_task(self._run())
                self._task.add_done_callback(lambda _: self._fail(self._take_all(), "the hot store is closed"))
        return future

    async def aclose(self) -> None:
        """Closes the connection; what still waits fails."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        """Connects when commands wait (or as a probe, when Redis is away) and serves them until the connection is lost."""
        while True:
            if self._down:
                await asyncio.sleep(PROBE_SECONDS)
            elif not self._queue:
                self._wake.clear()
                await self._wake.wait()
            connected = False
            try:
                await self._connect()
                connected = True
                await self._exchange()
            except (OSError, RedisError) as e:
                # A broken connection (a restart, a proxy) is tried once more at once, a slow Redis is not.
                if connected and not isinstance(e, TimeoutError):
                    self._send_once_more()
                else:
                    self._go_down(e)
            finally:
                await self._connection.disconnect(nowait=True)

    async def _connect(self) -> None:
        async with asyncio.timeout(TIMEOUT):
            await self._connection.connect()
            await self._connection.send_command("PING", check_health=False)  # a frozen Redis accepts connections, too
            await self._connection.read_response()
        if self._down:
            self._down = False
            log.info("hot store is back")

    async def _exchange(self) -> None:
        """Writes what is queued and lets `_read` give out the replies. Raises TimeoutError or what redis-py says of a lost connection."""
        loop = asyncio.get_running_loop()
        reader = asyncio.create_task(self._read())
        reader.add_done_callback(lambda _: self._wake.set())
        self._wake.set()  # for what waits already
        try:
            async with asyncio.timeout(None) as limit:
                while True:
                    await self._wake.wait()
                    self._wake.clear()
                    if reader.done():
                        reader.result()  # raises why
                    batch, self._queue = self._queue, []
                    if not batch:
                        continue
                    deadline = loop.time() + TIMEOUT
                    self._in_flight.append((deadline, batch))
                    if self._timer is None:
                        self._timer = loop.call_at(deadline, self._check, loop, limit)
                    await self._send(b"".join([c[1] for c in batch]))
        finally:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)

    async def _send(self, data: bytes) -> None:
        """Raises OSError also where the event loop has other words for a connection that has just been closed."""
        try:
            await self._connection.send_packed_command(data, check_health=False)
        except RuntimeError as e:  # uvloop, of a closed transport
            raise ConnectionResetError(str(e)) from None

    async def _read(self) -> NoReturn:
        """Replies come in the order of the commands. They are taken from the connection's stream by a parser of our own: redis-py's way to
        a single reply is four coroutines long, 2 µs of each answer of a rule."""
        stream: asyncio.StreamReader = self._connection._reader  # type: ignore[assignment]
        parser = hiredis.Reader(protocolError=InvalidResponse, replyError=DefaultParser.parse_error, notEnoughData=NOTHING)
        in_flight = self._in_flight
        answered = 0  # commands of the oldest batch
        while data := await stream.read(READ_BYTES):
            parser.feed(data)
            while (reply := parser.gets()) is not NOTHING:
                if isinstance(reply, RedisError) and not isinstance(reply, ResponseError):
                    raise reply  # it serves nobody now
                if not in_flight:
                    raise ConnectionResetError("Redis sent a reply that nobody asked for")
                batch = in_flight[0][1]
                future = batch[answered][0]
                answered += 1
                if answered == len(batch):
                    in_flight.popleft()
                    answered = 0
                if future.done():  # its caller was cancelled
                    continue
                if isinstance(reply, ResponseError):
                    future.set_exception(self._refusal(reply))
                else:
                    future.set_result(reply)
        raise ConnectionResetError("Redis closed the connection")

    def _check(self, loop: asyncio.AbstractEventLoop, limit: asyncio.Timeout, grace: bool = False) -> None:
        """Rings at the oldest batch's deadline, at most every `TIMEOUT` seconds however busy the connection is."""
        self._timer = None
        if not self._in_flight:
            return
        deadline = self._in_flight[0][0]
        if deadline > loop.time():
            self._timer = loop.call_at(deadline, self._check, loop, limit)
        elif not grace:
            self._timer = loop.call_later(GRACE, self._check, loop, limit, True)
        else:
            limit.reschedule(loop.time())

    def _refusal(self, error: ResponseError) -> CommandRefused:
        """An error reply as our error. Logged, unless callers expect it, and not more often than every few seconds."""
        reply = f"{error.status_code} {error}" if error.status_code else str(error)
        if isinstance(error, NoScriptError):
            return ScriptMissing(reply)
        now = asyncio.get_running_loop().time()
        if not reply.startswith(EXPECTED) and now > self._quiet_until:
            self._quiet_until = now + QUIET_SECONDS
            log.warning("Redis refused a command: %s", reply)
        return CommandRefused(reply)

    def _send_once_more(self) -> None:
        commands = self._take_all()
        self._queue = [(future, packed, False) for future, packed, repeatable in commands if repeatable and not future.done()]
        self._fail([c for c in commands if not c[2]], "the connection to the hot store broke")

    def _go_down(self, reason: Exception) -> None:
        self._fail(self._take_all(), "the hot store is away")
        if not self._down:
            self._down = True
            log.warning("hot store away, going on without it: %s", reason_of(reason))

    def _take_all(self) -> list[Command]:
        commands = [c for _, batch in self._in_flight for c in batch] + self._queue
        self._in_flight.clear()
        self._queue = []
        return commands

    def _fail(self, commands: Iterable[Command], detail: str) -> None:
        for future, _, _ in commands:
            if not future.done():
                future.set_exception(HotStoreUnavailable(detail))  # one each: a shared one would collect all tracebacks


def reason_of(error: BaseException) -> str:
    """The reason of a failure for the log."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
