"""The shop behind the business simulator: its orders, stock, policies and staff leave, deterministic and in memory.

It knows no HTTP. The shop's clock stands still at `TODAY`, so the same question has the same answer on every day.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import date, timedelta
from importlib import resources
from typing import Any

TODAY = date(2026, 6, 15)
RETURN_DAYS = 30
FREE_SHIPPING_FROM, SHIPPING = 50.0, 5.9
COUPONS = {"WELCOME10": 0.10, "TEA15": 0.15}
CARRIERS = ("DHL", "UPS", "SF Express", "FedEx")
CITIES = ("Hamburg", "Leeds", "Shenzhen", "Lyon", "Portland", "Hangzhou", "Turin", "Osaka")
STATUSES = ("shipped", "delivered", "delivered", "packed", "out_for_delivery", "delivered", "paid", "cancelled", "delivered", "shipped")
STATUS_TEXT = {
    "paid": ("paid and waiting to be packed", "已付款，等待打包"),
    "packed": ("packed and waiting for the carrier", "已打包，等待快递揽收"),
    "shipped": ("on its way", "运输途中"),
    "out_for_delivery": ("out for delivery today", "正在派送，今天送达"),
    "delivered": ("delivered", "已签收"),
    "cancelled": ("cancelled", "已取消"),
}
LEAVE_DAYS = {"一": 1, "两": 2, "二": 2, "三": 3, "四": 4, "五": 5, "半": 0.5}


class Refused(Exception):
    """The shop says no: an HTTP status, a code and a sentence."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


def _load(name: str) -> list[dict[str, Any]]:
    return json.loads(resources.files("loadtests.simulators").joinpath(name).read_text(encoding="utf-8"))


def money(amount: float) -> str:
    """An amount as people write it: `$49.90`."""
    return f"${amount:.2f}"


