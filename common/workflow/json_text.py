"""JSON text → a `Source`: RFC 8259, with the place of every key and value. A key given twice is an error, as is anything after the end.

Strings go through the standard library's own scanner, so escapes mean exactly what they mean to `json`.
"""

from __future__ import annotations

import math
import re
from json.decoder import JSONDecodeError, scanstring  # type: ignore[attr-defined]  # public in CPython, absent from typeshed
from typing import Any

from common.workflow.positions import MAX_DEPTH, Marks, Source, TextInvalid

_SPACE = re.compile(r"[ \t\n\r]*")
_NUMBER = re.compile(r"(-?(?:0|[1-9][0-9]*))(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_WORDS = {"true": True, "false": False, "null": None}
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_DIGITS = 400


def parse_json(text: str) -> Source:
    """The document of a JSON text. Raises TextInvalid with the place of the first fault."""
    text = text.removeprefix("\ufeff")
    scanner = _Scanner(text)
    at = scanner.skip(0)
    doc, end = scanner.value(at, 1)
    end = scanner.skip(end)
    if end != len(text):
        raise TextInvalid("syntax", f"{scanner.shown(end)} after the end of the document", end)
    return Source(text, doc, scanner.marks, at)


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text, self.marks = text, Marks()

    def skip(self, at: int) -> int:
        match = _SPACE.match(self.text, at)
        return match.end() if match else at

    def shown(self, at: int) -> str:
        return repr(self.text[at]) if at < len(self.text) else "end of the text"

    def value(self, at: int, depth: int) -> tuple[Any, int]:
        first = self.text[at : at + 1]
        if first == '"':
            return self.string(at)
        if first == "{":
            return self.object(at, depth)
        if first == "[":
            return self.array(at, depth)
        if first in "-0123456789" and first:
            return self.number(at)
        word = _WORD.match(self.text, at)
        if word and word.group() in _WORDS:
            return _WORDS[word.group()], word.end()
        raise self.no_value(at, word.group() if word else "")

    def no_value(self, at: int, word: str) -> TextInvalid:
        if word:
            hint = f"JSON writes {word.lower()}" if word.lower() in _WORDS else "text stands in double quotes"
            return TextInvalid("syntax", f"{word[:40]} is not a JSON value", at, "null" if word == "None" else hint)
        if self.text[at : at + 1] == "'":
            return TextInvalid("syntax", "text stands in double quotes, not in single ones", at, 'write "…"')
        if self.text[at : at + 2] in ("//", "/*") or self.text[at : at + 1] == "#":
            return TextInvalid("syntax", "JSON has no comments", at, "remove it, or write the file as YAML")
        return TextInvalid("syntax", f"a value is expected here, not {self.shown(at)}", at)

    def string(self, at: int) -> tuple[str, int]:
        try:
            return scanstring(self.text, at + 1, True)
        except JSONDecodeError as e:
            if e.msg.startswith("Unterminated"):
                raise TextInvalid("syntax", "this text has no closing quote", at) from None
            hint = r"write \n, \t or \u00XX" if "control" in e.msg else r"a backslash itself is written \\"
            message = "a control character stands in this text" if "control" in e.msg else "this escape does not exist in JSON"
            raise TextInvalid("syntax", message, e.pos, hint) from None

    def number(self, at: int) -> tuple[int | float, int]:
        match = _NUMBER.match(self.text, at)
        if not match:
            raise TextInvalid("syntax", "a digit is expected after the minus sign", at + 1)
        follows = self.text[match.end() : match.end() + 1]
        if follows.isalnum() or (follows and follows in "._+-"):
            raise TextInvalid("syntax", "this is not a JSON number", at)
        whole, fraction, exponent = match.groups()
        if len(match.group()) > _MAX_DIGITS:
            raise TextInvalid("syntax", f"this number has more than {_MAX_DIGITS} digits", at)
        if fraction is None and exponent is None:
            return int(whole), match.end()
        number = float(match.group())
        if not math.isfinite(number):
            raise TextInvalid("syntax", "this number is too large", at)
        return number, match.end()

    def object(self, at: int, depth: int) -> tuple[dict[str, Any], int]:
        self.check_depth(at, depth)
        out: dict[str, Any] = {}
        places: dict[str | int, tuple[int, int]] = {}
        self.marks.note(out, places)
        i = self.skip(at + 1)
        if self.text[i : i + 1] == "}":
            return out, i + 1
        while True:
            if self.text[i : i + 1] != '"':
                raise self.no_key(i, at, bool(out))
            key_at = i
            key, i = self.string(i)
            if key in out:
                raise TextInvalid(
                    "duplicate_key", f"the key {key[:64]!r} stands twice in this object", key_at, "only one of the two can hold"
                )
            i = self.skip(i)
            if self.text[i : i + 1] != ":":
                raise TextInvalid("syntax", f"':' is expected after a key, not {self.shown(i)}", i)
            i = self.skip(i + 1)
            places[key] = (key_at, i)
            out[key], i = self.value(i, depth + 1)
            i, done = self.next_member(i, "}", at)
            if done:
                return out, i

    def array(self, at: int, depth: int) -> tuple[list[Any], int]:
        self.check_depth(at, depth)
        out: list[Any] = []
        places: dict[str | int, tuple[int, int]] = {}
        self.marks.note(out, places)
        i = self.skip(at + 1)
        if self.text[i : i + 1] == "]":
            return out, i + 1
        while True:
            if out and self.text[i : i + 1] == "]":
                raise TextInvalid("syntax", "a comma before ']'", i, "remove the comma")
            places[len(out)] = (i, i)
            value, i = self.value(i, depth + 1)
            out.append(value)
            i, done = self.next_member(i, "]", at)
            if done:
                return out, i

    def next_member(self, at: int, close: str, opened: int) -> tuple[int, bool]:
        i = self.skip(at)
        char = self.text[i : i + 1]
        if char == ",":
            return self.skip(i + 1), False
        if char == close:
            return i + 1, True
        what = "object" if close == "}" else "list"
        if not char:
            raise TextInvalid("syntax", f"this {what} is never closed", opened, f"add {close!r}")
        raise TextInvalid("syntax", f"',' or {close!r} is expected here, not {char!r}", i, "is a comma missing?")

    def no_key(self, at: int, opened: int, some: bool) -> TextInvalid:
        if at >= len(self.text):
            return TextInvalid("syntax", "this object is never closed", opened, "add '}'")
        if some and self.text[at] == "}":
            return TextInvalid("syntax", "a comma before '}'", at, "remove the comma")
        return TextInvalid("syntax", f"a key in double quotes is expected here, not {self.text[at]!r}", at)

    def check_depth(self, at: int, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise TextInvalid("too_deep", f"nested deeper than {MAX_DEPTH} levels", at)
