"""The staff's side of the business simulator: expenses, leave that was filed, certificates, and a handbook in Chinese. It knows no HTTP."""

from __future__ import annotations

from typing import Any

from loadtests.simulators.shop import Refused, Shop, money, overlap

# category: (name, most that is paid for one receipt, how)
EXPENSES = {
    "travel": ("差旅交通", 5000.0, "高铁二等座、飞机经济舱实报实销"),
    "hotel": ("住宿", 600.0, "每晚一线城市 600 元、其他城市 400 元以内"),
    "meal": ("餐饮", 100.0, "出差餐补每天 100 元"),
    "taxi": ("市内交通", 200.0, "加班至 21:00 后打车可报"),
    "office": ("办公用品", 1000.0, "500 元以上须先申请"),
    "client": ("业务招待", 2000.0, "须事先由主管批准"),
}
STATUS = {"submitted": "等待主管审批", "approved": "已批准，下一次发薪前到账", "paid": "已到账", "rejected": "被退回，请补充发票"}
HANDBOOK = (
    ("年假规定", "入职满一年有 10 天年假，满十年 15 天，满二十年 20 天。当年未休完的年假可顺延到次年 3 月 31 日。"),
    ("病假规定", "病假须提供医院证明。每年前 10 天病假发全薪，之后发 60%。"),
    ("婚假产假陪产假", "婚假 10 天，产假 158 天，陪产假 15 天，请提前一个月提交申请。"),
    ("报销流程", "在一个月内提交发票，由主管审批，财务在 5 个工作日内付款。电子发票须附原件 PDF。"),
    ("差旅标准", "高铁二等座、飞机经济舱；住宿一线城市每晚 600 元、其他城市 400 元；餐补每天 100 元。"),
    ("加班与调休", "加班须事先由主管批准。工作日加班可调休，有效期三个月。"),
    ("远程办公", "每周最多两天在家办公，前一天在系统中登记。"),
    ("培训补贴", "每人每年有 3000 元培训补贴，结业后凭证书和发票报销。"),
    ("离职手续", "试用期提前 3 天、转正后提前 30 天书面提出，交接完成后办理离职证明。"),
    ("体检", "每年 9 月安排一次免费体检，家属可享受折扣。"),
)


def search_handbook(query: str, limit: int = 3) -> list[dict[str, Any]]:
    """Pages of the handbook that share words with the question, best first."""
    scored = [(overlap(query, title + " " + text) + overlap(query, title) / 2, title, text) for title, text in HANDBOOK]
    return [{"title": t, "text": text, "score": round(s, 3)} for s, t, text in sorted(scored, key=lambda x: -x[0])[:limit] if s > 0]


def expense_policy(category: str) -> dict[str, Any]:
    """What is paid in a category; 404 when there is none of that name."""
    name, most, how = _kind(category)
    return {"category": category, "name": name, "limit": most, "limit_text": f"{most:.0f} 元", "rule": how, "within_days": 30}


def file_expense(shop: Shop, user_id: str, category: str, amount: float | None, note: str) -> dict[str, Any]:
    """Files an expense claim; 422 without an amount or above the category's limit."""
    name, most, how = _kind(category)
    if amount is None or amount <= 0:
        raise Refused(422, "bad_amount", "amount must be above 0.")
    if amount > most:
        raise Refused(422, "over_limit", f"{name} 每笔最多 {most:.0f} 元（{how}）。")
    number = shop.number("E", 3000)
    claim = _claim(number, user_id, category, amount, "submitted", note)
    shop.expenses[number] = claim
    return claim


def expense(shop: Shop, expense_id: str) -> dict[str, Any]:
    """One expense claim: E2001 to E2004 stand from the start; 404 when unknown."""
    wanted = expense_id.strip().upper()
    found = next((c for c in _claims(shop) if c["expense_id"] == wanted), None)
    if found is None:
        raise Refused(404, "expense_not_found", f"There is no expense claim {expense_id[:32]}.")
    return found


def expenses_of(shop: Shop, user_id: str) -> dict[str, Any]:
    """The claims of a member of staff, newest first: the standing ones are everyone's, so that each has some."""
    claims = [c for c in _claims(shop) if c["user_id"] in (user_id, "staff")][::-1]
    return {
        "expenses": claims,
        "summary_zh": "；".join(f"{c['expense_id']} {c['name']} {c['amount_text']}，{c['status_zh']}" for c in claims[:3]),
    }


def certificate(shop: Shop, user_id: str, kind: str) -> dict[str, Any]:
    """Orders a certificate of employment or income."""
    names = {"收入": "收入证明", "离职": "离职证明"}
    return {"certificate_id": shop.number("Z", 4000), "user_id": user_id, "name": names.get(kind, "在职证明"), "ready_zh": "两个工作日内"}


def cancel_leave(request_id: str) -> dict[str, Any]:
    """Withdraws a request for leave; 404 for what is no request id."""
    if not request_id.upper().startswith("L"):
        raise Refused(404, "leave_not_found", f"There is no request {request_id[:32]}.")
    return {"request_id": request_id.upper(), "status": "cancelled", "status_zh": "已撤销"}


def _kind(category: str) -> tuple[str, float, str]:
    try:
        return EXPENSES[category]
    except KeyError:
        raise Refused(404, "category_not_found", f"category must be one of {', '.join(EXPENSES)}.") from None


def _claims(shop: Shop) -> list[dict[str, Any]]:
    standing = zip(
        ("hotel", "travel", "meal", "taxi"), (480.0, 1260.5, 200.0, 46.0), ("paid", "approved", "rejected", "submitted"), strict=True
    )
    return [*(_claim(f"E{2001 + i}", "staff", k, a, s, "") for i, (k, a, s) in enumerate(standing)), *shop.expenses.values()]


def _claim(number: str, user_id: str, category: str, amount: float, status: str, note: str) -> dict[str, Any]:
    return {
        "expense_id": number, "user_id": user_id, "category": category, "name": EXPENSES[category][0], "amount": amount,
        "amount_text": money(amount).replace("$", "¥"), "status": status, "status_zh": STATUS[status], "note": note,
    }  # fmt: skip
