"""The rows of loadtests.survival_bench: each part starts what it needs and gives its figures. It prints nothing."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from common.contracts import ticket as tickets
from common.contracts.events import TERMINAL
from common.contracts.query import new_turn_id
from loadtests import resp, sqlite_meter
from loadtests.members import CannotRun, steady_port
from loadtests.pgmeter import metered
from loadtests.split import Plan, Split, split

AGENT = "bench"
WORDS = 100
AT_ONCE = 3  # turns that run on a node when it is killed
ENDED_WITHIN = 60.0
IDLE_SECONDS = 4.0
SELDOM = 0.3  # of a turn: what is rarer belongs to something else
BRACKETS = ("BEGIN", "COMMIT", "SAVEPOINT", "RELEASE")
SKILL = tickets.Plan("skill", "desk", "desk")
WORKFLOW: dict[str, Any] = {
    "agent_id": AGENT,
    "basic_settings": {"name": "Shop", "description": "A shop's assistant."},
    "skills": [
        {
            "skill_id": "desk",
            "description": "The desk",
            "trigger_patterns": ["desk"],
            "system_prompt": "You are the desk.",
            "tools": ["open_ticket"],
            "require_done_tool": False,
        }
    ],
    "tools": [
        {
            "name": "open_ticket",
            "description": "Opens a ticket",
            "parameters": {"type": "object", "properties": {"subject": {"type": "string"}}, "required": ["subject"]},
            "endpoint": {"url": "${BUSINESS_URL}/tickets", "method": "POST", "body": {"subject": "{subject}"}},
        }
    ],
}
PROFILE: dict[str, Any] = {
    "first_token_ms": 0,
    "token_ms": 0,
    "rules": [
        {"when": {"user": "at length"}, "text": " ".join(f"word{n}" for n in range(WORDS)), "first_token_ms": 20, "token_ms": 30},
        {"when": {"user": "and then|at once"}, "text": " ".join(f"word{n}" for n in range(WORDS))},
        {"when": {"user": "a ticket", "tool_results": 0}, "tool_calls": [{"name": "open_ticket", "arguments": {"subject": "x"}}]},
        {"when": {"user": ""}, "text": "Your order left the warehouse this morning."},
    ],
    "faults": [{"kind": "stall", "when": {"user": "and then"}, "every": 1, "after_tokens": WORDS - 5, "seconds": 600}],
}
Event = tuple[int, str, float]  # number, type, when it came
Figures = tuple[Mapping[str, int], Mapping[str, float]]  # calls and seconds by statement


def plan(folder: Path, heavy: int, environ: Mapping[str, str] | None = None, postgres_port: int | None = None) -> Plan:
    """A split of so many heavy processes and nothing in front of them."""
    folder.parent.chmod(0o755)  # PostgreSQL runs as another user when we are root
    folder.mkdir()
    (folder / "workflow.json").write_text(json.dumps(WORKFLOW))
    (folder / "profile.json").write_text(json.dumps(PROFILE))
    config, profile = folder / "workflow.json", folder / "profile.json"
    return Plan(config, profile, heavy=heavy, front=False, environ=environ or {}, postgres_port=postgres_port)


@contextlib.asynccontextmanager
async def started(wanted: Plan) -> AsyncIterator[tuple[Split, aiohttp.ClientSession]]:
    """What is wanted, and who asks it."""
    async with split(wanted.config.parent, wanted) as running, aiohttp.ClientSession(trust_env=False) as http:
        yield running, http


class Desk:
    """Asks one heavy process as the rule tier would."""

    def __init__(self, running: Split, http: aiohttp.ClientSession, name: str) -> None:
        self._http, self._url, self._secret = http, running.url_of(name), running.ticket_secret.encode()

    def _request(self, message: str, key: str | None = None) -> dict[str, Any]:
        session = f"bench-{new_turn_id()}"
        ticket = tickets.Ticket("default", AGENT, session, new_turn_id(), "", SKILL)
        headers = {tickets.HEADER: tickets.sign(ticket, self._secret), **({"Idempotency-Key": key} if key else {})}
        return {"json": {"message": message, "session_id": session}, "headers": headers}

    async def query(self, message: str, key: str | None = None) -> tuple[float, str]:
        """Seconds of a whole turn, and its id. Raises CannotRun for anything but a good reply."""
        request, began = self._request(message, key), time.perf_counter()
        async with self._http.post(f"{self._url}/api/v1/query", **request) as reply:
            body = await reply.json()
        if reply.status != 200:
            raise CannotRun(f"a turn failed: {body}")
        return time.perf_counter() - began, str(body["turn_id"])

    async def stream(self, message: str, until: Callable[[Event], bool]) -> tuple[str, list[Event]]:
        """The id of a new turn, and its events up to the one that is wanted; then the reader leaves."""
        async with self._http.post(f"{self._url}/api/v1/query/stream", **self._request(message)) as reply:
            return await _events(reply, until)

    async def resume(self, turn_id: str, after: int, until: Callable[[Event], bool]) -> list[Event]:
        """The events behind a number, in the same way."""
        headers = {"Last-Event-ID": str(after)}
        async with self._http.get(f"{self._url}/api/v1/turns/{turn_id}/stream", headers=headers) as reply:
            return (await _events(reply, until))[1]

    async def taken_over(self, turn_id: str) -> float:
        """When the turn has had its second attempt."""
        while True:
            async with self._http.get(f"{self._url}/api/v1/turns/{turn_id}") as reply:
                if (await reply.json())["attempt"] > 1:
                    return time.perf_counter()
            await asyncio.sleep(0.05)

    async def cancel(self, turn_id: str) -> None:
        """Asks a turn to end."""
        async with self._http.post(f"{self._url}/api/v1/turns/{turn_id}/cancel"):
            pass


async def _events(reply: aiohttp.ClientResponse, until: Callable[[Event], bool]) -> tuple[str, list[Event]]:
    if reply.status != 200:
        raise CannotRun(f"no stream: {reply.status} {await reply.text()}")
    turn_id, number, kind, found = "", 0, "", []
    async for raw in reply.content:
        line = raw.decode().rstrip()
        if line.startswith("id: "):
            number = int(line[4:])
        elif line.startswith("event: "):
            kind = line[7:]
        elif line.startswith("data: "):
            if kind == "start":
                turn_id = json.loads(line[6:])["data"]["turn_id"]
            found.append((number, kind, time.perf_counter()))
            if until(found[-1]) or kind in TERMINAL:
                return turn_id, found
    raise CannotRun("a stream ended before its end")


async def recovery(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """From the kill of the node that runs turns until another one has them, tells their first new event, and ends them. Before it tells
    something new the model must have said again what readers have seen. The killed one starts again."""
    taken: list[float] = []
    first, end = [], []
    async with started(plan(folder / "a", heavy=2)) as (running, http):
        for number in range(options.kills):
            name, other = ("heavy-1", "heavy-2") if number % 2 else ("heavy-2", "heavy-1")
            here, there = Desk(running, http, name), Desk(running, http, other)
            began = await asyncio.gather(*(here.stream("say it at length", lambda e: e[0] >= 4) for _ in range(AT_ONCE)))
            await asyncio.sleep(random.uniform(0, 2))
            await running.members[name].kill()
            killed = time.perf_counter()

            async def follow(turn_id: str, there: Desk = there) -> list[Event]:
                return await asyncio.wait_for(there.resume(turn_id, 0, lambda _: False), ENDED_WITHIN)

            takes = asyncio.gather(*(there.taken_over(turn_id) for turn_id, _ in began))
            for events in await asyncio.gather(*(follow(turn_id) for turn_id, _ in began)):
                first.append(next(at for _, _, at in events if at > killed + 0.5) - killed)
                end.append(events[-1][2] - killed)
            taken += [at - killed for at in await takes]
            await running.members[name].start()
            await asyncio.sleep(1)
    rows = [("another node has the turn", taken), ("its first new event", first), ("its end", end)]
    return [{"row": name, "unit": "s", **spread(samples), "samples": samples} for name, samples in rows]


async def replay(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """From the request to the last event that is there, of a stream of so many words, from each of its sources."""
    rows = []
    async with started(plan(folder / "a", heavy=2)) as (running, http):
        here, there = Desk(running, http, "heavy-1"), Desk(running, http, "heavy-2")
        turn_id, seen = await here.stream("say it and then wait", lambda e: e[0] >= WORDS - 5)
        last = seen[-1][0]
        rows.append(await _replayed("runs here: memory of the node", here, turn_id, last, options.streams))
        rows.append(await _replayed("runs elsewhere: hot store", there, turn_id, last, options.streams))
        await here.cancel(turn_id)
        turn_id, seen = await here.stream("say it at once", lambda _: False)
        last = seen[-1][0]
        rows.append(await _replayed("ended: hot store", there, turn_id, last, options.streams))
        async with resp.connected(running.redis_port) as redis:
            await redis.call("FLUSHALL")
        rows.append(await _replayed("ended, Redis wiped: the database alone", there, turn_id, 4, options.streams))
    return rows


def spread(samples: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and worst of some times."""
    ranked = sorted(samples)
    return {"median": statistics.median(ranked), "p99": ranked[min(len(ranked) - 1, int(len(ranked) * 0.99))], "worst": ranked[-1]}


