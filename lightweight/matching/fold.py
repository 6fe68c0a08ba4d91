"""Patterns for folded texts (common.contracts.folding). They keep their syntax; only what stands in them literally is folded, and a few
constructs that Python's `re` writes otherwise than RE2 are rewritten, because patterns of older files were written for `re`.
"""

from __future__ import annotations

import re
import unicodedata

from common.contracts.folding import fold, fold_case, original_span

__all__ = ["fold", "fold_pattern", "original_span"]

_META = frozenset("\\.+*?()|[]{}^$")
_QUANTIFIERS = frozenset("*+?{")
_TOKEN = re.compile(
    r"""(?P<quoted>\\Q.*?(?:\\E|\Z))
      | (?P<opening>\(\?P?<[A-Za-z_]\w*>|\(\?[A-Za-z-]*[:)])
      | (?P<set>\[\^?\]?(?:\\.|\[:\^?\w+:\]|[^\]\\])*\])
      | (?P<literal>(?:[^\\.+*?()|\[\]{}^$]|\\[nrtfv]|\\[^\x00-\x7f])+)
      | (?P<escape>\\(?:[pP]\{\^?\w+\}|[pP]\w|x\{[0-9A-Fa-f]+\}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.))
      | .""",
    re.VERBOSE | re.DOTALL,
)
_SET_ITEM = re.compile(r"\\(?:[pP]\{\^?\w+\}|x\{[0-9A-Fa-f]+\}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)|\[:\^?\w+:\]|.", re.DOTALL)
# RE2 knows only ASCII behind \w and \W; in `re` they hold the letters and digits of every script. These ranges hold those scripts without
# the punctuation of Chinese and Japanese; \p{L}\p{N} would be exact, at 1 350 instructions a use instead of 59.
_WORD = (
    r"0-9A-Za-z_\x{c0}-\x{1fff}\x{3005}-\x{3007}\x{3041}-\x{3096}\x{30a1}-\x{30fa}\x{30fc}"
    r"\x{3400}-\x{9fff}\x{ac00}-\x{d7a3}\x{f900}-\x{faff}\x{20000}-\x{3ffff}"
)


def fold_pattern(pattern: str) -> str:
    """The pattern for folded texts, in RE2's syntax. Whether RE2 takes it is for `compile` to find out."""
    parts: list[str] = []
    for token in _TOKEN.finditer(pattern):
        kind, written = token.lastgroup, token.group()
        if kind == "quoted":
            parts.append(_literal(written[2:].removesuffix("\\E"), False))
        elif kind == "literal":
            plain = re.sub(r"\\([nrtfv])|\\(.)", lambda m: " " if m[1] else m[2], written, flags=re.DOTALL)
            parts.append(_literal(plain, pattern[token.end() : token.end() + 1] in _QUANTIFIERS))
        elif kind == "set":
            parts.append(_set(written))
        elif kind == "escape":
            parts.append(_escape(written))
        else:
            parts.append(written)
    return "".join(parts)


def _literal(run: str, quantified: bool) -> str:
    """A run of literal characters, folded and escaped; a quantifier behind it goes on holding for its whole last character."""
    folded = _squeeze(fold_case(run))
    unit = _squeeze(fold_case(run[-1:]))
    if quantified and len(unit) > 1 and folded.endswith(unit):
        return f"{_quote(folded[: -len(unit)])}(?:{_quote(unit)})"
    return _quote(folded)


def _squeeze(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def _quote(text: str) -> str:
    return "".join("\\" + c if c in _META else c for c in text)


def _set(written: str) -> str:
    """A character class. Ends of ranges are folded only from full width, where folding keeps the order."""
    opening = re.match(r"\[\^?\]?", written)
    head = opening.group() if opening else "["
    items = _SET_ITEM.findall(written[len(head) : -1])
    return head + "".join(_set_item(item, _in_range(items, i)) for i, item in enumerate(items)) + "]"


def _in_range(items: list[str], i: int) -> bool:
    return items[i - 1 : i] == ["-"] or items[i + 1 : i + 2] == ["-"]


def _set_item(item: str, ranged: bool) -> str:
    if item == r"\w":
        return _WORD
    if item[0] == "\\" and (len(item) > 2 or item[1].isascii()):
        return _escape(item)
    char = item[-1]
    if (len(item) == 1 and char.isascii()) or item.startswith("[:"):
        return item
    folded = unicodedata.normalize("NFKC", char)
    if len(folded) != 1 or (ranged and not "\uff01" <= char <= "\uff5e"):
        return char
    return "\\" + folded if folded in "\\]^-[" else folded


def _escape(written: str) -> str:
    if written[1] in "uU" and len(written) > 2:
        return rf"\x{{{written[2:]}}}"
    return {r"\Z": r"\z", r"\w": f"[{_WORD}]", r"\W": f"[^{_WORD}]"}.get(written, written)
