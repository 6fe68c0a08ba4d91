"""One suite for every database: the audit log, and the lists of sessions that pages show."""

from __future__ import annotations

from heavy.tenants.audit import entry
from heavy.turns.rows import SoughtSessions
from heavy.turns.stores import Stores
from tests.support.turns import accept


async def test_entries_are_listed_newest_first_and_by_tenant(stores: Stores) -> None:
    made = [
        entry(tenant=tenant, actor="*/k1", via="page", action=action, subject=f"thing {n}", detail={"n": n})
        for n, (tenant, action) in enumerate([("acme", "key.create"), ("other", "key.revoke"), ("acme", "desk.accept"), ("acme", "key.x")])
    ]
    made = sorted(made, key=lambda one: one.audit_id)
    for one in made:
        await stores.audit.add(one)
    await stores.audit.add(made[0])
    assert list(await stores.audit.page(None, limit=10)) == made[::-1]
    assert [e.tenant for e in await stores.audit.page("acme", limit=10)] == ["acme"] * 3
    assert {e.action for e in await stores.audit.page("acme", action="key.", limit=10)} == {"key.create", "key.x"}
    first = await stores.audit.page(None, limit=2)
    assert [*first, *await stores.audit.page(None, before=first[-1].audit_id, limit=10)] == made[::-1]


async def test_odd_text_and_long_details_are_kept(stores: Stores) -> None:
    odd = entry(tenant="acme", actor="a\0b", via="api", action="x", subject="s" * 1000, detail={"text": "é\0" * 5000})
    await stores.audit.add(odd)
    (found,) = await stores.audit.page("acme", limit=1)
    assert found.actor == "a\ufffdb"
    assert len(found.subject) == 300
    assert '"cut"' in found.detail
    assert len(found.detail) < 10_000


async def test_sessions_are_listed_by_what_they_are(stores: Stores) -> None:
    for n in range(5):
        await accept(stores, f"t_{n}", session_id=f"s{n}", user_id="ann" if n % 2 else None)
    found = await stores.sessions.page("acme", SoughtSessions(), limit=10)
    assert sorted(r.session_id for r in found) == ["s0", "s1", "s2", "s3", "s4"]
    assert [r.created_at for r in found] == sorted((r.created_at for r in found), reverse=True)
    assert {r.session_id for r in await stores.sessions.page("acme", SoughtSessions(user_id="ann"), limit=10)} == {"s1", "s3"}
    assert await stores.sessions.page("acme", SoughtSessions(status="closed"), limit=10) == []
    assert await stores.sessions.page("acme", SoughtSessions(agent_id="nobody"), limit=10) == []
    assert await stores.sessions.page("acme", SoughtSessions(until=found[-1].created_at), limit=10) == []
    assert await stores.sessions.page("else", SoughtSessions(), limit=10) == []
    page = await stores.sessions.page("acme", SoughtSessions(), limit=3)
    rest = await stores.sessions.page("acme", SoughtSessions(), before=(page[-1].created_at, page[-1].session_id), limit=3)
    assert [*page, *rest] == list(found)
