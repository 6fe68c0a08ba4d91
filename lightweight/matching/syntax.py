"""A trigger pattern read into a small tree: what texts it can be found in, as far as examples need it. It knows no engine.

It reads the syntax of RE2 and the few forms of Python's `re` that folding rewrites. Anchors and word boundaries become nothing: whoever
writes a text from the tree tries it with the real matcher.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass

# Characters that stand for a class; the first that it holds are its usual examples.
POOL = "akxqezt7014 29-_.,?!@#/+'\"&:;()AKZ订单退é\u00dfяあア한"
_ASCII = {
    "alpha": "a-zA-Z",
    "digit": "0-9",
    "alnum": "a-zA-Z0-9",
    "lower": "a-z",
    "upper": "A-Z",
    "space": " \\t",
    "word": "\\w",
    "punct": "!-/:-@[-`{-~",
    "xdigit": "0-9a-fA-F",
}
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}
_NOTHING = frozenset("bBAzZ")
_FLAGS = re.compile(r"\(\?(?:P?<[A-Za-z_]\w*>|[A-Za-z-]*(?P<end>[:)]))")
_COUNT = re.compile(r"\{(?P<least>\d+)(?P<comma>,(?P<most>\d*))?\}")
_CODE = re.compile(r"\\(?:x\{([0-9A-Fa-f]{1,6})\}|x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8}))")
_PROPERTY = re.compile(r"\\([pP])(?:\{(\^?)(\w+)\}|(\w))")
_MAX_DEPTH = 60

Holds = Callable[[str], bool]


class NotRead(ValueError):
    """A pattern that this reader does not understand, or that is nested too deep."""


@dataclass(frozen=True, slots=True)
class Text:
    """Literal characters."""

    text: str


@dataclass(frozen=True, slots=True)
class Char:
    """One character of a class: `holds` tells members, `members` are some of them (never empty)."""

    holds: Holds
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """Parts one after another."""

    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """One of several."""

    options: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """The same part `least` to `most` times; None is without an upper bound."""

    part: Node
    least: int
    most: int | None


Node = Text | Char | Row | Either | Repeat


def read_pattern(pattern: str) -> Node:
    """The tree of a pattern that RE2 takes. Raises NotRead where it can't be read."""
    reader = _Reader(pattern)
    node = reader.either(0)
    if reader.at < len(pattern):
        raise NotRead(f"a parenthesis too many at {reader.at}")
    return node


