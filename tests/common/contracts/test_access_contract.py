"""The snapshot of keys and limits: what is written is read, and nothing that somebody else wrote; what a key and a limit may be."""

from __future__ import annotations

from typing import Any

import pytest

from common.contracts.access import (
    NO_LIMITS,
    Access,
    Key,
    Limits,
    check_key,
    check_limits,
    check_tenant,
    decode,
    digest_of,
    encode,
    sound_limits,
)

SECRET = b"a secret"
ACCESS = Access(
    7,
    True,
    (
        Key("k1", "acme", frozenset({"query"}), digest_of(b"one")),
        Key("k2", "*", frozenset({"admin"}), digest_of(b"two"), 1_900_000_000.5),
    ),
    {"acme": {"requests_per_minute": 60, "cost_usd_per_day": 2.5}},
)


def test_what_is_written_is_read() -> None:
    assert decode(encode(ACCESS, SECRET), SECRET) == ACCESS
    assert decode(encode(Access(), SECRET), SECRET) == Access()


def test_what_somebody_else_wrote_is_not_read() -> None:
    data = encode(ACCESS, SECRET)
    forged = data.replace(b'"acme"', b'"evil"')
    for other in (b"", b"\n", b"x", data[:-1], forged, data.partition(b"\n")[2], encode(ACCESS, b"another secret")):
        assert decode(other, SECRET) is None


def test_no_text_of_a_key_is_in_it() -> None:
    assert b"one" not in encode(ACCESS, SECRET)


@pytest.mark.parametrize("name", ["a", "Acme-2.b_c", "x" * 64])
def test_names_of_tenants(name: str) -> None:
    assert check_tenant(name) == name


@pytest.mark.parametrize("name", ["", "a/b", "a b", "x" * 65, "*", "a\n", None, 5, ["a"]])
def test_what_is_no_name_of_a_tenant(name: Any) -> None:
    with pytest.raises(ValueError, match="tenant"):
        check_tenant(name)


def test_an_operators_key_has_one_scope() -> None:
    assert check_key("*", ["admin"]) == ("*", frozenset({"admin"}))
    for scopes in (["admin", "query"], ["query"], ["llm"]):
        with pytest.raises(ValueError, match="scope admin"):
            check_key("*", scopes)


@pytest.mark.parametrize("scopes", [[], ["tasks"], "query", [1], None, {"query": 1}])
def test_what_are_no_scopes(scopes: Any) -> None:
    with pytest.raises(ValueError, match="scopes"):
        check_key("acme", scopes)


def test_limits_hold_and_null_is_none() -> None:
    given = {"requests_per_minute": 1, "tokens_per_day": 0, "cost_usd_per_day": 0.5, "open_streams": None, "concurrent_turns": 3}
    assert check_limits(given) == {"requests_per_minute": 1, "tokens_per_day": 0, "cost_usd_per_day": 0.5, "concurrent_turns": 3}
    assert check_limits({}) == {}
    assert (NO_LIMITS.open_streams, Limits(open_streams=1).requests_per_minute) == (5000, None)


def test_what_a_store_holds_that_is_no_limit_is_left_out() -> None:
    found = sound_limits({"requests_per_minute": 0, "speed": 5, "open_streams": 7, "tokens_per_day": None, "concurrent_turns": "3"})
    assert found == {"open_streams": 7}
    odd = Access(1, True, (), {"acme": {"speed": 5, "open_streams": 7}})  # written by another version
    assert decode(encode(odd, SECRET), SECRET) == Access(1, True, (), {"acme": {"open_streams": 7}})


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        ({"requests_per_minute": 0}, "requests_per_minute must be a whole number from 1"),
        ({"requests_per_minute": 1.5}, "requests_per_minute"),
        ({"requests_per_minute": True}, "requests_per_minute"),
        ({"requests_per_minute": 10**9}, "requests_per_minute"),
        ({"cost_usd_per_day": -1}, "cost_usd_per_day must be a number from 0"),
        ({"cost_usd_per_day": float("nan")}, "cost_usd_per_day"),
        ({"cost_usd_per_day": "5"}, "cost_usd_per_day"),
        ({"open_streams": 0}, "open_streams"),
        ({"tokens_per_hour": 5}, "'tokens_per_hour' is no limit"),
        ([], "an object"),
        ("x", "an object"),
    ],
)
def test_what_are_no_limits(limits: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        check_limits(limits)
