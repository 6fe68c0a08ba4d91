"""Signing and verifying webhooks: known vectors, the library of Standard Webhooks as a second opinion, and everything that is refused."""

from __future__ import annotations

import base64
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import standardwebhooks

from common.contracts import session_events, webhooks
from common.contracts.webhooks import SeenIds, WebhookRefused, WebhookReplayed, body_of, key_of, new_secret, sign, signed_headers, verify

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
NOW = 1_700_000_000
BODY = body_of("session.message", NOW - 5.25, '{"session_id":"s1","text":"héllo 中文 \\u0000"}')


def headers(secret: str = SECRET, body: bytes = BODY, at: int = NOW) -> dict[str, str]:
    return signed_headers(secret, "msg_1", at, body)


def refused(given: dict[str, str], body: bytes = BODY, secret: str = SECRET) -> None:
    with pytest.raises(WebhookRefused):
        verify(body, given, secret, now=NOW)


def test_a_vector_that_is_known() -> None:
    """From the test suites of the Standard Webhooks libraries."""
    assert sign(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}') == (
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    )


def test_the_form_of_a_body() -> None:
    assert BODY.startswith(b'{"type":"session.message","timestamp":"2023-11-14T22:13:14.750000Z","data":{')
    assert json.loads(BODY)["data"] == {"session_id": "s1", "text": "héllo 中文 \0"}
    assert body_of("a.b", 0.0, "{}") == b'{"type":"a.b","timestamp":"1970-01-01T00:00:00.000000Z","data":{}}'


def test_what_we_sign_the_library_takes_and_the_other_way_round() -> None:
    secret, now = new_secret(), int(datetime.now(UTC).timestamp())
    library = standardwebhooks.Webhook(secret)
    assert library.verify(BODY, headers(secret, at=now)) == json.loads(BODY)
    theirs = {**headers(secret, at=now), "webhook-signature": library.sign("msg_1", datetime.fromtimestamp(now, UTC), BODY.decode())}
    assert theirs == headers(secret, at=now)
    assert verify(BODY, theirs, secret) == json.loads(BODY)


def test_a_good_message() -> None:
    assert verify(BODY, headers(), SECRET, now=NOW)["type"] == "session.message"
    assert verify(BODY, {k.title(): v for k, v in headers().items()}, SECRET, now=NOW)


@pytest.mark.parametrize("body", [BODY + b" ", BODY.replace(b"s1", b"s2"), b"", BODY[:-1]])
def test_an_altered_body(body: bytes) -> None:
    refused(headers(), body)


@pytest.mark.parametrize("change", [{"webhook-id": "msg_2"}, {"webhook-timestamp": str(NOW + 1)}, {"webhook-id": "msg_1.1"}])
def test_altered_headers(change: dict[str, str]) -> None:
    refused({**headers(), **change})


@pytest.mark.parametrize("name", ["webhook-id", "webhook-timestamp", "webhook-signature"])
@pytest.mark.parametrize("value", [None, ""])
def test_missing_headers(name: str, value: str | None) -> None:
    given = headers()
    if value is None:
        del given[name]
    else:
        given[name] = value
    refused(given)


@pytest.mark.parametrize("offset", [-301, 301, -86_400])
def test_an_old_timestamp_and_one_from_the_future(offset: int) -> None:
    refused(headers(at=NOW + offset))
    assert verify(BODY, headers(at=NOW + offset), SECRET, now=NOW, tolerance=90_000)


@pytest.mark.parametrize("offset", [-300, 300])
def test_the_edge_of_the_tolerance(offset: int) -> None:
    assert verify(BODY, headers(at=NOW + offset), SECRET, now=NOW)


@pytest.mark.parametrize("stamp", ["now", "1e9", "-5", "١٧", f"{NOW}.5", " " + str(NOW), "9" * 400])
def test_a_timestamp_that_is_none(stamp: str) -> None:
    refused({**headers(), "webhook-timestamp": stamp})


def test_another_secret() -> None:
    refused(headers(new_secret()))
    with pytest.raises(WebhookRefused):
        verify(BODY, headers(), now=NOW)  # no secret at all


def test_several_signatures_and_several_secrets() -> None:
    old, new = new_secret(), new_secret()
    both = {
        **headers(old),
        "webhook-signature": f"v1a,AAAA v1,bogus {headers(old)['webhook-signature']} {headers(new)['webhook-signature']}",
    }
    assert verify(BODY, both, new, now=NOW)
    assert verify(BODY, both, old, now=NOW)
    assert verify(BODY, headers(old), new, old, now=NOW)
    refused(both)


