"""The same suite for every hot store: buckets, groups and accounts, which hold under many callers at once."""

from __future__ import annotations

import asyncio

from common.hotstore.accounts import Account
from common.hotstore.protocol import Draw, HotStore
from tests.support.waiting import wait_until


async def test_a_bucket_gives_what_it_holds_and_then_what_flows_in(store: HotStore) -> None:
    assert [await store.throttle("b", rate=2, burst=5) for _ in range(5)] == [0.0] * 5
    wait = await store.throttle("b", rate=2, burst=5)
    assert 0 < wait <= 0.5
    assert await store.throttle("b", rate=2, burst=5) <= wait  # a refusal takes nothing
    assert await store.throttle("other", rate=2, burst=5) == 0.0
    took = []

    async def flows() -> bool:
        took.append(await store.throttle("b", rate=2, burst=5))
        return took[-1] == 0.0

    await wait_until(flows, "the next one is there", 2)
    assert await store.throttle("b", rate=2, burst=5) > 0


async def test_a_slow_bucket_says_how_long_it_takes(store: HotStore) -> None:
    for _ in range(2):
        assert await store.throttle("b", rate=2 / 60, burst=2) == 0.0
    assert 29 < await store.throttle("b", rate=2 / 60, burst=2) <= 30
    assert await store.throttle("c", rate=1e5, burst=1) == 0.0


async def test_callers_at_once_take_no_more_than_the_bucket_holds(store: HotStore) -> None:
    waits = await asyncio.gather(*(store.throttle("b", rate=0.1, burst=20) for _ in range(50)))
    assert waits.count(0.0) == 20


async def test_buckets_are_drawn_from_on_credit_and_in_order(store: HotStore) -> None:
    def tokens(amount: float) -> list[Draw]:
        return [Draw("t", amount, rate=10, burst=100)]

    assert await store.draw(tokens(100), 0) == 0.0
    assert 4.5 < await store.draw(tokens(50), 0) <= 5  # refused: nothing is taken
    assert 4.5 < await store.draw(tokens(50), 6) <= 5
    assert 9 < await store.draw(tokens(50), 60) <= 10  # whoever comes later waits behind the one before
    assert 9 < await store.draw(tokens(1), 0) <= 10.2
    await store.draw(tokens(-200), 0)  # all of it is given back
    assert await store.draw(tokens(100), 0) == 0.0


async def test_of_several_buckets_all_or_nothing_is_taken(store: HotStore) -> None:
    def both(tokens: float) -> list[Draw]:
        return [Draw("{x}:r", 1, rate=0.1, burst=3), Draw("{x}:t", tokens, rate=1, burst=100)]

    assert await store.draw(both(90), 0) == 0.0
    assert 9 < await store.draw(both(20), 0) <= 10
    assert await store.draw(both(10), 0) == 0.0
    assert await store.draw([Draw("{x}:r", 1, rate=0.1, burst=3)], 0) == 0.0  # the refused call has taken no request
    assert 9 < await store.draw([Draw("{x}:r", 1, rate=0.1, burst=3)], 0) <= 10


async def test_more_than_a_bucket_holds_waits_for_a_full_one(store: HotStore) -> None:
    assert await store.draw([Draw("b", 1000, rate=10, burst=100)], 0) == 0.0
    assert 99 < await store.draw([Draw("b", 1000, rate=10, burst=100)], 0) <= 100
    assert await store.draw([Draw("b", 5, rate=10, burst=100)], float("inf")) > 80


async def test_callers_at_once_draw_no_more_than_there_is(store: HotStore) -> None:
    waits = await asyncio.gather(*(store.draw([Draw("b", 2, rate=0.1, burst=20)], 0) for _ in range(50)))
    assert waits.count(0.0) == 10


async def test_a_group_takes_members_up_to_its_limit(store: HotStore) -> None:
    entered = await asyncio.gather(*(store.enter("g", f"m{i}", 3, 60) for i in range(6)))
    assert sorted(entered) == [False] * 3 + [True] * 3
    inside = [f"m{i}" for i in range(6) if entered[i]]
    assert await store.enter("g", inside[0], 3, 60)  # it is in already
    await store.leave("g", inside[0], "never there")
    await store.leave("g")
    assert await store.enter("g", "new", 3, 60)
    assert not await store.enter("g", "one more", 3, 60)
    assert await store.enter("g", "one more", 4, 60)
    assert await store.enter("h", "one more", 1, 60)


async def test_a_member_that_does_not_stay_is_out(store: HotStore) -> None:
    assert await store.enter("g", "dead", 2, 0.1)
    assert await store.enter("g", "alive", 2, 0.1)

    async def somebody_is_out() -> bool:
        await store.stay("g", ["alive"], 0.1)
        return await store.enter("g", "new", 2, 60)

    await wait_until(somebody_is_out, "the silent member is out", 2)
    assert await store.enter("g", "alive", 2, 60)
    assert not await store.enter("g", "another", 2, 60)


