"""What a client says was said before becomes turns: questions with their answers, each once."""

from __future__ import annotations

import pytest

from common.contracts.chat import Said
from heavy.turns.given import exchanges

U, A = "user", "assistant"


@pytest.mark.parametrize(
    ("history", "turns"),
    [
        ([], []),
        ([(U, "a"), (A, "b"), (U, "c"), (A, "d")], [("a", "b"), ("c", "d")]),
        ([(U, "a"), (U, "b"), (A, "c")], [("a\n\nb", "c")]),
        ([(U, "a"), (A, "b"), (A, "c"), (U, "d")], [("a", "b\n\nc"), ("d", "")]),
        ([(A, "hello"), (U, "a"), (A, "b")], [("", "hello"), ("a", "b")]),
    ],
)
def test_exchanges(history: list[Said], turns: list[tuple[str, str]]) -> None:
    assert exchanges(history) == turns
