"""The cookie of the admin pages: what it holds for, and what ends it."""

from __future__ import annotations

import base64
from dataclasses import replace

import orjson

from common.contracts.access import Access, Key, digest_of
from common.web.auth import KeyRing
from heavy.admin.visits import IDLE_SECONDS, LONGEST_SECONDS, Visitor, Visits

SECRET = b"a secret of the tests"


def ring_of(*keys: Key) -> KeyRing:
    ring = KeyRing(required=True)
    ring.use(Access(1, True, keys))
    return ring


def key(key_id: str = "k1", tenant: str = "acme", scopes: tuple[str, ...] = ("admin",), text: bytes = b"ls_k1_text") -> Key:
    return Key(key_id, tenant, frozenset(scopes), digest_of(text))


def visit(ring: KeyRing, text: bytes = b"ls_k1_text") -> tuple[Visits, Visitor]:
    visits = Visits(ring, SECRET)
    return visits, visits.begin(ring.authenticate([(b"authorization", b"Bearer " + text)]))


def test_a_cookie_stands_for_its_key() -> None:
    visits, visitor = visit(ring_of(key()))
    cookie = visits.cookie(visitor)
    assert "text" not in cookie
    read = visits.read(cookie)
    assert read == visitor
    assert read is not None
    assert (read.tenant, read.name, read.open_to_all) == ("acme", "acme/k1", False)
    assert visits.holds(visitor, visitor.token)
    assert not visits.holds(visitor, "")


def test_a_cookie_ends_with_its_key() -> None:
    ring = ring_of(key())
    visits, visitor = visit(ring)
    cookie = visits.cookie(visitor)
    for keys in ((), (key(text=b"another text"),), (key(scopes=("query",)),), (replace(key(), expires=1.0),)):
        ring.use(Access(2, True, keys))
        assert visits.read(cookie) is None
    ring.use(Access(3, True, (key(),)))
    assert visits.read(cookie) is not None


def test_a_cookie_of_another_secret_or_with_other_words_does_not_hold() -> None:
    ring = ring_of(key(), key("k2", "*", text=b"ls_k2_text"))
    visits, visitor = visit(ring)
    cookie = visits.cookie(visitor)
    assert Visits(ring, b"another secret").read(cookie) is None
    values = ["*", "k2", "acme", visitor.began, visitor.until, visitor.nonce]
    forged = base64.urlsafe_b64encode(orjson.dumps(values)).decode().rstrip("=")
    assert visits.read(f"{forged}.{cookie.partition('.')[2]}") is None
    for text in ("", ".", "x.y", "é.é", "e30.aa", "W10.aa", cookie[:-1], cookie + "0", "a" * 5000):
        assert visits.read(text) is None


def test_a_cookie_holds_for_an_hour_and_a_login_for_twelve() -> None:
    visits, visitor = visit(ring_of(key()))
    assert visitor.until - visitor.began == IDLE_SECONDS
    old = replace(visitor, until=visitor.began)
    assert visits.read(visits.cookie(old)) is None
    renewed = visits.renewed(replace(visitor, began=visitor.began - LONGEST_SECONDS + 60))
    assert renewed.until <= visitor.began + 61
    assert renewed.token == visitor.token


def test_only_an_operator_chooses_a_tenant() -> None:
    ring = ring_of(key(), key("k2", "*", text=b"ls_k2_text"))
    visits, visitor = visit(ring)
    assert visits.renewed(visitor, "other").tenant == "acme"
    visits, operator = visit(ring, b"ls_k2_text")
    assert operator.tenant == "default"
    chosen = visits.read(visits.cookie(visits.renewed(operator, "other")))
    assert chosen is not None
    assert (chosen.tenant, chosen.acting.tenant, chosen.caller.tenant) == ("other", "other", "*")


def test_without_keys_anyone_is_let_in_until_there_is_one() -> None:
    ring = KeyRing()
    visits = Visits(ring, SECRET)
    anyone = visits.anyone()
    assert anyone is not None
    assert (anyone.tenant, anyone.name, anyone.open_to_all) == ("default", "nobody", True)
    cookie = visits.cookie(anyone)
    assert visits.read(cookie) == anyone
    ring.use(Access(1, True, (key(),)))
    assert visits.read(cookie) is None
    assert visits.anyone() is None
