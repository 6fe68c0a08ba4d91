"""The built-in "model": small, deterministic, and plausible enough that an agent can be tried without a key. It knows no wire format.

It reads the tools on offer and the conversation: picks a tool by shared words, fills its arguments, asks back for what is missing,
and says at the end what the tools found.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loadtests.simulators.asked import Asked, Result, Tool
from loadtests.simulators.report import report
from loadtests.simulators.slots import fill, find
from loadtests.simulators.words import best, nearest, topic, words

DONE = "done"
MAX_CALLS_A_TURN = 6
MANY_TOOLS = 4
# Below this the words in common are too common to mean anything.
ENOUGH = 0.3
_HELLO = re.compile(r"^\W*(hi|hello|hey|good (morning|afternoon|evening)|你好|您好|嗨|早上好|下午好|晚上好)\W*$", re.IGNORECASE)
_THANKS = re.compile(
    r"^\W*(ok(ay)?\W+)?(thanks?( you)?( very much| a lot)?|thx|cheers|great|perfect|谢谢|多谢|谢啦|好的谢谢|好的)\W*$", re.IGNORECASE
)
_NEVER_MIND = re.compile(r"never ?mind|that'?s all|no thanks|forget it|算了|不用了|没事了", re.IGNORECASE)
_REFUSED = frozenset({"eligible", "allowed", "returnable", "ok", "success", "available", "valid"})
# Where a tool's name begins so, it changes something: it comes after those that only look, and never after a refusal.
_CHANGES = re.compile(
    r"^(create|submit|start|open|make|place|cancel|refund|update|change|send|book|apply|issue|register|request|report|delete|close|schedule|file|add|set)(_|$)"
)
SUMMARY = 400  # characters that stay of a conversation which is to be summed up
_ENDS_SESSION = "System action"  # how an agent describes its own actions as tools


@dataclass(frozen=True, slots=True)
class Decision:
    """What to answer: text, tool calls beside it, or a JSON value."""

    text: str = ""
    calls: tuple[tuple[str, Mapping[str, Any]], ...] = ()


def decide(asked: Asked) -> Decision:
    """The answer to any request."""
    if asked.schema is not None:
        return Decision(json.dumps(_by_schema(asked.schema, asked), ensure_ascii=False))
    if asked.purpose == "compaction":
        return Decision("So far: " + " / ".join(line for line in asked.user.splitlines() if line.strip())[:SUMMARY])
    if not asked.tools or asked.choice == "none":
        return Decision(report(asked.results, asked.chinese) if asked.results else _chat(asked))
    if asked.choice == "required":
        return _pick(asked)
    if asked.choice != "auto":
        tool = next(t for t in asked.tools if t.name == asked.choice)
        return Decision(calls=((tool.name, _arguments(tool, asked)),))
    return _work(asked)


def _pick(asked: Asked) -> Decision:
    """One tool must be called: the nearest to the message that can be called, else the first."""
    scores = nearest(asked.user, [(t.name, t.description) for t in asked.tools])
    ranked = sorted(range(1, len(scores)), key=lambda n: -scores[n])
    for n in ranked:
        if scores[n] < ENOUGH:
            break
        if not fill(asked.tools[n].schema, asked)[1]:
            return Decision(calls=((asked.tools[n].name, _arguments(asked.tools[n], asked)),))
    first = asked.tools[0]
    return Decision(calls=((first.name, _arguments(first, asked)),))


def _work(asked: Asked) -> Decision:
    """One step of an agent with tools: look, act, ask back, or finish."""
    done = next((t for t in asked.tools if t.name.split("__")[-1] == DONE), None)
    if _THANKS.search(asked.user) or (_NEVER_MIND.search(asked.user) and not asked.results):
        return _finish(done, "不客气，还有需要随时找我。" if asked.chinese else "You're welcome. I'm here if you need anything else.")
    if asked.results and asked.results[-1].shown:
        return _finish(done, "")
    missing: list[tuple[Tool, str]] = []
    goal = False
    if not _stopped(asked.results) and len(asked.results) < MAX_CALLS_A_TURN:
        for tool in _plan(asked, done):
            arguments, lacking = fill(tool.schema, asked)
            if not lacking:
                say = ("我来查一下。" if asked.chinese else "Let me look that up.") if not asked.results else ""
                return Decision(say, ((tool.name, arguments),))
            missing += [(tool, name) for name in lacking]
            goal = bool(_CHANGES.search(tool.name))
    # What only looks may be left out; what the user came for is asked for.
    if missing and (goal or not asked.results) and not any(r.failed for r in asked.results):
        known = report(asked.results, asked.chinese) + "\n\n" if asked.results else ""
        return Decision(known + _ask(missing[0][0], missing[0][1], asked))
    if not asked.results:
        return Decision(_chat(asked))
    return _finish(done if not any(r.failed for r in asked.results) else None, report(asked.results, asked.chinese))


def _plan(asked: Asked, done: Tool | None) -> list[Tool]:
    """The tools still to be called this turn: those that look before those that change, in the order of the offer.

    Of many tools only those that have to do with the conversation.
    """
    called = {r.name for r in asked.results} | {r.name for r in asked.earlier if _known(r, asked)}
    created = {r.name for r in asked.earlier if _CHANGES.search(r.name) and not r.failed}
    tools = [t for t in asked.tools if t is not done]
    if asked.results:  # who has found something tells it, and does not end the session instead
        tools = [t for t in tools if not t.description.startswith(_ENDS_SESSION)]
    scores = dict(zip((t.name for t in tools), nearest(" ".join(asked.users[-4:]), [(t.name, t.description) for t in tools]), strict=True))
    if any(_CHANGES.search(r.name) and not r.failed for r in asked.results):
        return []  # what the user came for is done
    if len(tools) > MANY_TOOLS:
        top = max(scores.values())
        tools = [t for t in tools if scores[t.name] > 0.6 * top]
    # Of several ways to change something, the one that was asked for; and nothing is done twice.
    changing = [t for t in tools if _CHANGES.search(t.name)]
    wanted = max(changing, key=lambda t: scores[t.name], default=None)
    tools = [t for t in tools if t not in changing or (t is wanted and t.name not in created)]
    return sorted((t for t in tools if t.name not in called), key=lambda t: t is wanted)


def _known(result: Result, asked: Asked) -> bool:
    """Whether an earlier turn has already seen exactly what the tool would show now."""
    tool = next((t for t in asked.tools if t.name == result.name), None)
    return tool is not None and not result.failed and fill(tool.schema, asked)[0] == result.arguments


def _stopped(results: tuple[Result, ...]) -> bool:
    """A tool failed, or said that what is wanted cannot be."""
    for result in results:
        value = result.value
        if result.failed or (isinstance(value, dict) and any(value.get(key) is False for key in _REFUSED)):
            return True
    return False


def _finish(done: Tool | None, text: str) -> Decision:
    if done is None:
        return Decision(text)
    properties = done.schema.get("properties") or {}
    name = "message" if "message" in properties or not properties else next(iter(properties))
    return Decision(calls=((done.name, {name: text}),))


def _arguments(tool: Tool, asked: Asked) -> Mapping[str, Any]:
    """Arguments for a call that has to be made: what is required and not found takes the message itself, or a value of the right type."""
    found, missing = fill(tool.schema, asked)
    for name in missing:
        found[name] = _anything((tool.schema.get("properties") or {}).get(name) or {}, asked)
    return found


def _by_schema(schema: Mapping[str, Any], asked: Asked) -> Any:
    """A JSON value that meets a schema; without one, a small object about the message."""
    properties = schema.get("properties")
    if not properties:
        return {"answer": topic(asked.user)}
    return {name: _value(name, prop, asked) for name, prop in properties.items()}


def _value(name: str, prop: Mapping[str, Any], asked: Asked) -> Any:
    if prop.get("type") == "object" or "properties" in prop:
        return {n: _value(n, p, asked) for n, p in (prop.get("properties") or {}).items()}
    value = find(name, prop, asked, needed=True)
    return value if value is not None else _anything(prop, asked)


def _anything(prop: Mapping[str, Any], asked: Asked) -> Any:
    if isinstance(prop.get("enum"), list) and prop["enum"]:
        return best([v for v in prop["enum"] if isinstance(v, str)], asked.user) or prop["enum"][0]
    kind = prop.get("type")
    kind = next((k for k in kind if k != "null"), "string") if isinstance(kind, list) else kind
    by_type: dict[str, Any] = {"integer": 1, "number": 1.0, "boolean": True, "array": [], "object": {}}
    return by_type.get(kind or "string", asked.user)


def _ask(tool: Tool, name: str, asked: Asked) -> str:
    """Asks the user for one argument, in the words of its description."""
    prop = (tool.schema.get("properties") or {}).get(name) or {}
    label = name.replace("_", " ").removesuffix(" id") + (" number" if name.endswith("_id") else "")
    hint = str(prop.get("description") or "").split("\n")[0].strip(" .。")
    hint = "" if words(hint) <= words(label) else hint[:1].lower() + hint[1:]
    options = ", ".join(str(v).replace("_", " ") for v in prop["enum"]) if isinstance(prop.get("enum"), list) else ""
    if asked.chinese:
        label = {"order number": "订单号", "reason": "原因", "resolution": "处理方式"}.get(label, label)
        more = f"可选：{options}" if options else hint
        return f"好的，为了继续处理，请告诉我{label}" + (f"（{more}）。" if more else "。")
    more = f"one of: {options}" if options else hint
    return f"Sure, I can help with that. Could you tell me the {label}" + (f" ({more})?" if more else "?")


def _told(asked: Asked) -> str:
    """What the system prompt tells the model to say: that something failed, or that something is missing."""
    missing = re.search(r"Ask the user for exactly what is missing", asked.system)
    if missing:
        names = re.findall(r"[\"'`“]([a-z][a-z_]*)[\"'`”]", asked.system[: missing.start()])
        label = (names[-1] if names else "details").replace("_", " ")
        return f"好的，请告诉我{label}，我马上处理。" if asked.chinese else f"Happy to help with that. Could you tell me the {label}?"
    if re.search(r"action for the user's message failed", asked.system):
        if asked.chinese:
            return "抱歉，这项操作暂时无法完成。请稍后再试，或者告诉我更多细节，我来想别的办法。"
        return "I'm sorry, I cannot do that right now. Please try again a little later, or tell me more and I'll look for another way."
    return ""


def _chat(asked: Asked) -> str:
    """A friendly answer that shows what was understood."""
    about = topic(asked.user)
    told = _told(asked)
    if told:
        return told
    if asked.chinese:
        if _HELLO.search(asked.user):
            return "您好！很高兴为您服务，请问有什么可以帮您？"
        if _THANKS.search(asked.user):
            return "不客气，还有需要随时找我。"
        return f"关于“{about}”，我已经了解了。我可以帮您查询订单、办理退换货或推荐商品，请再告诉我一些细节，例如订单号或想要的商品。"
    if _HELLO.search(asked.user):
        return "Hello! Nice to meet you. What can I do for you today?"
    if _THANKS.search(asked.user):
        return "You're welcome. I'm here if you need anything else."
    return (
        f"I see this is about “{about}”. I can look up orders, arrange returns and recommend products; "
        "tell me a little more, such as an order number or what you have in mind, and I'll take it from there."
    )
