"""One request to the public API and what came of it, whatever came of it: nothing that a server does raises here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiohttp

from loadtests.chaos.history import PASSING, TERMINAL, Attempt, Batch, Door, Said

REPLAYED, TIER, ON_BUSY, KEY = "Idempotent-Replayed", "X-Loadsplit-Tier", "X-Loadsplit-On-Busy", "Idempotency-Key"
DROPPED = "dropped by the client"
BROKEN = (aiohttp.ClientError, OSError, TimeoutError, ValueError)


class Talker:
    """Asks on behalf of clients. `headers` are those of each tenant, `clock` gives the run's seconds, `hook_url` is who hears of tasks."""

    def __init__(
        self,
        http: aiohttp.ClientSession,
        url: str,
        headers: Mapping[str, Mapping[str, str]],
        clock: Callable[[], float],
        hook_url: str | None = None,
    ) -> None:
        self._http, self._url, self._headers, self._clock, self.hook_url = http, url, headers, clock, hook_url

    async def query(self, said: Said, seconds: float) -> Attempt:
        """The whole reply of POST /api/v1/query."""
        attempt = self._begin(said, "query")
        return await self._whole(attempt, "/api/v1/query", seconds, headers=self._of(said), json=asked(said))

    async def submit(self, said: Said, seconds: float) -> Attempt:
        """POST /api/v1/query/async: final only where it was refused; else `said.task_id` is the task's."""
        attempt, body = self._begin(said, "async"), {**asked(said), **self._hook(said.hook)}
        await self._whole(attempt, "/api/v1/query/async", seconds, headers=self._of(said), json=body)
        if attempt.status == 202 and attempt.body:
            said.task_id = said.turn_id = str(attempt.body["task_id"])
        return attempt

    async def submit_batch(self, batch: Batch, items: Sequence[Mapping[str, Any]], seconds: float) -> Attempt:
        """POST /api/v1/batch: final where it was refused; else `batch.batch_id` is there."""
        attempt = Attempt("async", self._clock())
        batch.attempts.append(attempt)
        headers = {**self._headers[batch.tenant], **({KEY: batch.key} if batch.key else {})}
        await self._whole(attempt, "/api/v1/batch", seconds, headers=headers, json={"items": items, **self._hook(batch.hook)})
        if attempt.status == 202 and attempt.body:
            batch.batch_id = str(attempt.body["batch_id"])
        return attempt

    async def stream(self, said: Said, reader: int, seconds: float, drop_after: int | None = None) -> Attempt:
        """The events of POST /api/v1/query/stream, until the terminal one or until `drop_after` have come."""
        attempt = self._begin(said, "stream", reader)
        send = {"method": "POST", "url": f"{self._url}/api/v1/query/stream", "json": asked(said), "headers": self._of(said)}
        return await self._events(attempt, said, send, seconds, drop_after)

    async def resume(self, said: Said, reader: int, after: int, seconds: float, drop_after: int | None = None) -> Attempt:
        """The events behind number `after`, from whichever replica Nginx chooses."""
        attempt = self._begin(said, "resume", reader)
        attempt.after = after
        headers = {**self._headers[said.tenant], "Last-Event-ID": str(after)}
        send = {"method": "GET", "url": f"{self._url}/api/v1/turns/{said.turn_id}/stream", "headers": headers}
        return await self._events(attempt, said, send, seconds, drop_after)

    async def session_events(self, tenant: str, session: str, last: int, seconds: float = 20) -> list[tuple[int, str, Any]]:
        """The events of a session up to number `last`; fewer where they do not come in time."""
        attempt = Attempt("stream", self._clock())
        said = Said("", 0, tenant, session, "", "", "", None, "", 0.0)
        send = {"method": "GET", "url": f"{self._url}/api/v1/session/{session}/events", "headers": self._headers[tenant]}
        return (await self._events(attempt, said, send, seconds, last)).events

    async def call(self, tenant: str, method: str, path: str, *, seconds: float = 20, **more: Any) -> tuple[int, Any]:
        """Any other request: status and JSON (or text, also with `raw`) of the reply; (0, the reason) where there is none."""
        headers, raw = self._headers.get(tenant, {}), more.pop("raw", False)
        try:
            timeout = aiohttp.ClientTimeout(total=seconds)
            async with self._http.request(method, self._url + path, headers=headers, timeout=timeout, **more) as reply:
                text = await reply.text()
        except BROKEN as e:
            return 0, reason(e)
        try:
            return reply.status, text if raw else json.loads(text)
        except ValueError:
            return reply.status, text

    def _begin(self, said: Said, door: Door, reader: int = 0) -> Attempt:
        attempt = Attempt(door, self._clock(), reader=reader)
        said.attempts.append(attempt)
        return attempt

    def _of(self, said: Said) -> dict[str, str]:
        headers = {**self._headers[said.tenant], ON_BUSY: said.on_busy}
        return headers if said.key is None else {**headers, KEY: said.key}

    def _hook(self, wanted: bool) -> dict[str, Any]:
        return {"webhook": {"url": self.hook_url}} if wanted and self.hook_url else {}

    async def _whole(self, attempt: Attempt, path: str, seconds: float, **more: Any) -> Attempt:
        try:
            timeout = aiohttp.ClientTimeout(total=seconds)
            async with self._http.post(self._url + path, timeout=timeout, **more) as reply:
                await self._read(attempt, reply)
        except BROKEN as e:
            attempt.broken = reason(e)
        attempt.ended = self._clock()
        return attempt

    async def _read(self, attempt: Attempt, reply: aiohttp.ClientResponse) -> None:
        attempt.tier, attempt.replayed = reply.headers.get(TIER), reply.headers.get(REPLAYED) == "true"
        body = json.loads(await reply.text())
        attempt.status, attempt.body = reply.status, body
        attempt.final = reply.status == 200 or (reply.status >= 400 and (reply.status not in PASSING or attempt.replayed))

    async def _events(self, attempt: Attempt, said: Said, send: dict[str, Any], seconds: float, drop_after: int | None) -> Attempt:
        try:
            async with self._http.request(**send, timeout=aiohttp.ClientTimeout(total=seconds)) as reply:
                if reply.status != 200:
                    await self._read(attempt, reply)
                else:
                    attempt.status, attempt.tier = 200, reply.headers.get(TIER)
                    attempt.replayed = reply.headers.get(REPLAYED) == "true"
                    attempt.broken = await self._follow(attempt, said, reply, drop_after)
        except BROKEN as e:
            attempt.broken = reason(e)
        attempt.ended = self._clock()
        return attempt

    async def _follow(self, attempt: Attempt, said: Said, reply: aiohttp.ClientResponse, drop_after: int | None) -> str | None:
        """Reads events as a browser does: what is not ended by an empty line does not count."""
        number, kind, data = 0, "", ""
        async for raw in reply.content:
            line = raw.decode().rstrip("\r\n")
            name, _, value = line.partition(": ")
            if name == "id":
                number = int(value)
            elif name == "event":
                kind = value
            elif name == "data":
                data += value
            elif not line and data:
                event = json.loads(data)["data"]
                attempt.events.append((number, kind, event))
                if kind == "start":
                    said.turn_id = event["turn_id"]
                if kind in TERMINAL:
                    attempt.final = kind != "error"  # an error may be this node's alone: the client asks for the turn
                    return None
                if drop_after is not None and len(attempt.events) >= drop_after:
                    return DROPPED
                kind, data = "", ""
        return "ended without a terminal event"


def asked(said: Said) -> dict[str, Any]:
    """The body of a query."""
    return {"message": said.text, "session_id": said.session, "user_id": f"user-{said.client}"}


def reason(error: BaseException) -> str:
    """What broke, in short."""
    return f"{type(error).__name__}: {error}"[:200]
