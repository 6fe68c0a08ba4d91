"""What callers say of webhooks, checked: the registration of one, a change to it, and the `webhook` of a request for a task.

Errors name the field and what it may be. A URL is refused here where its own form says that it may not be reached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from common.contracts import webhooks as contract
from common.endpoints.egress import EgressPolicy
from common.endpoints.given_url import host_of_url
from common.errors import InvalidRequest
from heavy.turns.webhooks import Change, Receiver

MAX_DESCRIPTION = 256


def parse_webhook(
    value: Any, policy: EgressPolicy, *, field: str = "webhook", default: Sequence[str] = contract.TASK_EVENTS
) -> Receiver | None:
    """The `webhook` of a request: `{url, events?, secret?}`, None for null. It hears of what the request begins: of its tasks, its batch
    and, where they are named, of events of their sessions; of `default` where it names none. Raises InvalidRequest naming the field:
    webhook, webhook.url, webhook.events …"""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise InvalidRequest(f"{field} must be an object with url, and maybe events and secret", field=field)
    _known(value, ("url", "events", "secret"), field)
    url, host = _url(value.get("url"), policy, f"{field}.url")
    named = value.get("events")
    events = _events(list(default) if named is None else named, f"{field}.events")
    return Receiver(url, host, events, _secret(value.get("secret"), f"{field}.secret"))


def parse_registration(doc: Mapping[str, Any], policy: EgressPolicy) -> Receiver:
    """The body of a registration: `{url, events?, description?, secret?}`. Without events it hears of all, without a secret it gets a
    random one. Raises InvalidRequest naming the field."""
    _known(doc, ("url", "events", "description", "secret"))
    url, host = _url(doc.get("url"), policy, "url")
    named = doc.get("events")
    events = _events(list(contract.EVENTS) if named is None else named, "events")
    secret = _secret(doc.get("secret"), "secret") or contract.new_secret()
    return Receiver(url, host, events, secret, _description(doc.get("description")) or "")


def parse_change(doc: Mapping[str, Any], policy: EgressPolicy) -> Change:
    """The body of a change: any of `url`, `events`, `description`, `enabled`. Raises InvalidRequest naming the field."""
    _known(doc, ("url", "events", "description", "enabled"))
    if not doc:
        raise InvalidRequest("nothing is to be changed: give url, events, description or enabled")
    url, host = _url(doc["url"], policy, "url") if "url" in doc else (None, None)
    events = _events(doc["events"], "events") if "events" in doc else None
    enabled = doc.get("enabled")
    if "enabled" in doc and not isinstance(enabled, bool):
        raise InvalidRequest("enabled must be true or false", field="enabled")
    description = _description(doc["description"]) or "" if "description" in doc else None
    return Change(url, host, events, description, enabled)


def _known(doc: Mapping[str, Any], names: Sequence[str], field: str = "") -> None:
    """A misspelt name would otherwise be overlooked, and the webhook hear of other things than was meant."""
    prefix = f"{field}." if field else ""
    for name in doc:
        if name not in names:
            raise InvalidRequest(f"{prefix}{name[:64]} is not known here; there are {', '.join(names)}", field=f"{prefix}{name[:64]}")


def _url(value: Any, policy: EgressPolicy, field: str) -> tuple[str, str]:
    try:
        return value, host_of_url(value, policy)
    except ValueError as e:
        raise InvalidRequest(f"{field} {e}", field=field) from None


def _events(value: Any, field: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(v, str) and v in contract.EVENTS for v in value):
        raise InvalidRequest(f"{field} must be a list of {', '.join(contract.EVENTS)}", field=field)
    return tuple(dict.fromkeys(value))


def _secret(value: Any, field: str) -> str | None:
    if value is None:
        return None
    try:
        contract.key_of(value if isinstance(value, str) else "")
    except ValueError as e:
        raise InvalidRequest(f"{field} is wrong: {e}", field=field) from None
    return str(value)


def _description(value: Any) -> str | None:
    if value is not None and not (isinstance(value, str) and len(value) <= MAX_DESCRIPTION):
        raise InvalidRequest(f"description must be a string of at most {MAX_DESCRIPTION} characters", field="description")
    return value
