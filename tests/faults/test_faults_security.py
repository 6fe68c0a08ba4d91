"""Forged tickets and headers, harmful patterns, secrets that must not be seen, and workflow files that are refused before they do harm."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from common.contracts.ticket import Plan, Ticket, sign
from tests.faults.conftest import LLM_KEY, SHOP_TOKEN, TICKET_SECRET
from tests.support.odd_api import OddApi
from tests.support.running import LOADSPLIT
from tests.support.split import Split

SAFE_MILLISECONDS = 5.0


def ticket_of(session: str, turn: str = "t_0123456789abcdef", tenant: str = "default", secret: str = TICKET_SECRET) -> str:
    """A ticket as the rule tier would sign it."""
    return sign(Ticket(tenant, "shop", session, turn, "", Plan()), secret.encode())


def expired(ticket: str) -> str:
    """The same ticket, well signed, from an hour ago."""
    payload = ticket.split(".")[1]
    doc = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    doc["expires"] = time.time() - 3600
    signed = b"v1." + base64.urlsafe_b64encode(json.dumps(doc).encode()).rstrip(b"=")
    mac = hmac.digest(TICKET_SECRET.encode(), signed, hashlib.sha256)
    return (signed + b"." + base64.urlsafe_b64encode(mac).rstrip(b"=")).decode()


def altered(ticket: str) -> str:
    """Another payload under the same signature."""
    version, payload, mac = ticket.split(".")
    doc = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    doc["tenant"] = "other"
    return ".".join((version, base64.urlsafe_b64encode(json.dumps(doc).encode()).decode().rstrip("="), mac))


def test_only_a_good_ticket_opens_the_llm_tier(split: Split) -> None:
    heavy = split.heavy[0].client
    good = ticket_of("forged-1")
    bad = ["", "v1..", "v1.e30.AAAA", "x" * 5000, good[:-2], good + "x", "v2" + good[2:], altered(good), expired(good)]
    bad += [ticket_of("forged-1", secret="guessed"), ticket_of("another-session"), good.rpartition(".")[0] + "."]
    for value in bad:
        answer = heavy.ask("tell me something", "forged-1", headers={"X-Loadsplit-Ticket": value})
        assert (answer.status, answer.json["code"]) == (401, "unauthorized"), value
    assert heavy.ask("tell me something", "forged-1").status == 401
    assert split.client.call("GET", "/api/v1/session/forged-1").status == 404
    assert heavy.ask("tell me something", "forged-1", headers={"X-Loadsplit-Ticket": good}).status == 200


def test_a_ticket_used_twice_is_one_turn(split: Split) -> None:
    heavy, ticket = split.heavy[0].client, ticket_of("twice", "t_fedcba9876543210")
    first, second = (heavy.ask("tell me something", "twice", headers={"X-Loadsplit-Ticket": ticket}) for _ in range(2))
    assert first.json == second.json
    assert len(split.client.messages("twice")) == 2


def test_internal_headers_of_a_client_have_no_effect(split: Split) -> None:
    forged = {
        "X-Loadsplit-Ticket": ticket_of("other-session", tenant="other"),
        "X-Loadsplit-Session": "other/other-session",
        "X-Accel-Redirect": "/metrics",
        "X-Accel-Buffering": "yes",
    }
    for message in ("opening hours", "tell me something"):
        answer = split.client.ask(message, "own-session", headers=forged)
        assert (answer.status, answer.json["session_id"]) == (200, "own-session")
        assert not [name for name in answer.headers if name.startswith(("x-accel", "x-loadsplit-ticket", "x-loadsplit-session"))]
    assert split.client.call("GET", "/api/v1/session/other-session", headers=forged).status == 404


@pytest.mark.parametrize(
    "text", ["a" * 32_000 + "!", "x" * 32_000, "ab" * 16_000, "~" * 32_000, "b" * 31_900 + "c" * 39, "order " * 5_000, "营业" * 5_000]
)
def test_harmful_patterns_take_no_time(split: Split, text: str) -> None:
    """Patterns such as (a+)+$ over the longest message; the better of two tries, because the machine has other work too."""
    answers = [split.client.ask(text, "slow-pattern", agent_id="slow") for _ in range(2)]
    assert [a.headers["x-loadsplit-tier"] for a in answers] == ["lightweight"] * 2
    found = [re.search(r"match;dur=([\d.]+)", a.headers["server-timing"]) for a in answers]
    assert min(float(f[1]) for f in found if f) < SAFE_MILLISECONDS


def test_a_text_of_100_kb_is_refused_at_once(split: Split) -> None:
    start = time.monotonic()
    answer = split.client.ask("a" * 100_000, "large-text", agent_id="odd")
    assert (answer.status, answer.json["field"]) == (400, "message")
    assert time.monotonic() - start < 0.3


def test_secrets_are_seen_by_their_receivers_only(split: Split, odd_api: OddApi) -> None:
    """The API's token and the LLM's key, while both sides fail in every way; the LLM provider even quotes the key back."""
    secrets = [LLM_KEY, SHOP_TOKEN, TICKET_SECRET]
    personal = ["Jane-Personal-Name", "code-77-personal"]
    seen = []
    for n, message in enumerate(("secret fine", "secret redirect", "secret deep", "secret away", "please help me")):
        asked: dict[str, Any] = {"agent_id": "secret", "context": {"code": personal[1]}, "user_id": "jane-personal-id"}
        answer = split.client.ask(f"{message} {personal[0]}", f"secret-{n}", **asked)
        events = list(split.client.stream(f"{message} {personal[0]}", f"secret-s-{n}", **asked))
        seen += [answer.body.decode(), str(answer.headers), str(events)]
    assert "It is fine." in seen[0]
    assert [s.headers["authorization"] for s in odd_api.seen if s.path == "/items/secret"][-1:] == [f"Bearer {SHOP_TOKEN}"]
    llm = [s for s in odd_api.seen if s.path.startswith("/llm")]
    assert {s.headers.get("x-api-key") or s.headers.get("authorization") for s in llm} <= {LLM_KEY, f"Bearer {LLM_KEY}"}
    assert llm
    for running in (split.lightweight, *split.heavy):
        for path in ("/metrics", "/api/v1/health", "/openapi.json", "/readyz"):
            seen.append(running.client.call("GET", path).body.decode())
    logs = split.logs()
    assert "LLM call failed" in logs
    for secret in secrets:
        assert secret not in logs
        assert not [s for s in seen if secret in s]
    for name in (*personal, "jane-personal-id"):
        assert name not in logs


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("look-behind", {"flows": [{"flow_id": "f", "trigger_patterns": ["(?<=a)b"], "response_template": "x"}]}),
    ("huge repeat", {"flows": [{"flow_id": "f", "trigger_patterns": ["(x{1000}){1000}"], "response_template": "x"}]}),
    ("nested repeat", {"flows": [{"flow_id": "f", "trigger_patterns": ["((a{100}){100}){100}"], "response_template": "x"}]}),
    ("large program", {"flows": [{"flow_id": "f", "trigger_patterns": ["(\\pL{1,500}x){2}"], "response_template": "x"}]}),
    ("attribute", {"flows": [{"flow_id": "f", "trigger_patterns": ["(?P<x>a)"], "response_template": "{x.__class__}"}]}),
    ("attribute deep", {"flows": [{"flow_id": "f", "trigger_patterns": ["(?P<x>a)"], "response_template": "{x.a.__init__.__globals__}"}]}),
    ("host", {"flows": [{"flow_id": "f", "trigger_patterns": ["(?P<x>a)"], "endpoint": {"url": "http://{x}.example/"}}]}),
    ("scheme", {"flows": [{"flow_id": "f", "trigger_patterns": ["a"], "endpoint": {"url": "file:///etc/passwd"}}]}),
    ("remote ref", {"tools": [{"name": "t", "parameters": {"$ref": "ODD/schema.json"}, "endpoint": {"url": "http://127.0.0.1:9/"}}]}),
    (
        "remote ref inside",
        {
            "tools": [
                {
                    "name": "t",
                    "parameters": {"type": "object", "properties": {"a": {"anyOf": [{"$ref": "ODD/schema.json#/a"}]}}},
                    "endpoint": {"url": "http://127.0.0.1:9/"},
                }
            ]
        },
    ),
]


def test_harmful_files_are_refused_with_their_line(odd_api: OddApi, tmp_path: Path) -> None:
    """By `check` and at the start; no schema is fetched for it."""
    names = []
    for name, workflow in REFUSED:
        path = tmp_path / f"{name.replace(' ', '_')}.json"
        path.write_text(json.dumps({"agent_id": "x", **workflow}, indent=1).replace("ODD", odd_api.url))
        names.append(path)
    connections = odd_api.connections
    checked = subprocess.run([LOADSPLIT, "check", *map(str, names)], capture_output=True, text=True, cwd=tmp_path, timeout=30)
    assert checked.returncode == 1
    for path in names:
        assert re.search(rf"{path.name}:\d+:\d+: error ", checked.stdout + checked.stderr), path.name
    command = [LOADSPLIT, "lightweight", "--port", "1", "--config", str(tmp_path)]
    started = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=30)
    assert started.returncode == 2
    assert "Traceback" not in started.stderr
    assert "remote_ref.json:" in started.stderr
    assert odd_api.connections == connections
