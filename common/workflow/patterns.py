"""What can be said of a trigger pattern by reading it: constructs that RE2 does not have and how to write them without, its named groups.

It compiles nothing: only lightweight.matching holds RE2, and gives its own check where a pattern must really compile.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

PatternCheck = Callable[[str], str | None]
"""Returns the complaint about a pattern (what is wrong and how to rewrite it), or None."""

# A bracket in the first place of a class is a member of it; a class or quotation that is never closed reaches to the end.
_SKIPPED = r"(?P<skipped>\\Q.*?(?:\\E|\Z)|\[\^?\]?(?:\[:.*?:\]|\\.|[^\]\\])*(?:\]|\\?\Z))|\\."
_PIECE = re.compile(_SKIPPED + "|.", re.DOTALL)
_NAMED = re.compile(_SKIPPED + r"|\(\?P?<(?P<name>[A-Za-z_]\w*)>", re.DOTALL)
_SUSPECT = re.compile(r"\(\?|\\[1-9A-Za-z]|[*+?}]\+")
_LOOKS = {
    "(?=": ("look-ahead (?=…)", "match the text that follows as well, or split the rule in two"),
    "(?!": ("negative look-ahead (?!…)", "put what must not follow into exclude_patterns"),
    "(?<=": ("look-behind (?<=…)", r"match the text before as well and take the part in a named group (?P<name>…)"),
    "(?<!": ("negative look-behind (?<!…)", "put what must not precede into exclude_patterns"),
    "(?>": ("atomic group (?>…)", "write (?:…): RE2 never backtracks, so nothing has to be cut off"),
    "(?(": ("conditional (?(…)…)", "write both branches as alternatives: a|b"),
    "(?P=": ("back-reference (?P=name)", "write each possible text out as an alternative, or compare the groups in the business API"),
    "(?P>": ("recursive call (?P>name)", "write the nesting out as far as it is needed"),
    "(?&": ("recursive call (?&name)", "write the nesting out as far as it is needed"),
    "(?R": ("recursion (?R)", "write the nesting out as far as it is needed"),
    "(?#": ("comment (?#…)", "leave the comment out"),
    "(?|": ("branch reset (?|…)", "give the groups of each alternative names of their own"),
}
_ESCAPES = {
    "Z": (r"\Z", r"write \z"),
    "G": (r"\G", "leave it out: a rule is tried once on each message"),
    "K": (r"\K", "take the part in a named group (?P<name>…)"),
    "R": (r"\R", r"write \n"),
    "X": (r"\X", "write ."),
    "h": (r"\h", r"write [ \t]"),
    "k": (r"back-reference \k<name>", "write each possible text out as an alternative"),
    "g": (r"back-reference \g{…}", "write each possible text out as an alternative"),
}


def group_names(pattern: str) -> list[str]:
    """The named groups of a pattern, in order."""
    return [match["name"] for match in _NAMED.finditer(pattern) if match["name"]] if "(?" in pattern else []


def foreign_construct(pattern: str) -> str | None:
    """The complaint about the first construct that RE2 does not have, with the way to write it; None when there is none."""
    if not _SUSPECT.search(pattern):
        return None
    pieces = list(_pieces(pattern))
    for i, (at, piece) in enumerate(pieces):
        if piece == "(":
            for opening in ("(?<=", "(?<!", *_LOOKS):
                if pattern.startswith(opening, at):
                    return _complaint(*_LOOKS[opening], at)
        elif piece.startswith("\\"):
            found = _escape(piece)
            if found:
                return _complaint(*found, at)
        elif piece == "+" and i and _is_quantifier(pieces, i - 1, pattern):
            return _complaint("possessive quantifier (such as a++)", "leave the second + out: RE2 never backtracks", at)
    return None


def _escape(piece: str) -> tuple[str, str] | None:
    if piece[1:2].isdigit() and piece[1] != "0":
        return f"back-reference {piece}", "write each possible text out as an alternative, or compare the groups in the business API"
    return _ESCAPES.get(piece[1:2])


def _is_quantifier(pieces: list[tuple[int, str]], i: int, pattern: str) -> bool:
    at, piece = pieces[i]
    if piece in ("*", "+", "?"):
        return i > 0 and not (piece == "?" and pieces[i - 1][1] in ("(",))
    return piece == "}" and bool(re.search(r"\{\d+(,\d*)?\}\Z", pattern[: at + 1]))


def _complaint(what: str, way_out: str, at: int) -> str:
    return f"RE2 has no {what}, at character {at + 1}: {way_out}"


def _pieces(pattern: str) -> Iterator[tuple[int, str]]:
    """(offset, piece) of a pattern: an escape with its character, one character otherwise; classes and quoted text are skipped."""
    for match in _PIECE.finditer(pattern):
        if not match["skipped"]:
            yield match.start(), match.group()
