"""Says in words what tools have found, in English or Chinese. It knows nothing of any particular API, only common shapes of JSON."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from loadtests.simulators.asked import Result

MAX_FACTS = 5
MAX_ROWS = 3
_VERB = re.compile(r"^(get|look_?up|find|search|list|check|show|query|fetch|track|create|open|submit|make|quote|change|update)_")
_SKIP = frozenset(
    {
        "currency",
        "user_id",
        "lang",
        "score",
        "id",
        "session_id",
        "placed_on",
        "address",
        "city",
        "note",
        "description",
        "image",
        "sku",
        "available",
        "shipping",
        "already_open",
    }
)
_SPOKEN = ("message", "summary", "answer", "text")
_CHINESE = {
    "order": "订单",
    "orders": "订单",
    "status": "状态",
    "items": "商品",
    "total": "合计",
    "carrier": "承运",
    "tracking no": "运单号",
    "expected on": "预计送达",
    "delivered on": "送达日期",
    "return policy": "退货政策",
    "return": "退货单",
    "return id": "退货单号",
    "order id": "订单号",
    "eligible": "可退",
    "return until": "退货截止",
    "refund amount": "退款金额",
    "refund": "退款",
    "reason": "说明",
    "products": "商品",
    "stock": "库存",
    "price": "价格",
    "availability": "库存情况",
    "label url": "面单",
    "free label": "免费面单",
    "shipping": "运费",
    "name": "名称",
    "shipment": "物流",
    "ticket": "工单",
    "ticket id": "工单号",
    "knowledge": "知识库",
    "result": "结果",
}


def report(results: Sequence[Result], chinese: bool) -> str:
    """One line or a short list for each result; a failure is said as one."""
    lines = [_failure(r, chinese) if r.failed else _success(r, chinese) for r in results]
    return "\n".join(line for line in lines if line) or ("已完成。" if chinese else "Done.")


def _failure(result: Result, chinese: bool) -> str:
    error = result.value.get("error")
    why = str(error.get("message") if isinstance(error, dict) else error).rstrip(".。")
    if chinese:
        return f"抱歉，这一步没有成功（{why}）。请核对后再告诉我。"
    return f"I'm sorry, that did not work: {why}. Could you check and tell me again?"


def _success(result: Result, chinese: bool) -> str:
    value = result.value
    if isinstance(value, dict) and len(value) == 1 and isinstance(next(iter(value.values())), dict | list):
        value = next(iter(value.values()))  # {"products": […]}
    name = _VERB.sub("", result.name.split("__")[-1]).replace("_", " ")
    title = _CHINESE.get(name, name) if chinese else name[:1].upper() + name[1:]
    if isinstance(value, list):
        return _rows(title, value, chinese)
    if not isinstance(value, dict):
        return str(value)[:600]
    spoken = next((value[k] for k in _SPOKEN if isinstance(value.get(k), str) and value[k]), None)
    if spoken is not None:
        return str(spoken)
    main = next((str(value[k]) for k in value if k.endswith("_id") and k in result.arguments), "") or _named(value, chinese)
    facts = _facts(value, chinese, skip={*result.arguments, "name", "title"})
    if not facts:
        return ""
    return f"{title}{main}：{'，'.join(facts)}。" if chinese else f"{title}{' ' if main else ''}{main}: {', '.join(facts)}."


def _rows(title: str, rows: Sequence[Any], chinese: bool) -> str:
    if not rows:
        return f"{title}：没有找到。" if chinese else f"{title}: nothing found."
    first = rows[0]
    if isinstance(first, dict) and isinstance(first.get("text"), str):  # articles: the best one is the answer
        return str(first["text"])
    lines = [f"- {_row(row, chinese)}" for row in rows[:MAX_ROWS]]
    return f"{title}{'：' if chinese else ':'}\n" + "\n".join(lines)


def _row(row: Any, chinese: bool) -> str:
    if not isinstance(row, dict):
        return str(row)
    name = _named(row, chinese)
    facts = _facts(row, chinese, skip={"name", "first_item"})[:3]
    return ("，" if chinese else ", ").join([name, *facts] if name else facts)


def _named(row: Mapping[str, Any], chinese: bool) -> str:
    return str((row.get("name_zh") if chinese else None) or row.get("name") or row.get("title") or row.get("first_item") or "")


def _facts(value: Mapping[str, Any], chinese: bool, skip: set[str]) -> list[str]:
    """The members worth saying, at most MAX_FACTS. Of a name with variants (`_text`, `_zh`) the one that is meant for people."""
    facts: list[str] = []
    for key, member in value.items():
        base = key.removesuffix("_zh").removesuffix("_text")
        doubled = (key != base and base in value) or (base.endswith("_amount") and f"{base.removesuffix('_amount')}_text" in value)
        if doubled or base in _SKIP or key in skip or len(facts) == MAX_FACTS:
            continue
        shown = (value.get(f"{base}_text_zh") or value.get(f"{base}_zh") if chinese else None) or value.get(f"{base}_text") or member
        text = _short(shown, chinese)
        label = base.replace("_", " ")
        if text and (label in _CHINESE or not chinese):
            facts.append(f"{_CHINESE.get(label, label)}{text}" if chinese else f"{label} {text}")
    return facts


def _short(value: Any, chinese: bool) -> str:
    if isinstance(value, bool):
        return ("是" if value else "否") if chinese else ("yes" if value else "no")
    if isinstance(value, dict):
        name, quantity = _named(value, chinese), value.get("quantity")
        return f"{name} ×{quantity}" if name and quantity else name
    if isinstance(value, list):
        return "; ".join(filter(None, (_short(v, chinese) for v in value[:MAX_ROWS])))
    if isinstance(value, float):
        return f"{value:.2f}"
    text = "" if value is None else str(value)[:160].rstrip(".。")
    return text.replace("_", " ") if re.fullmatch(r"[a-z_]+", text) else text
