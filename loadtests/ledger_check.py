"""Whether the ledger says what the provider has told, to the token: calls with streams, caches, retries, fail-overs, cancels and faults.

`python -m loadtests.ledger_check [--calls 10000] [--callers 64] [--database URL]` starts the LLM simulator, which keeps count of what its
replies have told, and one loadsplit (on SQLite unless a URL is given). It compares both by model, and the day's sums with their lines; then
many callers at once spend a budget. Exit 1 when something is not as it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from loadtests.processes import Process, free_port, wait_listening, wait_ready

LOADSPLIT = str(Path(sys.executable).with_name("loadsplit"))
KINDS = ("input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens")
MODELS = ("gpt", "claude", "small")
MOST_OUTPUT = 400
OUTPUT_PRICE, INPUT_PRICE = 40.0, 12.5  # US dollars for a million tokens, the dearest
SETTLED_SECONDS = 60.0
WORKFLOW = {
    "agent_id": "audited",
    "basic_settings": {"name": "Shop", "description": "It is patient, and it knows every kettle of the house. " * 6},
    "models": {"intent": "intent"},
    "skills": [
        {
            "skill_id": "advice",
            "description": "Advice on which kettle to buy",
            "trigger_patterns": ["advice"],
            "execution_mode": "agent",
            "system_prompt": "You give advice on kettles. " + "Say what it costs, how long it takes, and what it is made of. " * 6,
            "require_done_tool": False,
        }
    ],
}
PROFILE: Mapping[str, Any] = {
    "first_token_ms": 1,
    "token_ms": 0,
    "seed": 7,
    "cache_writes": True,
    "rules": [{"when": {"user": "^slow", "stream": True}, "text": "and then it went on and on " * 40, "token_ms": 8}],
    "faults": [
        {"kind": "500", "probability": 0.03, "when": {"model": "gpt"}},
        {"kind": "429", "probability": 0.03, "retry_after": 0.05, "when": {"model": "small"}},
        {"kind": "529", "probability": 0.03, "when": {"model": "claude"}},
        {"kind": "eof", "every": 31, "after_tokens": 4, "when": {"model": "gpt", "stream": True}},
        {"kind": "garbage", "every": 43, "after_tokens": 3, "when": {"model": "gpt", "stream": True}},
        {"kind": "reset", "every": 53, "when": {"model": "gpt"}},
        {"kind": "error_event", "every": 23, "after_tokens": 2, "when": {"model": "claude", "stream": True}},
        {"kind": "error_event", "every": 37, "when": {"model": "small"}},
        {"kind": "truncated_tool_json", "every": 29, "when": {"model": "small"}},
        {"kind": "held_open", "every": 61, "seconds": 0.05, "when": {"model": "gpt", "stream": True}},
    ],
}


@dataclass
class Books:
    """The ledger's lines of a run, by model."""

    calls: Counter[str] = field(default_factory=Counter)
    estimated: Counter[str] = field(default_factory=Counter)
    told: dict[str, Counter[str]] = field(default_factory=dict)
    outcomes: Counter[str] = field(default_factory=Counter)
    all_tokens: Counter[str] = field(default_factory=Counter)
    nano_dollars: int = 0
    largest_input: int = 0

    def add(self, line: Mapping[str, Any]) -> None:
        """Takes a line."""
        model = line["model"]
        self.calls[model] += 1
        self.outcomes[line["outcome"]] += 1
        self.estimated[model] += line["estimated"]
        self.nano_dollars += round(line["cost_usd"] * 1e9)
        self.largest_input = max(self.largest_input, line["input_tokens"])
        for kind in KINDS:
            self.all_tokens[kind] += line[kind]
            if not line["estimated"]:
                self.told.setdefault(model, Counter())[kind] += line[kind]