async def _replayed(name: str, desk: Desk, turn_id: str, last: int, count: int) -> dict[str, Any]:
    samples, events = [], 0
    for _ in range(count):
        began = time.perf_counter()
        found = await desk.resume(turn_id, 0, lambda e: e[0] >= last)
        samples.append((found[-1][2] - began) * 1000)
        events = len(found)
    return {"row": name, "unit": "ms", "events": events, **spread(samples), "samples": samples}


async def durability(folder: Path, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Statements and milliseconds in the database for a turn, beside the whole turn. What goes on beside the turns is measured at rest,
    and taken off."""
    port, behind = steady_port(), steady_port()
    url = f"postgresql://chaos@127.0.0.1:{port}/postgres?sslmode=disable"
    wanted = plan(folder / "a", 1, {"LOADSPLIT_DATABASE_URL": url}, behind)
    async with metered(behind, port) as meter, started(wanted) as (running, http):

        async def postgres() -> Figures:
            return dict(meter.calls), dict(meter.seconds)

        rows = await _costs("PostgreSQL", Desk(running, http, "heavy-1"), postgres, options.turns)
    figures = folder / "meter"
    environ = {**sqlite_meter.install(figures), "LOADSPLIT_DATABASE_URL": f"sqlite:///{folder / 'bench.db'}"}
    async with started(plan(folder / "b", 1, environ)) as (running, http):

        async def sqlite() -> Figures:
            await asyncio.sleep(0.3)  # they are written ten times a second
            return sqlite_meter.read(figures)

        return rows + await _costs("SQLite", Desk(running, http, "heavy-1"), sqlite, options.turns)


async def _costs(store: str, desk: Desk, figures: Callable[[], Awaitable[Figures]], turns: int) -> list[dict[str, Any]]:
    for message in ("hello", "a ticket please"):
        for _ in range(10):  # connections are opened, statements prepared
            await desk.query(message)
    (calls, seconds), began = await figures(), time.perf_counter()
    await asyncio.sleep(IDLE_SECONDS)
    rested, rest = await figures(), time.perf_counter() - began
    rows = []
    for kind, message in (("one LLM call", "hello"), ("two LLM calls, one tool", "a ticket please")):
        for key in (None, "key"):
            before, began = await figures(), time.perf_counter()
            times = [(await desk.query(message, f"{kind} {n}" if key else None))[0] * 1000 for n in range(turns)]
            after, share = await figures(), (time.perf_counter() - began) / rest
            each = {
                text: (after[0][text] - before[0].get(text, 0) - share * (rested[0].get(text, 0) - calls.get(text, 0))) / turns
                for text in after[0]
            }
            spent = {
                text: (after[1][text] - before[1].get(text, 0) - share * (rested[1].get(text, 0) - seconds.get(text, 0))) / turns
                for text in after[1]
            }
            of_turns = {text: count for text, count in each.items() if count > SELDOM}
            rows.append({
                "store": store,
                "turn": kind + (", keyed" if key else ""),
                "whole turn ms": statistics.median(times),
                "statements": {text[:200]: round(count, 2) for text, count in of_turns.items()},
                "statements a turn": sum(count for text, count in of_turns.items() if not text.startswith(BRACKETS)),
                "commits": sum(count for text, count in of_turns.items() if _commits(store, text)),
                "database ms": 1000 * sum(spent[text] for text in of_turns),
                "samples": times,
            })  # fmt: skip
    return rows


def _commits(store: str, statement: str) -> bool:
    """Whether a statement ends a transaction: on PostgreSQL each one that writes and stands for itself."""
    if store == "SQLite":
        return statement.startswith("COMMIT")
    return any(word in statement for word in ("INSERT INTO", "UPDATE ", "DELETE FROM", "COMMIT")) and "FOR UPDATE" not in statement
