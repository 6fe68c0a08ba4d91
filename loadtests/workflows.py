"""The workflow files of a bench: so many rules, half of them with `.*`, a flow behind an API, a skill that calls an LLM once."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from common.contracts.access import digest_of

STATIC, FLOW, TURN = "what about topic 7 and word7?", "please book the flow now", "where is my order"


def workflow(api: str, rules: int, agent_id: str = "bench") -> dict[str, Any]:
    """So many static rules, one flow that asks the API, one skill."""
    flows: list[dict[str, Any]] = [
        {
            "flow_id": f"topic_{n}",
            "trigger_patterns": [f"topic {n} .*word{n}" if n % 2 else f"about subject{n}"],
            "response_template": f"Answer {n}.",
        }
        for n in range(1, rules)
    ]
    flows.append(
        {
            "flow_id": "booking",
            "trigger_patterns": ["book the (?P<what>\\w+)"],
            "endpoint": {"url": api, "method": "POST", "body": {"what": "{what}", "user": "{user_id}", "message": "{message}"}},
            "response_template": "Booked: {result.status}",
        }
    )
    skill = {
        "skill_id": "orders",
        "description": "Questions about orders",
        "trigger_patterns": ["my order"],
        "execution_mode": "agent",
        "system_prompt": "You answer questions about orders. Be brief and exact.",
        "require_done_tool": False,
    }
    about = {"name": "Shop", "description": "A shop's assistant."}
    return {"agent_id": agent_id, "basic_settings": about, "flows": flows, "skills": [skill]}


def write_workflow(folder: Path, api: str, rules: int = 1000, name: str = "workflow.json") -> Path:
    """The file."""
    path = folder / name
    path.write_text(json.dumps(workflow(api, rules)))
    return path


def key_file(folder: Path) -> Path:
    """A thousand keys of as many tenants, and two more that are used: `free` without limits, `limited` with one that is never reached."""
    rows: list[dict[str, object]] = [
        {"id": key, "tenant": key, "scopes": ["query"], "hash": digest_of(key.encode()).hex()}
        for key in ("free", "limited", *(f"tenant-{n}" for n in range(1000)))
    ]
    rows[1]["limits"] = {"requests_per_minute": 10_000_000}
    path = folder / "keys.json"
    path.write_text(json.dumps(rows))
    return path


def read_messages(path: Path) -> list[str]:
    """The texts of a CSV with the columns text,category. Raises ValueError that names the file."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        if "text" not in (rows.fieldnames or ()):
            raise ValueError(f"{path}: the first line must name the columns text,category")
        texts = [row["text"].strip() for row in rows if (row["text"] or "").strip()]
    if not texts:
        raise ValueError(f"{path}: no message in it")
    return texts


def made_messages(count: int) -> list[str]:
    """Messages of many different words, where no file of real ones is given: always the same ones."""
    openings = ("where is", "how do I change", "I still wait for", "can you tell me about", "why was I charged for", "please cancel")
    things = ("card", "refund", "transfer", "subject4", "invoice", "parcel", "topic 7 with word7", "account", "subscription", "limit")
    ends = ("of last week", "since yesterday", "from the app", "in the shop", "after the holiday", "again", "with reference {n}")
    found = []
    for n in range(count):
        opening, thing, end = openings[n % len(openings)], things[(n // 6) % len(things)], ends[(n // 60) % len(ends)]
        found.append(f"{opening} my {thing} {end.format(n=n)} number {n * 7919 % 10007}?")
    return found
