"""The public API as the terminal chat speaks it: a turn's events, a session's events, a decision. It prints nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson

TERMINAL = ("complete", "error", "cancelled")
CONNECT_SECONDS = 5.0
MAX_RESUMES = 5


class ChatFailed(Exception):
    """The server did not do what was asked; the text is one readable line."""


class ChatClient:
    """One server. Raises ChatFailed, nothing else, for whatever it does."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http, self.url = http, url.rstrip("/")

    async def health(self) -> str:
        """The server's own word for how it is."""
        try:
            async with self._http.get(f"{self.url}/api/v1/health", timeout=aiohttp.ClientTimeout(total=CONNECT_SECONDS)) as reply:
                return str(orjson.loads(await reply.read())["status"])
        except (aiohttp.ClientConnectorError, TimeoutError):
            raise ChatFailed(f"nothing answers at {self.url}: start a server with `make run`, or give its address with --url") from None
        except (aiohttp.ClientError, ValueError, KeyError, TypeError):
            raise ChatFailed(f"{self.url} answers, but not like a loadsplit server") from None

    async def turn_events(self, body: dict[str, Any]) -> AsyncGenerator[dict[str, Any]]:
        """The events of one turn, {type, data} each; a broken stream is taken up after the last event."""
        turn, last, broken = "", "0", 0
        while True:
            try:
                async with self._open(body, turn, last) as reply:
                    if reply.status != 200:
                        raise ChatFailed(await _problem(reply))
                    async for number, event in _frames(reply.content):
                        last, broken = number, 0
                        if event["type"] == "start":
                            turn = event["data"]["turn_id"]
                        yield event
                        if event["type"] in TERMINAL:
                            return
            except (aiohttp.ClientError, TimeoutError) as error:
                if not turn:
                    raise ChatFailed(f"no connection to {self.url}: {error or 'timed out'}") from None
            broken += 1
            if not turn or broken > MAX_RESUMES:
                raise ChatFailed("the connection broke before the answer was complete")
            await asyncio.sleep(min(0.5 * 2**broken, 8))

    async def session_events(self, session: str) -> AsyncIterator[dict[str, Any]]:
        """What happens in a session from now on, {type, data} each. Ends quietly where the server tells nothing, or is away for long."""
        where = f"{self.url}/api/v1/session/{quote(session, safe='')}"
        last, broken = "", 0
        while broken <= MAX_RESUMES:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError, ValueError):  # tried again: the turns tell that the server is away
                last = last or await self._last_event(where)
                async with self._http.get(f"{where}/events", headers={"Last-Event-ID": last}) as reply:
                    if 400 <= reply.status < 500:
                        return
                    if reply.status == 200:
                        async for number, event in _frames(reply.content):
                            last, broken = number, 0
                            yield event
            broken += 1
            await asyncio.sleep(min(0.5 * 2**broken, 15))

    async def decide(self, turn_id: str, *, approved: bool) -> None:
        """Approves or denies the calls that a turn waits with."""
        where = f"{self.url}/api/v1/turns/{quote(turn_id, safe='')}/approval"
        body = {"decision": "approve" if approved else "deny", "by": "user"}
        try:
            async with self._http.post(where, data=orjson.dumps(body), headers={"Content-Type": "application/json"}) as reply:
                if reply.status >= 300:
                    raise ChatFailed(await _problem(reply))
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ChatFailed(f"no connection to {self.url}: {error or 'timed out'}") from None

    async def _last_event(self, where: str) -> str:
        """The last event that is past already; a session that has just begun has none."""
        async with self._http.get(where) as reply:
            doc = orjson.loads(await reply.read()) if reply.status == 200 else {}
            return str(doc.get("last_event_id") or 0)

    def _open(self, body: dict[str, Any], turn: str, last: str) -> Any:
        if turn:
            return self._http.get(f"{self.url}/api/v1/turns/{quote(turn, safe='')}/stream", headers={"Last-Event-ID": last})
        return self._http.post(f"{self.url}/api/v1/query/stream", data=orjson.dumps(body), headers={"Content-Type": "application/json"})


async def _frames(stream: aiohttp.StreamReader) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """(id, {type, data}) of each server-sent event."""
    number, data = "0", b""
    while raw := await stream.readline():
        line = raw.rstrip(b"\r\n")
        if line.startswith(b"id:"):
            number = line[3:].strip().decode()
        elif line.startswith(b"data:"):
            data += line[5:].strip()
        elif not line and data:
            yield number, orjson.loads(data)
            data = b""


async def _problem(reply: aiohttp.ClientResponse) -> str:
    try:
        doc = orjson.loads(await reply.read())
        return f"{doc['title']}: {doc['detail']} ({doc['code']}, status {reply.status})"
    except (ValueError, KeyError, TypeError):
        return f"the server answered with status {reply.status}"
