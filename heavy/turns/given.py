"""A conversation that a client brings along, for a session that does not know it: it is stored as turns that have been answered.

So the session goes on from there as from words of its own. Nothing of it is counted, learned or priced.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import asdict

from common.contracts.chat import Said
from common.contracts.gate import greeting_hash
from common.contracts.journal import JournalEntry
from common.contracts.query import Reply, Route, Usage
from common.workflow.schema import Workflow
from heavy.turns.stores import Stores
from heavy.turns.window import WINDOW_MESSAGES

_SEPARATOR = "\n\n"


async def take_in(stores: Stores, workflow: Workflow, tenant: str, session_id: str, history: Sequence[Said], user_id: str | None) -> None:
    """Stores the conversation, unless the session is there already: then it knows better. Repeating it changes nothing."""
    if not history or await stores.sessions.get(tenant, session_id) is not None:
        return
    now, greeting = time.time(), greeting_hash(workflow.greeting)
    entries = []
    for n, (question, answer) in enumerate(exchanges(history)[-WINDOW_MESSAGES // 2 :]):
        turn_id = "t_" + hashlib.sha256(f"given {tenant}/{session_id}/{n}".encode()).hexdigest()[:32]
        route = Route("heavy", "message", None, "none")
        reply = asdict(Reply(session_id, answer, "success", turn_id, route, Usage(), workflow.config_hash))
        entries.append(JournalEntry(tenant, workflow.agent_id, user_id, question, reply, now, greeting))
    await stores.turns.record_rule_turns(entries)


def exchanges(history: Sequence[Said]) -> list[tuple[str, str]]:
    """Questions with their answers. What one side said in several messages is one; what has no counterpart stands with an empty one."""
    found: list[tuple[str, str]] = []
    for role, text in history:
        question, answer = found[-1] if found else ("", "")
        if role == "user" and (not found or answer):
            found.append((text, ""))
        elif role == "user":
            found[-1] = (_SEPARATOR.join([question, text]), "")
        elif found:
            found[-1] = (question, _SEPARATOR.join(filter(None, [answer, text])))
        else:
            found.append(("", text))
    return found
