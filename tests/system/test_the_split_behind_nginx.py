"""`loadsplit up` for real: Nginx, two processes of each tier, Redis, PostgreSQL, the simulators. What a newcomer does first; a kill -9."""

from __future__ import annotations

import itertools
import os
import re
import signal
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from tests.support.client import said
from tests.support.running import Running
from tests.support.services import PostgresServer, RedisServer, free_port, is_listening
from tests.support.shop import write_profile, write_workflow
from tests.support.waiting import wait_until_sync


class Split:
    """The running split and its processes."""

    def __init__(self, up: Running) -> None:
        wait_until_sync(lambda: "loadsplit is up" in up.log(), "up says where everything is")
        self.up, self.client = up, up.client
        found = re.findall(r"^\s+((?:lightweight|heavy)-\d)\s+http://127\.0\.0\.1:(\d+)", up.log(), re.M)
        self.ports = {name: int(port) for name, port in found}

    def metric(self, name: str, process: str) -> float:
        """The sum of a metric's samples in one process."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[process]}/metrics", timeout=5) as reply:
            text = reply.read().decode()
        return sum(float(value) for value in re.findall(rf"^{name}(?:\{{[^}}]*\}})? ([\d.e+-]+)$", text, re.M))

    def process(self, name: str) -> psutil.Process:
        """The process of a role."""
        port = str(self.ports[name])
        found = [p for p in psutil.Process(self.up.process.pid).children(recursive=True) if port in p.cmdline() and "--port" in p.cmdline()]
        assert len(found) == 1
        return found[0]

    def connections(self, name: str) -> int:
        """Open connections that a process has accepted."""
        open_now = self.process(name).net_connections(kind="tcp")
        return sum(c.status == psutil.CONN_ESTABLISHED and c.laddr.port == self.ports[name] for c in open_now)


@pytest.fixture(scope="module")
def split(redis_server: RedisServer, postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Split]:
    folder: Path = tmp_path_factory.mktemp("behind-nginx")
    llm, business, port = free_port(), free_port(), free_port()
    profile = write_profile(folder)
    env = {
        "OPENAI_API_KEY": "sk-test",
        "OPENAI_BASE_URL": f"http://127.0.0.1:{llm}/v1",
        "BUSINESS": f"http://127.0.0.1:{business}",
        "LOADSPLIT_REDIS_URL": f"redis://127.0.0.1:{redis_server.port}/13",
        "LOADSPLIT_DATABASE_URL": postgres_server.create_database(),
        "LOADSPLIT_DRAIN_SECONDS": "4",
    }
    with ExitStack() as stack:
        stack.enter_context(Running(["simulate", "llm", "--port", str(llm), "--profile", str(profile)], folder, port=llm, ready="/stats"))
        stack.enter_context(Running(["simulate", "business", "--port", str(business)], folder, port=business, ready="/effects"))
        arguments = ["up", "--config", str(write_workflow(folder)), "--port", str(port), "--lightweight", "2", "--heavy", "2"]
        yield Split(stack.enter_context(Running(arguments, folder, port=port, env=env)))


def test_a_rule_a_skill_and_a_conversation(split: Split) -> None:
    client = split.client
    rule = client.ask("opening hours", "up-1")
    assert (rule.json["message"], rule.headers["x-loadsplit-tier"]) == ("We open at 9.", "lightweight")
    assert client.ask("where is my order A1001?", "up-1").json["route"]["action_target"] == "order_status"
    events = list(client.stream("returns desk please", "up-1"))
    assert [e.data["name"] for e in events if e.type == "tool_result"] == ["get_order", "open_ticket"]
    assert [e.id for e in events] == list(range(1, len(events) + 1))
    assert said(events) == events[-1].data["message"]
    assert client.ask("returns desk, which one do you need?", "up-1").json["message"] == "Which order is it?"
    assert client.ask("opening hours", "up-1").json["route"]["matched_by"] == "conversation"
    assert client.ask("opening hours", "up-1").json["route"]["matched_by"] == "rule"
    assert len(client.messages("up-1")) == 14  # six turns; twice the text beside a tool call is a message of its own


def test_openais_client_talks_to_agents_and_models(split: Split) -> None:
    handed = sum(split.metric("loadsplit_handoffs_total", name) for name in ("lightweight-1", "lightweight-2"))
    with openai.OpenAI(base_url=f"{split.client.url}/v1", api_key="any", max_retries=0) as client:
        talk: list[Any] = []
        sessions, tiers = set(), []
        for text in ("opening hours", "tell me something", "opening hours", "tell me more", "opening hours"):
            talk.append({"role": "user", "content": text})
            raw = client.chat.completions.with_raw_response.create(model="shop", messages=talk)
            done: Any = raw.parse()
            talk.append({"role": "assistant", "content": done.choices[0].message.content})
            sessions.add(done.loadsplit["session_id"])
            tiers.append(raw.headers["x-loadsplit-tier"])
        assert tiers == ["lightweight", "heavy", "lightweight", "heavy", "lightweight"]
        assert len(sessions) == 1
        assert [text for _, text in split.client.messages(sessions.pop())] == [m["content"] for m in talk]
        long: Any = [{"role": "user", "content": "word " * 100_000}]
        whole = client.chat.completions.create(model="models/default", messages=long)
        assert whole.choices[0].message.content == "Plain words."
        with client.chat.completions.stream(model="models/default", messages=long[:1]) as stream:
            assert stream.get_final_completion().choices[0].message.content == "Plain words."
        assert {m.id for m in client.models.list()} == {"shop", "models/default"}
        with pytest.raises(openai.BadRequestError, match="n must be 1"):
            client.chat.completions.create(model="shop", messages=talk[:1], n=2)
    now = sum(split.metric("loadsplit_handoffs_total", name) for name in ("lightweight-1", "lightweight-2"))
    assert now == handed + 4  # two turns and two calls of a model: neither held a process of the rule tier


def test_streams_leave_the_lightweight_tier_at_once(split: Split) -> None:
    kept = sum(split.connections(f"lightweight-{n}") for n in (1, 2))
    streams = [split.client.stream("a slow story", f"up-2-{n}") for n in range(12)]
    first = [stream.take(3) for stream in streams]
    assert all(events[-1].type == "text" for events in first)
    assert sum(split.metric("loadsplit_turns_inflight", f"heavy-{n}") for n in (1, 2)) == 12
    assert sum(split.metric("loadsplit_requests_inflight", f"lightweight-{n}") for n in (1, 2)) <= 1  # the scrape itself
    assert sum(split.connections(f"lightweight-{n}") for n in (1, 2)) < kept + 12  # what Nginx keeps alive
    rests = [list(stream) for stream in streams]
    assert all(rest[-1].type == "complete" for rest in rests)


def test_both_heavy_replicas_serve(split: Split) -> None:
    sessions = itertools.count()

    def both() -> bool:
        """Nginx leaves a replica that was killed out for two seconds."""
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: split.client.ask("tell me something", f"up-3-{next(sessions)}"), range(16)))
        assert {a.status for a in answers} == {200}
        return all(split.metric("loadsplit_turns_total", f"heavy-{n}") for n in (1, 2))

    wait_until_sync(both, "both replicas have ended turns")


@pytest.mark.long
def test_a_hangup_starts_the_tiers_again_one_after_the_other(split: Split) -> None:
    """Every process of the tiers is another one afterwards; no request has failed, and a stream that ran is complete."""
    names = ("lightweight-1", "lightweight-2", "heavy-1", "heavy-2")
    before = {split.process(name).pid for name in names}
    streams = [split.client.stream("one by one", f"up-5-s{n}") for n in range(4)]
    asked = itertools.count()
    os.kill(split.up.process.pid, signal.SIGHUP)

    def rolled() -> bool:
        with ThreadPoolExecutor(8) as pool:
            messages = ["opening hours", "tell me something"] * 4
            answers = list(pool.map(lambda m: split.client.ask(m, f"up-5-{next(asked)}"), messages))
        assert {(a.status, a.json.get("message")) for a in answers} == {(200, "We open at 9."), (200, "Plain words.")}
        return "4 processes were started again" in split.up.log()

    wait_until_sync(rolled, "all were started again", 50)
    assert [list(stream)[-1].type for stream in streams] == ["complete"] * 4
    assert before & {split.process(name).pid for name in names} == set()


def test_what_is_private_stays_private(split: Split) -> None:
    for path in ("/metrics", "/admin", "/admin/api/x"):
        assert split.client.call("GET", path).status == 404
    answer = split.client.ask("opening hours", "up-4", headers={"X-Accel-Redirect": "/metrics", "X-Loadsplit-Ticket": "v1.x.y"})
    assert answer.json["message"] == "We open at 9."
    assert not [name for name in answer.headers if name.startswith("x-accel") or name in ("x-loadsplit-ticket", "x-loadsplit-session")]
    assert b"<html" in split.client.call("GET", "/").body


def test_a_killed_replica_is_not_missed(split: Split) -> None:
    sessions = [f"up-killed-{n}" for n in range(6)]
    for session in sessions:
        split.client.ask("opening hours", session)
        split.client.ask("tell me something", session)
    before = {session: split.client.messages(session) for session in sessions}
    victim = split.process("heavy-1")
    victim.kill()
    for session in sessions:
        answer = split.client.ask("tell me something", session)
        assert (answer.status, answer.json.get("message")) == (200, "Plain words."), answer.body
        history = split.client.messages(session)
        assert history[:4] == before[session]
        assert len(history) == 6
    wait_until_sync(lambda: is_listening(split.ports["heavy-1"]), "it is started again", 30)
