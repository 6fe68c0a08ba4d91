"""A terminal chat: sends lines to a running server, streams the answers, shows each turn's route, tools, time and tokens.

It speaks the public API only and knows nothing of the tiers.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import aiohttp
import orjson
from rich.console import Console
from rich.markup import escape

TERMINAL = ("complete", "error", "cancelled")
CONNECT_SECONDS = 5.0
MAX_RESUMES = 5
LINE_LIMIT = 1 << 22
TIER_STYLE = {"lightweight": "bold green", "heavy": "bold magenta"}
STATUS_NOTE = {
    "transferred": "A human colleague has this chat now.",
    "closed": "This chat is closed; the next message opens it again.",
    "queued": "Your message waits for a colleague.",
    "silent": "Noted, without an answer.",
}


class ChatFailed(Exception):
    """The turn could not be answered; the text is one readable line."""


async def chat(url: str, session: str | None) -> int:
    """Talks until Ctrl-D. Returns the exit code: 0, or 2 when the server cannot be reached at the start."""
    console = Console(highlight=False, soft_wrap=True)
    url = url.rstrip("/")
    session = session or f"term-{secrets.token_hex(4)}"
    timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS)
    async with aiohttp.ClientSession(timeout=timeout, read_bufsize=LINE_LIMIT) as http:
        try:
            health = await _health(http, url)
        except ChatFailed as error:
            Console(stderr=True, highlight=False, soft_wrap=True).print(escape(str(error)), style="red")
            return 2
        console.print(f"[dim]{escape(url)} is {escape(health)}. Session {escape(session)}. Ctrl-D ends.[/dim]")
        while True:
            line = _prompt()
            if line is None:
                console.print()
                return 0
            if line.strip():
                await _turn(http, url, session, line, console)


def _prompt() -> str | None:
    """One typed line, None at Ctrl-D or Ctrl-C. It blocks the event loop on purpose: nothing else runs while a person types."""
    asyncios = signal.signal(signal.SIGINT, signal.default_int_handler)  # asyncio's own handler would let `input` go on
    try:
        return input("> ")
    except (EOFError, KeyboardInterrupt):
        return None
    finally:
        signal.signal(signal.SIGINT, asyncios)


async def _health(http: aiohttp.ClientSession, url: str) -> str:
    try:
        async with http.get(f"{url}/api/v1/health", timeout=aiohttp.ClientTimeout(total=CONNECT_SECONDS)) as reply:
            doc = orjson.loads(await reply.read())
            return str(doc["status"])
    except (aiohttp.ClientConnectorError, TimeoutError):
        raise ChatFailed(f"nothing answers at {url}: start a server with `make run`, or give its address with --url") from None
    except (aiohttp.ClientError, ValueError, KeyError, TypeError):
        raise ChatFailed(f"{url} answers, but not like a loadsplit server") from None


async def _turn(http: aiohttp.ClientSession, url: str, session: str, message: str, console: Console) -> None:
    """One message: prints what its stream brings, then a line of facts."""
    started, first = time.perf_counter(), None
    wrote = False
    try:
        async for event in turn_events(http, url, {"message": message, "session_id": session}):
            kind, data = event["type"], event["data"]
            if kind == "text":
                first = first or time.perf_counter()
                wrote = True
                console.print(escape(data["delta"]), end="")
            elif kind == "tool_call":
                console.print(f"{_newline(wrote)}[cyan]· {escape(data['name'])}[/cyan] [dim]{escape(_short(data['arguments']))}[/dim]")
                wrote = False
            elif kind == "tool_result":
                mark = "[green]ok[/green]" if data["ok"] else "[red]failed[/red]"
                console.print(f"  {mark} [dim]{data['duration_ms']:.0f} ms {escape(_short(data['result']))}[/dim]")
            elif kind == "complete":
                console.print(_newline(wrote) + _facts(data, started, first))
            elif kind in TERMINAL:
                raise ChatFailed(f"{data.get('title', kind)}: {data.get('detail') or data.get('reason') or ''}")
    except ChatFailed as error:
        console.print(f"{_newline(wrote)}[red]{escape(str(error))}[/red]")


async def turn_events(http: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """The events of one turn, {type, data} each; a broken stream is taken up after the last event. Raises ChatFailed."""
    turn, last, broken = "", "0", 0
    while True:
        try:
            async with _open(http, url, body, turn, last) as reply:
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
                raise ChatFailed(f"no connection to {url}: {error or 'timed out'}") from None
        broken += 1
        if not turn or broken > MAX_RESUMES:
            raise ChatFailed("the connection broke before the answer was complete")
        await asyncio.sleep(min(0.5 * 2**broken, 8))


def _open(http: aiohttp.ClientSession, url: str, body: dict[str, Any], turn: str, last: str) -> Any:
    if turn:
        return http.get(f"{url}/api/v1/turns/{quote(turn, safe='')}/stream", headers={"Last-Event-ID": last})
    return http.post(f"{url}/api/v1/query/stream", data=orjson.dumps(body), headers={"Content-Type": "application/json"})


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


def _newline(wrote: bool) -> str:
    return "\n" if wrote else ""


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return text if len(text) <= 160 else text[:157] + "..."


def _facts(reply: dict[str, Any], started: float, first: float | None) -> str:
    route, usage = reply["route"], reply["usage"]
    now = time.perf_counter()
    action = " ".join(filter(None, (route["action_type"], route["action_target"])))
    parts = [
        action,
        f"by {route['matched_by']}",
        f"first token {(first - started) * 1000:.0f} ms" if first else "",
        f"total {(now - started) * 1000:.0f} ms",
    ]
    if usage["llm_calls"]:
        parts.append(f"{usage['llm_calls']} LLM calls, {usage['input_tokens']} + {usage['output_tokens']} tokens, ${usage['cost_usd']:.6f}")
    note = STATUS_NOTE.get(reply["status"])
    style = TIER_STYLE.get(route["tier"], "bold")
    line = f"[{style}]{escape(route['tier'])}[/{style}] [dim]{escape(' · '.join(filter(None, parts)))}[/dim]"
    return line + (f"\n[dim]{escape(note)}[/dim]" if note else "")
