"""The hot path: what a rule answers, what is handed on and with which plan, and how wrong requests are refused."""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from common.contracts import gate, journal
from common.hotstore import keys
from common.hotstore.memory import MemoryHotStore
from common.hotstore.open import open_hotstore
from common.hotstore.protocol import HotStore
from common.web.auth import hash_key
from tests.lightweight.asking import business_api, call, desk
from tests.support.services import free_port

SHOP: dict[str, Any] = {
    "agent_id": "shop",
    "fallback_message": "Sorry.",
    "flows": [
        {"flow_id": "hours", "trigger_patterns": ["opening hours", "营业时间"], "response_template": 'We open at "9".'},
        {"flow_id": "hello", "trigger_patterns": ["my name is (?P<name>\\w+)"], "response_template": "Hello {name}, {who}."},
        {"flow_id": "stop", "trigger_patterns": ["stop"], "interrupts": True, "response_template": "Stopped."},
    ],
    "skills": [{"skill_id": "desk", "execution_mode": "agent", "system_prompt": "x", "trigger_patterns": ["refund (?P<what>\\w+)"]}],
    "system_actions": [{"action_id": "human", "handler": "handoff", "trigger_patterns": ["a human"], "response_template": "A person."}],
    "metadata": {"context": ["who"]},
}


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[HotStore]:
    """Each kind of hot store; `desk` closes it."""
    url = "memory://" if request.param == "memory" else request.getfixturevalue("redis_database")
    return open_hotstore(url)


async def test_a_rule_answers_and_the_turn_is_journalled(store: HotStore) -> None:
    async with desk(SHOP, hotstore=store) as shop:
        reply = await shop.ask("What are your OPENING   hours?", user_id="u-1")
        entries = await store.pending(keys.pending("default", "s-1"))
        assert reply.status == 200
        assert reply.json == {
            "session_id": "s-1",
            "message": 'We open at "9".',
            "status": "success",
            "turn_id": reply.json["turn_id"],
            "route": {
                "tier": "lightweight",
                "action_type": "flow",
                "action_target": "hours",
                "matched_by": "rule",
                "pattern": "opening hours",
            },
            "usage": {"llm_calls": 0, "input_tokens": 0, "cached_tokens": 0, "output_tokens": 0, "cost_usd": 0.0},
            "config_hash": reply.headers["x-loadsplit-config"],
        }
        assert reply.headers["x-loadsplit-tier"] == "lightweight"
        assert reply.headers["content-type"] == "application/json"
        assert "match;dur=" in reply.headers["server-timing"]
        entry = journal.decode(entries[reply.json["turn_id"]].entry)
        assert (entry.tenant, entry.agent_id, entry.user_id, entry.message) == ("default", "shop", "u-1", "What are your OPENING   hours?")
        assert entry.reply == reply.json
        assert abs(entry.at - time.time()) < 5
        assert await store.get(keys.gate("default", "s-1")) is None  # without a greeting there is nothing to remember
        assert shop.handoff.tickets == []


async def test_a_rule_answered_turn_streams_the_same_events(store: HotStore) -> None:
    async with desk(SHOP, hotstore=store) as shop:
        reply = await shop.stream("营业时间？")
        assert reply.headers["content-type"].startswith("text/event-stream")
        assert reply.body.startswith(b"retry: 1000\n\n")
        numbers, types, data = zip(*reply.events, strict=True)
        assert numbers == (1, 2, 3, 4)
        assert types == ("start", "route", "text", "complete")
        assert data[0] == {"turn_id": data[3]["turn_id"], "session_id": "s-1", "config_hash": data[3]["config_hash"]}
        assert data[1] == data[3]["route"]
        assert data[2]["delta"] == data[3]["message"] == 'We open at "9".'


async def test_groups_and_context_fill_a_static_answer() -> None:
    async with desk(SHOP) as shop:
        reply = await shop.ask("My name is 小明", context={"who": "dear"})
        assert reply.json["message"] == "Hello 小明, dear."


@pytest.mark.parametrize("given", ["abc-1.2_X", "x" * 128])
async def test_the_callers_request_id_comes_back(given: str) -> None:
    async with desk(SHOP) as shop:
        assert (await shop.ask("opening hours", headers={"X-Request-Id": given})).headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "a\tb"])
async def test_a_bad_request_id_is_replaced(given: str) -> None:
    async with desk(SHOP) as shop:
        found = (await shop.ask("opening hours", headers={"X-Request-Id": given})).headers["x-request-id"]
        assert found != given
        assert found


