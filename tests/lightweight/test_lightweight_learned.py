"""Learned routes in the rule tier: asked for in the same trip as the gate, answered here where an action needs no LLM, handed on else."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web

from common.contracts import gate, journal
from common.contracts.folding import fold
from common.contracts.learned import LearnedRoute, digest, encode
from common.hotstore import keys
from common.hotstore.memory import MemoryHotStore
from common.hotstore.open import open_hotstore
from common.hotstore.protocol import HotStore
from tests.lightweight.asking import Desk, business_api, desk
from tests.support.services import free_port

SHOP: dict[str, Any] = {
    "agent_id": "shop",
    "fallback_message": "Sorry.",
    "learned_routes": {"enabled": True},
    "flows": [
        {"flow_id": "hours", "trigger_patterns": ["opening hours"], "response_template": "We open at 9."},
        {"flow_id": "prices", "type": "intent", "response_template": "All is free."},
        {"flow_id": "order", "type": "intent", "response_template": "Order {order_id} is on its way."},
        {"flow_id": "note", "type": "intent", "silent": True, "response_template": ""},
    ],
    "skills": [{"skill_id": "desk", "execution_mode": "agent", "system_prompt": "x"}],
    "system_actions": [{"action_id": "human", "handler": "handoff", "response_template": "A person."}],
}


def tools(url: str) -> list[dict[str, Any]]:
    """Tools that differ in what a learned route may do with them."""
    endpoint = {"url": f"{url}/orders/{{order_id}}", "retries": 0}
    parameters = {"type": "object", "properties": {"order_id": {"type": "string"}}}
    tool = {"description": "x", "endpoint": endpoint, "parameters": parameters}
    return [
        {**tool, "name": "told", "response_template": "It is {result.state}."},
        {**tool, "name": "raw"},
        {**tool, "name": "guarded", "response_template": "x", "approval": True},
    ]


@pytest.fixture(params=["memory", "redis"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[HotStore]:
    """Each kind of hot store; `desk` closes it."""
    url = "memory://" if request.param == "memory" else request.getfixturevalue("redis_database")
    return open_hotstore(url)


async def learn(shop: Desk, message: str, kind: str, target: str, *, tenant: str = "default", version: str = "", **values: str) -> None:
    """Puts a route into the hot store, as heavy does it."""
    version = version or (await shop.ask("opening hours", "s-version")).json["config_hash"]
    spans = {name: (fold(message).index(fold(v)), fold(message).index(fold(v)) + len(v)) for name, v in values.items()}
    sign = digest(message)
    assert sign is not None
    await shop.hotstore.set(keys.learned(tenant, "shop", version, sign), encode(LearnedRoute(kind, target, spans)), 60)


async def test_a_learned_route_answers_and_is_journalled(store: HotStore) -> None:
    async with desk(SHOP, hotstore=store) as shop:
        await learn(shop, "what does shipping cost", "flow", "prices")
        reply = await shop.ask("What does  SHIPPING cost")
        assert reply.json["message"] == "All is free."
        assert reply.json["route"] == {
            "tier": "lightweight",
            "action_type": "flow",
            "action_target": "prices",
            "matched_by": "learned",
            "pattern": None,
        }
        assert reply.json["usage"]["llm_calls"] == 0
        entries = await store.pending(keys.pending("default", "s-1"))
        assert journal.decode(entries[reply.json["turn_id"]].entry).reply == reply.json
        labels = {"agent": "shop", "action": "prices"}
        assert shop.metrics.registry.get_sample_value("loadsplit_learned_hits_total", labels) == 1
        assert shop.handoff.tickets == []


async def test_parameters_are_cut_from_the_message_as_it_was_written(store: HotStore) -> None:
    async with desk(SHOP, hotstore=store) as shop:
        await learn(shop, "where is order a1001", "flow", "order", order_id="a1001")
        assert (await shop.ask("Where is order A1001")).json["message"] == "Order A1001 is on its way."
        await shop.ask("Where is order A1002")
        assert shop.plan.action_target is None  # other words are another message


async def test_a_stream_tells_that_the_route_was_learned(store: HotStore) -> None:
    async with desk(SHOP, hotstore=store) as shop:
        await learn(shop, "what does shipping cost", "flow", "prices")
        _, types, data = zip(*(await shop.stream("what does shipping cost")).events, strict=True)
        assert types == ("start", "route", "text", "complete")
        assert data[1]["matched_by"] == "learned"


async def test_what_needs_an_llm_is_handed_on_with_the_learned_choice() -> None:
    async with desk({**SHOP, "tools": tools("http://127.0.0.1:9")}) as shop:
        for kind, target in (("skill", "desk"), ("system", "human"), ("tool", "raw"), ("tool", "guarded")):
            message = f"please use {target} for a1001"
            await learn(shop, message, kind, target, order_id="a1001")
            assert (await shop.ask(message)).status == 299
            assert (shop.plan.action_type, shop.plan.action_target, shop.plan.matched_by) == (kind, target, "learned")
            assert shop.plan.parameters == {"order_id": "a1001"}
            assert shop.plan.escalated is None


async def test_a_tool_with_a_template_is_called_here_and_escalates_when_it_fails() -> None:
    fails = False

    async def api(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"state": request.path.rpartition("/")[2]}, status=500 if fails else 200)

    async with business_api(api) as url, desk({**SHOP, "tools": tools(url)}) as shop:
        await learn(shop, "state of a1001", "tool", "told", order_id="a1001")
        assert (await shop.ask("State of A1001")).json["message"] == "It is A1001."
        fails = True
        await shop.ask("State of A1001")
        assert (shop.plan.action_target, shop.plan.matched_by) == ("told", "learned")
        assert "500" in shop.plan.escalated


async def test_the_session_s_context_stands_before_what_was_learned() -> None:
    async with desk({**SHOP, "metadata": {"context": ["order_id"]}}) as shop:
        await learn(shop, "where is order a1001", "flow", "order", order_id="a1001")
        reply = await shop.ask("where is order a1001", context={"order_id": "mine"})
        assert reply.json["message"] == "Order mine is on its way."


async def test_rules_come_first_and_unlearned_messages_go_on() -> None:
    async with desk(SHOP) as shop:
        await learn(shop, "opening hours", "flow", "prices")
        assert (await shop.ask("opening hours")).json["route"]["matched_by"] == "rule"
        assert (await shop.ask("something else")).status == 299
        assert (shop.plan.action_type, shop.plan.matched_by) == (None, "rule")


async def test_other_versions_tenants_and_unknown_actions_do_not_count() -> None:
    async with desk(SHOP) as shop:
        await learn(shop, "what does shipping cost", "flow", "prices", version="another")
        await learn(shop, "what does shipping cost", "flow", "prices", tenant="other")
        await learn(shop, "what is that", "flow", "gone")
        for message in ("what does shipping cost", "what is that"):
            assert (await shop.ask(message)).status == 299
            assert shop.plan.action_type is None


async def test_a_broken_entry_is_no_route() -> None:
    async with desk(SHOP) as shop:
        version = (await shop.ask("opening hours", "s-v")).json["config_hash"]
        sign = digest("shipping")
        assert sign is not None
        await shop.hotstore.set(keys.learned("default", "shop", version, sign), b"{", 60)
        assert (await shop.ask("shipping")).status == 299


@pytest.mark.parametrize("state", [gate.CONVERSATION, gate.TRANSFERRED, gate.CLOSED])
async def test_a_learned_route_answers_only_where_the_session_is_free(store: HotStore, state: str) -> None:
    async with desk(SHOP, hotstore=store) as shop:
        await learn(shop, "what does shipping cost", "flow", "prices")
        await store.set(keys.gate("default", "s-1"), gate.write(gate.Gate(state)), 60)
        assert (await shop.ask("what does shipping cost")).status == 299
        assert shop.plan.action_type is None
        await store.set(keys.gate("default", "s-1"), gate.write(gate.Gate()), 60)
        assert (await shop.ask("what does shipping cost")).status == 200


async def test_the_greeting_comes_before_a_learned_answer_once(store: HotStore) -> None:
    async with desk({**SHOP, "greeting": "Welcome."}, hotstore=store) as shop:
        await learn(shop, "what does shipping cost", "flow", "prices")
        assert (await shop.ask("what does shipping cost")).json["message"] == "Welcome.\n\nAll is free."
        assert (await shop.ask("what does shipping cost")).json["message"] == "All is free."
        assert (await shop.ask("hello", "s-9")).json["route"]["action_type"] == "greeting"


async def test_a_silent_flow_is_silent_when_learned() -> None:
    async with desk(SHOP) as shop:
        await learn(shop, "note that i called", "flow", "note")
        reply = await shop.ask("note that i called")
        assert (reply.json["status"], reply.json["message"]) == ("silent", "")


async def test_where_rules_disagree_the_llm_s_repeated_choice_counts() -> None:
    rules = [{"flow_id": name, "trigger_patterns": ["shipping"], "response_template": name} for name in ("one", "two")]
    async with desk({**SHOP, "ambiguous": "escalate", "flows": [*SHOP["flows"], *rules]}) as shop:
        assert (await shop.ask("shipping")).status == 299
        await learn(shop, "shipping", "flow", "two")
        assert (await shop.ask("shipping")).json["message"] == "two"


async def test_without_the_switch_the_hot_store_is_not_asked() -> None:
    class Counting(MemoryHotStore):
        asked = 0

        async def get(self, key: str) -> bytes | None:
            self.asked += 1
            return await super().get(key)

    counting = Counting()
    off = {**SHOP, "learned_routes": {"enabled": False}}
    async with desk(off, hotstore=counting) as shop:
        await learn(shop, "what does shipping cost", "flow", "prices")
        assert (await shop.ask("what does shipping cost")).status == 299
        assert counting.asked == 0
        await shop.ask("x" * 1000)
        assert counting.asked == 0


async def test_without_a_hot_store_messages_go_on() -> None:
    async with desk(SHOP, hotstore=open_hotstore(f"redis://127.0.0.1:{free_port()}/0")) as shop:
        assert (await shop.ask("what does shipping cost")).status == 299
        assert shop.plan.action_type is None


async def test_route_and_gate_are_asked_in_one_trip(redis_database: str) -> None:
    async with relay(redis_database) as (url, sent), desk(SHOP, hotstore=open_hotstore(url)) as shop:
        await learn(shop, "what does shipping cost", "flow", "prices")
        before = len(sent)
        assert (await shop.ask("what does delivery cost")).status == 299
        asked = [write for write in sent[before:] if b"ls:learned" in write]  # the tier also follows keys, limits and the log's level
    assert len(asked) == 1
    assert b"}:g\r\n" in asked[0]


@contextlib.asynccontextmanager
async def relay(url: str) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A door to Redis that keeps what each write of a client carried."""
    at, sent = urlsplit(url), list[bytes]()

    served: list[asyncio.Task[None]] = []

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, kept: list[bytes] | None) -> None:
        try:
            while data := await reader.read(65536):
                if kept is not None:
                    kept.append(data)
                writer.write(data)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.current_task())  # type: ignore[arg-type]
        onward, out = await asyncio.open_connection(at.hostname, at.port)
        await asyncio.gather(copy(reader, out, sent), copy(onward, writer, None), return_exceptions=True)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"redis://127.0.0.1:{port}{at.path}", sent
    finally:
        server.close()
        await asyncio.gather(*served, return_exceptions=True)
        await server.wait_closed()
