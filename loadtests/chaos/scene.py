"""What is played: an agent, the LLM's script, two tenants with a key each, and the messages. Every message carries a marker.

A marker is unique in the run. Whatever answers a message names its marker, and every effect of it carries it, so that one look at an
answer, a history or an effect tells whose it is.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

AGENT = "chaos"
TENANTS = ("amber", "birch")
MARKER = re.compile(r"mk\d{7}z")
_M = r"(?P<m>mk\d{7}z)"
EFFECT_PATH = "/tickets"

# kind of message → its words. `{}` is the marker.
WORDS = {
    "rule": "opening hours {}",
    "effect": "ticket {}",
    "plain": "tell me about {}",
    "slow": "tell me slowly about {}",
    "skill": "book {}",
    "once": "pay {}",
    "talk": "advice {}",
    "more": "and then {}",
    "settle": "settle {}",
}
# The kinds whose answer comes with an effect. (In the middle of a conversation `effect` is only words: no rule answers there.)
EFFECTIVE = frozenset({"skill", "once", "settle"})


def marker(number: int) -> str:
    """The marker of the n-th message of a run."""
    return f"mk{number:07d}z"


def message(kind: str, number: int) -> str:
    """The words of a message."""
    return WORDS[kind].format(marker(number))


@dataclass(frozen=True, slots=True)
class Scene:
    """The files that a split needs, and what a client of each tenant has to say at the door."""

    config: Path
    profile: Path
    api_keys: Path
    keys: dict[str, str]

    def headers(self, tenant: str) -> dict[str, str]:
        """The headers of every request of a tenant."""
        return {"Authorization": f"Bearer {self.keys[tenant]}"}


def write_scene(folder: Path, seed: int) -> Scene:
    """Writes the scene. The workflow names the business API as ${BUSINESS_URL}."""
    folder.mkdir(parents=True, exist_ok=True)
    config, profile, api_keys = folder / "workflow.json", folder / "profile.json", folder / "keys.json"
    config.write_text(json.dumps(workflow(), indent=1))
    profile.write_text(json.dumps(script(seed), indent=1))
    keys = {tenant: f"ls_{tenant}_{secrets.token_urlsafe(32)}" for tenant in TENANTS}
    rows = [
        {"id": tenant, "tenant": tenant, "scopes": ["query", "admin"], "hash": hashlib.sha256(key.encode()).hexdigest()}
        for tenant, key in keys.items()
    ]
    api_keys.write_text(json.dumps(rows))
    return Scene(config, profile, api_keys, keys)


def workflow() -> dict[str, Any]:
    """Rules without and with an effect, and three skills whose tools look up, act, and act where a repetition would be a second effect."""

    def write(words: str, **more: Any) -> dict[str, Any]:
        body = {"subject": words, "details": "{session_id}"}
        return {"url": "${BUSINESS_URL}" + EFFECT_PATH, "method": "POST", "body": body, "timeout": 30, "retries": 2, **more}

    def skill(skill_id: str, pattern: str) -> dict[str, Any]:
        return {
            "skill_id": skill_id,
            "description": skill_id,
            "trigger_patterns": [pattern],
            "system_prompt": f"You are the {skill_id}.",
            "tools": ["get_order", "open_ticket", "pay_once"],
        }

    subject = {"type": "object", "properties": {"subject": {"type": "string"}}, "required": ["subject"]}
    order = {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]}
    look = {"url": "${BUSINESS_URL}/orders/{order_id}", "method": "GET", "timeout": 30, "retries": 2}
    return {
        "agent_id": AGENT,
        "basic_settings": {"name": "Chaos", "description": "A desk that is hit by everything."},
        "flows": [
            {"flow_id": "hours", "trigger_patterns": [f"^opening hours {_M}$"], "response_template": "We open at 9, {m}."},
            {
                "flow_id": "ticket",
                "trigger_patterns": [f"^ticket {_M}$"],
                "endpoint": write("{m}", idempotent=True),
                "response_template": "Ticket {result.ticket_id} for {result.subject}.",
            },
        ],
        "tools": [
            {"name": "get_order", "description": "Looks an order up", "parameters": order, "endpoint": look},
            {
                "name": "open_ticket",
                "description": "Opens a ticket",
                "parameters": subject,
                "endpoint": write("{subject}", idempotent=True),
            },
            {"name": "pay_once", "description": "Pays", "parameters": subject, "endpoint": write("{subject}", idempotent=False)},
        ],
        "skills": [skill("desk", f"^book {_M}$"), skill("till", f"^pay {_M}$"), skill("advisor", f"^advice {_M}$")],
    }


def script(seed: int) -> dict[str, Any]:
    """The LLM's profile: who asks for a booking or a payment gets the tool calls, everybody else words; now and then it fails."""
    books, pays = f"(book|settle) {_M}", f"pay {_M}"
    rules: list[dict[str, Any]] = [
        {"when": {"purpose": "intent", "user": "(book|settle) "}, "tool_calls": [{"name": "desk"}]},
        {"when": {"purpose": "intent", "user": "pay "}, "tool_calls": [{"name": "till"}]},
        {"when": {"purpose": "intent"}, "tool_calls": [{"name": "reply_directly"}]},
        {
            "when": {"user": books, "has_tool": "open_ticket", "tool_results": 0},
            "text": "Let me see.",
            "tool_calls": [
                {"name": "get_order", "arguments": {"order_id": "A1001"}},
                {"name": "open_ticket", "arguments": {"subject": "{m}"}},
            ],
        },
        {"when": {"user": books, "has_tool": "done"}, "tool_calls": [{"name": "done", "arguments": {"message": "Booked {m} for you."}}]},
        {
            "when": {"user": pays, "has_tool": "pay_once", "tool_results": 0},
            "tool_calls": [{"name": "pay_once", "arguments": {"subject": "{m}"}}],
        },
        {"when": {"user": pays, "has_tool": "done"}, "tool_calls": [{"name": "done", "arguments": {"message": "Paid {m} for you."}}]},
        {"when": {"user": f"slowly about {_M}"}, "text": "Slowly, then: {m} is a thing of many small parts.", "first_token_ms": 1500},
        {"when": {"user": _M}, "text": "You asked for {m}, and that is all there is to say of it today."},
    ]
    faults = [
        {"kind": "reset", "probability": 0.004, "after_tokens": 3},
        {"kind": "503", "probability": 0.01},
        {"kind": "eof", "probability": 0.004, "after_tokens": 2},
    ]
    return {"seed": seed, "first_token_ms": 40, "token_ms": 8, "rules": rules, "faults": faults}
