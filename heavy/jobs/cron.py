"""Cron expressions of five fields in a time zone, read and stepped by `cronsim` as Debian's cron does it.

Where clocks are put forward, a job at a fixed hour that is left out runs right behind the gap; where they are put back, it runs once.
"""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

from common.errors import InvalidRequest

FIELDS = 5
MAX_LENGTH = 128


class Cron:
    """When a schedule ticks. Raises InvalidRequest naming `cron` or `timezone`."""

    def __init__(self, expression: str, timezone: str) -> None:
        self._zone = _zone(timezone)
        self._expression = expression
        fields = len(expression.split())
        if not 0 < len(expression) <= MAX_LENGTH or fields != FIELDS:
            hint = ": seconds are not offered, it ticks once a minute at most" if fields == FIELDS + 1 else ""
            raise InvalidRequest(f"cron must be five fields (minute, hour, day, month, weekday) as in 0 9 * * MON-FRI{hint}", field="cron")
        try:
            CronSim(expression, datetime.now(self._zone))
        except (CronSimError, ValueError, AssertionError) as e:
            raise InvalidRequest(f"cron cannot be read: {e or 'it has no known form'}", field="cron") from None

    def after(self, at: float) -> float:
        """The first tick after a time (Unix seconds). Raises InvalidRequest where there is none for fifty years."""
        for tick in CronSim(self._expression, datetime.fromtimestamp(at, self._zone)):
            if (seconds := tick.timestamp()) > at:  # an hour that comes twice may begin anew
                return seconds
        raise InvalidRequest("cron never ticks: there is no such day", field="cron")


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # unknown; no plain name; a directory
        raise InvalidRequest(
            f"timezone {name[:64]!r} is not known: give an IANA name such as Europe/Berlin or UTC", field="timezone"
        ) from None
