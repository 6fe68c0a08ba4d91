"""Delivering: signed, again after a failure with the same id and body, given up at the end, and nobody waits for a slow receiver."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import pytest

from common.contracts.webhooks import new_secret, tenant_secret, verify
from common.endpoints.egress import EgressPolicy
from common.endpoints.post import Posted, Poster
from common.hotstore import keys
from common.hotstore.memory import MemoryHotStore
from common.telemetry.metrics import Metrics
from heavy.jobs import webhooks
from heavy.jobs.webhooks import LONGEST_RETRY_AFTER, SCHEDULE, Deliverer
from heavy.turns.notes import tell, tell_deliverers
from heavy.turns.stores import DatabaseUnavailable, Stores
from heavy.turns.webhooks import Change, DeliveryRow
from tests.support.receiver import Receiver
from tests.support.waiting import wait_until
from tests.support.webhooks import CLOSED, add, all_of, close, receiver

KEY = b"ticket"
QUICK = (0.0, 0.02, 0.02)
POLICY = EgressPolicy(("127.0.0.1",), public_only=True)


@pytest.fixture
def there() -> Iterator[Receiver]:
    with Receiver() as it:
        yield it


@pytest.fixture
async def poster() -> AsyncIterator[Poster]:
    async with Poster(POLICY) as it:
        yield it


class Office:
    """A deliverer and what it stands on."""

    def __init__(self, stores: Stores, poster: Poster, **options: Any) -> None:
        self.stores, self.hotstore, self.metrics = stores, MemoryHotStore(), Metrics()
        self.deliverer = Deliverer(stores.deliveries, self.hotstore, poster, self.metrics, KEY, **{"schedule": QUICK, **options})

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Office]:
        task = asyncio.create_task(self.deliverer.run())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.wait([task])

    async def rows(self, status: str) -> list[DeliveryRow]:
        return [d for d in await all_of(self.stores) if d.status == status]

    async def ended(self, count: int = 1) -> list[DeliveryRow]:
        """The messages, once so many have come to an end."""

        async def enough() -> bool:
            return len([d for d in await all_of(self.stores) if d.status != "pending"]) >= count

        await wait_until(enough, f"{count} messages have ended")
        return await all_of(self.stores)

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"loadsplit_{name}", labels)


async def hook(stores: Stores, there: Receiver, path: str = "/hook", **more: Any) -> str:
    """A webhook at the receiver; its id."""
    at = f"127.0.0.1:{there.port}"
    row = await add(stores, receives=replace(receiver(**more), url=there.url + path, host=at))
    return row.webhook_id


async def test_a_message_is_delivered_and_its_signature_holds(stores: Stores, poster: Poster, there: Receiver) -> None:
    secret = new_secret()
    await hook(stores, there, secret=secret)
    session = await close(stores)
    async with Office(stores, poster).running() as office:
        (row,) = await office.ended()
    (message,) = there.at("/hook")
    assert message.verified(secret)["type"] == CLOSED
    assert verify(message.body, message.headers, secret)["data"]["session_id"] == "s1"
    assert message.id == row.delivery_id
    assert int(message.headers["webhook-timestamp"]) == pytest.approx(time.time(), abs=5)
    assert (row.status, row.last_status, row.attempts, row.at) == ("delivered", 204, 1, session.updated_at)
    assert office.value("webhook_deliveries_total", outcome="delivered") == 1
    assert office.value("webhook_seconds_count") == 1


async def test_without_a_secret_the_tenants_signs(stores: Stores, poster: Poster, there: Receiver) -> None:
    await hook(stores, there)
    await close(stores)
    async with Office(stores, poster).running() as office:
        await office.ended()
    assert there.at("/hook")[0].verified(tenant_secret(KEY, "acme"))


async def test_again_with_the_same_id_and_body(stores: Stores, poster: Poster, there: Receiver) -> None:
    there.answers["/hook"] = [500, 302, 200]
    secret = new_secret()
    webhook_id = await hook(stores, there, secret=secret)
    await close(stores)
    async with Office(stores, poster).running() as office:
        (row,) = await office.ended()
    tries = there.at("/hook")
    assert len(tries) == 3
    assert len({(m.id, m.body) for m in tries}) == 1
    assert [m.verified(secret)["type"] for m in tries] == [CLOSED] * 3
    assert (row.status, row.attempts, row.last_error) == ("delivered", 3, None)
    webhook = await stores.webhooks.get("acme", webhook_id)
    assert webhook is not None
    assert webhook.failing_since is None
    assert office.value("webhook_deliveries_total", outcome="again") == 2


async def test_given_up_at_the_end_of_the_schedule(
    stores: Stores, poster: Poster, there: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    there.answers["/hook?token=hidden"] = [503]
    secret = new_secret()
    webhook_id = await hook(stores, there, "/hook?token=hidden", secret=secret)
    await close(stores)
    with caplog.at_level(logging.DEBUG):
        async with Office(stores, poster).running() as office:
            (row,) = await office.ended()
    assert (row.status, row.attempts, row.last_status, row.last_error) == ("failed", 3, 503, "the receiver answered 503")
    assert len(there.messages) == 3
    assert office.value("webhook_deliveries_total", outcome="failed") == 1
    assert row.delivery_id in caplog.text
    assert webhook_id in caplog.text
    for secret_thing in ("hidden", secret, "中文"):
        assert secret_thing not in caplog.text


async def test_a_receiver_that_is_gone_gets_nothing_more(stores: Stores, poster: Poster, there: Receiver) -> None:
    there.answers["/gone"] = [410]
    gone, other = await hook(stores, there, "/gone"), await hook(stores, there, "/other")
    for n in range(3):
        await close(stores, f"s{n}")
    async with Office(stores, poster).running() as office:
        await office.ended(6)
        await close(stores, "s9")
        rows = await office.ended(7)
    assert sorted((d.webhook_id == gone, d.status) for d in rows) == [(False, "delivered")] * 4 + [(True, "failed")] * 3
    assert len(there.at("/gone")) <= 3  # those that were under way together
    assert len(there.at("/other")) == 4
    webhook = await stores.webhooks.get("acme", gone)
    assert webhook is not None
    assert webhook.disabled_reason == "the receiver answered 410: it wants no more messages"
    assert (await stores.webhooks.get("acme", other)) is not None


async def test_what_waits_for_a_disabled_webhook_is_not_sent(stores: Stores, poster: Poster, there: Receiver) -> None:
    webhook_id, deleted = await hook(stores, there), await hook(stores, there)
    await close(stores)
    await stores.webhooks.change("acme", webhook_id, Change(enabled=False))
    await stores.webhooks.delete("acme", deleted)
    async with Office(stores, poster).running() as office:
        rows = await office.ended(2)
    assert {(d.webhook_id, d.status, d.last_error) for d in rows} == {
        (webhook_id, "failed", "the webhook is disabled"),
        (deleted, "failed", "the webhook was deleted"),
    }
    assert there.messages == []


async def test_a_webhook_that_fails_for_too_long_is_disabled(stores: Stores, poster: Poster, there: Receiver) -> None:
    there.answers["/hook"] = [500]
    webhook_id = await hook(stores, there)
    await close(stores)
    async with Office(stores, poster, schedule=(0.0, *[0.01] * 500), patience_seconds=0.1).running():

        async def disabled() -> bool:
            row = await stores.webhooks.get("acme", webhook_id)
            return row is not None and row.disabled_at is not None

        await wait_until(disabled, "the webhook is disabled")
    row = await stores.webhooks.get("acme", webhook_id)
    assert row is not None
    assert row.disabled_reason == "it has failed for too long: the receiver answered 500"


async def test_an_attempt_has_an_end(stores: Stores, poster: Poster, there: Receiver) -> None:
    there.answers["/hook"] = ["hang"]
    await hook(stores, there)
    await close(stores)
    async with Office(stores, poster, schedule=(0.0,), attempt_seconds=0.1).running() as office:
        (row,) = await office.ended()
    assert (row.status, row.last_status, row.last_error) == ("failed", None, "the receiver did not answer within 0.1 s")


async def test_a_slow_receiver_holds_up_nobody_else(stores: Stores, poster: Poster, there: Receiver) -> None:
    """It has a hundred messages waiting; those of others go through, and it gets a few at a time."""
    there.answers["/slow"] = ["hang"]
    with Receiver() as quick:
        await hook(stores, there, "/slow")
        for n in range(50):
            await close(stores, f"s{n}", CLOSED, CLOSED)
        fast = await hook(stores, quick, "/quick")
        await close(stores, "last")
        async with Office(stores, poster).running() as office:

            async def through() -> bool:
                return bool(await stores.deliveries.of_tenant("acme", status="delivered", webhook_id=fast, limit=9))

            await wait_until(through, "the quick one has its message", 5)
            await wait_until(lambda: len(there.at("/slow")) >= webhooks.PER_HOST, "the slow one is asked")
            assert len(there.at("/slow")) == webhooks.PER_HOST
            there.release("/slow")
            await office.ended(102)
    assert len({m.id for m in there.at("/slow")}) == len(there.at("/slow")) == 101


async def test_news_are_delivered_at_once(stores: Stores, poster: Poster, there: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "EVERY_SECONDS", 3600.0)
    await hook(stores, there)
    async with Office(stores, poster).running() as office:
        await wait_until(lambda: keys.DELIVERIES in office.hotstore._channels, "it listens")
        await close(stores)
        await tell(office.hotstore, "acme", "s1")
        await office.ended()
        await close(stores)
        await tell_deliverers(office.hotstore)
        await office.ended(2)


async def test_without_news_it_looks_for_itself(stores: Stores, poster: Poster, there: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "EVERY_SECONDS", 0.02)
    await hook(stores, there)
    async with Office(stores, poster).running() as office:
        await wait_until(lambda: keys.DELIVERIES in office.hotstore._channels, "it listens")
        await close(stores)
        await office.ended()


async def test_one_that_ends_gives_back_what_it_has_not_finished(stores: Stores, poster: Poster, there: Receiver) -> None:
    """Another one need not wait until the hold is over, and the attempt does not count."""
    there.answers["/hook"] = ["hang", 204]
    await hook(stores, there)
    await close(stores)
    async with Office(stores, poster).running():
        await wait_until(lambda: len(there.messages) == 1, "it is under way")
    (row,) = await all_of(stores)
    assert (row.status, row.attempts) == ("pending", 0)
    assert row.next_at <= time.time()
    async with Office(stores, poster).running() as office:
        (row,) = await office.ended()
    assert (row.status, row.attempts) == ("delivered", 1)
    assert len({m.id for m in there.messages}) == 1


async def test_one_that_ends_lets_finish_what_is_about_to(stores: Stores, poster: Poster, there: Receiver) -> None:
    there.answers["/hook"] = ["hang"]
    await hook(stores, there)
    await close(stores)
    async with Office(stores, poster).running() as office:
        await wait_until(lambda: len(there.messages) == 1, "it is under way")
        asyncio.get_running_loop().call_later(0.2, there.release)
    assert [d.attempts for d in await office.rows("delivered")] == [1]


async def test_a_message_whose_attempts_never_end_is_given_up(stores: Stores, poster: Poster, there: Receiver) -> None:
    """As of processes that die with it in hand."""
    await hook(stores, there)
    await close(stores)
    for _ in QUICK:
        await stores.deliveries.due(webhooks.Room(9, 9, 9), hold_seconds=-1)
    async with Office(stores, poster).running() as office:
        (row,) = await office.ended()
    assert (row.status, row.last_error) == ("failed", "none of its attempts came to an end")
    assert there.messages == []


async def test_forbidden_addresses_are_not_asked(stores: Stores, there: Receiver) -> None:
    async with Poster(EgressPolicy(public_only=True)) as strict, Office(stores, strict, schedule=(0.0,)).running() as office:
        await hook(stores, there)
        await close(stores)
        (row,) = await office.ended()
    assert (row.status, row.last_error) == ("failed", "its address is refused by the egress policy")
    assert there.connections == 0


async def test_a_database_that_is_away_for_a_while(
    stores: Stores, poster: Poster, there: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing ends for it: what was delivered is settled by the end of its hold."""
    monkeypatch.setattr(webhooks, "EVERY_SECONDS", 0.02)
    away = True
    inner = stores.deliveries

    class Away:
        def __getattr__(self, name: str) -> Any:
            async def call(*args: Any, **more: Any) -> Any:
                if away and name != "due":
                    raise DatabaseUnavailable("the database is unavailable")
                return await getattr(inner, name)(*args, **more)

            return call

    stores.deliveries = Away()
    await hook(stores, there)
    await close(stores)
    async with Office(stores, poster, hold_seconds=0.1).running() as office:
        await wait_until(lambda: len(there.messages) >= 2, "it is sent again")
        away = False
        await office.ended()
    assert len({m.id for m in there.messages}) == 1


