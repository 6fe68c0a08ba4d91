"""The ids and fingerprints of requests with an Idempotency-Key."""

from __future__ import annotations

import re

import pytest

from common.contracts import idempotency
from common.contracts.idempotency import Keyed, keyed
from common.contracts.query import new_turn_id
from common.errors import IdempotencyMismatch, InvalidRequest

DAY = 86400


def key(value: bytes = b"order-1", tenant: str = "acme", asked: object = "a", secret: bytes = b"s", **more: str) -> Keyed:
    found = keyed(value, tenant, asked, secret, **more)
    assert found is not None
    return found


def at(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(idempotency.time, "time", lambda: seconds)


def test_an_id_has_the_form_of_a_turns_id() -> None:
    assert re.fullmatch(r"t_[0-9a-f]{32}", key().ids[0])
    assert key().ids[0] < new_turn_id()  # sorts by the day, as the others by the millisecond
    assert key(prefix="b_").ids[0].startswith("b_")


def test_the_same_request_has_the_same_id_for_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    at(monkeypatch, 20_000 * DAY + 10)
    morning = key()
    at(monkeypatch, 20_001 * DAY - 10)
    assert key() == morning
    at(monkeypatch, 20_001 * DAY + 5)  # past midnight: what was begun today is found under yesterday's
    assert key().ids[1] == morning.ids[0]
    at(monkeypatch, 20_002 * DAY + 5)
    assert morning.ids[0] not in key().ids


def test_tenants_keys_and_deployments_are_apart() -> None:
    ids = {key().ids[0], key(b"order-2").ids[0], key(tenant="b").ids[0], key(secret=b"t").ids[0], key(b"x", tenant="acmeorder-1").ids[0]}
    assert len(ids) == 5


def test_the_fingerprint_is_of_what_is_asked_for() -> None:
    same = key(asked={"a": 1, "b": [None, "ü"]})
    assert same.fingerprint == key(asked={"b": [None, "ü"], "a": 1}).fingerprint
    others = [key(asked={"a": 1}), key(asked={"a": True, "b": [None, "ü"]}), key(asked={"a": 1, "b": [None, "ü"]}, kind="batch")]
    assert same.fingerprint not in {o.fingerprint for o in others}
    same.refuse_other(same.fingerprint)
    for other in (others[0].fingerprint, None, ""):
        with pytest.raises(IdempotencyMismatch):
            same.refuse_other(other)


@pytest.mark.parametrize("value", [b"", b" ", b" a", b"a ", b"a\x00", b"a\nb", b"\xc3\xa4", b"x" * 256])
def test_what_is_no_key(value: bytes) -> None:
    with pytest.raises(InvalidRequest) as refused:
        keyed(value, "acme", "a", b"s")
    assert refused.value.extra == {"field": "Idempotency-Key"}


@pytest.mark.parametrize("value", [b"a", b"a b", b"x" * 255, b"8e03978e-40d5-43dd-bc93-6894a57f9324"])
def test_what_is_a_key(value: bytes) -> None:
    assert keyed(value, "acme", "a", b"s")
    assert keyed(None, "acme", "a", b"s") is None
