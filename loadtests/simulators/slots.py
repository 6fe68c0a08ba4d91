"""Fills a tool's arguments from a conversation, by the names, patterns, choices and descriptions of its schema.

Guesses, but the same each time. It knows schemas and conversations, no wire format.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from typing import Any

from loadtests.simulators.asked import Asked
from loadtests.simulators.words import best, topic

_FREE_TEXT = re.compile(
    r"(^|_)(query|question|text|message|input|keywords?|search|topic|needs?|requirements?|preferences?|details?|content|subject|summary|note)$"
)
_QUERY = re.compile(r"(^|_)(query|question|keywords?|search|input)$")
_NOUN = re.compile(r"(^|_)(item|product|category|goods|article|occasion|style|color|colour|size)(_name)?$")
_REASON = re.compile(r"(^|_)(reason|cause|problem|issue|defect|why|complaint)$")
_ORDER = re.compile(r"(?<![A-Za-z0-9])([A-Za-z]{1,3}-?\d{3,}|\d{5,})(?![A-Za-z0-9])")
_ADDRESS = re.compile(r"(?:\bto\b|address is|地址(?:改成|改为|是)?[：:]?|送到|寄到)\s*(.{6,})", re.IGNORECASE)
_PRICE = re.compile(
    r"(?:[$€£¥]|under|below|less than|at most|up to|max(?:imum)?|budget(?: of)?|around|预算|不超过|低于)\s*[$€£¥]?\s*(\d+(?:\.\d+)?)"
    r"|(\d+(?:\.\d+)?)\s*(?:[$€£¥]|dollars|usd|euros?|元|块|以内|以下)",
    re.IGNORECASE,
)
_QUANTITY = re.compile(r"(?<![\w.-])(\d{1,3})\s*(?:pieces?|pcs|units?|sets?|x\b|×|of\b|个|件|台|只|套|盏|把)", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![\w.-])(\d+(?:\.\d+)?)(?![\w-])")
_EXAMPLE = re.compile(r"(?:e\.g\.|for example|such as|like|例如|比如|如)\s*[:：]?\s*[`'\"“]?([A-Za-z0-9][\w@.+-]*\d[\w@.+-]*)")
_BECAUSE = re.compile(r"(?:because|since|reason is|due to|因为|由于|原因是)\s*:?\s*(.+)", re.IGNORECASE)
_WRONG = re.compile(
    r"[^,.;!?，。；！？]*(?:broken|damaged|defect\w*|faulty|wrong|too (?:small|big|large|tight)|doesn'?t|does not"
    r"|not work|changed my mind|don'?t like|late|scratched|missing|坏|破|错|不合适|太小|太大|不喜欢|不想要|质量|划痕|少了|漏发)"
    r"[^,.;!?，。；！？]*",
    re.IGNORECASE,
)
_KINDS: tuple[tuple[str, str], ...] = (
    (r"e?mail", r"[\w.+-]+@[\w-]+\.[\w.-]*\w"),
    (r"phone|mobile|tel", r"\+?\d[\d -]{6,}\d"),
    (r"tracking", r"(?<![A-Za-z0-9])[A-Z]{2}\d{6,}[A-Z]{0,2}"),
    (r"coupon|voucher|promo", r"(?<![A-Za-z0-9])[A-Z]{3,}\d{1,3}(?![A-Za-z0-9])"),
    (r"sku|product_id|item_id", r"(?<![A-Za-z0-9])[A-Z]{1,4}-?\d{2,}(?![A-Za-z0-9])"),
)
_SYNONYMS = {
    "refund": "refund money 退款 退钱",
    "exchange": "exchange swap replace 换货 换",
    "return": "return back 退货",
    "annual": "annual vacation holiday 年假",
    "sick": "sick ill 病假 生病",
    "personal": "personal 事假",
    "damaged": "damaged broken faulty 坏 破",
    "defective": "defective broken faulty damaged 坏 质量",
    "wrong_item": "wrong 错 发错",
    "not_needed": "changed mind 不想要",
    "changed_mind": "changed mind 不想要 不喜欢",
    "wrong_size": "size small big large tight 尺码 太小 太大",
}


def fill(schema: Mapping[str, Any], asked: Asked) -> tuple[dict[str, Any], list[str]]:
    """Arguments for a schema of type object, and the names of required ones that the conversation does not hold."""
    properties = schema.get("properties") or {}
    required = schema.get("required") or []
    found: dict[str, Any] = {}
    missing: list[str] = []
    for name, prop in properties.items():
        value = find(name, prop if isinstance(prop, dict) else {}, asked, needed=name in required)
        if value is not None:
            found[name] = value
        elif name in required:
            missing.append(name)
    return found, missing


def find(name: str, prop: Mapping[str, Any], asked: Asked, *, needed: bool) -> Any:
    """A value for one property, or None. What is not `needed` is only filled when something clearly speaks for it."""
    if "const" in prop:
        return prop["const"]
    kind = prop.get("type")
    if isinstance(kind, list):
        kind = next((k for k in kind if k != "null"), None)
    if isinstance(prop.get("enum"), list):
        return _choice(prop, asked, needed)
    if kind in ("integer", "number"):
        return _number(name, prop, asked, needed)
    if kind == "boolean":
        return prop.get("default", True) if needed else None
    if kind == "array":
        items = prop.get("items") if isinstance(prop.get("items"), dict) else {}
        one = find(name.removesuffix("s"), items or {}, asked, needed=needed)
        return None if one is None else [one]
    if kind == "object":
        value, missing = fill(prop, asked)
        return value if (needed or value) and not missing else None
    return _string(name, prop, asked, needed)


def _string(name: str, prop: Mapping[str, Any], asked: Asked, needed: bool) -> str | None:
    lower = name.lower()
    strict, pattern = _pattern(lower, prop)
    if pattern is not None:
        said = _search(pattern, asked) or _from_results(name, asked) or (_like(pattern, asked) if needed else None)
        if said is not None or strict:
            return said
    if "date" in lower or prop.get("format") == "date" or lower in ("day", "when"):
        return _date(asked.users[-1] if asked.users else "", last="end" in lower or "to" in lower.split("_"))
    if _REASON.search(lower):
        return _reason(asked)
    if "address" in lower:
        match = _ADDRESS.search(asked.user)
        return match.group(1).strip(" .。") if match else None
    known = _from_results(name, asked)
    if known is not None:
        return known
    if _QUERY.search(lower):
        return asked.user or None
    if lower in ("item", "product") and asked.user:
        return topic(asked.user)
    if not needed:
        return None
    if prop.get("default") is not None:
        return str(prop["default"])
    if _NOUN.search(lower):
        return topic(asked.user)
    # Anything else that is required and is said in free words: what the user wrote.
    return asked.user or None if _FREE_TEXT.search(lower) or "text" in str(prop.get("description", "")).lower() else None


def _pattern(name: str, prop: Mapping[str, Any]) -> tuple[bool, str | None]:
    """What values of this property look like, by its pattern, an example in its description, or the name; and whether they must."""
    given = prop.get("pattern")
    if isinstance(given, str) and re.sub(r"[\^$.*+\s]", "", given):
        try:
            re.compile(given)
        except re.error:
            return False, None
        return True, rf"(?<![A-Za-z0-9])(?:{given.removeprefix('^').removesuffix('$')})(?![A-Za-z0-9])"
    examples = prop.get("examples")
    example = examples[0] if isinstance(examples, list) and examples and isinstance(examples[0], str) else None
    if example is None:
        match = _EXAMPLE.search(str(prop.get("description", "")))
        example = match.group(1) if match else None
    if example and re.search(r"\d", example) and not re.search(r"\s", example):
        shape = "".join(
            rf"[A-Za-z]{{{len(run)}}}" if run.isalpha() else rf"\d{{{len(run)}}}" if run.isdigit() else re.escape(run)
            for run in re.findall(r"[A-Za-z]+|\d+|\W|_", example)
        )
        return not _NOUN.search(name), rf"(?<![A-Za-z0-9]){shape}(?![A-Za-z0-9])"
    for kind, shape in _KINDS:
        if re.search(kind, name):
            return True, shape
    return True, (_ORDER.pattern if "order" in name or name in ("id", "number", "no") else None)


def _search(pattern: str, asked: Asked) -> str | None:
    for text in reversed(asked.users):
        match = re.search(pattern, text)
        if match:
            return match.group(0)
        match = re.search(pattern, text, re.IGNORECASE)
        if match:  # a1001 for a pattern with a capital
            return match.group(0).upper()
    return None


def _from_results(name: str, asked: Asked) -> str | None:
    """What an earlier tool gave under the same name."""
    for result in (*reversed(asked.results), *reversed(asked.earlier)):
        for key, value in _members(result.value):
            if key == name and isinstance(value, str | int | float) and not isinstance(value, bool):
                return str(value)
    return None


def _like(pattern: str, asked: Asked) -> str | None:
    """A text of that form that a tool has just given, whatever it called it."""
    for result in reversed(asked.results):
        for _, value in _members(result.value):
            if isinstance(value, str) and re.fullmatch(pattern, value):
                return value
    return None


def _members(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, member in value.items():
            yield key, member
            yield from _members(member)
    elif isinstance(value, list):
        for member in value:
            yield from _members(member)


def _choice(prop: Mapping[str, Any], asked: Asked, needed: bool) -> Any:
    values = prop["enum"]
    texts = {v: f"{v} {_SYNONYMS.get(v, '')}" for v in values if isinstance(v, str)}
    for text in reversed(asked.users):
        said = best(texts, text) or next((v for v, t in texts.items() if any(w in text for w in t.split() if not w.isascii())), None)
        if said is not None:
            return said
    if not needed:
        return None
    if "default" in prop:
        return prop["default"]
    if len(values) == 1:
        return values[0]
    # "(changed_mind when nothing is said)" in the system prompt is such a default, too.
    told = next((v for v in texts if re.search(rf"\b{re.escape(v)}\b[^.;]{{0,12}}\b(when|if) (nothing|none)", asked.system)), None)
    return told or ("other" if "other" in values else None)


def _number(name: str, prop: Mapping[str, Any], asked: Asked, needed: bool) -> int | float | None:
    whole = prop.get("type") == "integer"
    low, high = prop.get("minimum", float("-inf")), prop.get("maximum", float("inf"))
    lower = name.lower()
    shape = (
        _PRICE
        if re.search(r"price|budget|amount|cost", lower)
        else _QUANTITY
        if re.search(r"quantity|qty|count|pieces", lower)
        else _NUMBER
    )
    # A bare number may mean anything, so it only goes where one is needed.
    for text in reversed(asked.users[-3:] if needed or shape is not _NUMBER else ()):
        for match in shape.finditer(text):
            value = float(match.group(1) or match.group(match.lastindex or 0))
            if low <= value <= high and not (whole and value != int(value)):
                return int(value) if whole else value
    known = _from_results(name, asked)
    if known is not None:
        try:
            return int(known) if whole else float(known)
        except ValueError:
            return None
    if not needed:
        return None
    default = prop.get("default")
    if isinstance(default, int | float):
        return default
    return 1 if lower in ("days", "limit") else None


def _reason(asked: Asked) -> str | None:
    for text in reversed(asked.users):
        match = _BECAUSE.search(text) or _WRONG.search(text)
        if match:
            return match.group(match.lastindex or 0).strip(" .。!！,，") or None
    # The answer to our own question.
    return asked.user if re.search(r"reason|why|what is wrong|原因|为什么", asked.said, re.IGNORECASE) and len(asked.users) > 1 else None


def _date(text: str, *, last: bool) -> str | None:
    given = re.findall(r"\d{4}-\d{2}-\d{2}", text)
    if given:
        return str(given[-1 if last else 0])
    today = date.today()
    for word, days in (("day after tomorrow", 2), ("后天", 2), ("tomorrow", 1), ("明天", 1), ("today", 0), ("今天", 0)):
        if word in text.lower():
            return (today + timedelta(days=days)).isoformat()
    names = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
    for n, name in enumerate(names):
        if name in text.lower() or f"周{'一二三四五六日'[n]}" in text:
            return (today + timedelta(days=(n - today.weekday()) % 7 or 7)).isoformat()
    return None
