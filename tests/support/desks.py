"""One small agent for each thing that a workflow file can do, and the script of their model. Orders and tickets are the simulator's.

The script knows an agent by its name in the system prompt, and where it stands by the words of the user and the results so far.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

GET_ORDER = {
    "name": "get_order",
    "description": "Look an order up",
    "parameters": {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]},
    "endpoint": {"url": "${BUSINESS}/orders/{order_id}", "method": "GET"},
}
OPEN_TICKET = {
    "name": "open_ticket",
    "description": "Open a ticket",
    "parameters": {"type": "object", "properties": {"reason": {"type": "string"}}, "required": ["reason"]},
    "endpoint": {"url": "${BUSINESS}/tickets", "method": "POST", "body": {"order_id": "A1001", "message": "{reason}"}},
}
REFUND = {
    "name": "refund",
    "description": "Pay an order back",
    "approval": True,
    "parameters": {"type": "object", "properties": {"order_id": {"type": "string"}}, "required": ["order_id"]},
    "endpoint": {"url": "${BUSINESS}/tickets", "method": "POST", "body": {"order_id": "{order_id}", "message": "pay it back"}},
}
APOLOGY = {"flow_id": "apology", "type": "intent", "description": "Says sorry", "response_template": "We are sorry."}
HOURS = {"flow_id": "hours", "trigger_patterns": ["opening hours"], "response_template": "We open at 9."}
STILL = {"flow_id": "ping", "trigger_patterns": ["^ping$"], "interrupts": True, "response_template": "Pong."}
NOTE = {"action_id": "note", "handler": "update_profile", "silent": True, "description": "Notes that nothing is to be said"}
HUMAN = {"action_id": "human", "handler": "handoff", "trigger_patterns": ["talk to a human"], "response_template": "One moment."}
BYE = {"action_id": "bye", "handler": "close", "trigger_patterns": ["^goodbye$"], "response_template": "Bye."}


def agent(agent_id: str, **fields: Any) -> dict[str, Any]:
    """An agent that answers in English and has the opening hours; its name in prompts is its id in capitals."""
    settings = {"name": f"{agent_id.upper()}-DESK", "language": "English"}
    basic = {"agent_id": agent_id, "basic_settings": settings, "fallback_message": "That I could not do.", "flows": [HOURS]}
    return {**basic, **fields}


def skill(skill_id: str, *tools: str, **fields: Any) -> dict[str, Any]:
    """An agent skill; its prompt names it in capitals."""
    return {"skill_id": skill_id, "description": skill_id, "system_prompt": f"{skill_id.upper()}-SKILL", "tools": list(tools), **fields}


ACTING = {"tools": [GET_ORDER, OPEN_TICKET], "flows": [HOURS, APOLOGY], "system_actions": [NOTE], "sop": "Look it up, then open a ticket."}
AGENTS: dict[str, dict[str, Any]] = {
    "router": agent(
        "router",
        multi_turn="router",
        tools=[GET_ORDER],
        flows=[HOURS, APOLOGY, STILL],
        skills=[skill("returns")],
        system_actions=[HUMAN, NOTE],
    ),
    "hybrid": agent("hybrid", tools=[GET_ORDER], flows=[HOURS, STILL], skills=[skill("returns")]),
    "solo": agent("solo", multi_turn="single", tools=[GET_ORDER], skills=[skill("returns")]),
    "sop": agent("sop", iteration_strategy="sop_driven", **ACTING),
    "once": agent("once", iteration_strategy="single_shot", **ACTING),
    "bounded": agent("bounded", skills=[skill("work", "get_order")], tools=[GET_ORDER], limits={"tool_calls": 2}),
    "looping": agent("looping", skills=[skill("work", "get_order")], tools=[GET_ORDER]),
    "frugal": agent("frugal", skills=[skill("work", "get_order")], tools=[GET_ORDER], limits={"tokens": 60}),
    "quick": agent("quick", skills=[skill("work", "get_order")], tools=[GET_ORDER], limits={"seconds": 0.4}),
    "cashier": agent(
        "cashier", tools=[GET_ORDER, REFUND], skills=[skill("money", "get_order", "refund")], flows=[HOURS], system_actions=[HUMAN]
    ),
    "desk": agent("desk", system_actions=[HUMAN, BYE], greeting="Welcome."),
    "busy": agent("busy", system_actions=[{**HUMAN, "deadline_seconds": 1, "deadline_message": "Everyone is busy."}]),
    "patient": agent("patient", timers=[{"timer_id": "still", "delay_seconds": 2, "message": "Still there?"}]),
    "timed": agent(
        "timed",
        timers=[
            {"timer_id": "still", "delay_seconds": 0.6, "message": "Still there?"},
            {"timer_id": "end", "delay_seconds": 0.6, "action_type": "system", "action_target": "bye", "message": "I close this now."},
        ],
        system_actions=[BYE],
    ),
    "known": agent(
        "known",
        system_actions=[
            {
                "action_id": "remember",
                "handler": "update_profile",
                "trigger_patterns": ["my name is (?P<name>\\w+)"],
                "response_template": "Hello {name}.",
            }
        ],
        flows=[HOURS, {"flow_id": "who", "trigger_patterns": ["who am i"], "response_template": "You are {profile.name}."}],
        skills=[skill("chat", trigger_patterns=["let us chat"])],
    ),
    "learned": agent(
        "learned",
        tools=[
            {
                "name": "find_article",
                "description": "Search the articles",
                "parameters": {"type": "object", "properties": {"query": {"type": "string"}}},
                "endpoint": {"url": "${BUSINESS}/kb/search", "method": "POST", "body": {"query": "{query}"}, "idempotent": True},
            }
        ],
        kb_config={"enabled": True, "tool_name": "find_article", "auto_enhance": True, "timeout": 2},
    ),
    "slowly": agent(
        "slowly",
        tools=[
            {
                "name": "find_article",
                "description": "Search the articles",
                "parameters": {"type": "object", "properties": {"query": {"type": "string"}}},
                "endpoint": {"url": "${BUSINESS}/kb/search?slow=5000", "method": "POST", "body": {"query": "{query}"}, "idempotent": True},
            }
        ],
        kb_config={"enabled": True, "tool_name": "find_article", "auto_enhance": False, "enhance_conditions": ["kettle"], "timeout": 0.3},
    ),
    "quiet": agent(
        "quiet",
        flows=[
            HOURS,
            {
                "flow_id": "report",
                "trigger_patterns": ["^report (?P<what>\\w+)$"],
                "endpoint": {"url": "${BUSINESS}/tickets", "method": "POST", "body": {"order_id": "A1001", "message": "{what}"}},
                "silent": True,
            },
        ],
        system_actions=[{**NOTE, "trigger_patterns": ["^note this$"]}],
    ),
}


def said(name: str, **when: Any) -> dict[str, Any]:
    """A rule of the script for one agent (or skill) by its name in the prompt."""
    return {"system": f"{name.upper()}-", **when}


def call(tool: str, **arguments: Any) -> dict[str, Any]:
    """What the model answers: one call."""
    return {"tool_calls": [{"name": tool, "arguments": arguments}]}


LOOK = call("get_order", order_id="A1001")
RULES: list[dict[str, Any]] = [
    # skills
    {"when": said("returns", user="which one"), "text": "Which order is it?"},
    {"when": said("returns", tool_results=0), **call("done", message="It is taken back.")},
    {"when": said("returns", user="take it back"), **call("done", message="It is taken back.")},
    {"when": said("work", user="different", tool_results=0), **call("get_order", order_id="A1001")},
    {"when": said("work", user="different", tool_results=1), **call("get_order", order_id="A1002")},
    {"when": said("work", user="different", tool_results=2), **call("get_order", order_id="A1003")},
    {"when": said("work", user="slow words"), "text": "Some words come slowly one by one.", "token_ms": 300},
    {"when": said("work", user="nonsense"), "tool_calls": [{"name": "get_order", "arguments": "{not json"}]},
    {"when": said("work", user="unknown"), **call("fly_to_the_moon", fast=True)},
    {"when": said("work", has_tool="get_order"), **LOOK},
    {"when": said("money", user="refund", tool_results=0), "text": "I look it up.", **LOOK},
    {"when": said("money", user="refund", tool_results=1), **call("refund", order_id="A1001")},
    {"when": said("money", user="refund", tool_results=2), **call("done", message="Thank you for waiting.")},
    {"when": said("chat"), **call("done", message="A pleasure.")},
    # agents: the choice of an action
    {"when": {"purpose": "intent", "user": "pay A1001 back"}, **call("refund", order_id="A1001")},
    {"when": {"purpose": "intent", "user": "refund"}, **call("money")},
    {"when": {"purpose": "intent", "user": "^work"}, **call("work")},
    {"when": {"purpose": "intent", "user": "take it back|which one"}, **call("returns")},
    {"when": {"purpose": "intent", "user": "say sorry"}, **call("apology")},
    {"when": {"purpose": "intent", "user": "act twice|end silently|never stop|status of"}, **LOOK},
    {"when": {"purpose": "intent"}, **call("reply_directly")},
    # agents: what follows
    {
        "when": {"user": "act twice slowly", "has_tool": "open_ticket", "tool_results": 1},
        "first_token_ms": 1500,
        **call("open_ticket", reason="slowly"),
    },
    {"when": {"user": "slowly, the status of", "tool_results": 1}, "first_token_ms": 1500, "text": "It is on its way."},
    {"when": {"user": "never stop", "has_tool": "get_order"}, **LOOK},
    {"when": {"user": "end silently", "has_tool": "note", "tool_results": 1}, **call("note")},
    {"when": {"user": "act twice", "has_tool": "open_ticket", "tool_results": 1}, **call("open_ticket", reason="as the procedure says")},
    {"when": {"user": "act twice", "tool_results": 2}, "text": "It is looked up and a ticket is open."},
    {"when": {"user": "act twice", "tool_results": 1}, "text": "It is looked up."},
    {"when": {"user": "say sorry", "tool_results": 1}, "text": "Anything else?"},
    {"when": {"user": "pay A1001 back", "tool_results": 1}, "text": "That is settled."},
    {"when": said("router", user="status of", tool_results=0), **LOOK},
    {"when": said("router", user="say sorry", tool_results=0), **call("apology")},
    {"when": said("router", user="take it back|which one", tool_results=0), **call("returns")},
    {"when": {"user": "status of", "tool_results": 1}, "text": "It is on its way."},
    {"when": {"system": "citric acid"}, "text": "With citric acid."},
    {"when": {"system": "Summarise this conversation"}, "text": "The colleague promised a call on Monday."},
    {"when": {"system": "call on Monday"}, "text": "You get a call on Monday."},
    {"when": {"system": "name.{0,8}Ada"}, "text": "Your name is Ada."},
    {"when": {}, "text": "Plain words."},
]
FAULTS = [{"kind": "400", "when": {"user": "say sorry and fail", "tool_results": 1}, "every": 1}]
SCRIPT: dict[str, Any] = {"first_token_ms": 5, "token_ms": 1, "rules": RULES, "faults": FAULTS}


def write_desks(folder: Path, changes: Mapping[str, Mapping[str, Any]] | None = None) -> Path:
    """The agents as a directory of files; `changes` replace keys of some of them."""
    place = folder / "desks"
    place.mkdir(exist_ok=True)
    for agent_id, document in AGENTS.items():
        (place / f"{agent_id}.json").write_text(json.dumps({**document, **(changes or {}).get(agent_id, {})}))
    return place


def write_script(folder: Path) -> Path:
    """The model's script as a file."""
    path = folder / "desks-script.json"
    path.write_text(json.dumps(SCRIPT))
    return path