@dataclass
class Shop:
    """The books. Every method answers with plain JSON data or raises Refused; `create_…` and `change_…` write."""

    products: list[dict[str, Any]] = field(default_factory=lambda: _load("catalogue.json"))
    articles: list[dict[str, Any]] = field(default_factory=lambda: _load("articles.json"))
    orders: dict[str, dict[str, Any]] = field(default_factory=dict)
    returns: dict[str, dict[str, Any]] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    expenses: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for number in range(1, 41):
            order = self._order(number)
            self.orders[order["order_id"]] = order

    def _order(self, number: int) -> dict[str, Any]:
        status = STATUSES[(number - 1) % len(STATUSES)]
        first, second = self.products[(number - 1) % 16], self.products[(number * 5 + 6) % 16]
        lines = [(first, 1 + number % 2)] + ([(second, 1)] if number % 3 == 0 else [])
        items = [{"sku": p["sku"], "name": p["name"], "name_zh": p["name_zh"], "quantity": q, "price": p["price"]} for p, q in lines]
        goods = round(sum(p["price"] * q for p, q in lines), 2)
        shipping = 0.0 if goods >= FREE_SHIPPING_FROM else SHIPPING
        delivered = TODAY - timedelta(days=6 if number % 10 == 2 else 3 + number) if status == "delivered" else None
        placed = (delivered or TODAY) - timedelta(days=4 if delivered else 1 + number % 3)
        expected = None if status in ("delivered", "cancelled") else TODAY + timedelta(days=0 if status == "out_for_delivery" else 2)
        return {
            "order_id": f"A{1000 + number}",
            "user_id": f"u-{1 + (number - 1) % 8}",
            "status": status,
            "status_text": STATUS_TEXT[status][0],
            "status_text_zh": STATUS_TEXT[status][1],
            "items": items,
            "shipping": shipping,
            "total": round(goods + shipping, 2),
            "total_text": money(goods + shipping),
            "currency": "USD",
            "carrier": CARRIERS[number % 4],
            "tracking_no": f"LX{20260000 + number * 37}" if status in ("shipped", "out_for_delivery", "delivered") else None,
            "city": CITIES[(number - 1) % 8],
            "address": f"{number} Harbour Street, {CITIES[(number - 1) % 8]}",
            "placed_on": placed.isoformat(),
            "expected_on": expected.isoformat() if expected else None,
            "delivered_on": delivered.isoformat() if delivered else None,
        }

    def number(self, letter: str, start: int) -> str:
        """The next id of a series, such as R5001."""
        self.counters[letter] = self.counters.get(letter, start) + 1
        return f"{letter}{self.counters[letter]}"

    def order(self, order_id: str) -> dict[str, Any]:
        """One order; 404 when unknown."""
        try:
            return self.orders[order_id.strip().lstrip("#").upper()]
        except KeyError:
            raise Refused(404, "order_not_found", f"There is no order {order_id[:32]}.") from None

    def orders_of(self, user_id: str, status: str = "") -> list[dict[str, Any]]:
        """The orders of a user, newest first; those of the first user for a caller without a name."""
        wanted = user_id if any(o["user_id"] == user_id for o in self.orders.values()) else "u-1"
        found = [o for o in self.orders.values() if o["user_id"] == wanted and (not status or o["status"] == status)]
        return sorted(found, key=lambda o: o["placed_on"], reverse=True)

    def shipment(self, tracking_no: str) -> dict[str, Any]:
        """Where a parcel is, with its events, newest first; 404 when unknown."""
        order = next((o for o in self.orders.values() if o["tracking_no"] == tracking_no.upper()), None)
        if order is None:
            raise Refused(404, "shipment_not_found", f"There is no parcel {tracking_no[:32]}.")
        events = [
            {"on": order["placed_on"], "place": "Hamburg", "text": "Parcel handed to the carrier", "text_zh": "快递已揽收"},
            {"on": TODAY.isoformat(), "place": order["city"], "text": "Arrived at the sorting centre", "text_zh": "到达分拣中心"},
        ]
        if order["status"] == "out_for_delivery":
            events.append({"on": TODAY.isoformat(), "place": order["city"], "text": "Out for delivery", "text_zh": "派送中"})
        if order["status"] == "delivered":
            events[1]["on"] = order["delivered_on"]
            events.append({"on": order["delivered_on"], "place": order["city"], "text": "Delivered", "text_zh": "已签收"})
        keys = ("tracking_no", "order_id", "carrier", "status", "expected_on")
        return {**{k: order[k] for k in keys}, "events": events[::-1]}

    def search(self, query: str, max_price: float | None = None, limit: int = 5) -> list[dict[str, Any]]:
        """Products that share words with the query, best first; the best sellers when none does."""
        scored = [(overlap(query, " ".join([p["name"], p["name_zh"], p["category"], *p["tags"]])), p) for p in self.products]
        fitting = [(s, p) for s, p in scored if max_price is None or p["price"] <= max_price]
        hits = [p for s, p in sorted(fitting, key=lambda x: (-x[0], -x[1]["stock"])) if s > 0] or [p for _, p in fitting]
        return [{k: p[k] for k in ("sku", "name", "name_zh", "price", "stock")} for p in hits[:limit]]

    def product(self, name: str) -> dict[str, Any]:
        """The product of a sku or of the name that fits best; 404 when nothing fits."""
        exact = next((p for p in self.products if p["sku"] == name.strip().upper()), None)
        best = exact or max(self.products, key=lambda p: overlap(name, " ".join([p["name"], p["name_zh"], *p["tags"]])))
        if exact is None and overlap(name, " ".join([best["name"], best["name_zh"], *best["tags"]])) == 0:
            raise Refused(404, "product_not_found", f"Nothing in the shop is called {name[:64]}.")
        return best

    def stock(self, item: str) -> dict[str, Any]:
        """How many of an item are there and, if none, when it comes back."""
        p = self.product(item)
        words = ("in stock", "有现货") if p["stock"] else ("sold out, back on 2026-06-22", "暂时缺货，预计 6 月 22 日到货")
        return {
            "sku": p["sku"], "name": p["name"], "name_zh": p["name_zh"], "stock": p["stock"],
            "available": p["stock"] > 0, "availability": words[0], "availability_zh": words[1],
        }  # fmt: skip

    def quote(self, sku: str, quantity: int, coupon: str = "") -> dict[str, Any]:
        """What an order would cost, with shipping and a coupon; 422 for a coupon or quantity that does not hold."""
        p = self.product(sku)
        if not 1 <= quantity <= 99:
            raise Refused(422, "bad_quantity", "The quantity must be 1 to 99.")
        if coupon and coupon.upper() not in COUPONS:
            raise Refused(422, "bad_coupon", f"The coupon {coupon[:32]} is not valid.")
        subtotal = round(p["price"] * quantity, 2)
        discount = round(subtotal * COUPONS.get(coupon.upper(), 0.0), 2)
        shipping = 0.0 if subtotal - discount >= FREE_SHIPPING_FROM else SHIPPING
        total = round(subtotal - discount + shipping, 2)
        return {
            "sku": p["sku"], "name": p["name"], "name_zh": p["name_zh"], "quantity": quantity, "unit_price": p["price"],
            "subtotal": subtotal, "discount": discount, "shipping": shipping, "total": total, "total_text": money(total), "currency": "USD",
        }  # fmt: skip

    def return_policy(self, order_id: str) -> dict[str, Any]:
        """Whether an order may be sent back, until when, and what would be refunded."""
        order = self.order(order_id)
        if order["status"] != "delivered":
            return {"order_id": order["order_id"], "eligible": False, "reason": f"The order is {order['status_text']}, not delivered."}
        last = date.fromisoformat(order["delivered_on"]) + timedelta(days=RETURN_DAYS)
        eligible = last >= TODAY
        until = f"until {last.isoformat()}" if eligible else f"it ended on {last.isoformat()}"
        return {
            "order_id": order["order_id"], "eligible": eligible, "return_until": last.isoformat(),
            "refund_amount": round(order["total"] - order["shipping"], 2), "free_label": True,
            "reason": f"Delivered on {order['delivered_on']}; the return window is {RETURN_DAYS} days, {until}.",
        }  # fmt: skip

    def create_return(self, order_id: str, reason: str, note: str = "") -> dict[str, Any]:
        """Opens a return, or answers with the one that is already open; 409 when the order can't be sent back."""
        policy = self.return_policy(order_id)
        if open_one := self.returns.get(policy["order_id"]):
            return {**open_one, "already_open": True}
        if not policy["eligible"]:
            raise Refused(409, "not_returnable", policy["reason"])
        number = self.number("R", 5000)
        made = {
            "return_id": number, "order_id": policy["order_id"], "reason": reason, "note": note, "status": "label_sent",
            "refund_amount": policy["refund_amount"], "refund_text": money(policy["refund_amount"]),
            "label_url": f"https://shop.example/labels/{number}.pdf", "already_open": False,
        }  # fmt: skip
        self.returns[policy["order_id"]] = made
        return made

    def create_refund(self, order_id: str, amount: float | None, reason: str) -> dict[str, Any]:
        """Refunds an order in whole or in part; 422 for more than was paid."""
        order = self.order(order_id)
        value = order["total"] if amount is None else amount
        if not 0 < value <= order["total"]:
            raise Refused(422, "bad_amount", f"The refund must be between $0.01 and {order['total_text']}.")
        return {"refund_id": self.number("F", 6000), "order_id": order["order_id"], "amount": value, "reason": reason, "status": "approved"}

    def change_address(self, order_id: str, address: str) -> dict[str, Any]:
        """Moves an order that has not left yet to another address; 409 afterwards."""
        order = self.order(order_id)
        if order["status"] not in ("paid", "packed"):
            raise Refused(409, "too_late", f"Order {order['order_id']} is {order['status_text']}; its address can no longer change.")
        order["address"] = address
        return {"order_id": order["order_id"], "address": address, "status": "changed"}

    def cancel_order(self, order_id: str) -> dict[str, Any]:
        """Cancels an order that has not left yet; 409 afterwards."""
        order = self.order(order_id)
        if order["status"] not in ("paid", "packed", "cancelled"):
            raise Refused(409, "too_late", f"Order {order['order_id']} is {order['status_text']}; it can be returned, not cancelled.")
        order["status"] = "cancelled"
        order["status_text"], order["status_text_zh"] = STATUS_TEXT["cancelled"]
        return {"order_id": order["order_id"], "status": "cancelled", "refunded_text": order["total_text"]}

    def leave_balance(self, user_id: str) -> dict[str, Any]:
        """Days of leave of a member of staff."""
        used = sum(user_id.encode()) % 12
        return {"user_id": user_id or "staff", "annual_days": 20, "used": used, "left": 20 - used, "sick_left": 10}

    def create_leave(self, user_id: str, message: str, days: float | None) -> dict[str, Any]:
        """Files a leave request; the days are read from the message where they are not given."""
        found = re.search(r"(\d+(?:\.\d+)?)\s*(?:天|days?)|([一两二三四五半])\s*天", message)
        read = None if found is None else float(found[1]) if found[1] else LEAVE_DAYS[found[2]]
        return {"request_id": self.number("L", 7000), "user_id": user_id, "days": days or read or 1, "status": "waiting for approval",
                "status_zh": "等待主管审批", "approver": "store manager"}  # fmt: skip

    def knowledge(self, query: str, limit: int = 3) -> list[dict[str, Any]]:
        """Help articles that share words with the query, best first."""
        scored = [(overlap(query, a["title"] + " " + a["text"]) + overlap(query, a["title"]) / 2, a) for a in self.articles]
        best = sorted((x for x in scored if x[0] > 0), key=lambda x: -x[0])[:limit]
        return [{**a, "score": round(s, 3)} for s, a in best]


