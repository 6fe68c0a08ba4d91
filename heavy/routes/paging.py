"""Cursors of lists that go from the newest to the oldest: opaque to clients, and checked when they come back."""

from __future__ import annotations

import base64
import binascii
import math
import re

from starlette.requests import Request

from common.errors import InvalidRequest

_FORM = re.compile(r"([0-9.e+]{1,32}) ([A-Za-z0-9._:@-]{1,128})\Z")


def next_cursor(created_at: float, row_id: str) -> str:
    """The cursor behind the last row of a page."""
    return base64.urlsafe_b64encode(f"{created_at!r} {row_id}".encode()).decode().rstrip("=")


def read_cursor(request: Request) -> tuple[float, str] | None:
    """Where the page begins, None at the beginning. Raises InvalidRequest for what no page gave."""
    value = request.query_params.get("cursor")
    if value is None:
        return None
    try:
        found = _FORM.match(base64.b64decode(value.encode() + b"=" * (-len(value) % 4), altchars=b"-_", validate=True).decode())
        if found and math.isfinite(at := float(found[1])):
            return at, found[2]
    except (ValueError, binascii.Error):
        pass
    raise InvalidRequest("cursor must be the next_cursor of an earlier page", field="cursor")
