"""The rule tier behind OpenAI's protocol: which requests it answers, hands on with a ticket, or hands on as they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from common.contracts.ticket import Plan
from common.hotstore.redis import RedisHotStore
from tests.lightweight.asking import Desk, Reply, call, desk
from tests.support.redis_client import redis_command

SHOP: dict[str, Any] = {
    "agent_id": "shop",
    "flows": [{"flow_id": "hours", "trigger_patterns": ["opening hours"], "response_template": "We open at 9."}],
    "skills": [{"skill_id": "talk", "description": "Talk", "trigger_patterns": ["let us talk"]}],
}
HOURS: Any = {"role": "user", "content": "opening hours"}
OPEN: Any = {"role": "assistant", "content": "We open at 9."}


async def chat(to: Desk, *messages: Any, headers: Mapping[str, str] | None = None, **members: Any) -> Reply:
    """POST /v1/chat/completions."""
    body = json.dumps({"model": "shop", "messages": list(messages) or [HOURS], **members}).encode()
    return await call(to.app, "POST", "/v1/chat/completions", body, headers)


async def test_a_rule_answers_in_openais_form() -> None:
    async with desk(SHOP) as shop:
        ask: Any = {"metadata": {"session_id": "s"}, "headers": {"X-Request-Id": "r"}}
        reply = await chat(shop, {"role": "system", "content": "Be rude."}, HOURS, **ask)
    assert reply.status == 200
    assert reply.json["choices"][0]["message"]["content"] == "We open at 9."
    assert reply.json["loadsplit"]["route"]["tier"] == "lightweight"
    assert reply.json["loadsplit"]["session_id"] == "s"
    assert reply.json["usage"]["total_tokens"] == 0
    assert (reply.headers["x-loadsplit-tier"], reply.headers["x-request-id"]) == ("lightweight", "r")
    assert reply.headers["x-loadsplit-config"] == reply.json["loadsplit"]["config_hash"]


async def test_the_same_as_a_stream() -> None:
    async with desk(SHOP) as shop:
        reply = await chat(shop, stream=True, stream_options={"include_usage": True})
    assert reply.headers["content-type"].startswith("text/event-stream")
    *chunks, done, end = reply.body.decode().split("\n\n")
    docs = [json.loads(c.removeprefix("data: ")) for c in chunks]
    assert (done, end) == ("data: [DONE]", "")
    assert "".join(d["choices"][0]["delta"].get("content") or "" for d in docs if d["choices"]) == "We open at 9."
    assert docs[-1]["usage"]["total_tokens"] == 0


async def test_what_no_rule_finds_is_handed_on_with_a_ticket() -> None:
    async with desk(SHOP) as shop:
        assert (await chat(shop, {"role": "user", "content": "let us talk"}, user="ann")).status == 299
        ticket = shop.handoff.tickets[-1]
        assert (ticket.agent_id, ticket.session_id, ticket.plan.action_target) == ("shop", "ann", "talk")
        assert json.loads(shop.handoff.bodies[-1])["model"] == "shop"
        assert shop.handoff.session_keys == ["default/ann"]


async def test_a_conversation_is_known_by_what_was_said() -> None:
    async with desk(SHOP) as shop:
        first = (await chat(shop)).json["loadsplit"]["session_id"]
        second = (await chat(shop, HOURS, OPEN, HOURS)).json["loadsplit"]["session_id"]
        assert first == second
        assert (await chat(shop, HOURS, OPEN, HOURS)).status == 299  # that point is taken: heavy begins a session with this history
        assert shop.handoff.tickets[-1].session_id not in (first, second)
        assert shop.plan == Plan("flow", "hours", "opening hours", {})
        assert (await chat(shop, HOURS, {"role": "assistant", "content": "Something else."}, HOURS)).status == 299
        third = await chat(shop, HOURS, OPEN, HOURS, OPEN, {"role": "user", "content": "let us talk"})
        assert third.status == 299
        assert shop.handoff.tickets[-1].session_id == first


async def test_agents_do_not_share_conversations() -> None:
    async with desk(SHOP, {**SHOP, "agent_id": "desk"}) as shop:
        first = (await chat(shop)).json["loadsplit"]["session_id"]
        assert (await chat(shop, HOURS, OPEN, HOURS, model="desk")).status == 299
        assert shop.handoff.tickets[-1].session_id != first


async def test_a_key_makes_the_session() -> None:
    async with desk(SHOP) as shop:
        first, again, other = [await chat(shop, headers={"Idempotency-Key": key}) for key in ("a", "a", "b")]
        assert first.body == again.body
        assert again.headers["idempotent-replayed"] == "true"
        assert first.json["loadsplit"]["session_id"] != other.json["loadsplit"]["session_id"]
        streamed = await chat(shop, stream=True, headers={"Idempotency-Key": "a"})
        assert first.json["id"].encode() in streamed.body
        mismatch = await chat(shop, {"role": "user", "content": "let us talk"}, headers={"Idempotency-Key": "a"})
        assert (mismatch.status, mismatch.json["error"]["code"]) == (422, "idempotency_mismatch")
        assert (await chat(shop, HOURS, OPEN, HOURS, headers={"Idempotency-Key": "c"})).status == 299


async def test_a_model_that_is_named_goes_on_as_it_is() -> None:
    async with desk(SHOP) as shop:
        handed: list[tuple[bytes, str, str]] = []

        async def hand(scope: Any, receive: Any, send: Any, body: bytes, ticket: str, session_key: str) -> None:
            handed.append((body, ticket, session_key))
            await send({"type": "http.response.start", "status": 299, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        shop.app._hot["/v1/chat/completions"]._handoff = hand
        large = "x" * 1_000_000
        for _ in range(2):
            assert (await chat(shop, {"role": "user", "content": large}, model="models/default")).status == 299
        assert (await chat(shop, {"role": "user", "content": large})).status == 413
    bodies, tickets, keys = zip(*handed, strict=True)
    assert set(tickets) == {""}
    assert len(set(keys)) == 2  # any replica will do
    assert len(bodies[0]) > 1_000_000


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"model": "nobody", "messages": [HOURS]}, 404, "model_not_found", "model"),
        ({"messages": [HOURS]}, 400, "invalid_request", "model"),
        ({"model": "shop", "messages": [HOURS], "n": 3}, 400, "invalid_request", "n"),
        ({"model": "shop", "messages": []}, 400, "invalid_request", "messages"),
        ([], 400, "invalid_request", None),
    ],
)
async def test_errors_have_openais_shape(body: Any, status: int, code: str, param: str | None) -> None:
    async with desk(SHOP) as shop:
        reply = await call(shop.app, "POST", "/v1/chat/completions", json.dumps(body).encode())
        assert (reply.status, reply.json["error"]["code"], reply.json["error"]["param"]) == (status, code, param)
        assert reply.headers["x-should-retry"] == "false"
        assert reply.headers["x-loadsplit-tier"] == "lightweight"
        refused = await call(shop.app, "GET", "/v1/chat/completions")
        assert (refused.status, refused.headers["allow"], refused.json["error"]["type"]) == (405, "POST", "invalid_request_error")


async def test_what_is_kept_in_redis_goes_with_time(redis_database: str) -> None:
    """The leak check of `redis_database` looks at all keys afterwards."""
    async with desk(SHOP, hotstore=RedisHotStore(redis_database)) as shop:
        first = (await chat(shop)).json["loadsplit"]["session_id"]
        assert (await chat(shop, HOURS, OPEN, HOURS)).json["loadsplit"]["session_id"] == first
    port, _, number = redis_database.rpartition(":")[2].partition("/")
    assert len(redis_command(int(port), "KEYS", "ls:chat:*", database=int(number))) == 3
