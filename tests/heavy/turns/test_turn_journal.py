"""The way of rule-answered turns into the database: an entry that nobody can read does not stand in the way of the others."""

from __future__ import annotations

from common.contracts.journal import encode
from common.hotstore import keys
from common.hotstore.memory import MemoryHotStore
from tests.support.node import Node
from tests.support.turns import journal_entry


async def test_an_unreadable_entry_is_dropped(here: Node, hotstore: MemoryHotStore) -> None:
    place = keys.gate("acme", "s1"), keys.pending("acme", "s1")
    await hotstore.record(*place, "t_0", b'{"of": "another version"}', b"r")
    await hotstore.record(*place, "t_1", encode(journal_entry("t_1")), b"r")
    assert await here.mover.move_batch() == 2
    assert await hotstore.journal_size() == 0
    assert (await here.row("t_1")).state == "done"


async def test_a_turn_comes_behind_what_the_rules_answered(here: Node, hotstore: MemoryHotStore) -> None:
    place = keys.gate("acme", "s1"), keys.pending("acme", "s1")
    await hotstore.record(*place, "t_1", encode(journal_entry("t_1")), b"r")
    await here.say("t_2")
    await here.events("t_2")
    assert (await here.row("t_2")).seq == 2
    history = [m.content for m in here.gateway.requests[0].messages if m.role != "system"]
    assert history == ["question of t_1", "answer of t_1", "hello there friend"]
