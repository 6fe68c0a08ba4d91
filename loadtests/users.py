"""Locust users: rules, flows, agent turns, streams, tasks, conversations, real messages. They speak the public API only and check every
answer, not just its status.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import Any

import gevent
from locust import between, task
from locust.contrib.fasthttp import FastHttpUser

from loadtests.workflows import made_messages, read_messages

STATIC_RULES = (
    "What are your opening hours?",
    "How much is shipping?",
    "can I pay with PayPal",
    "营业时间",
    "运费多少",
    "Where is your showroom?",
)
CALLING_RULES = ("Where is my order A{n}?", "查一下订单 A{n}", "Is the red kettle in stock?", "Do I have any coupons?")
AGENT_TURNS = ("I want to return order A{n}, it arrived damaged", "Can you recommend a coffee machine under $100?", "订单A{n}我要退货")
TERMINAL = ("complete", "error", "cancelled")
TIMINGS = ("first token", "gap between tokens")
POLL_SECONDS = 0.2


def message(choices: tuple[str, ...]) -> str:
    """One of the messages, about one of the forty orders."""
    return random.choice(choices).format(n=random.randint(1001, 1040))


class ApiUser(FastHttpUser):
    """A caller with a session of its own. Rules need an open session, so agent turns take a new one each."""

    abstract = True
    connection_timeout = 5.0
    network_timeout = 60.0

    def on_start(self) -> None:
        """A new session for each user."""
        self.session = f"load-{uuid.uuid4().hex[:12]}"

    def ask(self, kind: str, text: str, session: str, tier: str | None) -> None:
        """One turn by /api/v1/query; another tier than the one that is wanted (None: either) or an empty answer is a failure."""
        body = {"message": text, "session_id": session, "user_id": "u-2"}
        with self.client.post("/api/v1/query", json=body, name=kind, catch_response=True) as reply:
            if reply.status_code != 200:
                reply.failure(f"status {reply.status_code}")
                return
            doc = reply.json()
            if tier is not None and doc["route"]["tier"] != tier:
                reply.failure(f"answered by {doc['route']['tier']}, not {tier}")
            elif not doc["message"]:
                reply.failure("empty answer")


class RuleUser(ApiUser):
    """Asks what rules answer by themselves."""

    weight = 5
    wait_time = between(0.01, 0.05)

    @task
    def static_answer(self) -> None:
        """A rule without a call."""
        self.ask("rule, static answer", message(STATIC_RULES), self.session, "lightweight")


class FlowUser(ApiUser):
    """Asks what rules answer with the help of a business API."""

    weight = 2
    wait_time = between(0.01, 0.05)

    @task
    def answer_with_a_call(self) -> None:
        """A rule whose answer comes from the business API."""
        self.ask("rule, HTTP call", message(CALLING_RULES), self.session, "lightweight")


class AgentTurnUser(ApiUser):
    """Has an agent skill solve something, in one reply."""

    weight = 2
    wait_time = between(0.2, 1.0)

    @task
    def agent_turn(self) -> None:
        """A turn of several LLM and tool calls."""
        self.ask("agent turn", message(AGENT_TURNS), f"load-{uuid.uuid4().hex[:12]}", "heavy")


class Streamed:
    """What streams: measures the first token, the gaps between tokens, and the whole."""

    client: Any
    environment: Any

    def streamed(self, text: str, kind: str = "stream") -> None:
        """One streamed turn in a new session; anything but exactly one `complete` at the end is a failure."""
        body = {"message": text, "session_id": f"load-{uuid.uuid4().hex[:12]}", "user_id": "u-2"}
        started = time.perf_counter()
        last: float | None = started
        size, ends = 0, []
        problem: str | None = None
        try:
            with self.client.post("/api/v1/query/stream", json=body, name="open a stream", stream=True, catch_response=True) as reply:
                if reply.status_code != 200:
                    problem = f"status {reply.status_code}"
                    reply.failure(problem)
                for event in events(reply) if problem is None else ():
                    now = time.perf_counter()
                    if event["type"] == "text":
                        if last is not None:
                            self.measure("gap between tokens" if size else "first token", (now - last) * 1000)
                        last, size = now, size + len(event["data"]["delta"])
                    elif event["type"] in TERMINAL:
                        ends.append(event["type"])
                    elif size:
                        last = None  # a tool works: that is no gap between tokens
        except (OSError, HTTPException) as error:
            problem = f"connection: {error}"
        if problem is None and (ends != ["complete"] or size == 0):
            problem = f"ended with {ends or 'nothing'} after {size} characters"
        self.measure(kind, (time.perf_counter() - started) * 1000, problem)

    def measure(self, name: str, milliseconds: float, problem: str | None = None) -> None:
        """A figure of our own among Locust's."""
        self.environment.events.request.fire(
            request_type="TIMING" if name in TIMINGS else "POST", name=name, response_time=milliseconds, response_length=0,
            exception=RuntimeError(problem) if problem else None, context={},
        )  # fmt: skip


