"""Rolling restarts of both tiers behind Nginx under load: no request fails, streams end or are read on elsewhere."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.client import Client, StreamEvent, said
from tests.support.fault_agents import write_agents, write_models
from tests.support.fronted import Fronted, fronted
from tests.support.odd_api import OddApi
from tests.support.running import Running

CLIENTS = 12
LEFT_OUT = 3.2  # seconds: Nginx leaves out a replica that has refused a connection for two, but counts whole ones; and a little more


@dataclass
class Load:
    """Clients who ask one thing after another until they are told to stop; what they got, and every failure in full."""

    client: Client
    stop: threading.Event = field(default_factory=threading.Event)
    answered: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    resumed: int = 0

    def run(self, number: int) -> None:
        """One client: rules, LLM turns and streams in turn, each in a session of its own."""
        kinds = itertools.cycle(("rule", "rule", "turn", "stream"))
        for n in itertools.count():
            if self.stop.is_set():
                return
            kind, session = next(kinds), f"roll-{number}-{n}"
            try:
                getattr(self, kind)(session)
                self.answered[kind] += 1
            except (OSError, http.client.HTTPException, AssertionError) as e:
                self.failures.append(f"{kind} {session}: {type(e).__name__}: {e}")

    def rule(self, session: str) -> None:
        """A rule hit."""
        answer = self.client.ask("opening hours", session)
        assert (answer.status, answer.json.get("message")) == (200, "We open at 9."), answer.body

    def turn(self, session: str) -> None:
        """A whole LLM turn."""
        answer = self.client.ask("one by one", session)
        assert (answer.status, answer.json.get("message")) == (200, "Answered."), answer.body

    def stream(self, session: str) -> None:
        """A stream of a skill with two tool calls, read on where it breaks."""
        seen: list[StreamEvent] = []
        stream = self.client.stream("returns desk please", session)
        assert stream.status == 200
        while not (seen and seen[-1].type in ("complete", "error", "cancelled")):
            with contextlib.suppress(OSError, http.client.HTTPException, json.JSONDecodeError):
                seen.extend(stream)
            if seen[-1].type != "complete":
                self.resumed += 1
                stream = self.client.resume(seen[0].data["turn_id"], seen[-1].id)
        assert [e.id for e in seen] == list(range(1, len(seen) + 1))
        assert said(seen) == seen[-1].data["message"] == "Let me look.\n\nYour return is open."


@pytest.fixture
def split(
    llm: Running, env: dict[str, str], redis_database: str, postgres_database: str, odd_api: OddApi, tmp_path: Path
) -> Iterator[Fronted]:
    """The split behind Nginx; its processes have six seconds to end."""
    stores = {"LOADSPLIT_REDIS_URL": redis_database, "LOADSPLIT_DATABASE_URL": postgres_database, "LOADSPLIT_DRAIN_SECONDS": "6"}
    models = {"LOADSPLIT_MODELS": str(write_models(tmp_path, llm.url, odd_api.url))}
    with fronted(write_agents(tmp_path, odd_api.port), tmp_path, {**env, **stores, **models}) as split:
        yield split


def restart(split: Fronted, rounds: int) -> Load:
    """Restarts every replica of both tiers so many times, one after the other, while clients ask."""
    load = Load(split.client)
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(load.run, n) for n in range(CLIENTS)]
        try:
            for _ in range(rounds):
                for process in (*split.lightweight, *split.heavy):
                    assert process.stop() == 0
                    process.start()
                    time.sleep(LEFT_OUT)
        finally:
            load.stop.set()
        for client in clients:
            client.result()
    return load


def assert_nothing_failed(load: Load, split: Fronted) -> None:
    assert load.failures == [], split.nginx_log.read_text()[-4000:]
    assert min(load.answered[kind] for kind in ("rule", "turn", "stream")) > 50
    assert '"exception"' not in split.logs()


@pytest.mark.timeout(240)
def test_a_restart_of_every_replica(split: Fronted) -> None:
    assert_nothing_failed(restart(split, 1), split)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_twenty_restarts_of_every_tier(split: Fronted) -> None:
    assert_nothing_failed(restart(split, 10), split)
