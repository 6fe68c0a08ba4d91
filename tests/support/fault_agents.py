"""The agents, models and LLM script of the fault tests: one directory of workflow files that a single split serves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.shop import PROFILE, WORKFLOW

PROVIDERS = ("openai", "anthropic")
CLERK_SKILLS = {"ledger": "open_ticket", "posting": "apply", "hanging": "apply_slowly"}
# Faults that a second try or a second target makes invisible as long as no token was seen.
PASSING = ("500", "503", "529", "429", "reset", "eof", "garbage", "error_event")
BREAKING = ("stall", "reset", "eof", "garbage", "error_event")
METADATA_HOSTS = (
    "169.254.169.254",
    "169.254.170.2",
    "100.100.100.200",
    "2852039166",
    "0xa9fea9fe",
    "0xa9.0xfe.0xa9.0xfe",
    "0251.0376.0251.0376",
    "169.254.43518",
    "[::ffff:169.254.169.254]",
    "[fd00:ec2::254]",
    "[fe80::1]",
    "[64:ff9b::a9fe:a9fe]",
    "[2002:a9fe:a9fe::1]",
)
# On Linux all of these lead to loopback, where the test's own API listens on every address.
ZERO_HOSTS = ("0.0.0.0", "0", "0x0", "00000000", "0.0", "[::ffff:0.0.0.0]", "[::]")


def write_agents(folder: Path, api_port: int) -> Path:
    """The directory of workflow files; `shop` is the first and so the one that answers without an agent_id."""
    agents = folder / "agents"
    agents.mkdir()
    made: dict[str, dict[str, Any]] = {"a_shop": WORKFLOW, "odd": _odd(api_port), "secret": _secret(), "slow": _slow()}
    made["clerk"] = _clerk()
    for provider in PROVIDERS:
        for alias in ("single", "pair", "waiting", "going-on"):
            made[f"{alias}-{provider}"] = _shop(f"{alias}-{provider}", f"{alias}-{provider}")
        made[f"desk-{provider}"] = _desk(provider)
        made[f"book-{provider}"] = _book(provider)
    made["dead"] = _shop("dead", "dead")
    for name, workflow in made.items():
        (agents / f"{name}.json").write_text(json.dumps(workflow, ensure_ascii=False))
    return agents


def write_models(folder: Path, llm_url: str, api_url: str) -> Path:
    """The models file: for each provider a single target and a pair whose first target is called `bad`; all with short time-outs.
    `going-on` is the pair with leave to go on with what broke off; `waiting` is asked to wait."""
    urls = {"openai": llm_url + "/v1", "anthropic": llm_url}
    times = {"first_token_timeout": 0.6, "idle_timeout": 0.6}

    def target(provider: str, model: str, **more: Any) -> dict[str, Any]:
        return {"provider": provider, "model": model, "base_url": urls[provider], **times, **more}

    dollars = {"input": 1000, "cached_input": 1000, "output": 1000}
    retry = {"budget": 1}  # here every call fails
    models: dict[str, Any] = {"default": {"targets": [target("openai", "good", first_token_timeout=10, idle_timeout=10)]}}
    for provider in PROVIDERS:
        pair = [target(provider, "bad", eject_after=0), target(provider, "good")]
        models[f"single-{provider}"] = {"targets": [target(provider, "only", prices=dollars)], "retry": retry}
        models[f"pair-{provider}"] = {"targets": pair, "retry": retry}
        models[f"going-on-{provider}"] = {"targets": pair, "retry": retry, "continue_after_failure": True}
        models[f"waiting-{provider}"] = {"targets": [target(provider, "waiting")]}
        models[f"quoting-{provider}"] = {"targets": [target(provider, "quoting") | {"base_url": f"{api_url}/llm"}]}
    models["dead"] = {"targets": [target("openai", "gone", base_url="http://127.0.0.1:9/v1"), target("anthropic", "good")]}
    path = folder / "models.json"
    path.write_text(json.dumps({"models": models}))
    return path


def write_script(folder: Path) -> Path:
    """The LLM simulator's profile: the shop's, and before it what the fault tests need."""
    path = folder / "profile.json"
    rules = [*_desk_rules(), *_staggered(), *_book_rules()]
    rules.append({"when": {"system": "RETURNS-DESK", "user": "take your time"}, "text": "Which order is it?", "first_token_ms": 1000})
    rules += [
        {"when": {"user": f"a {how} answer"}, "text": "Slow words.", "first_token_ms": ms} for how, ms in (("slow", 1500), ("late", 2000))
    ]
    rules.append({"when": {"user": "a steady answer|something heavy"}, "text": "Steadily answered.", "first_token_ms": 300})
    flood = " ".join(f"word{n}" + "x" * 10_000 for n in range(400))
    rules.append({"when": {"user": "a flood of words"}, "text": flood, "token_ms": 0})
    rules.append({"when": {"user": "a very long story"}, "text": " ".join(f"word{n}" for n in range(400)), "token_ms": 20})
    rules.append({"when": {"user": "broke off in the middle"}, "text": " and then the rest."})
    rules.append({"when": {"user": "after \\w+"}, "text": "These words come before it breaks off for good."})
    rules += _clerk_rules()
    intent = [{"when": {"purpose": "intent", "user": "send it back"}, "tool_calls": [{"name": "returns_desk"}]}]
    intent += [{"when": {"purpose": "intent", "user": f"^{name}"}, "tool_calls": [{"name": name}]} for name in CLERK_SKILLS]
    intent += [{"when": {"purpose": "intent", "user": "pay now"}, "tool_calls": [{"name": "pay"}]}]
    intent += [{"when": {"purpose": "intent"}, "tool_calls": [{"name": "reply_directly"}]}]
    path.write_text(json.dumps({**PROFILE, "rules": [*intent, *rules, *PROFILE["rules"]], "faults": [*_faults(), *PROFILE["faults"]]}))
    return path


def _faults() -> list[dict[str, Any]]:
    faults: list[dict[str, Any]] = []
    stall = {"seconds": 5}
    for provider in PROVIDERS:

        def on(words: str, at: str = provider, **more: Any) -> dict[str, Any]:
            return {"user": words, "purpose": "message", "provider": at, **more}

        for kind in (*PASSING, "stall", "spend_limit", "401", "404"):
            more = stall if kind == "stall" else {}
            faults.append({"kind": kind, "when": on(f"before {kind}\\b", model="bad"), "every": 1, **more})
        for kind in PASSING:
            faults.append({"kind": kind, "when": on(f"once {kind}\\b"), "every": 2})
        for kind in BREAKING:
            faults.append({"kind": kind, "when": on(f"after {kind} (single|pair|going on)"), "every": 1, "after_tokens": 3, **stall})
            faults.append({"kind": kind, "when": on(f"after {kind} unstreamed", model="bad"), "every": 1, **stall})
        for kind in ("spend_limit", "401", "400"):
            faults.append({"kind": kind, "when": on(f"always {kind}\\b"), "every": 1})
        faults.append({"kind": "429", "when": on("wait one second"), "every": 2, "retry_after": 1})
        faults.append({"kind": "429", "when": on("wait a minute"), "every": 1, "retry_after": 60})
        faults.append({"kind": "held_open", "when": on("held open"), "every": 1, "seconds": 20})
    return faults


def _staggered() -> list[dict[str, Any]]:
    return [{"when": {"user": f"staggered {n}\\b"}, "text": f"Answer {n}.", "first_token_ms": n * 25} for n in range(20)]


def _shop(agent_id: str, alias: str) -> dict[str, Any]:
    return {**WORKFLOW, "agent_id": agent_id, "models": {"default": alias}}


def _desk(provider: str) -> dict[str, Any]:
    """Skills whose model makes mistakes; the rule picks them, so every LLM call is the skill's own."""
    skills = [
        {
            "skill_id": name,
            "description": name,
            "trigger_patterns": [f"^{name} desk$"],
            "system_prompt": f"{name.upper()}-DESK",
            "tools": ["get_order", "open_ticket"],
        }
        for name in ("repaired", "broken", "looping", "many", "doubled")
    ]
    workflow = {**WORKFLOW, "agent_id": f"desk-{provider}", "models": {"default": f"single-{provider}"}, "skills": skills}
    return {**workflow, "action_books": [], "limits": {"tool_calls": 10, "cost_usd": 50}}


