"""Words in common: how near a tool is to a message, in English and Chinese. Knows no request and no wire format."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

_LATIN = re.compile(r"[a-z][a-z']+")
_CJK_RUN = re.compile(r"[\u3400-\u9fff]+")
_ENDINGS = ("ing", "ies", "es", "ed", "s", "y")
_STOP_WORDS = """
a an and are as at be been but by can could did do does for from get give go had has have hello help hey hi how i if in is it its
just like me my need no not of on or our please so some tell that the their them then there these they this to up us use user used
want was we were what when where which who why will with would yes you your about any also only all one into out more much many
now today thing things im i'm call called agent customer tool skill action choose chooses asks ask answer answers question
questions handle handles handled whenever such id name flow system wants named names asks should please
"""
_STOP = frozenset(_STOP_WORDS.split())
# What a shop's customers say in Chinese, in the words that English descriptions use.
_CHINESE = {
    "除垢": "clean",
    "清洁": "clean",
    "态度": "complaint staff",
    "退货": "return",
    "退款": "refund",
    "退钱": "refund",
    "换货": "exchange",
    "订单": "order",
    "物流": "shipping delivery track",
    "快递": "shipping delivery track",
    "包裹": "parcel track",
    "发货": "shipping delivery",
    "配送": "delivery shipping",
    "发票": "invoice",
    "优惠": "coupon discount",
    "折扣": "discount coupon",
    "库存": "stock",
    "有货": "stock",
    "价格": "price",
    "多少钱": "price",
    "请假": "leave",
    "年假": "annual leave",
    "病假": "sick leave",
    "投诉": "complaint",
    "推荐": "recommend advisor",
    "买什么": "recommend advisor",
    "选": "recommend",
    "地址": "address",
    "人工": "human handoff",
    "客服": "human",
    "取消": "cancel",
    "保修": "warranty",
    "维修": "repair",
    "预约": "appointment callback",
    "余额": "balance",
    "礼物": "gift recommend",
    "尺码": "size",
    "坏": "broken damaged defective",
    "破": "damaged broken",
    "政策": "policy",
    "支付": "payment",
    "付款": "payment",
    "会员": "member",
    "回电": "callback",
    "生气": "complaint",
    "修改": "change update",
}
_ENGLISH = {
    "left": "stock",
    "available": "stock",
    "descale": "clean",
    "rude": "complaint staff",
    "unfriendly": "complaint staff",
    "money": "refund",
    "broken": "damaged return",
    "gift": "recommend advisor",
    "buy": "recommend advisor shop",
    "buying": "recommend advisor",
    "advice": "advisor recommend",
    "suggest": "recommend",
    "parcel": "shipping track",
    "package": "shipping track",
    "person": "human",
    "vacation": "leave",
    "holiday": "leave",
    "send": "return",
    "sending": "return",
    "faulty": "damaged return",
    "defective": "damaged return",
    "present": "recommend",
    "suggestion": "recommend",
    "choose": "recommend",
}


def stem(word: str) -> str:
    """A word without its commonest endings; good enough to let "returns" meet "return"."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word.removesuffix("e") if len(word) > 4 else word


def words(text: str) -> set[str]:
    """The stems of a text's Latin words that say something, and the pairs of neighbouring Chinese characters."""
    lower = text.lower().replace("_", " ").replace("-", " ")
    found = {stem(w) for w in _LATIN.findall(lower) if w not in _STOP}
    for run in _CJK_RUN.findall(text):
        found.update(run[n : n + 2] for n in range(max(1, len(run) - 1)))
    return found


def meaning(text: str) -> set[str]:
    """The words of a message, and those that descriptions use for the same."""
    found = words(text)
    for chinese, english in _CHINESE.items():
        if chinese in text:
            found |= words(english)
    for word, others in _ENGLISH.items():
        if stem(word) in found:
            found |= words(others)
    return found


def nearest(message: str, texts: Sequence[tuple[str, str]]) -> list[float]:
    """How near each (name, description) is to a message: words in common, rare ones and those of the name weighing more; 0 is nothing."""
    said = meaning(message)
    names = [words(name) for name, _ in texts]
    bodies = [words(f"{name} {description}") for name, description in texts]
    spread = Counter(word for body in bodies for word in body)
    return [sum((2.0 if w in name else 1.0) / spread[w] for w in said & body) for name, body in zip(names, bodies, strict=True)]


def topic(text: str) -> str:
    """The words of a message that say what it is about, in order; the message itself if there are none. At most eight words."""
    if _CJK_RUN.search(text):
        return text.strip("?？!！。. ，,")[:30]
    kept = [
        w for w in re.findall(r"[A-Za-z0-9][\w'-]*", text) if w.lower() not in _STOP and w.lower() not in ("left", "available", "stock")
    ]
    return " ".join(kept[:8]) or text.strip()[:60]


def best(value_texts: Mapping[str, str] | Iterable[str], message: str) -> str | None:
    """The value whose text shares most with a message; None if none shares anything."""
    table = value_texts if isinstance(value_texts, Mapping) else {v: v for v in value_texts}
    said = meaning(message)
    scored = [(len(words(text) & said), value) for value, text in table.items()]
    top = max(scored, key=lambda pair: pair[0], default=(0, ""))
    return top[1] if top[0] else None
