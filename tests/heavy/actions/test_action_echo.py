"""The text of a resumed turn: nothing shown twice, nothing lost."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from heavy.actions.echo import Echo


@pytest.mark.parametrize(
    ("shown", "committed", "deltas", "sent"),
    [
        (None, "", ["a", "b"], "ab"),
        ("", "", ["a", "b"], "ab"),
        ("Let me lo", "", ["Let", " me", " look", "."], "ok."),
        ("Let me look.", "", ["Let me", " look."], ""),
        ("Let me look.", "", ["Let me"], ""),
        ("Let me lo", "", ["Let us", " see."], "\n\nLet us see."),
        ("Let me look.", "Let me look.", ["\n\nShipped."], "\n\nShipped."),
        ("Let me look.\n\nShi", "Let me look.", ["\n\n", "Shipped."], "pped."),
        ("", "Let me look.", ["\n\nShipped."], "Let me look.\n\nShipped."),
        ("Let me", "Let me look.", ["\n\nShipped."], " look.\n\nShipped."),
        ("quite other", "Let me look.", ["\n\nShipped."], "\n\nShipped."),
    ],
)
def test_deltas_follow_what_was_shown(shown: str | None, committed: str, deltas: Sequence[str], sent: str) -> None:
    echo = Echo(shown, committed)
    out = "".join(echo.delta(d) for d in deltas) + echo.settle()
    assert out == sent
    assert echo.whole("text") == ("text" if shown is None else shown + sent)


def test_a_part_that_came_out_shorter_does_not_swallow_the_next() -> None:
    echo = Echo("Let me look it up", "")
    assert echo.delta("Let me look") == ""
    echo.settle()
    assert echo.delta("\n\nShipped.") == "\n\nShipped."