def _desk_rules() -> list[dict[str, Any]]:
    order = {"name": "get_order", "arguments": {"order_id": "A1001"}}
    ticket = {"name": "open_ticket", "arguments": {"order_id": "A1001", "reason": "broken"}}
    cut = {"name": "open_ticket", "arguments": '{"order_id": "A1001", "reas'}
    wrong = {"name": "open_ticket", "arguments": {"order_id": 5, "reason": ["x"]}}
    done = {"name": "done", "arguments": {"message": "It is done."}}

    def rule(desk: str, results: int | None, *calls: Mapping[str, Any], text: str | None = None) -> dict[str, Any]:
        when = {"system": f"{desk}-DESK"} if results is None else {"system": f"{desk}-DESK", "tool_results": results}
        return {"when": when, "tool_calls": list(calls), **({"text": text} if text else {})}

    return [
        rule("REPAIRED", 0, cut),
        rule("REPAIRED", 1, {"name": "open_tickets", "arguments": {}}),
        rule("REPAIRED", 2, ticket),
        rule("REPAIRED", None, done),
        rule("BROKEN", 0, cut),
        rule("BROKEN", 1, wrong),
        rule("BROKEN", None, {"name": "no_such_tool", "arguments": "{"}),
        rule("LOOPING", None, order, text="Still looking."),
        rule("MANY", 0, *[{"name": "get_order", "arguments": {"order_id": f"A{n}"}} for n in range(100)]),
        rule("MANY", None, order, text="That was a lot."),
        rule("DOUBLED", 0, {**order, "id": "call_1"}, {**ticket, "id": "call_1"}),
        rule("DOUBLED", None, done),
    ]