class StreamUser(ApiUser, Streamed):
    """Agent turns as streams."""

    weight = 2
    wait_time = between(0.2, 1.0)

    @task
    def stream(self) -> None:
        """One."""
        self.streamed(message(AGENT_TURNS))


class TaskUser(ApiUser):
    """Leaves work to be done later and asks until it is done."""

    weight = 1
    wait_time = between(0.5, 1.5)

    @task
    def work(self) -> None:
        """One task; its time is from the submission to the end."""
        body = {"message": message(AGENT_TURNS), "session_id": f"load-{uuid.uuid4().hex[:12]}", "user_id": "u-2"}
        began, problem = time.perf_counter(), None
        with self.client.post("/api/v1/query/async", json=body, name="submit a task", catch_response=True) as reply:
            if reply.status_code != 202:
                reply.failure(f"status {reply.status_code}")
                return
            path = f"/api/v1/task/{reply.json()['task_id']}"
        status = "pending"
        while status in ("pending", "running") and problem is None:
            gevent.sleep(POLL_SECONDS)
            with self.client.get(path, name="ask for a task", catch_response=True) as reply:
                problem = None if reply.status_code == 200 else f"status {reply.status_code}"
                status = reply.json()["status"] if problem is None else status
        if problem is None and status != "success":
            problem = f"the task is {status}"
        self.environment.events.request.fire(
            request_type="POST", name="task", response_time=(time.perf_counter() - began) * 1000, response_length=0,
            exception=RuntimeError(problem) if problem else None, context={},
        )  # fmt: skip


class ConversationUser(ApiUser):
    """Talks for a while in one session: a rule, an agent, a rule again, as people do."""

    weight = 2
    wait_time = between(0.2, 0.8)

    @task
    def talk(self) -> None:
        """One conversation. Which tier answers what in the middle of it is the agent's own affair."""
        session = f"load-{uuid.uuid4().hex[:12]}"
        self.ask("conversation, first word", message(STATIC_RULES), session, "lightweight")
        for text in (message(AGENT_TURNS), "yes, please", message(STATIC_RULES)):
            self.ask("conversation, later on", text, session, None)
            gevent.sleep(random.uniform(0.05, 0.2))


class RealTextUser(ApiUser):
    """Says what people have said: the messages of a file, or made ones of many words. Either tier may answer."""

    weight = 1
    wait_time = between(0.05, 0.2)

    def on_start(self) -> None:
        """Reads the messages once for each user."""
        super().on_start()
        named = getattr(self.environment.parsed_options, "messages", "")
        self.texts = read_messages(Path(named)) if named else made_messages(1000)

    @task
    def say(self) -> None:
        """One message in a session of its own."""
        self.ask("real message", random.choice(self.texts), f"load-{uuid.uuid4().hex[:12]}", None)


def events(reply: Any) -> Iterator[dict[str, Any]]:
    """{type, data} of each server-sent event of a response, as soon as it is there (`read` would wait for a full block)."""
    while line := reply.stream.readline(b"\n"):
        if line.startswith(b"data:"):
            yield json.loads(line[5:])
