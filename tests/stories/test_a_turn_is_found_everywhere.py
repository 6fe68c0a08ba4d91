"""One turn with three calls of tools, on a split: stored steps, log line, trace and metrics tell the same of it; and none of them tells a
secret or an e-mail address, by whichever way those came in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.stories.conftest import environment
from tests.support.client import Answer
from tests.support.collector import Collector
from tests.support.receiver import Receiver
from tests.support.running import Running
from tests.support.services import PostgresServer, free_port
from tests.support.shop import WORKFLOW, write_profile, write_workflow
from tests.support.split import Split, metric, split_of
from tests.support.threaded import served
from tests.support.waiting import wait_until_sync

RID = "5f2c1a9b8e7d6c5b4a39281706f5e4d3"
CALLER_TRACE, CALLER_SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
EMAIL = "ann.unseen@example.org"
# No prefix that would give it away: what is called a secret by name only.
SECRET = "c0ffee11c0ffee22c0ffee33"
STEPS: list[dict[str, Any]] = [
    {"when": {"user": "quote me"}, "tool_calls": [{"name": "broken", "arguments": {"why": f"{EMAIL} token={SECRET}"}}]},
    {"when": {"tool_results": 0}, "text": "Let me look.", "tool_calls": [{"name": "get_order", "arguments": {"order_id": "A1001"}}]},
    {"when": {"tool_results": 1}, "tool_calls": [{"name": "get_order", "arguments": {"order_id": "A1002"}}]},
    {"when": {"tool_results": 2}, "tool_calls": [{"name": "open_ticket", "arguments": {"order_id": "A1001", "reason": "lid"}}]},
    {"when": {"tool_results": 3}, "tool_calls": [{"name": "done", "arguments": {"message": "Your return is open."}}]},
]
BROKEN = {
    "name": "broken",
    "description": "Breaks",
    "parameters": {"type": "object", "properties": {"why": {"type": "string"}}},
    "endpoint": {
        "url": "${BROKEN}/quote",
        "method": "POST",
        "headers": {"Authorization": "Bearer ${DESK_SECRET}", "X-Mail": "{mail}"},
        "body": {"why": "{why}"},
        "retries": 0,
    },
}


@dataclass
class Shop:
    """The split, and what listens to it."""

    split: Split
    collector: Collector
    hooks: Receiver
    quoted: list[str]

    def ask(self, message: str, session: str, headers: dict[str, str], **more: Any) -> Answer:
        return self.split.client.call("POST", "/api/v1/query", {"message": message, "session_id": session, **more}, headers=headers)

    def admin(self, path: str) -> Any:
        """What heavy's admin API answers: lightweight passes it on, where no Nginx stands in front."""
        return self.split.heavy[0].client.call("GET", f"/admin/api/{path}").json

    def lines(self, turn_id: str) -> list[dict[str, Any]]:
        """The lines of a turn's end, of all processes."""
        lines = [json.loads(line) for line in self.split.logs().splitlines() if line.startswith("{")]
        return [line for line in lines if line["message"] == "turn ended" and line["turn_id"] == turn_id]

    def pages(self) -> str:
        """The metrics of all processes."""
        return "".join(r.client.call("GET", "/metrics").body.decode() for r in (self.split.lightweight, *self.split.heavy))