def _clerk() -> dict[str, Any]:
    """Skills with effects, for tasks: no rule picks them. `ledger` opens five tickets, the others post to an API that loses its replies."""
    skills = [
        {"skill_id": name, "description": name, "system_prompt": f"{name.upper()}-CLERK", "tools": [tool]}
        for name, tool in CLERK_SKILLS.items()
    ]
    tools = [WORKFLOW["tools"][1]]
    for name, path in (("apply", "/once"), ("apply_slowly", "/once/hang")):
        endpoint = {"url": "${ODD}" + path, "method": "POST", "body": {"what": "{what}"}, "timeout": 60}
        parameters = {"type": "object", "properties": {"what": {"type": "string"}}, "required": ["what"]}
        tools.append({"name": name, "description": name, "parameters": parameters, "endpoint": endpoint})
    return {"agent_id": "clerk", "basic_settings": {"name": "Clerk", "language": "English"}, "tools": tools, "skills": skills}


def _clerk_rules() -> list[dict[str, Any]]:
    def rule(name: str, results: int | None, tool: str, **arguments: Any) -> dict[str, Any]:
        when = {"system": f"{name.upper()}-CLERK"} if results is None else {"system": f"{name.upper()}-CLERK", "tool_results": results}
        return {"when": when, "tool_calls": [{"name": tool, "arguments": arguments}], "first_token_ms": 300}

    rules = [rule("ledger", n, "open_ticket", order_id="A1001", reason=f"step {n + 1}") for n in range(5)]
    rules += [rule(name, 0, tool, what="it") for name, tool in CLERK_SKILLS.items() if name != "ledger"]
    return rules + [rule(name, None, "done", message=f"The {name} is done.") for name in CLERK_SKILLS]


def _secret() -> dict[str, Any]:
    headers = {"Authorization": "Bearer ${SHOP_TOKEN}"}

    def flow(name: str, path: str, **more: Any) -> dict[str, Any]:
        endpoint = {"url": "${ODD}" + path, "headers": headers, "timeout": 1, **more}
        return {
            "flow_id": name,
            "trigger_patterns": [f"^secret {name}"],
            "endpoint": endpoint,
            "response_template": "It is {result.status}.",
        }

    flows = [flow("fine", "/items/secret"), flow("redirect", "/redirect"), flow("deep", "/deep")]
    flows += [{**flow("away", "/items/1"), "endpoint": {"url": "http://127.0.0.1:9/x?key=${SHOP_TOKEN}", "headers": headers, "timeout": 1}}]
    return {"agent_id": "secret", "flows": flows, "models": {"default": "quoting-openai", "intent": "quoting-anthropic"}}