async def test_members_come_back_beyond_the_limit(store: HotStore) -> None:
    assert await store.enter("g", "first", 1, 60)
    await store.stay("g", ["second", "third"], 60)
    await store.stay("g", [], 60)
    assert not await store.enter("g", "fourth", 3, 60)
    assert await store.enter("g", "fourth", 4, 60)


NONE = (None, None)


async def test_an_account_begins_with_what_was_spent(store: HotStore) -> None:
    assert await store.account("a") is None
    assert await store.reserve("a", "h", (1, 1), NONE, 60) is None
    assert await store.open_account("a", (5, 3_000_000_000_123), 60) == Account((5, 3_000_000_000_123), (0, 0))
    assert await store.open_account("a", (99, 99), 60) == Account((5, 3_000_000_000_123), (0, 0))
    assert await store.account("a") == Account((5, 3_000_000_000_123), (0, 0))


async def test_something_is_set_aside_as_long_as_something_is_left(store: HotStore) -> None:
    await store.open_account("a", (50, 0), 60)
    got = await asyncio.gather(*(store.reserve("a", f"h{n}", (20, 7), (100, None), 60) for n in range(6)))
    assert sorted(done for found in got if found for done in found[:1]) == [False] * 3 + [True] * 3
    assert await store.account("a") == Account((50, 0), (60, 21))
    first = await store.reserve("a", "h0", (20, 7), (100, None), 60)  # its reply was lost: it does not stand in its own way
    assert first == (True, Account((50, 0), (40, 14)))
    assert await store.reserve("a", "new", (1, 1), (None, 21), 60) == (False, Account((50, 0), (60, 21)))
    assert await store.reserve("a", "new", (1, 1), (None, 22), 60) == (True, Account((50, 0), (60, 21)))


async def test_what_was_spent_takes_the_place_of_what_was_set_aside(store: HotStore) -> None:
    await store.open_account("a", (10, 10), 60)
    await store.reserve("a", "h", (100, 100), NONE, 60)
    for _ in range(2):  # the second is a repetition
        await store.settle("a", "h", (7, 3), 60)
    assert await store.account("a") == Account((17, 13), (0, 0))
    for _ in range(2):
        await store.release("a", ["h", "never there"])
    await store.release("a", [])
    assert await store.account("a") == Account((17, 13), (0, 0))
    await store.reserve("a", "i", (5, 5), NONE, 60)
    await store.release("a", ["i"])
    assert await store.account("a") == Account((17, 13), (0, 0))


async def test_an_account_that_begins_anew_counts_what_is_not_stored_yet(store: HotStore) -> None:
    await store.open_account("a", (10, 10), 0.1)
    await store.reserve("a", "runs", (100, 100), NONE, 60)
    await store.settle("a", "h", (7, 3), 60)
    await store.settle("a", "stored", (1, 1), 60)
    await store.release("a", ["stored"])

    async def forgotten() -> bool:
        return await store.account("a") is None

    await wait_until(forgotten, "what was spent is forgotten", 2)
    assert await store.open_account("a", (11, 11), 60) == Account((18, 14), (100, 100))


async def test_what_was_set_aside_by_who_has_died_is_free_again(store: HotStore) -> None:
    await store.open_account("a", (0, 0), 60)
    await store.reserve("a", "dead", (10, 10), NONE, 0.1)
    await store.settle("a", "dead too", (1, 1), 0.1)
    await store.reserve("a", "alive", (1, 1), NONE, 0.1)
    await store.renew("a", [], 60)
    await store.renew("a", ["alive", "never there"], 60)

    async def free() -> bool:
        account = await store.account("a")
        return account is not None and account.reserved == (1, 1)

    await wait_until(free, "the dead holder's amounts are free", 2)
    assert await store.account("a") == Account((1, 1), (1, 1))
    await store.settle("a", "alive", (2, 2), 60)
    assert await store.account("a") == Account((3, 3), (0, 0))


async def test_nothing_may_be_set_aside_and_spent(store: HotStore) -> None:
    await store.open_account("a", (0, 0), 60)
    assert await store.reserve("a", "h", (0, 0), NONE, 60) == (True, Account((0, 0), (0, 0)))
    await store.renew("a", ["h"], 60)
    await store.settle("a", "h", (0, 0), 60)
    await store.release("a", ["h"])
    assert await store.reserve("a", "h", (1, 1), (0, None), 60) == (False, Account((0, 0), (0, 0)))
    assert await store.account("a") == Account((0, 0), (0, 0))


async def test_amounts_are_exact_however_many(store: HotStore) -> None:
    await store.open_account("a", (0, 10**14), 60)
    for n in range(200):
        await store.settle("a", f"h{n}", (3, 333_333_333), 60)
    assert await store.account("a") == Account((600, 10**14 + 66_666_666_600), (0, 0))
