"""Turns over HTTP: found at once by their id, also those that rules have answered a moment ago."""

from __future__ import annotations

from dataclasses import replace

from common.contracts.journal import encode
from common.hotstore import keys
from tests.support.in_process import InProcess
from tests.support.turns import journal_entry
from tests.support.waiting import wait_until


async def test_a_rules_turn_is_found_though_who_had_it_in_hand_has_died(shop: InProcess) -> None:
    """Another process has taken it from the journal, and was killed before it came to the database."""
    store = shop.heavy.hotstore
    entry = replace(journal_entry("t_1"), tenant="default")
    await store.record(keys.gate("default", "s1"), keys.pending("default", "s1"), "t_1", encode(entry), b"r")
    assert len(await store.journal_read("dead", 10)) == 1
    status, turn = await shop.call("GET", "/api/v1/turns/t_1")
    assert (status, turn["state"], turn["result"]["message"]) == (200, "done", "answer of t_1")
    assert await store.journal_size() == 0


async def test_a_rules_turn_is_found_behind_its_answer(shop: InProcess) -> None:
    for n in range(20):
        reply = await shop.ask("opening hours", f"s{n}")
        status, turn = await shop.call("GET", f"/api/v1/turns/{reply['turn_id']}")
        assert (status, turn["result"]) == (200, reply)


async def test_an_unknown_turn_is_told_in_time(shop: InProcess) -> None:
    status, problem = await shop.call("GET", "/api/v1/turns/t_none")
    assert (status, problem["code"]) == (404, "not_found")
    await wait_until(lambda: shop.inflight.count == 0, "nothing is left of it")