@pytest.mark.parametrize("signature", ["v1", "v1,", "garbage", "v2,AAAA", "v1a,AAAA", "v1,\u20ac", "v1,=== ,", ","])
def test_signatures_of_another_form(signature: str) -> None:
    refused({**headers(), "webhook-signature": signature})
    bare = headers()["webhook-signature"].removeprefix("v1,")
    refused({**headers(), "webhook-signature": bare})
    refused({**headers(), "webhook-signature": "v1a," + bare})


def test_a_signed_body_that_is_no_json() -> None:
    refused(headers(body=b"hello"), b"hello")


def test_a_replayed_id() -> None:
    seen = SeenIds()
    assert verify(BODY, headers(), SECRET, now=NOW, seen=seen)
    with pytest.raises(WebhookReplayed):
        verify(BODY, headers(at=NOW + 9), SECRET, now=NOW, seen=seen)
    seen.forget("msg_1")
    assert verify(BODY, headers(), SECRET, now=NOW, seen=seen)


def test_a_forged_message_does_not_use_up_the_id_of_a_good_one() -> None:
    seen = SeenIds()
    with pytest.raises(WebhookRefused):
        verify(BODY, headers(new_secret()), SECRET, now=NOW, seen=seen)
    assert verify(BODY, headers(), SECRET, now=NOW, seen=seen)


def test_ids_are_forgotten_with_time_and_in_number() -> None:
    clock = [0.0]
    seen = SeenIds(keep_seconds=10, most=3, clock=lambda: clock[0])
    assert [seen.add(i) for i in "aab"] == [True, False, True]
    clock[0] = 10
    assert not seen.add("a")
    clock[0] = 10.1
    assert seen.add("a")
    assert [seen.add(i) for i in "cdea"] == [True, True, True, True]  # the oldest went for the newest


@pytest.mark.parametrize(
    "secret",
    [
        "",
        "whsec_",
        "whsec_" + "A" * 31,
        "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_" + "A" * 88,
        "whsec_not base64 at all, but long",
        "whsec_é" * 9,
    ],
)
def test_secrets_of_another_form_are_refused_and_not_shown(secret: str) -> None:
    with pytest.raises(ValueError, match="24 to 64 bytes in base64") as caught:
        key_of(secret)
    assert len(secret) < 9 or secret not in str(caught.value)
    with pytest.raises(ValueError, match="whsec_"):
        verify(BODY, headers(), secret, now=NOW)


@pytest.mark.parametrize("size", [24, 32, 64])
def test_secrets_of_every_size(size: int) -> None:
    whole = "whsec_" + base64.b64encode(b"x" * size).decode()
    assert key_of(whole) == key_of(whole.rstrip("=")) == b"x" * size


def test_the_secret_of_a_tenant() -> None:
    acme = webhooks.tenant_secret(b"ticket", "acme")
    assert acme == webhooks.tenant_secret(b"ticket", "acme")
    assert len({acme, webhooks.tenant_secret(b"ticket", "other"), webhooks.tenant_secret(b"ticket2", "acme")}) == 3
    assert len(key_of(acme)) == 32


def test_the_names_of_session_events_are_those_of_the_streams() -> None:
    assert webhooks.SESSION_EVENTS == (session_events.MESSAGE, session_events.TRANSFERRED, session_events.CLOSED)
    assert len(set(webhooks.EVENTS)) == len(webhooks.EVENTS) == 7


def test_the_code_of_the_documentation_verifies() -> None:
    """The function that docs/webhooks.md shows to those who do it by hand."""
    text = (Path(__file__).parents[3] / "docs" / "webhooks.md").read_text()
    code = next(block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "def verified" in block)
    names: dict[str, Any] = {}
    exec(code, names)
    verified, now, secret = names["verified"], int(datetime.now(UTC).timestamp()), new_secret()
    good = headers(secret, at=now)
    assert verified(BODY, good, secret)
    assert verified(BODY, {**good, "webhook-signature": f"v1,other {good['webhook-signature']}"}, secret)
    assert not verified(BODY + b" ", good, secret)
    assert not verified(BODY, good, new_secret())
    assert not verified(BODY, headers(secret, at=now - 400), secret)
