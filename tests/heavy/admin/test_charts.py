"""Charts as SVG: what they show, that names cannot break them, and values that have no scale."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from heavy.admin.charts import bars, nice, shares
from heavy.admin.shown import ms, pretty, share, short, usd, when

SVG = "{http://www.w3.org/2000/svg}"


def test_bars_stand_for_their_values() -> None:
    chart = ElementTree.fromstring(bars("Turns", [("a", 10, "ten"), ("b", 5, "five"), ("c", 0, "none")]))
    heights = [float(rect.get("height", "")) for rect in chart.iter(f"{SVG}rect")]
    assert heights[0] == pytest.approx(2 * heights[1], abs=0.2)
    assert heights[2] == 0
    assert [title.text for title in chart.iter(f"{SVG}title")] == ["ten", "five", "none"]
    assert chart.get("role") == "img"
    assert chart.get("aria-label") == "Turns"


def test_shares_fill_the_bar() -> None:
    chart = ElementTree.fromstring(shares("Tiers", [("light", 3), ("heavy", 1)]))
    widths = [float(rect.get("width", "")) for rect in chart.iter(f"{SVG}rect")]
    assert widths == [480.0, 160.0]
    assert ElementTree.fromstring(shares("Nothing", [("light", 0)])) is not None


def test_names_are_escaped_and_nothing_is_no_error() -> None:
    chart = ElementTree.fromstring(bars('<script>"&', [("<b>", 1, "<i>&")]))
    assert chart.get("aria-label") == '<script>"&'
    assert "<b>" in [text.text for text in chart.iter(f"{SVG}text")]
    assert ElementTree.fromstring(bars("Nothing", [])) is not None
    assert "style=" not in bars("x", [("a", 1, "b")])


@pytest.mark.parametrize(
    ("value", "top"), [(0, 1), (-1, 1), (1, 1), (1.1, 2), (3, 5), (24, 25), (26, 50), (99, 100), (100, 100), (0.0003, 0.0005), (1e9, 1e9)]
)
def test_the_top_of_a_scale_is_a_round_number(value: float, top: float) -> None:
    assert nice(value) == pytest.approx(top)


def test_values_are_written_for_people() -> None:
    assert [usd(v) for v in (None, 0, 0.000321, 1234.5)] == ["–", "$0", "$0.000321", "$1,234.50"]
    assert [ms(v) for v in (None, 0.25, 12.34, 1234)] == ["–", "0.250 ms", "12.3 ms", "1,234 ms"]
    assert share(0.1234) == "12.3 %"
    assert short("a\n b" + "c" * 200).startswith("a bccc")
    assert pretty({"a": 1}) == '{\n  "a": 1\n}'
    assert str(when(0)) == "–"
    assert '<time datetime="2026-01-01T00:00:00+00:00">' in when(1767225600)
