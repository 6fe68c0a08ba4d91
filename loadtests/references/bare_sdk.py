"""Reference: the bare `openai` SDK with its aiohttp transport, as a script: what a program pays that only calls the model.

`python -m loadtests.references.bare_sdk --url http://127.0.0.1:8900/v1 --seconds 4 --connections 1 [--message "deltas 1000" --stream]`
prints one JSON object: calls, seconds, cpu_seconds, deltas, and p50_ms (of whole calls, or with --stream of the first delta).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import time
from typing import Any

import uvloop
from openai import AsyncOpenAI, DefaultAioHttpClient

SYSTEM = "You are a shop's assistant. Answer in the language of the user's message."


class Caller:
    """Calls until the time is over and counts."""

    def __init__(self, client: AsyncOpenAI, message: str, stream: bool, seconds: float) -> None:
        self._client, self._stream = client, stream
        self._messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": message}]
        self._end = time.perf_counter() + seconds
        self.times: list[float] = []
        self.deltas = 0

    async def run(self) -> None:
        """One connection's share."""
        while time.perf_counter() < self._end:
            await (self._streamed() if self._stream else self._whole())

    async def _whole(self) -> None:
        began = time.perf_counter()
        await self._client.chat.completions.create(model="bench", messages=self._messages)  # type: ignore[arg-type]
        self.times.append(time.perf_counter() - began)

    async def _streamed(self) -> None:
        began, first = time.perf_counter(), True
        stream: Any = await self._client.chat.completions.create(model="bench", messages=self._messages, stream=True)  # type: ignore[arg-type]
        async for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                self.deltas += 1
                if first:
                    first = False
                    self.times.append(time.perf_counter() - began)


async def measure(args: argparse.Namespace) -> dict[str, float]:
    """Warms up for a moment, then measures."""
    client = AsyncOpenAI(api_key="none", base_url=args.url, max_retries=0, http_client=DefaultAioHttpClient())
    try:
        await Caller(client, args.message, args.stream, 0.3).run()
        caller = Caller(client, args.message, args.stream, args.seconds)
        began, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(caller.run() for _ in range(args.connections)))
        took, cpu = time.perf_counter() - began, time.process_time() - cpu
    finally:
        await client.close()
    figures = {"calls": len(caller.times), "seconds": took, "cpu_seconds": cpu, "deltas": caller.deltas}
    return {**figures, "p50_ms": statistics.median(caller.times) * 1000}


def main() -> None:
    """Reads the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--message", default="where is my order")
    parser.add_argument("--stream", action="store_true")
    print(json.dumps(uvloop.run(measure(parser.parse_args()))))


if __name__ == "__main__":
    main()
