"""An open loop of requests: they are due at a fixed rate whatever the server does, and a time counts from when its request was due.

`python -m loadtests.asking --port P --rate 100 --seconds 20 --message TEXT` prints one JSON object: `samples`, each [second it was due,
milliseconds, status] (0: the connection broke), `late`, how many were dropped because all connections were busy, and `done`, how many were
answered. Without a rate it asks as fast as the connections allow.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import Any

import uvloop

HUNG_UP, REFUSED = 0, (429, 503)
PATIENCE = 30.0
STRIDE = 7919  # from one session to the next: a prime, so that all are met, and neighbours not one after another


class Loop:
    """The requests and what became of them. `sessions` 0 gives each request a session of its own."""

    def __init__(self, port: int, message: str, sessions: int, *, wait_for_late: bool = True, thin: int = 1, prefix: str = "ask-") -> None:
        self._port, self._message, self._sessions, self._wait, self._thin = port, message, sessions, wait_for_late, thin
        self._prefix = prefix
        self.done = 0
        self._free: asyncio.Queue[_Line] = asyncio.Queue()
        self._asked = 0
        self.samples: list[tuple[float, float, int]] = []
        self.late = 0
        self._began = time.perf_counter()

    async def run(self, rate: float, seconds: float, connections: int, count: int = 0) -> None:
        """At a rate (requests a second; 0: as fast as the connections allow), at most so many unless 0."""
        for _ in range(connections):
            self._free.put_nowait(_Line(self._port))
        self._began = time.perf_counter()
        if not rate:
            await asyncio.gather(*(self._closed(seconds, count) for _ in range(connections)))
            return
        tasks: set[asyncio.Task[None]] = set()
        for number in range(int(rate * seconds)):
            due = number / rate
            await asyncio.sleep(max(0.0, self._began + due - time.perf_counter()))
            if self._free.empty() and not self._wait:
                self.late += 1
                continue
            tasks.add(task := asyncio.create_task(self._one(due)))
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.wait(set(tasks), timeout=PATIENCE)
        for task in tasks:
            task.cancel()

    async def _closed(self, seconds: float, count: int) -> None:
        while (at := time.perf_counter() - self._began) < seconds and not (count and self._asked >= count):
            await self._one(at)

    async def _one(self, due: float) -> None:
        line = await self._free.get()
        try:
            status = await line.ask(self._body())
        finally:
            self._free.put_nowait(line)
        self.done += 1
        if status == 200 and self.done % self._thin:
            return
        self.samples.append((round(due, 4), round((time.perf_counter() - self._began - due) * 1000, 3), status))

    def _body(self) -> bytes:
        self._asked += 1
        session = f"{self._prefix}{time.time_ns() if not self._sessions else self._asked * STRIDE % self._sessions}"
        return json.dumps({"message": self._message, "session_id": session}, ensure_ascii=False).encode()


class _Line:
    """A keep-alive connection that is opened again when it has broken."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, body: bytes) -> int:
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._ask(body)
        except (OSError, EOFError, ValueError, TimeoutError):
            self._hang_up()
            return HUNG_UP

    async def _ask(self, body: bytes) -> int:
        if self._writer is None or self._reader is None:
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        head = f"POST /api/v1/query HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._writer.write(head.encode() + body)
        reply = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        length = reply.partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if length:
            await self._reader.readexactly(int(length))
        else:
            await self._reader.readuntil(b"0\r\n\r\n")
        if b"connection: close" in reply:
            self._hang_up()
        return int(reply.split(b" ", 2)[1])

    def _hang_up(self) -> None:
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
        self._reader = self._writer = None


def rate_of(samples: Sequence[tuple[float, float, int]]) -> float:
    """Answers a second. A server that is full may refuse (429, 503). Raises RuntimeError for anything else, and without an answer."""
    wrong = [status for _, _, status in samples if status not in (200, *REFUSED)]
    done = [at + ms / 1000 for at, ms, status in samples if status == 200]
    if wrong or not done:
        raise RuntimeError(f"{len(wrong)} of {len(samples)} requests failed, {len(done)} were answered; statuses {sorted(set(wrong))}")
    return len(done) / max(done)


async def until_told(work: Coroutine[Any, Any, None]) -> None:
    """Does the work; SIGTERM ends it early, and what was found so far counts."""
    task = asyncio.create_task(work)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def command(
    port: int, message: str, seconds: float, *, rate: float = 0, connections: int = 8, sessions: int = 0, cpu: int | None
) -> list[str]:
    """The command of such a process on a core."""
    pinned = ["taskset", "-c", str(cpu)] if cpu is not None else []
    parts = ["--port", str(port), "--message", message, "--seconds", str(seconds), "--rate", str(rate), "--connections", str(connections)]
    return [*pinned, sys.executable, "-m", "loadtests.asking", *parts, "--sessions", str(sessions)]


def main() -> int:
    """Asks, then prints."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.asking", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--message", required=True)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rate", type=float, default=0, help="requests a second; 0: as fast as the connections allow")
    parser.add_argument("--connections", type=int, default=8)
    parser.add_argument(
        "--sessions", type=int, default=0, help="so many sessions in turn, far from each other; 0: a new one for each request"
    )
    parser.add_argument("--drop-late", action="store_true", help="drop what is due while all connections are busy")
    parser.add_argument("--count", type=int, default=0, help="without a rate: at most so many requests")
    parser.add_argument("--prefix", default="ask-", help="of the names of the sessions")
    parser.add_argument("--thin", type=int, default=1, help="keep one of so many samples that went well")
    parser.add_argument("--out", type=Path, help="write there instead")
    options = parser.parse_args()
    loop = Loop(
        options.port, options.message, options.sessions, wait_for_late=not options.drop_late, thin=options.thin, prefix=options.prefix
    )
    uvloop.run(until_told(loop.run(options.rate, options.seconds, options.connections, options.count)))
    text = json.dumps({"samples": loop.samples, "late": loop.late, "done": loop.done})
    if options.out:
        options.out.write_text(text)
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