class Quoting(BaseHTTPRequestHandler):
    """An API that fails, and quotes in its error all that it was sent."""

    quoted: list[str]

    def do_POST(self) -> None:
        text = f"{self.headers}{self.rfile.read(int(self.headers['content-length'])).decode()}"
        self.quoted.append(text)
        self.send_response(500)
        self.send_header("content-length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@pytest.fixture(scope="module")
def shop(folder: Path, business: Running, redis_url: str, postgres_server: PostgresServer) -> Iterator[Shop]:
    place = folder / "found"
    place.mkdir(exist_ok=True)
    skill = {**WORKFLOW["skills"][0], "tools": ["get_order", "open_ticket", "broken"]}
    config = write_workflow(place, tools=[*WORKFLOW["tools"], BROKEN], skills=[skill])
    port = free_port()
    arguments = ["simulate", "llm", "--port", str(port), "--profile", str(write_profile(place, rules=STEPS, faults=[]))]
    handler = type("Handler", (Quoting,), {"quoted": []})
    with (
        Collector() as collector,
        Receiver() as hooks,
        served(handler, lambda: None) as broken,
        Running(arguments, place, port=port, ready="/stats") as llm,
    ):
        env = {
            **environment("openai", llm, business),
            "LOADSPLIT_REDIS_URL": f"{redis_url.rpartition('/')[0]}/13",
            "LOADSPLIT_DATABASE_URL": postgres_server.create_database(),
            "LOADSPLIT_EGRESS_ALLOW": hooks.allowed,
            "LOADSPLIT_TURN_LOG": "all",
            "LOADSPLIT_LOG_LEVEL": "debug",
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "BROKEN": f"http://127.0.0.1:{broken}",
            "DESK_SECRET": SECRET,
        }
        with split_of(config, place, env, replicas=1) as split:
            yield Shop(split, collector, hooks, handler.quoted)  # type: ignore[attr-defined]


def test_one_turn_tells_the_same_everywhere(shop: Shop) -> None:
    heavy = shop.split.heavy[0].client
    names = {"input": "llm_tokens_total", "output": "llm_tokens_total", "calls": "llm_calls_total"}
    before = {kind: metric(heavy, name, **({} if kind == "calls" else {"kind": kind})) for kind, name in names.items()}
    reply = shop.ask("the returns desk, please", "found-1", {"X-Request-Id": RID}).json
    usage = reply["usage"]
    assert (reply["message"], usage["llm_calls"]) == ("Let me look.\n\nYour return is open.", 4)

    (turn,) = shop.admin(f"turns?request_id={RID}")["turns"]
    wait_until_sync(lambda: len(shop.admin(f"turns/{turn['turn_id']}")["steps"]) >= 9, "the calls are in the ledger")
    trace = shop.admin(f"turns/{turn['turn_id']}")
    calls = [s for s in trace["steps"] if s["kind"] == "llm_call"]
    tools = [s for s in trace["steps"] if s["kind"] == "tool_call" and s["name"] != "done"]
    assert (turn["turn_id"], turn["usage"], trace["reply"]) == (reply["turn_id"], usage, reply)
    assert [(t["name"], t["ok"]) for t in tools] == [("get_order", True), ("get_order", True), ("open_ticket", True)]
    assert {kind: sum(c[kind] for c in calls) for kind in ("input_tokens", "cached_tokens", "output_tokens")} == {
        kind: usage[kind] for kind in ("input_tokens", "cached_tokens", "output_tokens")
    }
    assert sum(c["cost_usd"] for c in calls) == pytest.approx(usage["cost_usd"])
    assert [s["kind"] for s in trace["steps"]][:3] == ["asked", "llm_call", "said"]

    wait_until_sync(lambda: shop.lines(reply["turn_id"]), "the turn has its line")
    (line,) = shop.lines(reply["turn_id"])
    assert (line["request_id"], line["trace_id"], line["tool_calls"], line["ms"]) == (RID, RID, 3, turn["ms"])
    assert {name: line[name] for name in usage} == usage

    wait_until_sync(lambda: shop.collector.named(RID, "invoke_agent"), "the turn's span is there")
    wait_until_sync(lambda: len(shop.collector.named(RID, "POST /api/v1/query")) == 2, "the spans of both tiers are there")
    (light,) = [s for s in shop.collector.trace(RID) if s.service == "loadsplit-lightweight"]
    (server,) = [s for s in shop.collector.named(RID, "POST /api/v1/query") if s.service == "loadsplit-heavy"]
    (agent,) = shop.collector.named(RID, "invoke_agent")
    assert [light.parent_id, server.parent_id, agent.parent_id] == ["", light.span_id, server.span_id]
    chats, executed = shop.collector.named(RID, "chat "), shop.collector.named(RID, "execute_tool ")
    assert {s.parent_id for s in (*chats, *executed)} == {agent.span_id}
    assert [(s.attributes["gen_ai.tool.name"], round(1000 * (s.ended - s.began), 1)) for s in executed] == [
        (t["name"], t["ms"]) for t in tools
    ]
    assert [s.attributes["loadsplit.call_id"] for s in chats] == [c["call_id"] for c in calls]
    assert [s.attributes["gen_ai.usage.input_tokens"] for s in chats] == [c["input_tokens"] for c in calls]
    assert {name: agent.attributes[f"loadsplit.{name}"] for name in usage} == usage
    assert agent.attributes["loadsplit.tool_calls"] == 3
    assert len(shop.collector.named(RID, "GET ")) == 2  # the orders: calls of the API under the tools

    after = {kind: metric(heavy, name, **({} if kind == "calls" else {"kind": kind})) for kind, name in names.items()}
    counted = {kind: after[kind] - before[kind] for kind in names}
    assert counted == {"calls": 4, "input": usage["input_tokens"] - usage["cached_tokens"], "output": usage["output_tokens"]}


def test_a_rules_turn_is_found_too(shop: Shop) -> None:
    parent = {"traceparent": f"00-{CALLER_TRACE}-{CALLER_SPAN}-01", "X-Request-Id": "rule-1"}
    reply = shop.ask("opening hours", "found-2", parent).json
    wait_until_sync(lambda: shop.admin("turns?request_id=rule-1")["turns"], "the turn is in the database")
    (turn,) = shop.admin("turns?request_id=rule-1")["turns"]
    wait_until_sync(lambda: shop.lines(reply["turn_id"]), "the turn has its line")
    (line,) = shop.lines(reply["turn_id"])
    assert (turn["turn_id"], turn["route"]["tier"]) == (reply["turn_id"], "lightweight")
    assert (line["request_id"], line["action_target"], line["trace_id"]) == ("rule-1", "hours", CALLER_TRACE)
    wait_until_sync(lambda: shop.collector.trace(CALLER_TRACE), "the span is there")
    (span,) = shop.collector.trace(CALLER_TRACE)
    assert (span.parent_id, span.service) == (CALLER_SPAN, "loadsplit-lightweight")
    assert (span.attributes["loadsplit.turn_id"], span.attributes["loadsplit.matched_by"]) == (reply["turn_id"], "rule")


def test_a_task_and_its_webhook_are_in_the_trace(shop: Shop) -> None:
    trace_id = CALLER_TRACE[::-1]
    body = {"message": "the returns desk, please", "session_id": "found-3", "webhook": {"url": f"{shop.hooks.url}/hook"}}
    headers = {"traceparent": f"00-{trace_id}-{CALLER_SPAN}-01"}
    assert shop.split.client.call("POST", "/api/v1/query/async", body, headers=headers).status == 202
    wait_until_sync(lambda: shop.collector.named(trace_id, "deliver task.completed"), "the delivery's span is there", 40)
    wait_until_sync(lambda: shop.collector.named(trace_id, "invoke_agent"), "the turn's span is there")
    names = [s.name for s in shop.collector.trace(trace_id)]
    assert [n for n in names if n.startswith("execute_tool")] == [
        "execute_tool get_order",
        "execute_tool get_order",
        "execute_tool open_ticket",
    ]
    assert "invoke_agent shop" in names


def deliveries(shop: Shop) -> list[str]:
    """The spans of webhooks that were told of tasks."""
    return [s.span_id for s in list(shop.collector.spans) if s.name == "deliver task.completed"]


def test_secrets_and_personal_data_stay_inside(shop: Shop) -> None:
    said = f"returns desk: quote me to {EMAIL}, password={SECRET}"
    headers = {"X-Request-Id": "secret-1", "X-Api-Key": SECRET, "Cookie": f"session={SECRET}", "Referer": f"https://x/?mail={EMAIL}"}
    context = {"mail": EMAIL, "api_key": SECRET}
    hook = {"url": f"{shop.hooks.url}/quiet?token={SECRET}"}
    task = {"message": said, "session_id": "quiet-2", "context": context, "webhook": hook}
    before = len(deliveries(shop))
    assert shop.ask(said, EMAIL, headers, context=context, user_id=EMAIL).status == 200
    assert shop.split.client.call("POST", "/api/v1/query/async", task, headers=headers).status == 202
    wait_until_sync(lambda: shop.hooks.at(f"/quiet?token={SECRET}"), "the webhook hears of the task", 40)
    wait_until_sync(lambda: len(deliveries(shop)) > before, "all spans are there")
    assert all(SECRET in text and EMAIL in text for text in shop.quoted)  # the API itself was sent them
    assert len(shop.quoted) >= 2
    told = {
        "logs": shop.split.logs(),
        "metrics": shop.pages(),
        "spans": b"".join(shop.collector.bodies).decode("latin-1"),
        "webhook": shop.hooks.at(f"/quiet?token={SECRET}")[0].body.decode(),
        "stats": json.dumps(shop.admin("stats")["rules"]),
    }
    assert {where for where, text in told.items() if SECRET in text or EMAIL in text} == set()
    assert [turn["session_id"] for turn in shop.admin("turns?request_id=secret-1")["turns"]].count(EMAIL) == 1  # the database has it
