"""The door of the rule tier: full it refuses unread, what heavy does takes no place, and a late loop lets fewer in."""

from __future__ import annotations

import asyncio
from typing import Any

from aiohttp import web

from common.web.asgi import Receive, Scope, Send
from lightweight.door import Door
from tests.lightweight.asking import Desk, business_api, call, desk
from tests.support.waiting import wait_until

HOURS = {"flow_id": "hours", "trigger_patterns": ["opening hours"], "response_template": "We open at 9."}


def late(door: Door, *seconds: float) -> int:
    """The limit after the loop was so late, tick by tick."""
    for each in seconds:
        door.seen(each)
    return door.limit.now


def test_one_late_tick_is_nothing() -> None:
    door = Door(1000, 50)
    door.count = 600
    assert late(door, 0.0, 5.0, 0.0, 5.0) == 1000


def test_a_loop_that_stays_late_lets_fewer_in() -> None:
    door = Door(1000, 50)
    door.count = 600
    assert late(door, 0.3, 0.3) == 420
    door.count = 300
    assert late(door, 0.3) == 210
    assert late(door, 0.0) == 310
    assert late(door, *[0.0] * 10) == 1000


def test_with_few_requests_their_number_is_not_the_reason() -> None:
    door = Door(1000, 50)
    door.count = 3
    assert late(door, *[1.0] * 10) == 50


async def test_it_watches_its_own_loop() -> None:
    door = Door(1000, 50)
    door.limit.fall(60)
    before = door.limit.now
    watching = asyncio.create_task(door.watch())
    try:
        await wait_until(lambda: door.limit.now > before, "a loop in time lets more in")
    finally:
        watching.cancel()


async def test_a_full_door_refuses_unread() -> None:
    """Neither the key nor the body is looked at; whoever came before is answered, and whoever comes afterwards."""
    answer = asyncio.Event()

    async def slow(request: web.BaseRequest) -> web.Response:
        await answer.wait()
        return web.json_response({})

    async with business_api(slow) as url:
        flow = {"flow_id": "call", "trigger_patterns": ["^call$"], "endpoint": {"url": url}, "response_template": "Called."}
        async with desk({"agent_id": "shop", "flows": [HOURS, flow], "busy_message": "One moment."}, max_inflight=2) as shop:
            before = [asyncio.create_task(shop.ask("call", f"s-{n}")) for n in range(2)]
            await wait_until(lambda: under_way(shop) == 2, "both are under way")
            reply = await call(shop.app, "POST", "/api/v1/query", b"no JSON", {"authorization": "Bearer nobody"})
            assert (await call(shop.app, "GET", "/livez")).status == 200
            answer.set()
            assert [(await b).json["message"] for b in before] == ["Called."] * 2
            assert (await shop.ask("opening hours")).status == 200
    assert (reply.status, reply.json["code"], reply.json["message"]) == (503, "overloaded", "One moment.")
    assert (reply.headers["retry-after"], reply.headers["x-loadsplit-tier"]) == ("1", "lightweight")


async def test_what_heavy_does_takes_no_place() -> None:
    ended = asyncio.Event()

    async def talking(scope: Scope, receive: Receive, send: Send, body: bytes, ticket: str, session_key: str) -> None:
        shop.handoff.bodies.append(body)
        await ended.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    shop: Any
    async with desk({"agent_id": "shop", "flows": [HOURS]}, max_inflight=2) as shop:
        shop.app._hot["/api/v1/query"]._handoff = talking
        turns = [asyncio.create_task(shop.ask("tell me a story", f"s-{n}")) for n in range(10)]
        await wait_until(lambda: len(shop.handoff.bodies) == 10, "heavy has all of them")
        assert (await shop.ask("opening hours")).json["message"] == "We open at 9."
        ended.set()
        assert [(await turn).status for turn in turns] == [200] * 10
        assert shop.app._hot["/api/v1/query"]._door.count == 0


def under_way(shop: Desk) -> int:
    """How many requests the door counts."""
    count: int = shop.app._hot["/api/v1/query"]._door.count
    return count
