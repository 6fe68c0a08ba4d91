"""A process knows how many turns of each tenant it has, and of who has none it knows nothing."""

from __future__ import annotations

from tests.support.node import Node


async def test_turns_are_counted_by_tenant(here: Node) -> None:
    here.gateway.open.clear()
    for n, tenant in enumerate(("acme", "acme", "other")):
        await here.talking(await here.say(f"t_{n}", session=f"s{n}", tenant=tenant))
    assert here.owner.held == {"acme": 2, "other": 1}
    here.gateway.open.set()
    await here.idle()
    assert dict(here.owner.held) == {}


async def test_an_attempt_that_takes_the_place_of_another_counts_once(here: Node) -> None:
    """This process was frozen past its lease and has taken over its own turn."""
    here.gateway.open.clear()
    await here.talking(await here.say("t_1"))
    here.turns.resume(await here.row("t_1"))
    assert here.owner.held == {"acme": 1}
    here.gateway.open.set()
    await here.idle()
    assert dict(here.owner.held) == {}
