"""Folding: messages and rules are compared in one form (NFKC, case folded, white space squeezed). Spans lead back to the original text.

Both tiers fold: the rule tier for its rules and learned routes, heavy for what it learns. It knows nothing of rules.
"""

from __future__ import annotations

import re
import unicodedata

# Characters that show nothing and that copying from web pages leaves behind; NFKC_Casefold of Unicode drops them too.
_INVISIBLE = re.compile("[\u00ad\u200b-\u200d\u2060\ufe00-\ufe0f\ufeff]")


def fold(text: str) -> str:
    """The form in which rules see a text: NFKC, case folded, runs of white space as one space, none at the ends."""
    folded = fold_case(text)
    if folded.isascii() and folded.isprintable() and "  " not in folded:  # the usual case: single blanks are all its white space
        return folded.strip()
    return " ".join(folded.split())


def original_span(text: str, folded: str, start: int, end: int) -> tuple[int, int]:
    """Where a span of `folded` (which is `fold(text)`) stands in `text`. (-1, -1) when the two can't be aligned."""
    if len(folded) == len(text) and text.isascii():
        return start, end  # nothing was squeezed, every character kept its place
    starts, ends = _offsets(text)
    if len(starts) != len(folded):
        return -1, -1
    if start == end:
        return (starts[start], starts[start]) if start < len(starts) else (len(text), len(text))
    return starts[start], ends[end - 1]


def fold_case(text: str) -> str:
    """NFKC and case folding; white space stays as it is, invisible characters go."""
    if text.isascii():
        return text.lower()
    return unicodedata.normalize("NFKC", _INVISIBLE.sub("", text)).casefold()


def _offsets(text: str) -> tuple[list[int], list[int]]:
    """For each character of the folded text, where its origin begins and ends in `text`."""
    starts: list[int] = []
    ends: list[int] = []
    white: tuple[int, int] | None = None
    for begin, end in _clusters(text):
        for char in fold_case(text[begin:end]):
            if char.isspace():
                white = (white[0], end) if white else (begin, end)
                continue
            if white and starts:
                starts.append(white[0])
                ends.append(white[1])
            white = None
            starts.append(begin)
            ends.append(end)
    return starts, ends


def _clusters(text: str) -> list[tuple[int, int]]:
    """Pieces that NFKC folds independently: a character with whatever composes with it from behind."""
    cuts = [0]
    cuts += [i for i in range(1, len(text)) if not _joins(text[i])]
    return list(zip(cuts, [*cuts[1:], len(text)], strict=True)) if text else []


def _joins(char: str) -> bool:
    """Combining marks, half-width kana voice marks, medial and final Hangul letters, invisible characters."""
    return (
        unicodedata.combining(char) != 0
        or char in "\uff9e\uff9f"
        or "\u1160" <= char <= "\u11ff"
        or "\uffa0" <= char <= "\uffdc"
        or _INVISIBLE.match(char) is not None
    )
