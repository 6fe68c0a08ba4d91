"""Example texts of a trigger pattern: short ones first, then ones that differ as much as the pattern lets them. Deterministic, bounded.

A text need not be found by its pattern (boundaries and anchors are not obeyed): whoever uses one tries it with the matcher.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from lightweight.matching.syntax import Char, Either, Node, NotRead, Repeat, Row, Text, read_pattern

MAX_LENGTH = 300
# What stands around a text or in its gaps is no word of any language, so that no other rule is found for its sake.
_SURROUNDINGS = ("{}", "{} qx", "zq {}", "{}?", "zq {} qx", "x{}", "{}s", "鑫{}淼")
# What fills a repeated class, in the order of preference; a class that holds both letters and the space is mostly a gap between words.
_WORDS = ("abc", "42", "1002", "A1002", "鑫淼", "7", "x", "zq-7", "é", "", " ", "?")
_GAPS = (" ", " abc ", " qx 42 ", "", " 鑫 ", "?", " zq-7 ", "abc", "x")


class _TooLong(Exception):
    """The text outgrew MAX_LENGTH."""


def example_texts(pattern: str, match_type: str = "regex", *, first: int = 0, count: int = 8) -> Iterator[tuple[str, bool]]:
    """(text, bare) of the numbers `first` to `first + count`; `bare` without words around it. Repetitions are left out.

    A pattern that can't be read, or whose shortest text is longer than MAX_LENGTH, has none.
    """
    try:
        node = read_pattern(pattern) if match_type == "regex" else Text(pattern)
    except NotRead:
        return
    anchored = match_type == "exact" or (pattern.startswith(("^", "\\A")) and pattern.endswith(("$", "\\z", "\\Z")))
    told: set[str] = set()
    fits: dict[int, list[str]] = {}
    for number in range(first, first + count):
        # two bare ones, then each with other surroundings, which a rule that is anchored at both ends does not have
        bare = number < 2 or (anchored and number % 2 == 0)
        around = _SURROUNDINGS[0 if bare else (number - 1) % len(_SURROUNDINGS)]
        try:
            text = around.format(_Writer(number, pattern, fits).write(node))
        except _TooLong:
            continue
        if text not in told:
            told.add(text)
            yield text, around == "{}"


class _Writer:
    """Writes one text. The first numbers take the options of a pattern in turn, later ones by lot."""

    def __init__(self, number: int, pattern: str, fits: dict[int, list[str]]) -> None:
        self._number, self._pattern, self._fits = number, pattern, fits
        self._lot: random.Random | None = None  # seeding costs more than most texts
        self._length = 0

    def write(self, node: Node) -> str:
        if isinstance(node, Text):
            return self._counted(node.text)
        if isinstance(node, Char):
            return self._counted(node.members[self._pick(len(node.members))])
        if isinstance(node, Row):
            return "".join(self.write(part) for part in node.parts)
        if isinstance(node, Either):
            return self.write(node.options[self._pick(len(node.options))])
        return self._repeat(node)

    def _repeat(self, node: Repeat) -> str:
        if node.least > MAX_LENGTH:
            raise _TooLong
        if isinstance(node.part, Char) and node.most != 1:
            return self._counted(self._filling(node.part, node.least, node.most))
        more = self._pick(2 if node.most == node.least + 1 else 3) if node.most != node.least else 0
        return "".join(self.write(node.part) for _ in range(node.least + more))

    def _filling(self, char: Char, least: int, most: int | None) -> str:
        if id(char) not in self._fits:
            self._fits[id(char)] = _fillings(char, least, MAX_LENGTH if most is None else most)
        fits = self._fits[id(char)]
        return fits[self._pick(len(fits))]

    def _pick(self, size: int) -> int:
        """An index below `size`: every option in turn, then by lot."""
        if self._number < size:
            return self._number
        if self._lot is None:
            self._lot = random.Random(f"{self._number} {self._pattern}")
        return self._lot.randrange(size)

    def _counted(self, text: str) -> str:
        self._length += len(text)
        if self._length > MAX_LENGTH:
            raise _TooLong
        return text


def _fillings(char: Char, least: int, most: int) -> list[str]:
    """Texts of that class and length, never none."""
    usual = _GAPS if char.holds(" ") and char.holds("x") else _WORDS
    fits = [f for f in usual if least <= len(f) <= most and all(char.holds(c) for c in f)]
    members, size = char.members, min(max(least, 1), most)
    return [*fits, *("".join(members[(shift + i) % len(members)] for i in range(size)) for shift in range(min(3, len(members))))]
