"""A small shop for stories and faults: a workflow, and a model that follows a script. Orders and refunds are the business simulator's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

WORKFLOW: dict[str, Any] = {
    "agent_id": "shop",
    "basic_settings": {"name": "Shop desk", "language": "English", "chatbot_id": "cb-1"},
    "fallback_message": "Sorry, I could not do that.",
    "sop": "Understand, act, answer.",
    "tools": [
        {
            "name": "get_order",
            "description": "Look an order up",
            "parameters": {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]},
            "endpoint": {"url": "${BUSINESS}/orders/{order_id}", "method": "GET", "headers": {"X-Bot": "{chatbotId}"}},
        },
        {
            "name": "open_ticket",
            "description": "Open a ticket for a return",
            "parameters": {
                "type": "object",
                "properties": {"order_id": {"type": "string"}, "reason": {"type": "string"}},
                "required": ["order_id", "reason"],
            },
            "endpoint": {"url": "${BUSINESS}/tickets", "method": "POST", "body": {"order_id": "{order_id}", "message": "{reason}"}},
        },
    ],
    "skills": [
        {
            "skill_id": "returns_desk",
            "name": "Returns desk",
            "description": "Takes goods back",
            "trigger_patterns": ["\\breturns desk\\b"],
            "system_prompt": "You take goods back. RETURNS-DESK",
            "tools": ["get_order", "open_ticket"],
        }
    ],
    "flows": [
        {"flow_id": "hours", "name": "Hours", "trigger_patterns": ["opening hours", "营业时间"], "response_template": "We open at 9."},
        {
            "flow_id": "order_status",
            "name": "Order status",
            "trigger_patterns": ["where is (my )?order\\s+#?(?P<order_id>[A-Za-z0-9-]+)"],
            "endpoint": {"url": "${BUSINESS}/orders/{order_id}", "method": "GET", "timeout": 2},
            "response_template": "Order {order_id} is {result.status}.",
        },
        {
            "flow_id": "call_me",
            "name": "Call back",
            "trigger_patterns": ["call me at (?P<phone>\\d+)"],
            "endpoint": {"url": "${BUSINESS}/callbacks", "method": "POST", "body": {"phone": "{phone}"}},
            "response_template": "We call {phone}: {result.callback_id}.",
        },
        {
            "flow_id": "unreachable",
            "name": "Unreachable",
            "trigger_patterns": ["unreachable thing"],
            "endpoint": {"url": "http://127.0.0.1:9/nothing", "method": "GET", "timeout": 1},
        },
    ],
    "system_actions": [
        {
            "action_id": "human",
            "name": "Human",
            "handler": "handoff",
            "trigger_patterns": ["talk to a human"],
            "response_template": "One moment.",
        },
        {"action_id": "bye", "name": "Close", "handler": "close", "trigger_patterns": ["^goodbye$"], "response_template": "Bye."},
    ],
    "action_books": [{"condition": "The user wants to send something back", "action_type": "skill", "action_target": "returns_desk"}],
}

_TICKET = {"name": "open_ticket", "arguments": {"order_id": "A1001", "reason": 'broken "lid" ü'}}
_DESK = {"system": "RETURNS-DESK"}
PROFILE: dict[str, Any] = {
    "first_token_ms": 5,
    "token_ms": 1,
    "rules": [
        {"when": {"purpose": "intent", "user": "send it back"}, "tool_calls": [{"name": "returns_desk"}]},
        {"when": {"purpose": "intent"}, "tool_calls": [{"name": "reply_directly"}]},
        {"when": {**_DESK, "user": "which one"}, "text": "Which order is it?"},
        {
            "when": {**_DESK, "tool_results": 0},
            "text": "Let me look.",
            "tool_calls": [{"name": "get_order", "arguments": {"order_id": "A1001"}}],
        },
        {"when": {**_DESK, "tool_results": 1}, "tool_calls": [_TICKET]},
        {"when": {**_DESK, "tool_results": 2}, "tool_calls": [{"name": "done", "arguments": {"message": "Your return is open."}}]},
        {"when": {"user": "slow story"}, "text": " ".join(f"word{n}" for n in range(160)), "token_ms": 20},
        {"when": {"user": "one by one"}, "text": "Answered.", "first_token_ms": 150},
        {"when": {"user": "break off"}, "text": "These words come before it breaks off."},
        {"when": {}, "text": "Plain words."},
    ],
    "faults": [
        {"kind": "500", "when": {"user": "fail at once", "purpose": "message"}, "every": 1},
        {"kind": "reset", "when": {"user": "break off", "purpose": "message"}, "every": 1, "after_tokens": 3},
        {"kind": "eof", "when": {"user": "break off quietly", "purpose": "message"}, "every": 1, "after_tokens": 3},
    ],
}


def write_workflow(folder: Path, **changes: Any) -> Path:
    """The workflow as a file; `changes` replace top-level keys."""
    path = folder / "workflow.json"
    path.write_text(json.dumps({**WORKFLOW, **changes}, ensure_ascii=False))
    return path


def write_profile(folder: Path, **changes: Any) -> Path:
    """The model's script as a file."""
    path = folder / "profile.json"
    path.write_text(json.dumps({**PROFILE, **changes}))
    return path
