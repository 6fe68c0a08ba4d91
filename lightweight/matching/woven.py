"""Patterns that are plain words with gaps between them (`lost.*(card|phone)`): finding them in a folded text is a search for each word.

RE2 needs an automaton for each rule, built while the first messages wait, and looks at every candidate; this looks at one when it is asked,
keeps nothing, and finds exactly the same texts. What is not of this form is left to RE2.
"""

from __future__ import annotations

import re
from itertools import product

# One of the ways that a pattern is written: for each part how many characters its gap has at least, and the words that may stand there.
Way = tuple[tuple[int, tuple[str, ...]], ...]

_PLAIN = r"(?:[^\\.+*?()|\[\]{}^$\n]|\\[^\w\n])+"
_PART = re.compile(
    rf"(?P<gap>\.[*+]\??)|(?P<words>{_PLAIN})(?![+*?{{])"
    rf"|\((?:\?:)?(?P<group>{_PLAIN}(?:\|{_PLAIN})*)\)(?![+*?{{])|(?P<bar>\|)"
)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_BAR = re.compile(r"(?<!\\)\|")
_MOST_WORDS = 32  # of one part: more of them RE2 finds sooner


def read_woven(source: str) -> tuple[Way, ...] | None:
    """The ways of a folded pattern in RE2's syntax; None for one that is more than words and gaps."""
    ways: list[Way] = []
    way: list[tuple[int, tuple[str, ...]]] = [(0, ("",))]
    at = 0
    while at < len(source):
        part = _PART.match(source, at)
        if part is None:
            return None
        at = part.end()
        least, words = way[-1]
        if part["bar"]:
            ways.append(_closed(way))
            way = [(0, ("",))]
        elif part["gap"]:
            if words == ("",):
                way[-1] = (least + (source[part.start() + 1] == "+"), words)
            else:
                way.append((int(source[part.start() + 1] == "+"), ("",)))
        else:
            more = [part["words"]] if part["words"] else _BAR.split(part["group"])
            joined = tuple(before + _ESCAPED.sub(r"\1", word) for before, word in product(words, more))
            if len(joined) > _MOST_WORDS:
                return None
            way[-1] = (least, joined)
    ways.append(_closed(way))
    return tuple(ways)


def is_in(ways: tuple[Way, ...], text: str) -> bool:
    """Whether one of the ways is found in a folded text: each word as early as can be leaves most room for the next."""
    for way in ways:
        at = 0
        for least, words in way:
            if len(words) == 1:  # the usual case
                found = text.find(words[0], at + least)
                if found < 0:
                    break
                at = found + len(words[0])
                continue
            end = -1
            for word in words:
                found = text.find(word, at + least)
                if found >= 0 and (end < 0 or found + len(word) < end):
                    end = found + len(word)
            if end < 0:
                break
            at = end
        else:
            return True
    return False


def words_of(ways: tuple[Way, ...]) -> str:
    """A text of the pattern's own words."""
    return " ".join(words[0] for way in ways for _, words in way)


def _closed(way: list[tuple[int, tuple[str, ...]]]) -> Way:
    """Without a part that says nothing: what stands behind the last gap, where that may be empty."""
    return tuple(part for part in way if part != (0, ("",)))