def _odd(port: int) -> dict[str, Any]:
    """Flows over the API that misbehaves. Each says what to answer when its call fails, so that no LLM is asked."""

    def flow(name: str, url: str, template: str = "It is {result.status}.", pattern: str | None = None, **endpoint: Any) -> dict[str, Any]:
        return {
            "flow_id": name,
            "trigger_patterns": [pattern or f"^call {name}$"],
            "endpoint": {"url": url if "://" in url else "${ODD}" + url, "timeout": 0.5, **endpoint},
            "response_template": template,
            "on_error": "The shop does not answer.",
        }

    plain = [flow(name, f"/{name}") for name in ("deep", "nested", "redirect", "steer")]
    large = [flow(name, f"/{name}", timeout=10) for name in ("flood", "bomb")]
    slow = [flow("hang", "/hang"), flow("fine", "/items/1")]
    failing = [flow("fail", "/fail", retries=2, headers={"X-Session": "{session_id}"})]
    value = "(?s)^{} (?P<value>.+)$"
    values = [
        flow("path", "/echo/path/{value}", pattern=value.format("path")),
        flow("query", "/echo/query?value={value}&safe=1", pattern=value.format("query")),
        flow("header", "/echo/header", pattern=value.format("header"), headers={"X-Value": "{value}", "X-Safe": "1"}),
        flow("body", "/echo/body", pattern=value.format("body"), method="POST", body={"value": "{value}", "safe": 1}),
    ]
    values.append(flow("apply", "/apply", "Booked as {result.booking}.", method="POST", body={"for": "{session_id}"}))
    hidden = [flow(f"hidden{n}", f"http://{host}:{port}/x") for n, host in enumerate((*METADATA_HOSTS, *ZERO_HOSTS))]
    return {"agent_id": "odd", "flows": [*plain, *large, *slow, *failing, *values, *hidden]}


def _slow() -> dict[str, Any]:
    """Rules that a back-tracking engine would never finish with, and one that takes what is left, so that every time can be read."""
    patterns = ["(a+)+$", "^(([a-z])+.)+[A-Z]([a-z])+$", "(x+x+)+y", "(.*)*~", "(b|b?)*c{40}", "(?:a?){40}a{40}z", "(.*a){12}!!"]
    flows = [{"flow_id": f"slow{n}", "trigger_patterns": [p], "response_template": "Hit."} for n, p in enumerate(patterns)]
    rest = {"flow_id": "rest", "trigger_patterns": ["(?s)."], "priority": -1, "response_template": "Nothing."}
    return {"agent_id": "slow", "flows": [*flows, rest]}


def _book(provider: str) -> dict[str, Any]:
    """Skills whose tool has an effect: its reply is lost, comes late, or comes late where the file says that it must not be called twice;
    the same of a flow that an LLM chooses."""

    def tool(name: str, query: str, **more: Any) -> dict[str, Any]:
        endpoint = {"url": f"${{ODD}}/apply?{query}", "method": "POST", "body": {"for": "{session_id}"}, "timeout": 10, **more}
        return {"name": name, "description": name, "parameters": {"type": "object", "properties": {}}, "endpoint": endpoint}

    tools = [tool("lost", "lose=1"), tool("late", "wait=2"), tool("once", "wait=2", idempotent=False)]
    skills = [
        {
            "skill_id": t["name"],
            "description": t["name"],
            "trigger_patterns": [f"^book {t['name']}$"],
            "system_prompt": f"BOOK-{t['name']}-DESK",
            "tools": ["late", t["name"]],
        }
        for t in tools
    ]
    pay = {"flow_id": "pay", "description": "Pay", "type": "intent", "endpoint": tools[-1]["endpoint"], "response_template": "Paid."}
    models = {"default": f"single-{provider}"}
    return {"agent_id": f"book-{provider}", "models": models, "tools": tools, "skills": skills, "flows": [pay]}


def _book_rules() -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = []
    for name in ("lost", "late", "once"):
        when = {"system": f"BOOK-{name}-DESK"}
        rules.append({"when": {**when, "tool_results": 0}, "tool_calls": [{"name": name, "arguments": {}}]})
        rules.append({"when": when, "tool_calls": [{"name": "done", "arguments": {"message": "It is booked."}}]})
    return rules
