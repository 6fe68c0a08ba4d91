"""A terminal chat: sends lines to a running server, streams the answers, shows each turn's route, tools, time and tokens.

What people and timers say arrives by itself; a call that must be approved is asked about. It knows nothing of the tiers.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import signal
import time
from typing import Any

import aiohttp
import orjson
from rich.console import Console
from rich.markup import escape

from standalone.chat_client import CONNECT_SECONDS, TERMINAL, ChatClient, ChatFailed
from standalone.lines import TypedLines

LINE_LIMIT = 1 << 22
PROMPT = "> "
APPROVE = "Approve? (y/n) "
ANSWERS = {"y": True, "yes": True, "n": False, "no": False}
TIER_STYLE = {"lightweight": "bold green", "heavy": "bold magenta"}
AUTHORS = {"human": "colleague", "timer": "reminder"}
STATUS_NOTE = {
    "transferred": "A colleague will answer here.",
    "closed": "This chat is closed; the next message opens it again.",
    "queued": "This waits for a decision.",
    "silent": "Noted, without an answer.",
}


async def chat(url: str, session: str | None, key: str | None = None) -> int:
    """Talks until Ctrl-D or Ctrl-C, with an API key where one is given. Returns the exit code: 0, or 2 when the server cannot be reached at
    the start."""
    console = Console(highlight=False, soft_wrap=True)
    session = session or f"term-{secrets.token_hex(4)}"
    timeout = aiohttp.ClientTimeout(total=None, connect=CONNECT_SECONDS)
    headers = {"Authorization": f"Bearer {key}"} if key else None
    async with aiohttp.ClientSession(timeout=timeout, read_bufsize=LINE_LIMIT, headers=headers) as http:
        client = ChatClient(http, url)
        try:
            health = await client.health()
        except ChatFailed as error:
            Console(stderr=True, highlight=False, soft_wrap=True).print(escape(str(error)), style="red")
            return 2
        console.print(f"[dim]{escape(client.url)} is {escape(health)}. Session {escape(session)}. Ctrl-D ends.[/dim]")
        await _until_interrupted(_Conversation(client, session, console, TypedLines()))
        console.print()
    return 0


async def _until_interrupted(conversation: _Conversation) -> None:
    talking = asyncio.create_task(conversation.run())
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, talking.cancel)
    try:
        await asyncio.wait([talking])
        if not talking.cancelled():
            talking.result()
    finally:
        loop.remove_signal_handler(signal.SIGINT)


class _Conversation:
    """One session with one person."""

    def __init__(self, client: ChatClient, session: str, console: Console, lines: TypedLines) -> None:
        self._client, self._session, self._console, self._lines = client, session, console, lines
        self._own: set[str] = set()  # turns whose stream is shown
        self._held: list[str] | None = None  # what has happened while an answer was being written

    async def run(self) -> None:
        """Asks, answers, asks again until the input ends."""
        self._lines.open()
        watcher = asyncio.create_task(self._watch())
        try:
            line = await self._lines.next(PROMPT)
            while line is not None:
                instead = await self._turn(line) if line.strip() else None
                line = instead or await self._lines.next(PROMPT)
        finally:
            watcher.cancel()
            self._lines.close()

    async def _watch(self) -> None:
        async for event in self._client.session_events(self._session):
            text = _happening(event["type"], event["data"], self._own)
            if text and self._held is not None:
                self._held.append(text)
            elif text:
                self._console.print(f"\n{text}" if self._lines.waiting else text)
                self._lines.again()

    async def _turn(self, message: str) -> str | None:
        """One message and what comes of it. Returns what was typed instead of a decision, for it to be said next."""
        shown = _Shown(self._console)
        self._held = []
        try:
            return await self._follow(shown, {"message": message, "session_id": self._session})
        except ChatFailed as error:
            self._console.print(f"{shown.new_line()}[red]{escape(str(error))}[/red]")
            return None
        finally:
            for text in self._held:
                self._console.print(text)
            self._held = None

    async def _follow(self, shown: _Shown, body: dict[str, Any]) -> str | None:
        """Shows a turn to its end. Where it waits for a decision, a typed line and the next event race: others may decide as well."""
        typed: asyncio.Task[str | None] | None = None
        async with contextlib.aclosing(self._client.turn_events(body)) as events:
            coming = asyncio.ensure_future(anext(events, None))
            try:
                while True:
                    await asyncio.wait([coming] if typed is None else [coming, typed], return_when=asyncio.FIRST_COMPLETED)
                    if typed is not None and typed.done():
                        line, typed = typed.result(), None
                        approved = ANSWERS.get(line.strip().casefold()) if line else None
                        if approved is None:
                            return line
                        await self._client.decide(shown.turn_id, approved=approved)
                        continue
                    event = coming.result()
                    if typed is not None:
                        await _stopped(typed)
                        typed = None
                        self._console.print("[dim]decided elsewhere[/dim]")
                    if event is None or not shown.take(event["type"], event["data"]):
                        return None
                    self._own.add(shown.turn_id)
                    if event["type"] == "awaiting_approval":
                        typed = asyncio.create_task(self._lines.next(APPROVE))
                    coming = asyncio.ensure_future(anext(events, None))
            finally:
                await _stopped(coming)
                if typed is not None:
                    await _stopped(typed)


class _Shown:
    """One turn on the terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._started, self._first = time.perf_counter(), 0.0
        self._wrote = False
        self.turn_id = ""

    def take(self, kind: str, data: dict[str, Any]) -> bool:
        """Prints an event; False when it is the last one. Raises ChatFailed for an end that is no answer."""
        if kind == "start":
            self.turn_id = data["turn_id"]
        elif kind == "text":
            self._first = self._first or time.perf_counter()
            self._wrote = True
            self._console.print(escape(data["delta"]), end="")
        elif kind == "tool_call":
            self._print(f"[cyan]· {escape(data['name'])}[/cyan] [dim]{escape(_short(data['arguments']))}[/dim]")
        elif kind == "tool_result":
            mark = "[green]ok[/green]" if data["ok"] else "[red]failed[/red]"
            self._print(f"  {mark} [dim]{data['duration_ms']:.0f} ms {escape(_short(data['result']))}[/dim]")
        elif kind == "awaiting_approval":
            self._print(f"[yellow]{escape(data.get('message') or _asked(data))}[/yellow]")
        elif kind == "complete":
            self._print(_facts(data, self._started, self._first))
        elif kind in TERMINAL:
            raise ChatFailed(f"{data.get('title', kind)}: {data.get('message') or data.get('detail') or data.get('reason') or ''}")
        return kind not in TERMINAL

    def new_line(self) -> str:
        """What ends a line of text that was begun."""
        wrote, self._wrote = self._wrote, False
        return "\n" if wrote else ""

    def _print(self, markup: str) -> None:
        self._console.print(self.new_line() + markup)


