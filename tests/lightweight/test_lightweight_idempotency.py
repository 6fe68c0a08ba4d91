"""An Idempotency-Key in the rule tier: claimed while a rule answers, kept with its reply, handed on with what heavy has had."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from common.contracts.idempotency import Keyed, keyed
from common.errors import DependencyUnavailable, IdempotencyMismatch
from common.hotstore import keys
from common.hotstore.memory import MemoryHotStore
from common.hotstore.protocol import HotStoreUnavailable
from lightweight import idempotency
from lightweight.idempotency import Idempotency
from tests.lightweight.asking import business_api, desk
from tests.support.waiting import wait_until

KEY = {"Idempotency-Key": "k-1"}
FLOW = {"flow_id": "book", "trigger_patterns": ["book it"], "endpoint": {"url": "API", "method": "POST", "body": {"a": 1}, "timeout": 30}}
SHOP = {"agent_id": "shop", "flows": [{"flow_id": "hours", "trigger_patterns": ["hours"], "response_template": "We open at 9."}]}


class AwayStore(MemoryHotStore):
    """A hot store that cannot be reached."""

    async def claim(self, key: str, value: bytes, ttl: float) -> bytes | None:
        raise HotStoreUnavailable("away")


def known(value: bytes = b"k-1", asked: object = "a") -> Keyed:
    found = keyed(value, "acme", asked, b"s")
    assert found is not None
    return found


@pytest.fixture
def store() -> MemoryHotStore:
    return MemoryHotStore()


async def test_a_reply_is_kept(store: MemoryHotStore) -> None:
    first = Idempotency(store)
    begun = await first.begin("acme", known(), None)
    assert begun is not None
    assert begun.claim
    await first.replied("acme", known(), b'{"a b": 1}')
    again = await Idempotency(store).begin("acme", known(), None)
    assert again is not None
    assert (again.turn_id, again.reply, again.claim) == (known().ids[0], b'{"a b": 1}', None)
    with pytest.raises(IdempotencyMismatch):
        await first.begin("acme", known(asked="b"), None)


async def test_a_repetition_waits_while_the_first_is_answered(store: MemoryHotStore) -> None:
    one, two = Idempotency(store), Idempotency(store)
    begun = await one.begin("acme", known(), None)
    assert begun is not None
    assert begun.claim is not None
    async with one.answering("acme", known(), begun.claim):
        waiting = asyncio.create_task(two.begin("acme", known(), None))
        with pytest.raises(DependencyUnavailable):
            await two.begin("acme", known(), time.time() + 0.05)
        await one.handed("acme", known())
    told = await waiting
    assert told is not None
    assert (told.reply, told.claim) == (None, None)


async def test_a_process_that_dies_loses_its_claim(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    store = MemoryHotStore(clock=lambda: clock[0])
    assert await Idempotency(store).begin("acme", known(), None)
    clock[0] = idempotency.OPEN_SECONDS + 0.1
    taken = await Idempotency(store).begin("acme", known(), None)
    assert taken is not None
    assert taken.claim


async def test_a_long_call_keeps_its_claim(store: MemoryHotStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idempotency, "RENEW_SECONDS", 0.01)
    one = Idempotency(store)
    begun = await one.begin("acme", known(), None)
    assert begun is not None
    assert begun.claim is not None
    async with one.answering("acme", known(), begun.claim):
        await store.delete(keys.idempotency("acme", known().digest))

        async def there() -> bool:
            return await store.get(keys.idempotency("acme", known().digest)) == begun.claim

        await wait_until(there, "the claim is renewed")


async def test_without_a_hot_store_heavy_answers_with_the_rules_plan() -> None:
    async with desk(SHOP, hotstore=AwayStore()) as shop:
        assert (await shop.ask("hours", headers=KEY)).status == 299
        assert (shop.plan.action_type, shop.plan.action_target) == ("flow", "hours")
        assert (await shop.ask("hours")).json["message"] == "We open at 9."  # without a key as ever


async def test_what_heavy_has_had_goes_there_again_as_the_same_turn() -> None:
    async with desk(SHOP) as shop:
        for _ in range(2):
            assert (await shop.ask("a question", headers=KEY)).status == 299
        first, second = shop.handoff.tickets
        assert first.turn_id == second.turn_id
        assert (await shop.ask("another question", headers=KEY)).status == 422
        assert (await shop.ask("a question", headers={"Idempotency-Key": "k-2"})).status == 299
        assert shop.handoff.tickets[-1].turn_id != first.turn_id


@pytest.fixture
async def slow_api() -> AsyncIterator[tuple[str, asyncio.Event, list[Any]]]:
    go_on, seen = asyncio.Event(), []

    async def handle(request: web.BaseRequest) -> web.StreamResponse:
        seen.append(request.headers.get("Idempotency-Key"))
        await go_on.wait()
        return web.json_response({"booking": len(seen)})

    async with business_api(handle) as url:
        yield url, go_on, seen


async def test_two_at_once_make_one_call(slow_api: tuple[str, asyncio.Event, list[Any]]) -> None:
    url, go_on, seen = slow_api
    flow = {**FLOW, "endpoint": {**FLOW["endpoint"], "url": url}}  # type: ignore[dict-item]
    async with desk({**SHOP, "flows": [flow]}) as shop:
        both = [asyncio.create_task(shop.ask("book it", headers=KEY)) for _ in range(2)]
        await wait_until(lambda: seen, "the API is called")
        go_on.set()
        replies = await asyncio.gather(*both)
        assert [r.json["message"] for r in replies] == ['{"booking":1}'] * 2
        assert seen == [replies[0].json["turn_id"]]
        assert sum("idempotent-replayed" in r.headers for r in replies) == 1
        assert await shop.hotstore.journal_size() == 1
