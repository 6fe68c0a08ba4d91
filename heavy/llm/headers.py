"""What a provider's reply says about its rate limits: how long it wants no further call.

`Retry-After` and `retry-after-ms` come with refusals; `x-ratelimit-*` (OpenAI and who follows it) and `anthropic-ratelimit-*` with every
reply.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from datetime import datetime
from email.utils import parsedate_to_datetime

# OpenAI's durations: 20ms, 1s, 6m0s, 1h2m3.5s
_DURATION = re.compile(r"(?:(?P<h>[\d.]+)h)?(?:(?P<m>[\d.]+)m(?!s))?(?:(?P<s>[\d.]+)s)?(?:(?P<ms>[\d.]+)ms)?\Z")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_OPENAI = tuple((f"x-ratelimit-remaining-{what}", f"x-ratelimit-reset-{what}") for what in ("requests", "tokens"))
_ANTHROPIC = tuple(
    (f"anthropic-ratelimit-{what}-remaining", f"anthropic-ratelimit-{what}-reset")
    for what in ("requests", "tokens", "input-tokens", "output-tokens")
)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of `Retry-After` (delta or HTTP date) or of `retry-after-ms`; None when absent or no sense."""
    raw_ms, raw = headers.get("retry-after-ms"), headers.get("retry-after")
    try:
        if raw_ms is not None:
            seconds = float(raw_ms) / 1000
        elif raw is None:
            return None
        else:
            seconds = float(raw)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(raw or "").timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def pause(headers: Mapping[str, str]) -> float | None:
    """Seconds until a limit that is used up is there again: the longest of them; None when there is room, or nothing is said."""
    longest: float | None = None
    for pairs in (_OPENAI, _ANTHROPIC):
        for remaining, reset in pairs:
            left = headers.get(remaining)
            if left is not None and left.strip() in ("0", "0.0") and (seconds := _until(headers.get(reset))):
                longest = max(longest or 0.0, seconds)
    return longest


def wanted_pause(headers: Mapping[str, str]) -> float | None:
    """What a refusal says: `Retry-After`, else what `pause` finds."""
    seconds = retry_after(headers)
    return seconds if seconds is not None else pause(headers)


def _until(raw: str | None) -> float | None:
    """Seconds of a duration, of a number, or until an RFC 3339 time; None for no sense."""
    if not raw:
        return None
    try:
        if (found := _DURATION.match(raw)) and any(found.groups()):
            seconds = sum(float(value) * _SECONDS[unit] for unit, value in found.groupdict().items() if value)
        elif "T" in raw:
            seconds = datetime.fromisoformat(raw).timestamp() - time.time()
        else:
            seconds = float(raw)
    except (ValueError, OverflowError):
        return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