class Run:
    """A running loadsplit and its simulator."""

    def __init__(self, http: aiohttp.ClientSession, url: str, llm: str, folder: Path, database: str) -> None:
        self._http, self._url, self._llm = http, url, llm
        self._folder, self._database = folder, database
        self._random = random.Random(11)
        self.statuses: Counter[str] = Counter()

    async def talk(self, calls: int, at_once: int = 32) -> None:
        """Turns of all kinds, until the simulator has had so many calls."""
        made = 0

        async def one(number: int) -> None:
            nonlocal made
            while made < calls:
                await self._turn(number)
                if number == 0:
                    made = (await self.stats())["calls"]

        await asyncio.gather(*(one(n) for n in range(at_once)))

    async def stats(self) -> Any:
        """What the simulator has counted."""
        async with self._http.get(f"{self._llm}/stats") as reply:
            return await reply.json()

    async def books(self) -> Books:
        """All lines of the ledger, once they are as many as the simulator has had calls; as they are after a while if they never are."""
        end = time.monotonic() + SETTLED_SECONDS
        while True:
            books = await self._lines()
            stats = await self.stats()
            if (not stats["open"] and stats["calls"] == books.calls.total()) or time.monotonic() > end:
                return books
            await asyncio.sleep(0.3)

    async def _lines(self) -> Books:
        books, more = Books(), ""
        while True:
            page = await self._get(f"/admin/api/calls?limit=1000{more}")
            for line in page["calls"]:
                books.add(line)
            if page["next_cursor"] is None:
                return books
            more = f"&cursor={page['next_cursor']}"

    async def total(self) -> Any:
        """The sum of the day's sums."""
        return (await self._get("/admin/api/costs?group_by="))["total"]

    async def spend(self, callers: int, dollars: float) -> float:
        """Callers at once, each until its tenant's budget is spent; what was spent beyond the budget, in US dollars."""
        limit = round((await self.total())["cost_usd"] + dollars, 6)
        command = [LOADSPLIT, "tenants", "set", "default", "--cost-usd-per-day", str(limit)]
        env = {"LOADSPLIT_DATABASE_URL": self._database, "PATH": "/usr/bin:/bin"}
        await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True, cwd=self._folder, env=env)

        await self._know(limit)

        async def one(number: int) -> None:
            while True:
                body = {"message": f"tell me something {number}", "session_id": f"budget-{number}-{self._random.random()}"}
                async with self._http.post(f"{self._url}/api/v1/query", json=body) as reply:
                    document = await reply.json()
                if document.get("code") == "budget_exceeded" and document["retry_after"] > 1:
                    return

        await asyncio.wait_for(asyncio.gather(*(one(n) for n in range(callers))), 300)
        await self.books()
        return float((await self.total())["cost_usd"]) - limit

    async def _know(self, limit: float) -> None:
        """Returns once the budget is in force: every process knows it within two seconds."""
        while True:
            tenants = (await self._get("/admin/api/tenants"))["tenants"]
            if limit in [t["limits"]["cost_usd_per_day"] for t in tenants if t["tenant"] == "default"]:
                return
            await asyncio.sleep(0.1)

    async def _turn(self, number: int) -> None:
        kind = self._random.random()
        session = f"s{number}-{self._random.randrange(40)}"
        words = self._random.choice(("tell me something", "advice please", "hello", "讲个故事", "tell me " + "more " * 60))
        if kind < 0.45:
            await self._ask("query", {"message": words, "session_id": session})
        elif kind < 0.9:
            await self._ask("query/stream", {"message": words, "session_id": session})
        else:
            await self._cancelled({"message": "slow, please", "session_id": f"{session}-{self._random.random()}"})

    async def _ask(self, path: str, body: Mapping[str, str]) -> None:
        async with self._http.post(f"{self._url}/api/v1/{path}", json=body) as reply:
            await reply.read()
            self.statuses[f"{path} {reply.status}"] += 1

    async def _cancelled(self, body: Mapping[str, str]) -> None:
        """A stream whose turn is cancelled once text has come."""
        async with self._http.post(f"{self._url}/api/v1/query/stream", json=body) as reply:
            turn_id, texts = "", 0
            async for raw in reply.content:
                if not raw.startswith(b"data: "):
                    continue
                event = json.loads(raw[6:])
                turn_id = event["data"].get("turn_id", turn_id) if event["type"] == "start" else turn_id
                texts += event["type"] == "text"
                if texts == 3 and event["type"] == "text":
                    async with self._http.post(f"{self._url}/api/v1/turns/{turn_id}/cancel") as answer:
                        await answer.read()
                    self.statuses["cancelled"] += 1

    async def _get(self, path: str) -> Any:
        async with self._http.get(self._url + path) as reply:
            document = await reply.json()
            if reply.status != 200:
                raise RuntimeError(f"{path}: {reply.status} {document}")
            return document


def findings(books: Books, stats: Mapping[str, Any], total: Mapping[str, Any]) -> list[str]:
    """What is not as it should be."""
    wrong = []
    for model in sorted({*books.calls, *stats["by_model"]}):
        pairs = {"calls": (books.calls[model], stats["by_model"].get(model, 0))}
        pairs |= {kind: (books.told.get(model, Counter())[kind], stats["told"].get(model, {}).get(kind, 0)) for kind in KINDS}
        wrong += [f"{model} {what}: the ledger has {mine}, the simulator {its}" for what, (mine, its) in pairs.items() if mine != its]
    sums = {"calls": books.calls.total(), **books.all_tokens, "nano-dollars": books.nano_dollars}
    told = {"calls": total["calls"], **{kind: total[kind] for kind in KINDS}, "nano-dollars": round(total["cost_usd"] * 1e9)}
    return wrong + [f"the day's sum of {what} is {told[what]}, its lines make {sums[what]}" for what in told if told[what] != sums[what]]


