"""The business simulator: a shop's and its staff's HTTP APIs, as the customer service example calls them.

It honours Idempotency-Key, counts every effect, and misbehaves on request (`?slow=ms`, `?fail=status`). It knows nothing of agents.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, OrderedDict, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from loadtests.simulators import staff
from loadtests.simulators.shop import Refused, Shop, money, sentiment

KEPT_KEYS = 100_000
KEPT_EFFECTS, MOST_EFFECTS, MAX_KEPT_BODY = 100_000, 10_000, 4096
MAX_SLOW_MS = 120_000

Action = Callable[[Shop, "Call"], Any]


@dataclass(frozen=True)
class Call:
    """What one request said: path parameters, query and JSON body, each name once (the body wins)."""

    values: Mapping[str, Any]

    def text(self, name: str, default: str | None = None) -> str:
        """A string; 422 when it is missing and has no default."""
        value = self.values.get(name)
        if value is None or value == "":
            if default is None:
                raise Refused(422, "missing_field", f"{name} is required.")
            return default
        if isinstance(value, dict | list):
            raise Refused(422, "bad_field", f"{name} must be a string.")
        return str(value)

    def number(self, name: str, default: float | None = None) -> float | None:
        """A number; 422 when it is not one."""
        value = self.values.get(name)
        if value is None or value == "":
            return default
        try:
            return float(value)
        except (TypeError, ValueError):
            raise Refused(422, "bad_field", f"{name} must be a number.") from None


@dataclass
class Ledger:
    """Counts effects, lists them and keeps the first reply of each idempotency key. Bounded to the newest `KEPT_KEYS` keys and
    `KEPT_EFFECTS` effects; `listed` is (number, path, key, body), numbers count 1, 2, 3 …, the body of a large request is left out."""

    by_path: Counter[str] = field(default_factory=Counter)
    replies: OrderedDict[str, tuple[str, int, bytes]] = field(default_factory=OrderedDict)
    replayed: int = 0
    last: list[dict[str, Any]] = field(default_factory=list)
    listed: deque[tuple[int, str, str | None, bytes]] = field(default_factory=lambda: deque(maxlen=KEPT_EFFECTS))

    def note(self, path: str, key: str | None, said: Mapping[str, Any], raw: bytes) -> None:
        """One effect has happened; `raw` is the body of its request."""
        self.by_path[path] += 1
        number = self.listed[-1][0] + 1 if self.listed else 1
        self.listed.append((number, path, key, raw if len(raw) <= MAX_KEPT_BODY else b"null"))
        self.last = [*self.last[-19:], {"path": path, "key": key, "body": dict(said)}]

    def keep(self, key: str, digest: str, status: int, body: bytes) -> None:
        """Remembers the reply of a key."""
        self.replies[key] = (digest, status, body)
        if len(self.replies) > KEPT_KEYS:
            self.replies.popitem(last=False)


@dataclass
class Books:
    """What the application holds: replaced as a whole by POST /reset."""

    shop: Shop = field(default_factory=Shop)
    ledger: Ledger = field(default_factory=Ledger)


def answer(status: int, doc: Any, headers: dict[str, str] | None = None) -> Response:
    """A JSON response."""
    return Response(orjson.dumps(doc), status, headers, "application/json")


def failure(error: Refused) -> Response:
    """A refusal as JSON."""
    return answer(error.status, {"error": {"code": error.code, "message": error.message}})


async def _read(request: Request) -> tuple[Call, bytes]:
    raw = await request.body()
    doc: Any = {}
    if raw:
        try:
            doc = orjson.loads(raw)
        except orjson.JSONDecodeError:
            raise Refused(400, "bad_json", "The body is not JSON.") from None
        if not isinstance(doc, dict):
            raise Refused(400, "bad_json", "The body must be a JSON object.")
    return Call({**request.query_params, **doc, **request.path_params}), raw


async def _knobs(request: Request) -> None:
    """`?slow=ms` waits first; `?fail=status` answers with that error instead and has no effect."""
    knobs = Call(request.query_params)
    await asyncio.sleep(min(knobs.number("slow") or 0.0, MAX_SLOW_MS) / 1000)
    fail = int(knobs.number("fail") or 0)
    if fail:
        raise Refused(fail if 400 <= fail <= 599 else 500, "simulated", "This failure was asked for.")


def reads(action: Action) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint without effects."""

    async def endpoint(request: Request) -> Response:
        books: Books = request.app.state.books
        try:
            await _knobs(request)
            call, _ = await _read(request)
            return answer(200, action(books.shop, call))
        except Refused as error:
            return failure(error)

    return endpoint