class _Reader:
    """Recursive descent over one pattern; `at` is the place of the next character."""

    def __init__(self, pattern: str) -> None:
        self.pattern, self.at = pattern, 0

    def either(self, depth: int) -> Node:
        if depth > _MAX_DEPTH:
            raise NotRead("nested too deep")
        options = [self.row(depth)]
        while self.peek() == "|":
            self.at += 1
            options.append(self.row(depth))
        return options[0] if len(options) == 1 else Either(tuple(options))

    def row(self, depth: int) -> Node:
        parts: list[Node] = []
        while self.at < len(self.pattern) and self.peek() not in "|)":
            part = self.repeated(self.part(depth))
            if isinstance(part, Text) and parts and isinstance(parts[-1], Text):
                parts[-1] = Text(parts[-1].text + part.text)
            else:
                parts.append(part)
        return parts[0] if len(parts) == 1 else Row(tuple(parts))

    def part(self, depth: int) -> Node:
        char = self.peek()
        if char == "(":
            return self.group(depth)
        if char == "[":
            return self.char_class()
        if char == "\\":
            return self.escape()
        self.at += 1
        if char == ".":
            return char_of(lambda c: c != "\n")
        return Row(()) if char in "^$" else Text(char)

    def repeated(self, node: Node) -> Node:
        while True:
            char = self.peek()
            if char in ("*", "+", "?"):
                self.at += 1
                node = Repeat(node, int(char == "+"), 1 if char == "?" else None)
            elif (count := _COUNT.match(self.pattern, self.at)) is not None:
                self.at = count.end()
                least = int(count["least"])
                node = Repeat(node, least, least if not count["comma"] else int(count["most"]) if count["most"] else None)
            else:
                return node
            if self.peek() == "?":  # lazy: the same texts
                self.at += 1

    def group(self, depth: int) -> Node:
        opening = _FLAGS.match(self.pattern, self.at)
        if opening is None and self.pattern.startswith("(?", self.at):
            raise NotRead(f"an unknown group at {self.at}")
        self.at = opening.end() if opening else self.at + 1
        if opening and opening["end"] == ")":  # flags for the rest of the group
            return Row(())
        inner = self.either(depth + 1)
        if self.peek() != ")":
            raise NotRead("a group is never closed")
        self.at += 1
        return inner

    def escape(self) -> Node:
        if self.pattern.startswith("\\Q", self.at):
            end = self.pattern.find("\\E", self.at)
            quoted = self.pattern[self.at + 2 : end if end >= 0 else len(self.pattern)]
            self.at = end + 2 if end >= 0 else len(self.pattern)
            return Text(quoted)
        found = self.escaped()
        if isinstance(found, str):
            return Text(found)
        return Row(()) if found is None else char_of(found)

    def escaped(self) -> str | Holds | None:
        """What an escape stands for: a character, a class, or nothing (an anchor)."""
        if code := _CODE.match(self.pattern, self.at):
            self.at = code.end()
            number = int(next(g for g in code.groups() if g), 16)
            if number > 0x10FFFF:
                raise NotRead("no such character")
            return chr(number)
        if prop := _PROPERTY.match(self.pattern, self.at):
            self.at = prop.end()
            has = _property(prop[3] or prop[4])
            return _not(has) if (prop[1] == "P") != bool(prop[2]) else has
        letter = self.pattern[self.at + 1 : self.at + 2]
        self.at += 2
        if letter in _CONTROLS:
            return _CONTROLS[letter]
        if letter in _NOTHING:
            return None
        if letter.lower() in ("d", "s", "w"):
            has = {"d": _in_ranges([("0", "9")]), "s": str.isspace, "w": _is_word}[letter.lower()]
            return has if letter.islower() else _not(has)
        if letter == "" or letter.isalnum():
            raise NotRead(f"an unknown escape at {self.at - 2}")
        return letter

    def char_class(self) -> Node:
        self.at += 1
        negated = self.peek() == "^"
        self.at += negated
        ranges: list[tuple[str, str]] = []
        holds: list[Holds] = []
        first = True
        while first or self.peek() != "]":
            first = False
            item = self.class_item()
            if not isinstance(item, str):
                holds.append(item)
                continue
            last: str | Holds = item
            if self.peek() == "-" and self.pattern[self.at + 1 : self.at + 2] not in ("]", ""):
                self.at += 1
                last = self.class_item()
            ranges.append((item, last if isinstance(last, str) else item))
        self.at += 1
        inside = _any_of([_in_ranges(ranges), *holds])
        if negated:
            return char_of(_not(inside))
        return char_of(inside, [c for low, high in ranges for c in (low, chr((ord(low) + ord(high)) // 2), high)])

    def class_item(self) -> str | Holds:
        if self.at >= len(self.pattern):
            raise NotRead("a class is never closed")
        if self.pattern.startswith("[:", self.at) and (end := self.pattern.find(":]", self.at)) > 0:
            name = self.pattern[self.at + 2 : end]
            written = _ASCII.get(name.removeprefix("^"))
            if written is None:
                raise NotRead(f"an unknown class {name!r}")
            self.at = end + 2
            inner = _Reader(f"[{'^' if name.startswith('^') else ''}{written}]").char_class()
            if not isinstance(inner, Char):
                raise NotRead(f"an unknown class {name!r}")
            return inner.holds
        if self.peek() == "\\":
            found = self.escaped()
            return "\b" if found is None else found
        self.at += 1
        return self.pattern[self.at - 1]

    def peek(self) -> str:
        return self.pattern[self.at : self.at + 1]


def char_of(holds: Holds, more: Iterable[str] = ()) -> Node:
    """One character of a class; `more` are members to take where the usual characters are none. Raises NotRead for an empty class."""
    members = tuple(c for c in POOL if holds(c)) or tuple(dict.fromkeys(c for c in more if holds(c)))
    if not members:
        raise NotRead("a class without a known member")
    return Char(holds, members)


def _is_word(char: str) -> bool:
    return char.isalnum() or char == "_"


def _not(holds: Holds) -> Holds:
    return lambda c: not holds(c)


def _any_of(holds: list[Holds]) -> Holds:
    return lambda c: any(has(c) for has in holds)


def _in_ranges(ranges: list[tuple[str, str]]) -> Holds:
    return lambda c: any(low <= c <= high for low, high in ranges)


def _property(name: str) -> Holds:
    if len(name) <= 2:
        return lambda c: unicodedata.category(c).startswith(name)
    script = "CJK UNIFIED" if name == "Han" else name.upper()
    return lambda c: unicodedata.name(c, "").startswith(script)
