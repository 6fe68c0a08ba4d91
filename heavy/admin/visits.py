"""Who looks at the admin pages: a signed cookie, made from an API key at the login, that holds no longer than the key.

The signature covers the key's digest, so a cookie ends when its key is revoked, has expired or was replaced, on every replica alike. No
key's text is in it. Where no keys are configured everyone is let in, as in the API, and the cookie only carries the token of forms.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass, replace

import orjson

from common.contracts.access import DEFAULT_TENANT, OPERATOR
from common.web.auth import ALL_SCOPES, ANYONE, Caller, KeyRing
from heavy.tenants.audit import actor_of

COOKIE = "loadsplit_admin"
IDLE_SECONDS = 3600.0
"""How long a cookie holds; it is renewed while pages are asked for."""
LONGEST_SECONDS = 12 * 3600.0
"""How long one login holds, whatever is asked for."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who looks. `caller` is whose key it is; `tenant` is whose things are shown: the key's own, or the one that an operator has chosen.
    `token` stands in every form."""

    caller: Caller
    tenant: str
    began: float
    until: float
    nonce: str
    token: str = ""

    @property
    def acting(self) -> Caller:
        """The visitor as a caller of the tenant that is shown, for endpoints that know no operator."""
        return replace(self.caller, tenant=self.tenant, scopes=ALL_SCOPES)

    @property
    def name(self) -> str:
        """How the audit log names the visitor."""
        return actor_of(self.caller.tenant, self.caller.key_id)

    @property
    def open_to_all(self) -> bool:
        """Whether no keys are configured."""
        return self.caller.key_id is None


class Visits:
    """Makes and reads the cookies. `secret` is that of tickets; what signs cookies is derived from it."""

    def __init__(self, ring: KeyRing, secret: bytes) -> None:
        self._ring = ring
        self._key = hmac.new(secret, b"loadsplit admin cookie", hashlib.sha256).digest()

    def begin(self, caller: Caller) -> Visitor:
        """A new visit of a caller who has shown a key, or of anyone."""
        now = time.time()
        tenant = DEFAULT_TENANT if caller.tenant == OPERATOR else caller.tenant
        return self._with_token(Visitor(caller, tenant, now, now + IDLE_SECONDS, secrets.token_urlsafe(12)))

    def anyone(self) -> Visitor | None:
        """A new visit where no keys are configured; None where they are."""
        return self.begin(ANYONE) if self._ring.empty else None

    def renewed(self, visitor: Visitor, tenant: str | None = None) -> Visitor:
        """The same visit, from now; with `tenant` that one's things are shown, as only an operator may choose."""
        chosen = tenant if tenant is not None and visitor.caller.operator else visitor.tenant
        until = min(time.time() + IDLE_SECONDS, visitor.began + LONGEST_SECONDS)
        return self._with_token(replace(visitor, tenant=chosen, until=until))

    def read(self, cookie: str | None) -> Visitor | None:
        """Whose cookie it is, None for one that does not hold (any more)."""
        if not cookie:
            return None
        try:
            head, _, mac = cookie.partition(".")
            tenant, key_id, shown, began, until, nonce = orjson.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
            caller, digest = self._holder(tenant, key_id) or (None, b"")
        except (ValueError, TypeError, binascii.Error):
            return None
        if caller is None or not hmac.compare_digest(mac.encode(), self._mac(head, digest)) or until <= time.time():
            return None
        return self._with_token(Visitor(caller, shown, began, until, nonce))

    def cookie(self, visitor: Visitor) -> str:
        """The cookie's text."""
        of = visitor.caller
        values = [of.tenant, of.key_id, visitor.tenant, visitor.began, visitor.until, visitor.nonce]
        head = base64.urlsafe_b64encode(orjson.dumps(values)).decode().rstrip("=")
        _, digest = self._holder(of.tenant, of.key_id) or (None, b"")
        return f"{head}.{self._mac(head, digest).decode()}"

    def holds(self, visitor: Visitor, token: str) -> bool:
        """Whether that is the token of the visitor's forms."""
        return hmac.compare_digest(token.encode(), visitor.token.encode())

    def _holder(self, tenant: str, key_id: str | None) -> tuple[Caller, bytes] | None:
        if key_id is None:
            return (ANYONE, b"") if self._ring.empty else None
        held = self._ring.holder(tenant, key_id)
        return held if held is not None and "admin" in held[0].scopes and not self._ring.empty else None

    def _with_token(self, visitor: Visitor) -> Visitor:
        token = hmac.new(self._key, f"form {visitor.name} {visitor.nonce}".encode(), hashlib.sha256).hexdigest()
        return replace(visitor, token=token)

    def _mac(self, head: str, digest: bytes) -> bytes:
        return hmac.new(self._key, head.encode() + b"." + digest, hashlib.sha256).hexdigest().encode()
