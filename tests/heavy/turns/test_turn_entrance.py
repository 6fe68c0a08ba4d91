"""The queue before a full node: short, first come first served within a tenant, tenants in turn, nobody for longer than he was told."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from common.errors import DeadlineExceeded, LoadsplitError, Overloaded
from common.telemetry.metrics import Metrics
from heavy.turns.entrance import Entrance
from tests.support.waiting import wait_until


class Owner:
    """As much of a TurnOwner as an entrance needs."""

    def __init__(self) -> None:
        self.busy = 0
        self.on_room: Callable[[], None] = lambda: None
        self.pace: object = None

    def end(self, turns: int = 1) -> None:
        """Some turns have ended."""
        for _ in range(turns):
            self.busy -= 1
            self.on_room()


class House:
    """A node with an entrance. `come` brings a message, `came` is who got in, in order."""

    def __init__(self, most: int = 2, patience: float = 5.0, least: int | None = None) -> None:
        self.metrics, self.owner = Metrics(), Owner()
        self.entrance = Entrance(self.owner, most, least=least, patience=patience, metrics=self.metrics)  # type: ignore[arg-type]
        self.came: list[str] = []

    async def come(self, tenant: str = "acme", deadline: float | None = None) -> None:
        """One message, which becomes a turn."""
        async with self.entrance.place(tenant, deadline, {"message": "Later."}):
            self.owner.busy += 1
            self.came.append(tenant)

    async def refused(self, tenant: str = "acme", deadline: float | None = None) -> LoadsplitError:
        """The error of a message that must be refused, at once."""
        async with asyncio.timeout(0.5):
            with pytest.raises(LoadsplitError) as caught:
                await self.come(tenant, deadline)
        return caught.value

    @asynccontextmanager
    async def queued(self, *tenants: str) -> AsyncIterator[list[asyncio.Task[None]]]:
        """Messages that wait, in this order."""
        tasks = []
        for tenant in tenants:
            waiting = self.waiting
            tasks.append(asyncio.create_task(self.come(tenant)))
            await wait_until(lambda w=waiting: self.waiting > w, f"{tenant} waits")  # type: ignore[misc]
        try:
            yield tasks
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def waiting(self) -> float:
        """How many the metric says wait."""
        return self.metrics.registry.get_sample_value("loadsplit_admission_waiting") or 0.0

    def refusals(self, why: str) -> float:
        """How many were refused for that."""
        labels = {"tier": "heavy", "why": why}
        return self.metrics.registry.get_sample_value("loadsplit_admission_refusals_total", labels) or 0.0


async def test_there_is_room() -> None:
    house = House()
    await house.come()
    assert (house.entrance.room, house.came) == (1, ["acme"])


async def test_a_place_that_makes_no_turn_is_given_back() -> None:
    house = House(most=1)
    async with house.entrance.place("acme", None, {}):
        assert house.entrance.room == 0
    assert house.entrance.room == 1


async def test_who_waits_gets_the_place_of_a_turn_that_ends() -> None:
    house = House(most=1)
    await house.come()
    async with house.queued("acme") as (task,):
        house.owner.end()
        assert house.entrance.room == 0  # it is his already: no task can take it
        await task
    assert (house.came, house.owner.busy, house.entrance.room, house.waiting) == (["acme"] * 2, 1, 0, 0)


async def test_and_that_of_a_message_that_became_no_turn() -> None:
    house = House(most=1)
    async with house.entrance.place("acme", None, {}):
        tasks = [asyncio.create_task(house.come())]
        await wait_until(lambda: house.waiting == 1, "it waits")
    await asyncio.gather(*tasks)
    assert house.came == ["acme"]


async def test_tenants_take_turns() -> None:
    house = House(most=12)
    for _ in range(12):
        await house.come("busy")
    house.came.clear()
    async with house.queued("busy", "busy", "busy", "other", "third", "other") as tasks:
        for n in range(6):
            house.owner.end()
            await wait_until(lambda n=n: len(house.came) > n, "the next one is in")  # type: ignore[misc]
        await asyncio.gather(*tasks)
    assert house.came == ["busy", "other", "third", "busy", "other", "busy"]


async def test_a_long_line_of_one_tenant_is_refused_and_not_another_one() -> None:
    house = House(most=4)
    for _ in range(4):
        await house.come("busy")
    async with house.queued(*["busy"] * 4):
        error = await house.refused("busy")
        assert (error.code, error.extra["message"]) == ("overloaded", "Later.")
        async with house.queued("other") as (task,):
            house.owner.end(2)
            await task
    assert Counter(house.came)["other"] == 1


async def test_who_would_wait_too_long_is_refused_with_the_time_to_come_back() -> None:
    house = House(most=2, patience=1.1)  # a turn is thought to take a second
    await house.come()
    await house.come()
    async with house.queued("acme", "acme"):
        error = await house.refused()
    assert isinstance(error, Overloaded)
    assert error.retry_after == pytest.approx(1.5, abs=0.1)
    assert house.refusals("full") == 1


async def test_without_patience_nobody_waits() -> None:
    house = House(most=1, patience=0)
    await house.come()
    assert (await house.refused()).retry_after == 1.0


async def test_a_wait_ends_when_it_is_much_longer_than_was_thought() -> None:
    house = House(most=20, patience=0.06)
    for _ in range(20):
        await house.come()
    error = await house.refused()
    assert (error.code, house.refusals("waited"), house.waiting) == ("overloaded", 1, 0)
    assert (await house.refused()).code == "overloaded"  # nothing gets free: now that is known
    assert (house.refusals("waited"), house.refusals("full")) == (1, 1)


async def test_what_was_slow_is_forgotten_when_it_is_over() -> None:
    house = House(most=4, patience=0.3)
    for _ in range(4):
        await house.come()
    house.entrance._gap = 60.0
    assert (await house.refused()).retry_after == 60.0
    house.owner.end(2)
    for _ in range(2):
        await house.come()
    async with house.queued("acme") as (task,):
        house.owner.end()
        await task


async def test_time_that_does_not_suffice_for_the_queue() -> None:
    house = House(most=2)
    await house.come()
    await house.come()
    error = await house.refused(deadline=time.time() + 0.2)
    assert (error.code, house.refusals("deadline")) == ("overloaded", 1)


async def test_time_that_is_over() -> None:
    error = await House().refused(deadline=time.time() - 0.01)
    assert isinstance(error, DeadlineExceeded)


async def test_a_caller_that_goes_leaves_his_place() -> None:
    house = House()
    await house.come()
    await house.come()
    async with house.queued("acme", "acme") as (gone, task):
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        house.owner.end()
        await task
        assert gone.cancelled()


async def test_a_caller_that_goes_with_the_place_in_his_hand() -> None:
    house = House()
    await house.come()
    await house.come()
    async with house.queued("acme", "acme") as (gone, task):
        house.owner.end()
        gone.cancel()  # it has its place, and has not run since
        await task
    assert (house.came, house.entrance.room) == (["acme"] * 3, 0)


async def test_a_closed_one_sends_everybody_away() -> None:
    house = House(most=1)
    await house.come()
    async with house.queued("acme", "other") as tasks:
        house.entrance.close()
        errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert [getattr(e, "code", None) for e in errors] == ["overloaded"] * 2
    house.owner.end()
    assert (house.entrance.room, (await house.refused()).code) == (0, "overloaded")


async def test_a_limit_that_has_fallen_lets_turns_end_first() -> None:
    house = House(most=4, least=1)
    for _ in range(4):
        await house.come()
    house.entrance.limit.fall(4, 0.5)
    async with house.queued("acme") as (task,):
        house.owner.end(2)
        assert house.entrance.room == 0
        house.owner.end()
        await task
    assert house.metrics.registry.get_sample_value("loadsplit_admission_limit", {"tier": "heavy"}) == 2