async def test_what_needs_an_llm_is_handed_on_with_its_plan() -> None:
    async with desk(SHOP) as shop:
        await shop.ask("refund Kettle please", session="s-9", headers={"X-Loadsplit-Timeout": "20"})
        ticket = shop.handoff.tickets[-1]
        assert (ticket.tenant, ticket.agent_id, ticket.session_id) == ("default", "shop", "s-9")
        assert ticket.deadline is not None
        assert 15 < ticket.deadline - time.time() <= 20
        assert (shop.plan.action_type, shop.plan.action_target, shop.plan.pattern) == ("skill", "desk", "refund (?P<what>\\w+)")
        assert shop.plan.groups == {"what": "Kettle"}
        assert json.loads(shop.handoff.bodies[-1])["message"] == "refund Kettle please"
        assert shop.handoff.session_keys == ["default/s-9"]
        await shop.ask("talk to a human")
        assert (shop.plan.action_type, shop.plan.action_target) == ("system", "human")
        await shop.ask("tell me a story")
        assert (shop.plan.action_type, shop.plan.action_target, shop.plan.groups, shop.plan.escalated) == (None, None, {}, None)


async def test_ambiguous_rules_are_left_to_the_llm() -> None:
    async with desk({**SHOP, "ambiguous": "escalate"}) as shop:
        await shop.ask("stop, what are the opening hours")
        assert shop.plan.action_type is None
        await shop.hotstore.set(keys.gate("default", "s-1"), b"c:", 60)
        assert (await shop.ask("stop, what are the opening hours")).json["message"] == "Stopped."  # in a conversation one rule is left


@pytest.mark.parametrize("status", ["in_conversation", "transferred", "closed"])
async def test_a_closed_gate_hands_the_rules_plan_on(store: HotStore, status: str) -> None:
    async with desk(SHOP, hotstore=store) as shop:
        await store.set(keys.gate("default", "s-1"), gate.write(gate.of_status(status, "")), 60)
        assert (await shop.ask("opening hours")).status == 299
        assert shop.plan.action_target == "hours"
        assert await store.pending(keys.pending("default", "s-1")) == {}


async def test_interrupting_rules_answer_in_a_conversation_and_nowhere_else_closed(store: HotStore) -> None:
    async with desk(SHOP, hotstore=store) as shop:
        await store.set(keys.gate("default", "s-1"), b"c:", 60)
        assert (await shop.ask("stop")).json["message"] == "Stopped."
        assert (await shop.ask("opening hours, then stop")).json["message"] == "Stopped."
        assert await store.get(keys.gate("default", "s-1")) == b"c:"
        await store.set(keys.gate("default", "s-1"), b"t:", 60)
        assert (await shop.ask("stop")).status == 299


async def test_without_a_hot_store_rules_still_answer_and_are_counted() -> None:
    away = open_hotstore(f"redis://127.0.0.1:{free_port()}")
    async with desk(SHOP, {**SHOP, "agent_id": "polite", "greeting": "Welcome!"}, hotstore=away) as shop:
        assert (await shop.ask("opening hours")).json["message"] == 'We open at "9".'
        assert shop.unrecorded() == 1
        assert (await shop.ask("opening hours", agent_id="polite")).json["message"] == 'We open at "9".'
        assert shop.unrecorded() == 2
        assert (await shop.ask("hi", agent_id="polite")).status == 299


async def test_the_first_message_is_greeted_and_answered(store: HotStore) -> None:
    async with desk({**SHOP, "greeting": "Welcome!"}, hotstore=store) as shop:
        first = await shop.ask("opening hours")
        assert first.json["message"] == 'Welcome!\n\nWe open at "9".'
        assert await store.get(keys.gate("default", "s-1")) == b"r:" + gate.greeting_hash("Welcome!").encode()
        entry = journal.decode((await store.pending(keys.pending("default", "s-1")))[first.json["turn_id"]].entry)
        assert entry.greeting == gate.greeting_hash("Welcome!")
        assert (await shop.ask("opening hours")).json["message"] == 'We open at "9".'
        assert (await shop.stream("opening hours", "s-2")).events[2][2]["delta"] == 'Welcome!\n\nWe open at "9".'


async def test_a_salutation_gets_the_greeting_alone_once(store: HotStore) -> None:
    async with desk({**SHOP, "greeting": "Welcome!"}, hotstore=store) as shop:
        reply = (await shop.ask("你好，在吗？")).json
        assert reply["message"] == "Welcome!"
        assert (reply["route"]["action_type"], reply["route"]["matched_by"], reply["route"]["action_target"]) == ("greeting", "rule", None)
        assert (await shop.ask("hi")).status == 299  # greeted already: now it is a message like any other


