"""What callers say of webhooks: what is taken, and the field that is named where something is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from common.contracts.webhooks import EVENTS, TASK_EVENTS, key_of
from common.endpoints.egress import EgressPolicy
from common.errors import InvalidRequest
from heavy.jobs.webhook_fields import parse_change, parse_registration, parse_webhook
from heavy.turns.webhooks import Change, Receiver

POLICY = EgressPolicy(public_only=True)
URL, HOST = "https://example.com/hook", "example.com:443"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def refused(parse: Any, value: Any, **more: Any) -> str:
    """The field that is named."""
    with pytest.raises(InvalidRequest) as caught:
        parse(value, POLICY, **more)
    assert str(caught.value.extra["field"]).partition(".")[0] in caught.value.detail
    return str(caught.value.extra["field"])


def test_the_webhook_of_a_request() -> None:
    assert parse_webhook(None, POLICY) is None
    assert parse_webhook({"url": URL}, POLICY) == Receiver(URL, HOST, TASK_EVENTS)
    assert parse_webhook({"url": URL, "events": None, "secret": None}, POLICY) == Receiver(URL, HOST, TASK_EVENTS)
    assert parse_webhook({"url": URL}, POLICY, default=("batch.completed",)) == Receiver(URL, HOST, ("batch.completed",))
    whole = parse_webhook({"url": URL, "events": ["task.failed", "batch.completed", "task.failed"], "secret": SECRET}, POLICY)
    assert whole == Receiver(URL, HOST, ("task.failed", "batch.completed"), SECRET)


def test_a_registration() -> None:
    plain = parse_registration({"url": URL}, POLICY)
    assert (plain.url, plain.host, plain.events, plain.description) == (URL, HOST, EVENTS, "")
    assert len(key_of(plain.secret or "")) == 32
    assert parse_registration({"url": URL}, POLICY).secret != plain.secret
    doc = {"url": URL, "events": ["session.closed"], "description": "the desk", "secret": SECRET}
    assert parse_registration(doc, POLICY) == Receiver(URL, HOST, ("session.closed",), SECRET, "the desk")
    assert parse_registration({"url": URL, "description": None, "secret": None}, POLICY).description == ""


def test_a_change() -> None:
    assert parse_change({"enabled": True}, POLICY) == Change(enabled=True)
    assert parse_change({"url": URL, "events": ["task.failed"]}, POLICY) == Change(URL, HOST, ("task.failed",))
    assert parse_change({"description": None}, POLICY) == Change(description="")
    with pytest.raises(InvalidRequest, match="nothing is to be changed"):
        parse_change({}, POLICY)


BAD_URLS = [None, 7, "", "example.com", "ftp://example.com", "http://127.0.0.1/", "http://169.254.169.254/", "http://u:p@example.com/"]


@pytest.mark.parametrize("url", BAD_URLS)
def test_bad_urls(url: Any) -> None:
    assert refused(parse_webhook, {"url": url}) == "webhook.url"
    assert refused(parse_webhook, {"url": url}, field="items.3.webhook") == "items.3.webhook.url"
    assert refused(parse_registration, {"url": url}) == "url"
    assert refused(parse_change, {"url": url}) == "url"


@pytest.mark.parametrize("events", [[], {}, "task.failed", ["task.failed", "dance"], [7], [None], ["task.failed "], ["webhook.test"]])
def test_bad_events(events: Any) -> None:
    assert refused(parse_webhook, {"url": URL, "events": events}) == "webhook.events"
    assert refused(parse_registration, {"url": URL, "events": events}) == "events"
    assert refused(parse_change, {"events": events}) == "events"


def test_a_request_may_hear_of_its_session() -> None:
    receiver = parse_webhook({"url": URL, "events": ["session.message", "task.failed"]}, POLICY)
    assert receiver is not None
    assert receiver.events == ("session.message", "task.failed")


@pytest.mark.parametrize("secret", ["", "hello", 7, ["whsec_"], "whsec_c2hvcnQ=", SECRET + "!!"])
def test_bad_secrets(secret: Any) -> None:
    assert refused(parse_webhook, {"url": URL, "secret": secret}) == "webhook.secret"
    assert refused(parse_registration, {"url": URL, "secret": secret}) == "secret"


@pytest.mark.parametrize("description", [7, "x" * 257, ["a"]])
def test_bad_descriptions(description: Any) -> None:
    assert refused(parse_registration, {"url": URL, "description": description}) == "description"
    assert refused(parse_change, {"description": description}) == "description"


@pytest.mark.parametrize("enabled", [None, 1, "yes"])
def test_enabled_is_true_or_false(enabled: Any) -> None:
    assert refused(parse_change, {"enabled": enabled}) == "enabled"


def test_what_is_not_known_is_refused() -> None:
    assert refused(parse_webhook, "https://example.com") == "webhook"
    assert refused(parse_webhook, []) == "webhook"
    assert refused(parse_webhook, {"url": URL, "event": ["task.failed"]}) == "webhook.event"
    assert refused(parse_registration, {"url": URL, "kind": "request"}) == "kind"
    assert refused(parse_change, {"secret": SECRET}) == "secret"
    assert len(refused(parse_change, {"x" * 5000: 1})) == 64
