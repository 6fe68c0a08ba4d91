"""What the end of a task uses to tell webhooks, one function for each database: the tenant's, and the one that came with the request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import pytest

from heavy.storage.postgres.connection import PostgresStores
from heavy.storage.postgres.outbox import messages_to_webhooks
from heavy.storage.sqlite.connection import SqliteStores
from heavy.storage.sqlite.outbox import add_messages
from heavy.turns.stores import Stores
from heavy.turns.webhooks import Change
from tests.support.webhooks import add, all_of, close, receiver

DONE, FAILED = "task.completed", "task.failed"
Tell = Callable[..., Awaitable[None]]

STATEMENT = f"""
WITH news AS (
    SELECT 'acme' AS tenant, $1::text AS session_id, type, data, 1000.5::float8 AS at, $4::text AS webhook_id, $5::text AS webhook_events
    FROM unnest($2::text[], $3::text[]) AS n (type, data)),
{messages_to_webhooks("news", own=True).strip()}
SELECT count(*) AS n FROM news
"""


@pytest.fixture
def tell(stores: Stores) -> Tell:
    """Makes messages of events (type, data) as the end of a task would: in a statement, or in a transaction."""

    async def tell(events: Sequence[tuple[str, str]], session_id: str | None = "s1", own: tuple[str, str | None] | None = None) -> None:
        if isinstance(stores, PostgresStores):
            columns = [[e[0] for e in events], [e[1] for e in events]]
            row = await stores._database.fetchrow(STATEMENT, session_id, *columns, *(own or (None, None)))
            assert row["n"] == len(events)
        elif isinstance(stores, SqliteStores):
            await stores._writer.run(lambda c: add_messages(c, "acme", session_id, events, 1000.5, own))

    return tell


async def told(stores: Stores) -> list[tuple[str, str, str | None]]:
    return sorted((d.webhook_id, d.type, d.session_id) for d in await all_of(stores))


async def test_the_tenants_webhooks_and_the_requests_own(stores: Stores, tell: Tell) -> None:
    tenants = await add(stores, events=(DONE,))
    own = await stores.webhooks.ensure("acme", receiver("mine"))
    other = await stores.webhooks.ensure("acme", receiver("other"))
    await tell([(DONE, '{"n":1}'), (FAILED, '{"n":2}')], own=(own, f" {FAILED} task.cancelled "))
    assert await told(stores) == sorted([(tenants.webhook_id, DONE, "s1"), (own, FAILED, "s1")])
    assert {(d.type, d.data, d.at) for d in await all_of(stores)} == {(DONE, '{"n":1}', 1000.5), (FAILED, '{"n":2}', 1000.5)}
    await tell([(DONE, "{}")], None, own=(own, None))  # all events; no session, as at the end of a batch
    assert (own, DONE, None) in [(d.webhook_id, d.type, d.session_id) for d in await all_of(stores)]
    assert await all_of(stores, webhook_id=other) == []


async def test_without_a_webhook_of_its_own(stores: Stores, tell: Tell) -> None:
    await stores.webhooks.ensure("acme", receiver("mine", events=(DONE,)))
    await tell([(DONE, "{}")])
    await tell([])
    assert await all_of(stores) == []


async def test_names_are_whole(stores: Stores, tell: Tell) -> None:
    own = await stores.webhooks.ensure("acme", receiver("mine"))
    await add(stores, events=("task.completed.later", "my.task.completed"))
    await tell([(DONE, "{}")], own=(own, " task.completed.later a.task.completed "))
    assert await all_of(stores) == []


async def test_an_own_webhook_that_is_disabled_or_another_tenants(stores: Stores, tell: Tell) -> None:
    own = await stores.webhooks.ensure("acme", receiver("mine"))
    foreign = await stores.webhooks.ensure("other", receiver("theirs"))
    await stores.webhooks.change("acme", own, Change(enabled=False))
    await tell([(DONE, "{}")], own=(own, None))
    await tell([(DONE, "{}")], own=(foreign, None))
    await tell([(DONE, "{}")], own=("wh_none", None))
    await tell([(DONE, "{}")], own=((await add(stores)).webhook_id, None))  # that one is not a request's
    assert await all_of(stores) == []
    assert await all_of(stores, "other") == []


async def test_ids_sort_by_time(stores: Stores) -> None:
    await add(stores)
    for n in range(5):
        await close(stores, f"s{n}")
    for row in await all_of(stores):
        assert int(row.delivery_id[4:16], 16) == pytest.approx(row.at * 1000, abs=1.1)
