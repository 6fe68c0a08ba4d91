"""Webhooks in the form of Standard Webhooks (https://www.standardwebhooks.com): the events, how a message is signed, how a receiver
verifies one. It needs nothing but the standard library and nothing else of loadsplit: receivers may import this file or copy it.

A message is a POST with the headers `webhook-id` (the same for every attempt), `webhook-timestamp` (Unix seconds of this attempt) and
`webhook-signature` (`v1,<base64 HMAC-SHA256 of "<id>.<timestamp>.<body>">`, several with spaces between them while a secret is changed).
Its body is `{"type", "timestamp" (ISO 8601, when it happened), "data"}`. Secrets are `whsec_` and 24 to 64 bytes in base64.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

TASK_EVENTS = ("task.completed", "task.failed", "task.cancelled")
BATCH_EVENTS = ("batch.completed",)
SESSION_EVENTS = ("session.message", "session.transferred", "session.closed")
EVENTS = (*TASK_EVENTS, *BATCH_EVENTS, *SESSION_EVENTS)
TEST_EVENT = "webhook.test"

TOLERANCE_SECONDS = 300
PREFIX = "whsec_"
FEWEST_BYTES, MOST_BYTES = 24, 64


class WebhookRefused(ValueError):
    """A message that is not to be trusted: altered, signed with another secret, too old, or without its headers."""


class WebhookReplayed(WebhookRefused):
    """A good message that has come before. Answer it with 200 and do nothing: the sender has missed your first answer."""


class SeenIds:
    """The ids that came in the last `keep_seconds`, at most `most` of them, in this process's memory; threads may share it.

    The default outlasts the sender's retries. Where several processes receive, or one may crash, keep the ids where the effects are kept:
    a unique column, written in the same transaction.
    """

    def __init__(self, *, keep_seconds: float = 4 * 86_400, most: int = 100_000, clock: Callable[[], float] = time.monotonic) -> None:
        self._keep, self._most, self._clock = keep_seconds, most, clock
        self._seen: dict[str, float] = {}
        self._lock = threading.Lock()

    def add(self, message_id: str) -> bool:
        """Remembers an id; False when it is known."""
        with self._lock:
            now = self._clock()
            before = self._seen.pop(message_id, None)
            if before is not None and now - before <= self._keep:
                self._seen[message_id] = before
                return False
            self._seen[message_id] = now
            while len(self._seen) > self._most or now - next(iter(self._seen.values())) > self._keep:
                del self._seen[next(iter(self._seen))]
            return True

    def forget(self, message_id: str) -> None:
        """For a message that could not be handled: it may come again."""
        with self._lock:
            self._seen.pop(message_id, None)


def verify(
    body: bytes,
    headers: Mapping[str, str],
    *accepted: str,
    tolerance: float = TOLERANCE_SECONDS,
    seen: SeenIds | None = None,
    now: float | None = None,
) -> Any:
    """The decoded body of a message that was signed with one of the `accepted` secrets, at most `tolerance` seconds ago (or ahead).

    `body` are the bytes as they came, `headers` may have names of any case, `now` is Unix seconds. Raises WebhookRefused, WebhookReplayed
    for an id that `seen` knows, ValueError for a secret of the wrong form.
    """
    keys = [key_of(secret) for secret in accepted]
    given = {name.lower(): value for name, value in headers.items()}
    message_id, stamp, signatures = (given.get(f"webhook-{name}") or "" for name in ("id", "timestamp", "signature"))
    if not (message_id and stamp and signatures):
        raise WebhookRefused("webhook-id, webhook-timestamp and webhook-signature are required")
    if not (stamp.isascii() and stamp.isdigit() and len(stamp) <= 12):
        raise WebhookRefused("webhook-timestamp must be Unix seconds")
    if abs((time.time() if now is None else now) - int(stamp)) > tolerance:
        raise WebhookRefused("webhook-timestamp is too far from now")
    offered = [mark.removeprefix("v1,").encode("utf-8", "replace") for mark in signatures.split(" ") if mark.startswith("v1,")]
    good = False
    for key in keys:  # all are compared, so that the time says nothing
        expected = _signature(key, message_id, stamp, body)
        for one in offered:
            good |= hmac.compare_digest(expected, one)
    if not good:
        raise WebhookRefused("no signature holds")
    try:
        message = json.loads(body)
    except ValueError:
        raise WebhookRefused("the body is not JSON") from None
    if seen is not None and not seen.add(message_id):
        raise WebhookReplayed("this message has come before")
    return message


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The value of `webhook-signature`. Raises ValueError for a secret of the wrong form."""
    return "v1," + _signature(key_of(secret), message_id, str(timestamp), body).decode()


def signed_headers(secret: str, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers of an attempt at `timestamp`."""
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(secret, message_id, timestamp, body),
    }


def body_of(event_type: str, at: float, data: str) -> bytes:
    """The body of a message: the same bytes for the same event. `at` is Unix seconds, `data` JSON text."""
    moment = datetime.fromtimestamp(at, UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return f'{{"type":"{event_type}","timestamp":"{moment}","data":{data}}}'.encode()


def new_secret() -> str:
    """A random secret of 32 bytes."""
    return _secret(secrets.token_bytes(32))


def tenant_secret(ticket_key: bytes, tenant: str) -> str:
    """The secret of a tenant: what signs messages to a request's webhook that has none of its own. It follows from the ticket secret."""
    return _secret(hmac.digest(ticket_key, f"webhooks:{tenant}".encode(), hashlib.sha256))


def key_of(secret: str) -> bytes:
    """The bytes of a secret. Raises ValueError that says what one looks like, and never shows it."""
    text = secret.removeprefix(PREFIX)
    try:
        key = base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if not (secret.startswith(PREFIX) and FEWEST_BYTES <= len(key) <= MOST_BYTES):
        raise ValueError(f"a webhook secret is {PREFIX} and {FEWEST_BYTES} to {MOST_BYTES} bytes in base64")
    return key


def _signature(key: bytes, message_id: str, stamp: str, body: bytes) -> bytes:
    return base64.b64encode(hmac.digest(key, f"{message_id}.{stamp}.".encode("utf-8", "replace") + body, hashlib.sha256))


def _secret(key: bytes) -> str:
    return PREFIX + base64.b64encode(key).decode()