async def test_a_new_greeting_is_shown_again_and_keeps_the_state(store: HotStore) -> None:
    async with desk({**SHOP, "greeting": "Welcome!"}, hotstore=store) as shop:
        await store.set(keys.gate("default", "s-1"), b"c:00000000", 60)
        assert (await shop.ask("stop")).json["message"] == "Welcome!\n\nStopped."
        assert await store.get(keys.gate("default", "s-1")) == b"c:" + gate.greeting_hash("Welcome!").encode()


async def test_heavy_greets_where_heavy_answers(store: HotStore) -> None:
    async with desk({**SHOP, "greeting": "Welcome!"}, hotstore=store) as shop:
        assert (await shop.ask("tell me a story")).status == 299
        assert await store.get(keys.gate("default", "s-1")) is None


def with_api(url: str, **fields: Any) -> dict[str, Any]:
    """The shop with one flow that asks an API for an order."""
    flow = {
        "flow_id": "order",
        "trigger_patterns": ["order #?(?P<order_id>[A-Za-z0-9-]+)"],
        "endpoint": {"url": url + "/orders/{order_id}", "method": "GET", "retries": 0},
        "response_template": "{order_id} is {result.status}",
        **fields,
    }
    return {**SHOP, "flows": [*SHOP["flows"], flow]}


async def test_a_flow_calls_its_api(store: HotStore) -> None:
    paths: list[str] = []

    async def shipped(request: web.BaseRequest) -> web.Response:
        paths.append(request.path)
        return web.json_response({"status": "shipped"})

    async with business_api(shipped) as url, desk(with_api(url), hotstore=store) as shop:
        reply = (await shop.ask("where is order #A-12?")).json
        assert reply["message"] == "A-12 is shipped"
        assert paths == ["/orders/A-12"]
        assert list(await store.pending(keys.pending("default", "s-1"))) == [reply["turn_id"]]


async def test_a_failing_api_escalates_in_the_same_request() -> None:
    async def fails(request: web.BaseRequest) -> web.Response:
        return web.Response(status=500, text="stack trace with a password")

    async with business_api(fails) as url, desk(with_api(url)) as shop:
        assert (await shop.ask("order A-1")).status == 299
        assert (shop.plan.action_type, shop.plan.action_target, shop.plan.groups) == ("flow", "order", {"order_id": "A-1"})
        assert "500" in shop.plan.escalated
        assert "password" not in shop.plan.escalated
    async with business_api(fails) as url, desk(with_api(url, on_error="Try later.")) as shop:
        assert (await shop.ask("order A-1")).json["message"] == "Try later."


async def test_no_api_is_called_behind_a_closed_gate(store: HotStore) -> None:
    called: list[str] = []

    async def remember(request: web.BaseRequest) -> web.Response:
        called.append(request.path)
        return web.json_response({"status": "x"})

    async with business_api(remember) as url, desk(with_api(url), hotstore=store) as shop:
        await store.set(keys.gate("default", "s-1"), b"t:", 60)
        assert (await shop.ask("order A-1")).status == 299
        assert called == []


async def test_a_gate_that_closes_during_the_call_does_not_lose_the_answer() -> None:
    store = MemoryHotStore()

    async def close_meanwhile(request: web.BaseRequest) -> web.Response:
        await store.set(keys.gate("default", "s-1"), b"c:", 60)
        return web.json_response({"status": "shipped"})

    async with business_api(close_meanwhile) as url, desk(with_api(url), hotstore=store) as shop:
        reply = (await shop.ask("order A-1")).json
        assert reply["message"] == "A-1 is shipped"
        assert list(await store.pending(keys.pending("default", "s-1"))) == [reply["turn_id"]]


async def test_agents_are_chosen_by_id_and_the_first_answers_without_one() -> None:
    other = {**SHOP, "agent_id": "other", "flows": [{"flow_id": "hours", "trigger_patterns": ["hours"], "response_template": "Never."}]}
    async with desk(SHOP, other) as shop:
        assert (await shop.ask("opening hours")).json["message"] == 'We open at "9".'
        reply = await shop.ask("opening hours", agent_id="other")
        assert reply.json["message"] == "Never."
        assert reply.headers["x-loadsplit-config"] == reply.json["config_hash"]
        refused = await shop.ask("opening hours", agent_id="nobody")
        assert (refused.status, refused.json["code"], refused.json["field"]) == (400, "invalid_request", "agent_id")


