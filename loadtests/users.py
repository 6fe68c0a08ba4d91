"""Locust users: rule hits, agent turns, streams. They speak the public API only and check every answer, not just its status."""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Iterator
from http.client import HTTPException
from typing import Any

from locust import between, task
from locust.contrib.fasthttp import FastHttpUser

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

    def ask(self, kind: str, text: str, session: str, tier: str) -> None:
        """One turn by /api/v1/query; a wrong tier or an empty answer is a failure."""
        body = {"message": text, "session_id": session, "user_id": "u-2"}
        with self.client.post("/api/v1/query", json=body, name=kind, catch_response=True) as reply:
            if reply.status_code != 200:
                reply.failure(f"status {reply.status_code}")
                return
            doc = reply.json()
            if doc["route"]["tier"] != tier:
                reply.failure(f"answered by {doc['route']['tier']}, not {tier}")
            elif not doc["message"]:
                reply.failure("empty answer")


class RuleUser(ApiUser):
    """Asks what rules answer: mostly static answers, one in four with an HTTP call."""

    weight = 6
    wait_time = between(0.01, 0.05)

    @task(3)
    def static_answer(self) -> None:
        """A rule without a call."""
        self.ask("rule, static answer", message(STATIC_RULES), self.session, "lightweight")

    @task(1)
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


class StreamUser(ApiUser):
    """The same as a stream: measures the first token and the gaps between tokens."""

    weight = 2
    wait_time = between(0.2, 1.0)

    @task
    def stream(self) -> None:
        """One streamed turn; anything but exactly one `complete` at the end is a failure."""
        body = {"message": message(AGENT_TURNS), "session_id": f"load-{uuid.uuid4().hex[:12]}", "user_id": "u-2"}
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
        self.measure("stream", (time.perf_counter() - started) * 1000, problem)

    def measure(self, name: str, milliseconds: float, problem: str | None = None) -> None:
        """A figure of our own among Locust's."""
        self.environment.events.request.fire(
            request_type="POST" if name == "stream" else "TIMING", name=name, response_time=milliseconds, response_length=0,
            exception=RuntimeError(problem) if problem else None, context={},
        )  # fmt: skip


def events(reply: Any) -> Iterator[dict[str, Any]]:
    """{type, data} of each server-sent event of a response, as soon as it is there (`read` would wait for a full block)."""
    while line := reply.stream.readline(b"\n"):
        if line.startswith(b"data:"):
            yield json.loads(line[5:])