_COMMON = frozenset(
    ("the", "a", "an", "of", "for", "to", "is", "are", "and", "or", "in", "it", "my", "do", "does", "can", "what", "how", "with", "me")
)


def terms(text: str) -> set[str]:
    """Words of a text (without their endings) and pairs of Chinese characters."""
    low = text.lower()
    words = {re.sub(r"(?<=\w{3})(ing|es|e|s)$", "", w) for w in re.findall(r"[a-z0-9-]+", low) if w not in _COMMON}
    runs = re.findall(r"[\u4e00-\u9fff]+", low)
    return words | {run[i : i + 2] for run in runs for i in range(max(1, len(run) - 1))}


def overlap(query: str, text: str) -> float:
    """The share of the query's terms that stand in the text, 0 to 1."""
    wanted = terms(query)
    return len(wanted & terms(text)) / len(wanted) if wanted else 0.0


_COMPLAINT = re.compile("bad|broken|late|angry|terrible|worst|awful|disappointed|rude|never|差|坏|慢|失望|生气|投诉|糟糕|破")
_PRAISE = re.compile("love|great|good|thank|perfect|excellent|happy|fast|喜欢|很好|满意|不错|感谢|完美|快")
_TOPICS = {
    "delivery": ("deliver", "parcel", "late", "courier", "快递", "物流", "慢"),
    "product": ("broken", "quality", "kettle", "lamp", "质量", "坏", "破"),
    "service": ("rude", "staff", "answer", "support", "客服", "态度"),
}


def sentiment(text: str) -> dict[str, Any]:
    """Label, score (-1 to 1), topic and urgency of a text, by a small word list."""
    low = text.lower()
    bad, good = len(_COMPLAINT.findall(low)), len(_PRAISE.findall(low))
    score = 0.0 if bad + good == 0 else round((good - bad) / (good + bad), 2)
    label = "complaint" if score < 0 else "praise" if score > 0 else "question" if "?" in low or "吗" in low else "neutral"
    label_zh = {"complaint": "投诉", "praise": "表扬", "question": "咨询", "neutral": "一般反馈"}[label]
    topic = next((t for t, words in _TOPICS.items() if any(w in low for w in words)), "other")
    return {"label": label, "label_zh": label_zh, "score": score, "topic": topic, "urgent": bad >= 2}
