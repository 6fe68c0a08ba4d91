"""Webhooks over HTTP: registered, changed, tried, deleted; the messages to them, listed and sent again; and what is refused."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from common.contracts.webhooks import EVENTS, tenant_secret
from common.web.auth import hash_key
from heavy.jobs import webhooks as jobs
from heavy.routes import webhooks as routes
from tests.heavy.routes.conftest import WORKFLOW
from tests.heavy.routes.test_routes_documented import checked
from tests.support.in_process import InProcess, in_process
from tests.support.receiver import Message, Receiver
from tests.support.waiting import wait_until

HOOKS = "/api/v1/webhooks"
URL = "https://example.com/hook"


@pytest.fixture
def there() -> Iterator[Receiver]:
    with Receiver() as it:
        yield it


@pytest.fixture
async def desk(tmp_path: Path, there: Receiver, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[InProcess]:
    """A process that may reach the receiver and makes one attempt for each message."""
    monkeypatch.setitem(jobs.Deliverer.__init__.__kwdefaults__, "schedule", (0.0,))
    async with in_process(WORKFLOW, tmp_path, egress_allow=there.allowed) as running:
        yield running


async def register(desk: InProcess, url: str, **more: Any) -> Any:
    status, document = await desk.call("POST", HOOKS, {"url": url, **more})
    assert status == 201, document
    return document


async def deliveries(desk: InProcess, query: str = "") -> list[Any]:
    status, document = await desk.call("GET", f"{HOOKS}/deliveries{query}")
    assert status == 200
    return list(document["deliveries"])


async def arrived(there: Receiver, count: int, path: str = "/hook") -> list[Message]:
    await wait_until(lambda: len(there.at(path)) >= count, f"{count} messages have come")
    return there.at(path)


async def settled(desk: InProcess, status: str, count: int = 1) -> list[Any]:
    """The messages of that status, once there are so many."""
    found: list[Any] = []

    async def enough() -> bool:
        found[:] = await deliveries(desk, f"?status={status}")
        return len(found) >= count

    await wait_until(enough, f"{count} messages are {status}")
    return found


async def test_registered_and_told(desk: InProcess, there: Receiver) -> None:
    document = await register(desk, there.url + "/hook", events=["session.transferred"], description="the desk")
    assert (document["kind"], document["enabled"], document["events"]) == ("tenant", True, ["session.transferred"])
    assert document["secret"].startswith("whsec_")
    await desk.ask("a human please")
    (message,) = await arrived(there, 1)
    told = message.verified(document["secret"])
    assert (told["type"], told["data"]["session_id"], told["data"]["action"]) == ("session.transferred", "s1", "human")
    (row,) = await settled(desk, "delivered")
    assert (row["delivery_id"], row["webhook_id"], row["session_id"]) == (message.id, document["webhook_id"], "s1")
    _, whole = await desk.call("GET", f"{HOOKS}/deliveries/{message.id}")
    assert whole["body"] == told
    assert {k: v for k, v in whole.items() if k != "body"} == row


async def test_a_secret_is_shown_once(desk: InProcess) -> None:
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    document = await register(desk, URL, secret=secret)
    assert document["secret"] == secret
    place = f"{HOOKS}/{document['webhook_id']}"
    for path in (place, HOOKS, "/admin/api/webhooks"):
        status, shown = await desk.call("GET", path)
        assert status == 200
        assert secret[6:] not in json.dumps(shown)
    _, shown = await desk.call("GET", place)
    assert shown == {k: v for k, v in document.items() if k != "secret"}
    assert shown["events"] == list(EVENTS)
    _, changed = await desk.call("PATCH", place, {"description": "x"})
    assert "secret" not in changed


async def test_the_tenants_secret(desk: InProcess) -> None:
    status, document = await desk.call("GET", f"{HOOKS}/secret")
    assert (status, document) == (200, {"secret": tenant_secret(desk.heavy.settings.ticket_key, "default")})


async def test_lists_are_paged(desk: InProcess) -> None:
    ids = [(await register(desk, URL))["webhook_id"] for _ in range(3)]
    of_request = await desk.heavy.stores.webhooks.ensure("default", (await desk.heavy.stores.webhooks.get("default", ids[0])).receiver)  # type: ignore[union-attr]
    found, cursor = [], ""
    while cursor is not None:
        _, page = await desk.call("GET", f"{HOOKS}?limit=2" + (f"&cursor={cursor}" if cursor else ""))
        found += [w["webhook_id"] for w in page["webhooks"]]
        cursor = page["cursor"]
    assert found == sorted([*ids, of_request])
    _, page = await desk.call("GET", f"{HOOKS}?kind=request")
    assert [(w["webhook_id"], w["kind"]) for w in page["webhooks"]] == [(of_request, "request")]


async def test_a_change(desk: InProcess, there: Receiver) -> None:
    document = await register(desk, URL, events=["session.closed"])
    place = f"{HOOKS}/{document['webhook_id']}"
    status, changed = await desk.call("PATCH", place, {"url": there.url + "/hook", "events": ["session.transferred"], "description": "d"})
    assert (status, changed["url"], changed["events"], changed["description"]) == (200, there.url + "/hook", ["session.transferred"], "d")
    await desk.ask("a human please")
    await arrived(there, 1)


async def test_a_test_goes_the_way_of_all_others(desk: InProcess, there: Receiver) -> None:
    document = await register(desk, there.url + "/hook", events=["task.failed"])
    status, sent = await desk.call("POST", f"{HOOKS}/{document['webhook_id']}/test")
    assert (status, sent["type"], sent["status"], sent["session_id"]) == (202, "webhook.test", "pending", None)
    (message,) = await arrived(there, 1)
    assert message.verified(document["secret"])["data"] == {"webhook_id": document["webhook_id"]}
    assert message.id == sent["delivery_id"]


async def test_disabled_by_hand(desk: InProcess, there: Receiver) -> None:
    there.answers["/hook"] = ["hang"]
    document = await register(desk, there.url + "/hook")
    place = f"{HOOKS}/{document['webhook_id']}"
    for n in range(jobs.PER_HOST + 2):
        await desk.ask("a human please", f"s{n}")
    await arrived(there, jobs.PER_HOST)
    status, off = await desk.call("PATCH", place, {"enabled": False})
    assert (status, off["enabled"], off["disabled_reason"]) == (200, False, "disabled by hand")
    failed = await deliveries(desk, "?status=failed")
    assert {d["last_error"] for d in failed} == {"the webhook is disabled"}
    assert len(failed) == jobs.PER_HOST + 2
    assert (await desk.call("POST", f"{place}/test"))[0] == 409
    status, problem = await desk.call("POST", f"{HOOKS}/deliveries/{failed[0]['delivery_id']}/replay")
    assert (status, problem["disabled_reason"]) == (409, "disabled by hand")
    there.release()
    assert len(await settled(desk, "delivered", jobs.PER_HOST)) == jobs.PER_HOST  # those that were under way
    _, on = await desk.call("PATCH", place, {"enabled": True})
    assert on["enabled"] is True
    status, again = await desk.call("POST", f"{HOOKS}/deliveries/replay", {"webhook_id": document["webhook_id"]})
    assert (status, again) == (202, {"replayed": 2, "more": False})
    await settled(desk, "delivered", jobs.PER_HOST + 2)


async def test_a_deleted_one(desk: InProcess, there: Receiver) -> None:
    there.answers["/hook"] = [500]
    document = await register(desk, there.url + "/hook")
    place = f"{HOOKS}/{document['webhook_id']}"
    await desk.ask("a human please")
    (failed,) = await settled(desk, "failed")
    assert await desk.call("DELETE", place) == (200, {"status": "deleted"})
    assert (await desk.call("GET", place))[0] == 404
    assert (await desk.call("DELETE", place))[0] == 404
    status, problem = await desk.call("POST", f"{HOOKS}/deliveries/{failed['delivery_id']}/replay")
    assert (status, problem["detail"]) == (409, "its webhook was deleted")
    await desk.ask("a human please", "s2")
    assert len(await deliveries(desk)) == 1


async def test_a_replay_by_hand(desk: InProcess, there: Receiver) -> None:
    there.answers["/hook"] = [500, 500, 204]
    document = await register(desk, there.url + "/hook")
    await desk.ask("a human please")
    (failed,) = await settled(desk, "failed")
    assert (failed["attempts"], failed["last_status"], failed["last_error"]) == (1, 500, "the receiver answered 500")
    place = f"{HOOKS}/deliveries/{failed['delivery_id']}/replay"
    for attempt in (2, 3, 4):
        status, again = await desk.call("POST", place)
        assert (status, again["status"], again["attempts"]) == (202, "pending", 0)
        await arrived(there, attempt)
        await settled(desk, "failed" if attempt == 2 else "delivered")
    assert len({(m.id, m.body) for m in there.messages}) == 1
    assert document["webhook_id"] == failed["webhook_id"]


async def test_all_that_failed_again(desk: InProcess, there: Receiver) -> None:
    there.answers["/hook"] = [500, 500, 500, 204]
    await register(desk, there.url + "/hook")
    for n in range(3):
        await desk.ask("a human please", f"s{n}")
    failed = await settled(desk, "failed", 3)
    newest = max(d["at"] for d in failed)
    replay = f"{HOOKS}/deliveries/replay"
    assert (await desk.call("POST", replay, {"since": newest + 60}))[1] == {"replayed": 0, "more": False}
    assert (await desk.call("POST", replay, {"since": "2999-01-01T00:00:00Z"}))[1]["replayed"] == 0
    assert (await desk.call("POST", replay, {"webhook_id": "wh_none"}))[1]["replayed"] == 0
    assert (await desk.call("POST", replay, {"since": newest}))[1]["replayed"] == 1
    nothing = {"headers": {"content-type": "application/json"}}  # a body is not needed
    assert (await desk.call("POST", replay, b"", **nothing))[1]["replayed"] == 2
    await settled(desk, "delivered", 3)
    assert len({m.id for m in there.messages}) == 3


async def test_one_that_is_on_its_way(desk: InProcess, there: Receiver) -> None:
    there.answers["/hook"] = ["hang"]
    await register(desk, there.url + "/hook")
    await desk.ask("a human please")
    await arrived(there, 1)
    (row,) = await deliveries(desk, "?status=pending")
    status, problem = await desk.call("POST", f"{HOOKS}/deliveries/{row['delivery_id']}/replay")
    assert (status, problem["detail"], problem["next_at"]) == (409, "the message is on its way", row["next_at"])


async def test_the_list_of_messages_is_paged(desk: InProcess, there: Receiver) -> None:
    first, second = await register(desk, there.url + "/a"), await register(desk, there.url + "/b")
    for n in range(3):
        await desk.ask("a human please", f"s{n}")
    every = await settled(desk, "delivered", 6)
    found, query = [], "?limit=4"
    while True:
        _, page = await desk.call("GET", f"{HOOKS}/deliveries{query}")
        found += [d["delivery_id"] for d in page["deliveries"]]
        if page["cursor"] is None:
            break
        query = f"?limit=4&cursor={page['cursor']}"
    assert found == sorted((d["delivery_id"] for d in every), reverse=True)
    assert len(await deliveries(desk, f"?webhook_id={first['webhook_id']}&status=delivered")) == 3
    assert len(await deliveries(desk, f"?webhook_id={second['webhook_id']}&status=failed")) == 0


async def test_erasing_a_session_erases_what_was_told_of_it(desk: InProcess, there: Receiver) -> None:
    await register(desk, there.url + "/hook")
    await desk.ask("a human please")
    (row,) = await settled(desk, "delivered")
    assert (await desk.call("DELETE", "/api/v1/session/s1"))[0] == 200
    assert await deliveries(desk) == []
    assert (await desk.call("GET", f"{HOOKS}/deliveries/{row['delivery_id']}"))[0] == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "url"),
        ({"url": "http://127.0.0.1:1/"}, "url"),
        ({"url": "http://localhost/"}, "url"),
        ({"url": "http://[::1]/"}, "url"),
        ({"url": "http://169.254.169.254/latest"}, "url"),
        ({"url": "https://u:p@example.com/"}, "url"),
        ({"url": URL, "events": ["dance"]}, "events"),
        ({"url": URL, "secret": "short"}, "secret"),
        ({"url": URL, "description": 7}, "description"),
        ({"url": URL, "colour": "red"}, "colour"),
    ],
)
async def test_bad_registrations(desk: InProcess, body: dict[str, Any], field: str) -> None:
    status, problem = await desk.call("POST", HOOKS, body)
    assert (status, problem["code"], problem["field"]) == (400, "invalid_request", field)
    assert (await desk.call("GET", HOOKS))[1]["webhooks"] == []


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("GET", "?kind=all", None, "kind"),
        ("GET", "?limit=0", None, "limit"),
        ("GET", "?cursor=", None, "cursor"),
        ("GET", "?cursor=a%20b", None, "cursor"),
        ("GET", "/deliveries?status=lost", None, "status"),
        ("GET", "/deliveries?limit=501", None, "limit"),
        ("GET", "/deliveries?cursor=wh_1", None, "cursor"),
        ("GET", "/deliveries?cursor=msg_1", None, "cursor"),
        ("GET", "/deliveries?webhook_id=", None, "webhook_id"),
        ("POST", "/deliveries/replay", {"since": "yesterday"}, "since"),
        ("POST", "/deliveries/replay", {"since": "2026-01-01T00:00:00"}, "since"),
        ("POST", "/deliveries/replay", {"since": True}, "since"),
        ("POST", "/deliveries/replay", {"since": -1}, "since"),
        ("POST", "/deliveries/replay", {"since": [1]}, "since"),
        ("POST", "/deliveries/replay", {"webhook_id": 7}, "webhook_id"),
        ("GET", "/a%20b", None, "webhook_id"),
        ("GET", "/deliveries/a%20b", None, "delivery_id"),
    ],
)
async def test_bad_questions(desk: InProcess, method: str, path: str, body: Any, field: str) -> None:
    status, problem = await desk.call(method, HOOKS + path, body)
    assert (status, problem["code"], problem["field"]) == (400, "invalid_request", field)


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"url":1,"url":2}', b'"x"', b"\xff"])
async def test_bodies_that_are_none(desk: InProcess, body: bytes) -> None:
    document = await register(desk, URL)
    for method, path in (("POST", ""), ("PATCH", f"/{document['webhook_id']}"), ("POST", "/deliveries/replay")):
        status, problem = await desk.call(method, HOOKS + path, body, headers={"content-type": "application/json"})
        assert (status, problem["code"]) == (400, "invalid_request")


async def test_there_may_be_so_many(desk: InProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "MOST", 2)
    for _ in range(2):
        document = await register(desk, URL)
    status, problem = await desk.call("POST", HOOKS, {"url": URL})
    assert (status, problem["detail"]) == (409, "there are 2 webhooks, and there may be no more: delete one first")
    await desk.call("DELETE", f"{HOOKS}/{document['webhook_id']}")
    await register(desk, URL)


def keys_of(folder: Path) -> Path:
    """A file with keys of two tenants, and one of the first that may not administer."""
    path = folder / "keys.json"
    rows = [
        {"id": "a", "tenant": "acme", "scopes": ["query", "admin"], "hash": hash_key("key-a")},
        {"id": "q", "tenant": "acme", "scopes": ["query"], "hash": hash_key("key-q")},
        {"id": "b", "tenant": "other", "scopes": ["query", "admin"], "hash": hash_key("key-b")},
    ]
    path.write_text(json.dumps(rows))
    return path


async def test_other_tenants_and_keys_without_the_scope(tmp_path: Path, there: Receiver) -> None:
    def key(name: str) -> dict[str, Any]:
        return {"headers": {"authorization": f"Bearer key-{name}"}}

    async with in_process(WORKFLOW, tmp_path, egress_allow=there.allowed, api_keys=str(keys_of(tmp_path))) as desk:
        _, document = await desk.call("POST", HOOKS, {"url": there.url + "/hook"}, **key("a"))
        place = f"{HOOKS}/{document['webhook_id']}"
        await desk.call("POST", "/api/v1/query", {"message": "a human please", "session_id": "s1"}, **key("b"))
        await desk.call("POST", "/api/v1/query", {"message": "a human please", "session_id": "s1"}, **key("q"))
        (message,) = await arrived(there, 1)
        sent = f"{HOOKS}/deliveries/{message.id}"
        asked = [("GET", place, None), ("PATCH", place, {"enabled": False}), ("DELETE", place, None), ("POST", f"{place}/test", None)]
        asked += [("GET", sent, None), ("POST", f"{sent}/replay", None)]
        for method, path, body in asked:
            status, problem = await desk.call(method, path, body, **key("b"))
            unknown = path.replace(document["webhook_id"], "wh_" + "0" * 32).replace(message.id, "msg_" + "0" * 32)
            same_status, same = await desk.call(method, unknown, body, **key("b"))
            assert (status, same_status) == (404, 404)
            assert {**problem, "request_id": ""} == {**same, "request_id": ""}
            assert (await desk.call(method, path, body, **key("q")))[0] == 403
            assert (await desk.call(method, path, body))[0] == 401
        assert (await desk.call("GET", HOOKS, **key("b")))[1]["webhooks"] == []
        assert (await desk.call("GET", f"{HOOKS}/deliveries", **key("b")))[1]["deliveries"] == []
        assert (await desk.call("POST", f"{HOOKS}/deliveries/replay", {}, **key("b")))[1]["replayed"] == 0
        for path in (HOOKS, f"{HOOKS}/secret", f"{HOOKS}/deliveries", "/admin/api/webhooks"):
            assert (await desk.call("GET", path, **key("q")))[0] == 403
        secrets = [(await desk.call("GET", f"{HOOKS}/secret", **key(k)))[1]["secret"] for k in "ab"]
        assert len(set(secrets)) == 2
        assert (await desk.call("GET", place, **key("a")))[1]["enabled"] is True
        assert len(there.messages) == 1


async def test_answers_have_the_documented_form(desk: InProcess, there: Receiver) -> None:
    registration = {"url": there.url + "/hook", "events": ["session.transferred"], "description": "d"}
    checked("WebhookRegistration", registration)
    document = await register(desk, **registration)
    checked("WebhookWithSecret", document)
    checked("WebhookChange", {"enabled": True})
    place = f"{HOOKS}/{document['webhook_id']}"
    checked("Webhook", (await desk.call("PATCH", place, {"enabled": True}))[1])
    checked("Webhook", (await desk.call("GET", place))[1])
    checked("Delivery", (await desk.call("POST", f"{place}/test"))[1])
    await desk.ask("a human please")
    for row in await settled(desk, "delivered", 2):
        checked("Delivery", row)
        _, whole = await desk.call("GET", f"{HOOKS}/deliveries/{row['delivery_id']}")
        checked("DeliveryWithBody", whole)
    checked("WebhookBody", there.messages[0].json)