def writes(action: Action) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint with an effect: once for each Idempotency-Key, whose later calls get the first reply (422 with another body).

    Refusals are replayed too, but count as no effect. Nothing is awaited between look-up and keeping, so parallel calls are safe.
    """

    async def endpoint(request: Request) -> Response:
        books: Books = request.app.state.books
        key = request.headers.get("idempotency-key")
        path = request.scope["path"]
        try:
            await _knobs(request)
            call, raw = await _read(request)
        except Refused as error:
            return failure(error)
        digest = hashlib.sha256(f"{request.method} {path}\n".encode() + raw).hexdigest()
        if key and (kept := books.ledger.replies.get(key)):
            if kept[0] != digest:
                return failure(Refused(422, "idempotency_mismatch", "This Idempotency-Key was used with another body."))
            books.ledger.replayed += 1
            return Response(kept[2], kept[1], {"Idempotent-Replayed": "true"}, "application/json")
        try:
            reply = answer(201, action(books.shop, call))
            books.ledger.note(request.scope["path"], key, call.values, raw)
        except Refused as error:
            reply = failure(error)
        if key:
            books.ledger.keep(key, digest, reply.status_code, bytes(reply.body))
        return reply

    return endpoint


def _coupons(shop: Shop, call: Call) -> Any:
    codes = [{"code": "WELCOME10", "text": "10 % off the first order", "text_zh": "首单九折"}]
    if call.text("user_id", "guest") != "guest":
        codes.append({"code": "TEA15", "text": "15 % off kettles until 30 June", "text_zh": "水壶 85 折，6 月 30 日前有效"})
    return {
        "coupons": codes,
        "codes": ", ".join(c["code"] for c in codes),
        "summary": "; ".join(f"{c['code']} ({c['text']})" for c in codes),
        "summary_zh": "；".join(f"{c['code']}（{c['text_zh']}）" for c in codes),
    }


def _points(shop: Shop, call: Call) -> Any:
    spent = sum(o["total"] for o in shop.orders_of(call.text("user_id", "guest")) if o["status"] == "delivered")
    return {"points": int(spent), "worth_text": money(int(spent) / 100), "tier": "gold" if spent > 300 else "silver"}


def _invoice(shop: Shop, call: Call) -> Any:
    order = shop.order(call.text("order_id"))
    number = f"INV-{order['order_id'][1:]}"
    return {
        "invoice_no": number,
        "order_id": order["order_id"],
        "total_text": order["total_text"],
        "sent_to": "the e-mail address of the order",
    }


def _callback(shop: Shop, call: Call) -> Any:
    return {"callback_id": shop.number("C", 8000), "phone": call.text("phone"), "between": "within two hours, 9:00 to 20:00"}


def _appointment(shop: Shop, call: Call) -> Any:
    return {"appointment_id": shop.number("V", 8500), "when": call.text("when", "2026-06-16 15:00"), "place": "12 Harbour Street showroom"}


def _ticket(shop: Shop, call: Call) -> Any:
    mood = sentiment(call.text("details", call.text("subject", "")))
    priority = call.text("priority", "high" if mood["urgent"] else "normal")
    return {
        "ticket_id": shop.number("T", 9000),
        "subject": call.text("subject", "Customer message"),
        "priority": priority,
        "topic": mood["topic"],
    }


def _search(shop: Shop, call: Call) -> Any:
    return {"products": shop.search(call.text("query"), call.number("max_price"), int(call.number("limit", 5) or 5))}


def _orders(shop: Shop, call: Call) -> Any:
    keys = ("order_id", "status", "status_text", "placed_on", "total_text", "tracking_no")
    orders = shop.orders_of(call.text("user_id", "guest"), call.text("status", ""))
    return {"orders": [{**{k: o[k] for k in keys}, "first_item": o["items"][0]["name"]} for o in orders]}


def _quote(shop: Shop, call: Call) -> Any:
    return shop.quote(call.text("sku"), int(call.number("quantity", 1) or 0), call.text("coupon", ""))


def _expense(shop: Shop, call: Call) -> Any:
    return staff.file_expense(shop, call.text("user_id", "staff"), call.text("category"), call.number("amount"), call.text("note", ""))


def get(path: str, action: Action) -> Route:
    """A look-up."""
    return Route(path, reads(action), methods=["GET"])


def post(path: str, action: Action) -> Route:
    """An effect."""
    return Route(path, writes(action), methods=["POST"])


def _staff_routes() -> list[Route]:
    return [
        get("/hr/leave-balance", lambda shop, call: shop.leave_balance(call.text("user_id", ""))),
        post("/hr/leave", lambda shop, call: shop.create_leave(call.text("user_id", "staff"), call.text("message"), call.number("days"))),
        post("/hr/leave/{request_id}/cancel", lambda shop, call: staff.cancel_leave(call.text("request_id"))),
        get("/hr/expense-policy", lambda shop, call: staff.expense_policy(call.text("category"))),
        get("/hr/expenses", lambda shop, call: staff.expenses_of(shop, call.text("user_id", "staff"))),
        get("/hr/expenses/{expense_id}", lambda shop, call: staff.expense(shop, call.text("expense_id"))),
        post("/hr/expenses", _expense),
        post("/hr/certificates", lambda shop, call: staff.certificate(shop, call.text("user_id", "staff"), call.text("kind", ""))),
        Route("/hr/handbook", reads(lambda shop, call: {"results": staff.search_handbook(call.text("query"))}), methods=["POST"]),
    ]


def _shop_routes() -> list[Route]:
    return [
        get("/orders", _orders),
        get("/orders/{order_id}", lambda shop, call: shop.order(call.text("order_id"))),
        post("/orders/{order_id}/address", lambda shop, call: shop.change_address(call.text("order_id"), call.text("address"))),
        post("/orders/{order_id}/cancel", lambda shop, call: shop.cancel_order(call.text("order_id"))),
        get("/shipments/{tracking_no}", lambda shop, call: shop.shipment(call.text("tracking_no"))),
        get("/stock", lambda shop, call: shop.stock(call.text("item"))),
        get("/products", _search),
        get("/price-quote", _quote),
        get("/returns/policy", lambda shop, call: shop.return_policy(call.text("order_id"))),
        post("/returns", lambda shop, call: shop.create_return(call.text("order_id"), call.text("reason"), call.text("note", ""))),
        post("/refunds", lambda shop, call: shop.create_refund(call.text("order_id"), call.number("amount"), call.text("reason", ""))),
        get("/coupons", _coupons),
        get("/members/points", _points),
        post("/invoices", _invoice),
        post("/callbacks", _callback),
        post("/appointments", _appointment),
        post("/tickets", _ticket),
        Route("/kb/search", reads(lambda shop, call: {"results": shop.knowledge(call.text("query"))}), methods=["POST"]),
        Route("/sentiment", reads(lambda shop, call: sentiment(call.text("text"))), methods=["POST"]),
    ]


async def _effects(request: Request) -> Response:
    """What has been done so far: {total, by_path, keys, replayed, last}."""
    ledger: Ledger = request.app.state.books.ledger
    total = sum(ledger.by_path.values())
    return answer(
        200, {"total": total, "by_path": ledger.by_path, "keys": len(ledger.replies), "replayed": ledger.replayed, "last": ledger.last}
    )


async def _effects_list(request: Request) -> Response:
    """Every effect in order, a page at a time: {effects: [{number, path, key, body}], next}. `?after=` a number, `?limit=` at most 10 000;
    `next` is the `after` of the next page, null on the last one."""
    ledger: Ledger = request.app.state.books.ledger
    try:
        asked = Call(request.query_params)
        after, limit = asked.number("after", 0) or 0, asked.number("limit", 1000) or 0
        if not 1 <= limit <= MOST_EFFECTS or not 0 <= after < 1e15:
            raise Refused(422, "bad_field", f"after must be 0 or more, limit from 1 to {MOST_EFFECTS}.")
    except Refused as error:
        return failure(error)
    first = ledger.listed[0][0] if ledger.listed else 1
    begin = max(0, int(after) + 1 - first)
    page = list(islice(ledger.listed, begin, begin + int(limit)))
    effects = [{"number": n, "path": path, "key": key, "body": orjson.Fragment(raw or b"null")} for n, path, key, raw in page]
    more = bool(page) and page[-1][0] < ledger.listed[-1][0]
    return answer(200, {"effects": effects, "next": page[-1][0] if more else None})


async def _reset(request: Request) -> Response:
    """Fresh books."""
    request.app.state.books = Books()
    return answer(200, {"status": "reset"})


async def _health(request: Request) -> Response:
    return answer(200, {"status": "healthy"})


async def _http_error(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return answer(
        status,
        {"error": {"code": "not_found" if status == 404 else "http_error", "message": f"{request.method} {request.url.path}: {status}"}},
    )


def create_app() -> Starlette:
    """The application, with books of its own."""
    app = Starlette(
        routes=[
            *_shop_routes(),
            *_staff_routes(),
            Route("/effects", _effects, methods=["GET"]),
            Route("/effects/list", _effects_list, methods=["GET"]),
            Route("/reset", _reset, methods=["POST"]),
            Route("/health", _health, methods=["GET"]),
        ],
        exception_handlers={HTTPException: _http_error},
    )
    app.state.books = Books()
    return app


def run(port: int, host: str = "127.0.0.1") -> None:
    """Serves until it is interrupted."""
    uvicorn.run(create_app(), host=host, port=port, access_log=False, log_level="warning")