DEEP = b'{"message":"x","session_id":"s","context":' + b'{"a":' * 300 + b"1" + b"}" * 300 + b"}"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"null", 400),
        (b"\xff\xfe{}", 400),
        (DEEP, 400),
        (b'{"message":"opening hours","session_id":"s","note":' + b"[" * 40 + b"]" * 40 + b"}", 400),
        (b'{"message":"x"}', 400),
        (b'{"session_id":"s"}', 400),
        (b'{"message":"","session_id":"s"}', 400),
        (b'{"message":5,"session_id":"s"}', 400),
        (b'{"message":"x\\ud800","session_id":"s"}', 400),
        (b'{"message":"x","session_id":"a b"}', 400),
        (b'{"message":"x","message":"y","session_id":"s"}', 400),
        (b'{"message":"x","session_id":"s","context":{"a":{"b":1}}}', 400),
        (b'{"message":"' + b"x" * 300_000 + b'","session_id":"s"}', 413),
    ],
)
@pytest.mark.parametrize("path", ["/api/v1/query", "/api/v1/query/stream"])
async def test_bad_bodies_are_problems(path: str, body: bytes, status: int) -> None:
    async with desk(SHOP) as shop:
        reply = await call(shop.app, "POST", path, body)
        assert reply.status == status
        assert reply.headers["content-type"] == "application/problem+json"
        assert reply.json["request_id"] == reply.headers["x-request-id"]
        assert reply.json["code"] in ("invalid_request", "payload_too_large")
        assert reply.headers["x-loadsplit-tier"] == "lightweight"
        assert "x-loadsplit-config" in reply.headers


async def test_wrong_method_type_and_timeout_are_problems() -> None:
    async with desk(SHOP) as shop:
        reply = await call(shop.app, "GET", "/api/v1/query")
        assert (reply.status, reply.json["code"], reply.headers["allow"]) == (405, "invalid_request", "POST")
        assert (await shop.ask("opening hours", headers={"content-type": "text/plain"})).status == 415
        assert (await shop.ask("opening hours", headers={"content-type": ""})).status == 200
        assert (await shop.ask("opening hours", headers={"content-type": "application/json; charset=utf-8"})).status == 200
        for seconds in ("0", "-1", "soon", "nan", "1e9"):
            assert (await shop.ask("opening hours", headers={"X-Loadsplit-Timeout": seconds})).status == 400


class Broken(MemoryHotStore):
    """A hot store with a fault that nobody expects."""

    async def record(self, *args: Any, **options: Any) -> tuple[bool, bytes | None]:
        raise ZeroDivisionError("secret of the house")


async def test_a_fault_of_ours_is_a_problem_that_tells_nothing() -> None:
    async with desk(SHOP, hotstore=Broken()) as shop:
        reply = await shop.ask("opening hours", headers={"X-Request-Id": "r-1"})
        assert (reply.status, reply.json["code"], reply.headers["x-request-id"]) == (500, "internal", "r-1")
        assert b"secret" not in reply.body
        labels = {"tier": "lightweight", "route_kind": "query", "status": "500"}
        assert shop.metrics.registry.get_sample_value("loadsplit_requests_total", labels) == 1


async def test_keys_tell_tenants_apart(tmp_path: Path) -> None:
    rows = [
        {"id": "k1", "tenant": "acme", "scopes": ["query"], "hash": hash_key("key-one")},
        {"id": "k2", "tenant": "acme", "scopes": ["llm"], "hash": hash_key("key-two")},
    ]
    path = tmp_path / "keys.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows))
    async with desk(SHOP, api_keys=path) as shop:
        assert (await shop.ask("opening hours")).status == 401
        assert (await shop.ask("opening hours", headers={"Authorization": "Bearer wrong"})).status == 401
        assert (await shop.ask("opening hours", headers={"Authorization": "Bearer key-two"})).status == 403
        reply = await shop.ask("opening hours", headers={"Authorization": "Bearer key-one"})
        assert list(await shop.hotstore.pending(keys.pending("acme", "s-1"))) == [reply.json["turn_id"]]


async def test_requests_and_hits_are_counted() -> None:
    async with desk(SHOP) as shop:
        await shop.ask("opening hours")
        await shop.ask("tell me a story")
        await shop.ask("")
        value = shop.metrics.registry.get_sample_value
        labels = {"tier": "lightweight", "route_kind": "query"}
        assert value("loadsplit_requests_total", {**labels, "status": "200"}) == 2
        assert value("loadsplit_requests_total", {**labels, "status": "400"}) == 1
        assert value("loadsplit_rule_hits_total", {"agent": "shop", "action": "hours"}) == 1
        assert value("loadsplit_handoffs_total", {"mode": "local"}) == 1