async def _stopped(task: asyncio.Future[Any]) -> None:
    task.cancel()
    await asyncio.wait([task])


def _happening(kind: str, data: dict[str, Any], own: set[str]) -> str | None:
    """A session's event as a line, None where the turn's own answer says it or there is nothing to say."""
    if data.get("turn_id") in own:
        return None
    if kind == "session.message" and data["from"] in AUTHORS:
        return f"[bold yellow]{AUTHORS[data['from']]}[/bold yellow] {escape(data['text'])}"
    if kind == "task.completed" and data["result"]["message"]:
        return f"[bold yellow]agent[/bold yellow] {escape(data['result']['message'])}"
    if kind == "session.awaiting_approval":
        return f"[yellow]{escape(_asked(data))} Answer yes or no.[/yellow]"
    notes = {
        "session.transferred": STATUS_NOTE["transferred"],
        "session.accepted": "A colleague has joined.",
        "session.released": "The assistant answers again.",
        "session.closed": STATUS_NOTE["closed"],
    }
    return f"[dim]{notes[kind]}[/dim]" if kind in notes else None


def _asked(data: dict[str, Any]) -> str:
    return "Approval is needed for " + "; ".join(f"{c['name']} {_short(c['arguments'])}" for c in data["calls"]) + "."


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    return text if len(text) <= 160 else text[:157] + "..."


def _facts(reply: dict[str, Any], started: float, first: float) -> str:
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
