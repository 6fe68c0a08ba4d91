"""A learned route between the tiers: its digest, its bytes, and parameters cut from the message as it was written."""

from __future__ import annotations

import pytest

from common.contracts.folding import fold
from common.contracts.learned import MAX_CHARACTERS, LearnedRoute, decode, digest, encode


def test_messages_that_fold_alike_have_one_digest() -> None:
    assert digest("Where is  order A1001?") == digest("where is ORDER\ta1001？ ".replace("？", "?"))
    assert digest("ＡＢＣ") == digest("abc")
    assert digest("order a1001") != digest("order a1002")


@pytest.mark.parametrize("message", ["", " \u200b ", "a" * (MAX_CHARACTERS + 1), "ß" * MAX_CHARACTERS, "x" * 30_000])
def test_what_is_empty_or_too_long_has_no_digest(message: str) -> None:
    assert digest(message) is None
    assert digest("a" * MAX_CHARACTERS) is not None


def test_a_route_comes_back_as_it_was_and_equal_routes_are_equal_bytes() -> None:
    route = LearnedRoute("flow", "order", {"b": (0, 2), "a": (3, 5)}, {"kind": "fast"})
    assert decode(encode(route)) == route
    assert encode(route) == encode(LearnedRoute("flow", "order", {"a": (3, 5), "b": (0, 2)}, {"kind": "fast"}))


@pytest.mark.parametrize("data", [b"", b"nonsense", b"[]", b"{}", b'{"kind":"flow","target":"x","spans":{"a":[1]},"fixed":{}}'])
def test_other_bytes_are_no_route(data: bytes) -> None:
    assert decode(data) is None


@pytest.mark.parametrize(
    ("message", "value"), [("Where is ORDER A1001?", "A1001"), ("  where   is order ＡＢ１２", "ＡＢ１２"), ("查询订单 a1001。", "a1001")]
)
def test_parameters_are_cut_from_the_message_as_written(message: str, value: str) -> None:
    start = fold(message).index(fold(value))
    route = LearnedRoute("flow", "order", {"order_id": (start, start + len(fold(value)))}, {"kind": "fast"})
    assert route.parameters(message) == {"order_id": value, "kind": "fast"}
