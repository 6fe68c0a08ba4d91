"""The business simulator: believable answers, effects counted once for each idempotency key, failures on request."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from loadtests.simulators.business import Ledger, create_app
from loadtests.simulators.shop import Shop, overlap, sentiment

EXAMPLE = Path(__file__).parents[2] / "examples" / "customer_service" / "workflow.json"


@pytest.fixture
def shop_api() -> TestClient:
    return TestClient(create_app())


def effects(api: TestClient) -> dict[str, Any]:
    return api.get("/effects").json()


def test_an_order_has_items_amounts_status_and_carrier(shop_api: TestClient) -> None:
    order = shop_api.get("/orders/A1001").json()
    assert order["status"] == "shipped"
    assert order["items"][0]["name"] == "Ember gooseneck kettle"
    assert order["total"] == pytest.approx(sum(i["price"] * i["quantity"] for i in order["items"]) + order["shipping"])
    assert order["carrier"] in ("DHL", "UPS", "SF Express", "FedEx")
    assert shop_api.get("/orders/a1001").json() == order


def test_the_forty_orders_are_the_same_every_time() -> None:
    assert Shop().orders == Shop().orders
    assert list(Shop().orders) == [f"A{n}" for n in range(1001, 1041)]
    assert {o["status"] for o in Shop().orders.values()} == {"paid", "packed", "shipped", "out_for_delivery", "delivered", "cancelled"}


@pytest.mark.parametrize("path", ["/orders/A9999", "/shipments/LX00000000", "/stock?item=spaceship", "/nowhere"])
def test_what_is_unknown_is_a_json_404(shop_api: TestClient, path: str) -> None:
    reply = shop_api.get(path)
    assert reply.status_code == 404
    assert reply.json()["error"]["code"]


def test_orders_of_a_user_newest_first(shop_api: TestClient) -> None:
    orders = shop_api.get("/orders", params={"user_id": "u-2"}).json()["orders"]
    assert len(orders) == 5
    assert [o["placed_on"] for o in orders] == sorted((o["placed_on"] for o in orders), reverse=True)
    delivered = shop_api.get("/orders", params={"user_id": "u-2", "status": "delivered"}).json()["orders"]
    assert {o["status"] for o in delivered} == {"delivered"}


def test_every_tracking_number_leads_to_its_order(shop_api: TestClient) -> None:
    for order in Shop().orders.values():
        if order["tracking_no"]:
            parcel = shop_api.get(f"/shipments/{order['tracking_no']}").json()
            assert parcel["order_id"] == order["order_id"]
            assert parcel["events"][0]["text"]


def test_stock_by_name_sku_and_in_chinese(shop_api: TestClient) -> None:
    for item in ("red kettle", "KT-102", "红色电热水壶"):
        assert shop_api.get("/stock", params={"item": item}).json()["sku"] == "KT-102"
    assert shop_api.get("/stock", params={"item": "humidifier"}).json()["available"] is False


def test_price_quote_with_shipping_and_coupon(shop_api: TestClient) -> None:
    one = shop_api.get("/price-quote", params={"sku": "KT-102", "quantity": 1}).json()
    assert (one["subtotal"], one["shipping"], one["total_text"]) == (39.5, 5.9, "$45.40")
    two = shop_api.get("/price-quote", params={"sku": "KT-102", "quantity": "2", "coupon": "welcome10"}).json()
    assert (two["discount"], two["shipping"], two["total"]) == (7.9, 0.0, 71.1)
    assert shop_api.get("/price-quote", params={"sku": "KT-102", "coupon": "NOPE"}).status_code == 422
    assert shop_api.get("/price-quote", params={"sku": "KT-102", "quantity": "many"}).status_code == 422


def test_a_return_needs_a_delivered_order_within_thirty_days(shop_api: TestClient) -> None:
    assert shop_api.get("/returns/policy", params={"order_id": "A1002"}).json()["eligible"] is True
    assert shop_api.get("/returns/policy", params={"order_id": "A1001"}).json()["eligible"] is False
    assert shop_api.get("/returns/policy", params={"order_id": "A1029"}).json()["eligible"] is False
    refused = shop_api.post("/returns", json={"order_id": "A1001", "reason": "damaged"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "not_returnable")
    made = shop_api.post("/returns", json={"order_id": "A1002", "reason": "damaged"}).json()
    assert (made["return_id"], made["refund_text"], made["already_open"]) == ("R5001", "$39.50", False)
    assert shop_api.post("/returns", json={"order_id": "A1002", "reason": "damaged"}).json()["already_open"] is True


def test_the_same_key_has_one_effect_and_one_reply(shop_api: TestClient) -> None:
    body, headers = {"order_id": "A1002", "reason": "late", "amount": 10}, {"Idempotency-Key": "k-1"}
    first = shop_api.post("/refunds", json=body, headers=headers)
    again = shop_api.post("/refunds", json=body, headers=headers)
    assert first.status_code == again.status_code == 201
    assert first.json() == again.json()
    assert again.headers["idempotent-replayed"] == "true"
    other = shop_api.post("/refunds", json={**body, "amount": 11}, headers=headers)
    assert (other.status_code, other.json()["error"]["code"]) == (422, "idempotency_mismatch")
    elsewhere = shop_api.post("/tickets", json={"subject": "x"}, headers=headers)
    assert elsewhere.status_code == 422
    assert effects(shop_api) == {**effects(shop_api), "total": 1, "by_path": {"/refunds": 1}, "keys": 1, "replayed": 1}


def test_without_a_key_each_call_has_its_effect_and_reset_forgets(shop_api: TestClient) -> None:
    for _ in range(3):
        shop_api.post("/tickets", json={"subject": "Lamp", "details": "it is broken and late"})
    assert effects(shop_api)["by_path"] == {"/tickets": 3}
    assert shop_api.post("/reset").status_code == 200
    assert effects(shop_api)["total"] == 0


def test_effects_are_listed_in_order_a_page_at_a_time(shop_api: TestClient) -> None:
    assert shop_api.get("/effects/list").json() == {"effects": [], "next": None}
    for n in range(5):
        shop_api.post("/tickets", json={"subject": f"s{n}"}, headers={"Idempotency-Key": f"k{n}"} if n else {})
    shop_api.post("/tickets", json={"subject": "s4"}, headers={"Idempotency-Key": "k4"})  # replayed: no effect
    first = shop_api.get("/effects/list", params={"limit": 3}).json()
    assert [(e["number"], e["key"]) for e in first["effects"]] == [(1, None), (2, "k1"), (3, "k2")]
    assert first["effects"][1] == {"number": 2, "path": "/tickets", "key": "k1", "body": {"subject": "s1"}}
    rest = shop_api.get("/effects/list", params={"after": first["next"]}).json()
    assert ([e["body"]["subject"] for e in rest["effects"]], rest["next"]) == (["s3", "s4"], None)
    assert shop_api.get("/effects/list", params={"after": 5}).json() == {"effects": [], "next": None}
    for wrong in ({"after": -1}, {"limit": 0}, {"limit": 10_001}, {"after": "x"}, {"after": "nan"}, {"limit": "inf"}):
        assert shop_api.get("/effects/list", params=wrong).status_code == 422


def test_the_list_of_effects_is_bounded(shop_api: TestClient) -> None:
    shop_api.post("/tickets", json={"subject": "x" * 5000})
    assert shop_api.get("/effects/list").json()["effects"][0]["body"] is None
    ledger = Ledger(listed=deque(maxlen=3))
    for n in range(5):
        ledger.note("/tickets", None, {}, b"%d" % n)
    shop_api.app.state.books.ledger = ledger  # type: ignore[attr-defined]
    page = shop_api.get("/effects/list", params={"after": 1}).json()
    assert [(e["number"], e["body"]) for e in page["effects"]] == [(3, 2), (4, 3), (5, 4)]


async def test_parallel_calls_with_one_key_have_one_effect() -> None:
    app = create_app()

    async def call() -> bytes:
        sent: list[dict[str, Any]] = []
        body = json.dumps({"subject": "x", "details": "y"}).encode()
        scope = {"type": "http", "method": "POST", "path": "/tickets", "query_string": b"slow=5", "headers": [(b"idempotency-key", b"p")]}

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body}

        async def send(message: Any) -> None:
            sent.append(dict(message))

        await app(scope, receive, send)
        return b"".join(m.get("body", b"") for m in sent)

    replies = await asyncio.gather(*(call() for _ in range(10)))
    assert len(set(replies)) == 1
    assert app.state.books.ledger.by_path == {"/tickets": 1}


def test_failures_on_request_have_no_effect(shop_api: TestClient) -> None:
    assert shop_api.get("/orders/A1001", params={"fail": 500}).status_code == 500
    assert shop_api.post("/tickets", params={"fail": 503}, json={"subject": "x"}).status_code == 503
    assert shop_api.get("/orders/A1001", params={"slow": 1}).status_code == 200
    assert shop_api.get("/orders/A1001", params={"slow": "x"}).status_code == 422
    assert effects(shop_api)["total"] == 0


@pytest.mark.parametrize("body", [b"{", b"[]", b"null", b'"x"'])
def test_a_bad_body_is_refused(shop_api: TestClient, body: bytes) -> None:
    assert shop_api.post("/tickets", content=body).status_code == 400
    assert shop_api.post("/returns", json={"order_id": {"a": 1}, "reason": "x"}).status_code == 422


def test_the_rest_of_the_shop(shop_api: TestClient) -> None:
    assert shop_api.post("/orders/A1004/address", json={"address": "1 New Street, Leeds"}).json()["status"] == "changed"
    assert shop_api.get("/orders/A1004").json()["address"] == "1 New Street, Leeds"
    assert shop_api.post("/orders/A1001/address", json={"address": "1 New Street"}).status_code == 409
    assert shop_api.post("/orders/A1007/cancel").json() == {"order_id": "A1007", "status": "cancelled", "refunded_text": "$90.00"}
    assert shop_api.post("/orders/A1002/cancel").status_code == 409
    assert shop_api.post("/invoices", json={"order_id": "A1002"}).json()["invoice_no"] == "INV-1002"
    assert shop_api.post("/callbacks", json={"phone": "+49 40 1"}).json()["callback_id"] == "C8001"
    assert shop_api.post("/appointments", json={"message": "tomorrow"}).json()["appointment_id"] == "V8501"
    assert "TEA15" in shop_api.get("/coupons", params={"user_id": "u-1"}).json()["codes"]
    assert "TEA15" not in shop_api.get("/coupons").json()["codes"]
    assert shop_api.get("/members/points", params={"user_id": "u-1"}).json()["points"] > 0
    assert shop_api.get("/products", params={"query": "coffee machine", "max_price": 100}).json()["products"][0]["sku"] == "CM-201"


def test_staff_leave(shop_api: TestClient) -> None:
    assert shop_api.post("/hr/leave", json={"user_id": "s-1", "message": "我要请假三天"}).json()["days"] == 3
    assert shop_api.post("/hr/leave", json={"user_id": "s-1", "message": "leave", "days": "2"}).json()["days"] == 2
    balance = shop_api.get("/hr/leave-balance", params={"user_id": "s-1"}).json()
    assert balance["left"] + balance["used"] == balance["annual_days"]


@pytest.mark.parametrize(
    ("query", "article"),
    [
        ("coffee machine error E2", "kb-03"),
        ("how do I descale my kettle", "kb-01"),
        ("水壶怎么除垢", "kb-15"),
        ("退款什么时候到账", "kb-22"),
    ],
)
def test_knowledge_in_both_languages(shop_api: TestClient, query: str, article: str) -> None:
    results = shop_api.post("/kb/search", json={"query": query}).json()["results"]
    assert results[0]["id"] == article
    assert len(results) <= 3


def test_sentiment_and_overlap() -> None:
    assert sentiment("the delivery was late and the courier rude") == {
        "label": "complaint", "label_zh": "投诉", "score": -1.0, "topic": "delivery", "urgent": True,
    }  # fmt: skip
    assert sentiment("灯很漂亮,很满意")["label"] == "praise"
    assert overlap("", "anything") == 0.0


def test_every_address_of_the_example_is_served() -> None:
    routes = create_app().routes
    doc = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    endpoints = [a["endpoint"] for kind in ("flows", "tools", "skills") for a in doc[kind] if a.get("endpoint")]
    assert len(endpoints) > 20
    for endpoint in endpoints:
        path = endpoint["url"].removeprefix("${BUSINESS_URL:-http://127.0.0.1:8910}")
        scope = {"type": "http", "method": endpoint["method"], "path": path, "headers": []}
        assert any(route.matches(scope)[0].value == 2 for route in routes), endpoint["url"]