@contextmanager
def started(folder: Path, database: str | None) -> Iterator[tuple[str, str, str]]:
    """The simulator and a loadsplit; their addresses, and the database's."""
    llm, port = free_port(), free_port()
    address = database or f"sqlite:///{folder}/loadsplit.db"
    (folder / "profile.json").write_text(json.dumps(PROFILE))
    (folder / "workflow.json").write_text(json.dumps(WORKFLOW))
    (folder / "models.json").write_text(json.dumps({"models": _models(f"http://127.0.0.1:{llm}/v1")}))
    settings = {
        "LOADSPLIT_MODELS": folder / "models.json",
        "LOADSPLIT_DATABASE_URL": address,
        "LOADSPLIT_LOG_LEVEL": "error",
        "OPENAI_API_KEY": "k",
        "ANTHROPIC_API_KEY": "k",
    }
    with ExitStack() as stack:
        command = [LOADSPLIT, "simulate", "llm", "--port", str(llm), "--profile", str(folder / "profile.json")]
        wait_listening(llm, stack.enter_context(Process(command, log=folder / "llm.log")))
        environment = ["env", *(f"{name}={value}" for name, value in settings.items())]
        serve = [LOADSPLIT, "serve", "--config", str(folder / "workflow.json"), "--port", str(port), "--data-dir", str(folder)]
        process = stack.enter_context(Process([*environment, *serve], log=folder / "serve.log"))
        wait_ready(f"http://127.0.0.1:{port}/readyz", process)
        yield f"http://127.0.0.1:{port}", f"http://127.0.0.1:{llm}", address


def _models(base_url: str) -> dict[str, Any]:
    prices = {"input": 10.0, "cached_input": 1.0, "cache_write": INPUT_PRICE, "output": OUTPUT_PRICE}
    common = {"base_url": base_url, "max_tokens": MOST_OUTPUT, "prices": prices}
    gpt, claude = {"provider": "openai", "model": "gpt", **common}, {"provider": "anthropic", "model": "claude", **common}
    return {"default": {"targets": [gpt, claude]}, "intent": {"targets": [{"provider": "anthropic", "model": "small", **common}]}}


async def check(calls: int, callers: int, database: str | None, folder: Path) -> list[str]:
    """A whole run, printed; what is not as it should be."""
    with started(folder, database) as (url, llm, address):
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(120)) as http:
            run = Run(http, url, llm, folder, address)
            began = time.monotonic()
            await run.talk(calls)
            seconds = time.monotonic() - began
            books, stats = await run.books(), await run.stats()
            wrong = findings(books, stats, await run.total())
            print(f"{books.calls.total()} calls in {seconds:.0f} s: {dict(books.outcomes)}; replies: {dict(run.statuses)}")
            print(f"faults of the simulator: {stats['faults']}")
            for model in MODELS:
                told = ", ".join(f"{kind} {books.told.get(model, Counter())[kind]}" for kind in KINDS)
                print(f"{model}: {books.calls[model]} calls, of which {books.estimated[model]} are estimated; told: {told}")
            if callers:
                wrong += await _budget(run, callers, books)
    return wrong


async def _budget(run: Run, callers: int, books: Books) -> list[str]:
    mean = books.nano_dollars / 1e9 / max(1, books.calls.total())
    one = (MOST_OUTPUT * OUTPUT_PRICE + books.largest_input * INPUT_PRICE) / 1e6
    over = await run.spend(callers, 3 * callers * mean)
    print(f"{callers} callers at once have passed their budget by ${over:.6f}; one call may cost ${one:.6f} at most")
    if over < 0:
        return [f"${-over:.6f} of the budget was left, but refused"]
    return [f"the budget was passed by ${over:.6f}, more than the ${one:.6f} of one call"] if over > one else []


def main() -> int:
    """The command; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.ledger_check", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--calls", type=int, default=10_000, help="at least so many calls of models [10000]")
    parser.add_argument("--callers", type=int, default=64, help="that spend a budget at once; 0 for none [64]")
    parser.add_argument("--database", help="a postgresql:// URL of an empty database [SQLite]")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="loadsplit-ledger-") as folder:
        wrong = asyncio.run(check(given.calls, given.callers, given.database, Path(folder)))
    for line in wrong:
        print(f"WRONG: {line}")
    print("the ledger and the simulator agree" if not wrong else f"{len(wrong)} differences")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
