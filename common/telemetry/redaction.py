"""What must not stand in a log line or a span: secrets always, personal data as an operator's file says. The one place that knows.

Personal data are found by their form. What has a check digit (cards, bank accounts) is struck out only where that holds, so that ids stay.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import orjson

from common.settings import SettingsError

STRUCK = "***"
SENSITIVE = r"(?:[\w-]*(?:api[_-]?key|apikey|secret|passw(?:or)?d|token(?!s)|authorization|cookie)[\w-]*)"
_NAMED = re.compile(rf"(?i)\A{SENSITIVE}\Z")
_COUNTS = re.compile(r"(?i)\Atoken_(?:count|ms)\Z")
# A form is looked for only where there is something of it: most texts are ids and names, and these searches cost a tenth of a pattern's.
_HINTS = ("bearer", "basic", "://", "v1.", "key", "secret", "passw", "token", "authorization", "cookie")
_PREFIXES = ("k-", "k_", "ls-", "ls_", "xox", "gh", "whsec")
# Ids of ours, and of requests and traces: too long for a card, and no account number has their form.
_OWN_ID = re.compile(r"(?:t_)?[0-9a-f]{32}\Z")
_SECRETS = (
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{6,}"), r"\1 " + STRUCK),
    (re.compile(r"\b(sk|pk|rk|ls|xox[abp]|gh[pousr]|whsec)[-_][A-Za-z0-9_+/=-]{8,}"), r"\1-" + STRUCK),
    (re.compile(r"\bv1\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"), "v1." + STRUCK),  # tickets
    (re.compile(r"([a-z][a-z0-9+.-]*://[^\s:/@\"']*):[^\s/@\"']+@"), r"\1:" + STRUCK + "@"),
    (re.compile(rf"(?i)\b({SENSITIVE})(\"?\s*[=:]\s*\"?)(?!bearer|basic)[^\s\"',;&}}]{{4,}}"), r"\1\2" + STRUCK),
)

Holds = Callable[[str], bool]
NAME = re.compile(r"[a-z][a-z0-9_]{0,31}\Z")


def _luhn(text: str) -> bool:
    digits = [int(c) for c in text if c.isdigit()][::-1]
    return (sum(digits[::2]) + sum(sum(divmod(2 * d, 10)) for d in digits[1::2])) % 10 == 0


def _mod97(text: str) -> bool:
    plain = re.sub(r"\s", "", text).upper()
    return 15 <= len(plain) <= 34 and int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1


def _always(text: str) -> bool:
    return True


# By name: the form, and what must hold beyond it.
PERSONAL: Mapping[str, tuple[re.Pattern[str], Holds]] = {
    "email": (re.compile(r"[\w.!#$%'*+^`{|}~-]+(?:@|%40)[\w-]+(?:\.[\w-]+)+"), _always),
    "iban": (re.compile(r"\b[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]{4}){2,7}(?: ?[A-Za-z0-9]{1,3})?\b"), _mod97),
    "card": (re.compile(r"(?<![\w.-])[2-6]\d(?:[ -]?\d){11,17}(?![\w-])"), _luhn),
    "phone": (
        re.compile(
            r"(?<![\w+.])\+\d{1,3}(?:[ ()./-]{0,2}\d){7,13}(?!\w)"  # international
            r"|(?<![\w.-])\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}(?![\w-])"
            r"|(?<![\w.:/-])0\d{2,4}[ /-]\d{5,8}(?![\w-])"
            r"|(?<![\w.-])1[3-9]\d{9}(?![\w.-])"  # mobile numbers of China
        ),
        _always,
    ),
}


_DIGITS = re.compile(r"(?:\d[^\dA-Za-z]{0,2}){7}").search
_ACCOUNT = re.compile(r"\b[A-Za-z]{2}\d\d").search


def _an_address(text: str) -> bool:
    return "@" in text or "%40" in text


def _a_secret(text: str) -> bool:
    low = text.lower()
    for hint in _HINTS:
        if hint in low:
            return True
    if "-" in low or "_" in low:
        for prefix in _PREFIXES:
            if prefix in low:
                return True
    return False


Form = tuple[str, re.Pattern[str], Holds]
_PERSONAL_HINTS: Mapping[str, Callable[[str], object]] = {"email": _an_address, "iban": _ACCOUNT, "card": _DIGITS, "phone": _DIGITS}


class Redaction:
    """Strikes out secrets and the given personal data, each of which leaves its name in angle brackets."""

    def __init__(self, personal: Mapping[str, tuple[re.Pattern[str], Holds]] = PERSONAL) -> None:
        by_hint: dict[Callable[[str], object], list[Form]] = {}
        for name, form in personal.items():
            by_hint.setdefault(_PERSONAL_HINTS[name] if PERSONAL.get(name) is form else _always, []).append((name, *form))
        self._personal = tuple(by_hint.items())
        self._known_only = _always not in by_hint

    @classmethod
    def read(cls, path: Path | None) -> Redaction:
        """As a file says: a JSON object of names and regular expressions, added to those that are there (PERSONAL); false takes one away.
        Raises SettingsError naming the file and the entry."""
        if path is None:
            return cls()
        where = f"LOADSPLIT_REDACT: {path}"
        try:
            entries = orjson.loads(path.read_bytes())
        except OSError as e:
            raise SettingsError(f"{where} cannot be read: {e.strerror}") from None
        except orjson.JSONDecodeError as e:
            raise SettingsError(f"{where}:{e.lineno}:{e.colno}: it is not JSON: {e.msg}") from None
        if not isinstance(entries, dict):
            raise SettingsError(f"{where} must be an object of names and regular expressions")
        known = dict(PERSONAL)
        for name, pattern in entries.items():
            if not NAME.match(name):
                raise SettingsError(f"{where}: {name!r} is no name: lower case letters, digits and _")
            if pattern is False:
                known.pop(name, None)
            else:
                known[name] = (_compiled(where, name, pattern), _always)
        return cls(known)

    def text(self, text: str) -> str:
        """The text without bearer tokens, API keys, tickets, passwords in URLs, `name=value` secrets and personal data."""
        if self._known_only and (_OWN_ID.match(text) or text.isalpha()):
            return text
        if _a_secret(text):
            for pattern, instead in _SECRETS:
                text = pattern.sub(instead, text)
        for hint, forms in self._personal:
            if hint(text):
                for name, form, holds in forms:
                    text = form.sub(lambda m, name=name, holds=holds: f"<{name}>" if holds(m[0]) else m[0], text)  # type: ignore[misc]
        return text

    def value(self, name: str, value: Any, depth: int = 4) -> Any:
        """A named value as JSON may hold it, cleaned all the way down: what is called a secret is struck out whatever it is."""
        if isinstance(value, str):
            return STRUCK if value and _is_secret(name) else self.text(value)
        if isinstance(value, bytes):
            return self.text(value.decode("utf-8", "replace"))
        if depth and isinstance(value, Mapping):
            return {self.text(str(k)): self.value(str(k), v, depth - 1) for k, v in value.items()}
        if depth and isinstance(value, list | tuple | set | frozenset):
            return [self.value(name, v, depth - 1) for v in value]
        return value if isinstance(value, int | float | bool | None) else self.text(str(value))


@lru_cache(2048)
def _is_secret(name: str) -> bool:
    return _NAMED.match(name) is not None and not _COUNTS.search(name)


def _compiled(where: str, name: str, pattern: Any) -> re.Pattern[str]:
    if not isinstance(pattern, str) or not pattern:
        raise SettingsError(f"{where}: {name} must be a regular expression, or false")
    try:
        found = re.compile(pattern)
    except re.error as e:
        raise SettingsError(f"{where}: {name} is no regular expression: {e}") from None
    if found.match(""):
        raise SettingsError(f"{where}: {name} matches the empty text")
    return found