async def test_how_long_it_waits(stores: Stores, poster: Poster) -> None:
    judge = Deliverer(stores.deliveries, MemoryHotStore(), poster, Metrics(), KEY)._judge
    failed = Posted(500, "the receiver answered 500")
    for attempt, seconds in enumerate(SCHEDULE[1:], 1):
        waits = {judge(attempt, failed).after_seconds for _ in range(20)}
        assert all(w is not None and seconds <= w <= 1.2 * seconds for w in waits)
        assert len(waits) > 1
    assert judge(len(SCHEDULE), failed).after_seconds is None
    assert judge(1, Posted(429, "x", 100.0)).after_seconds == 100
    assert judge(1, Posted(503, "x", 1e9)).after_seconds == LONGEST_RETRY_AFTER
    assert 5 <= (judge(1, Posted(503, "x", 1.0)).after_seconds or 0) <= 6
    assert 5 <= (judge(1, Posted(500, "x", 100.0)).after_seconds or 0) <= 6
    assert judge(len(SCHEDULE), Posted(429, "x", 100.0)).after_seconds is None
    assert (judge(1, Posted(200)).delivered, judge(1, Posted(410, "x")).after_seconds) == (True, None)
    assert sum(SCHEDULE) > 3 * 86_400


async def test_what_waits_is_counted(stores: Stores, poster: Poster, there: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "COUNT_SECONDS", 0.02)
    there.answers["/hook"] = ["hang"]
    await hook(stores, there)
    await close(stores)
    async with Office(stores, poster).running() as office:
        await wait_until(lambda: office.value("webhooks_pending") == 1, "one waits")
        there.release()
        await wait_until(lambda: office.value("webhooks_pending") == 0, "none waits")
