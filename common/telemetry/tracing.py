"""Traces, as far as those who make spans must know: a span has a parent, a name, times and attributes. Without traces it is a null object.

Parents travel as W3C `traceparent` texts. The span that a task works under is bound to the task, so that whoever calls something out adds
a child to `current_span()` without wiring. OpenTelemetry is behind `common.telemetry.otel`, imported only where an endpoint is set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Literal, Protocol

TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}\Z")
Kind = Literal["server", "client", "internal"]
Value = str | int | float | bool


class Span(Protocol):
    """Something that takes time. `traceparent` names it for what comes after, in whichever process; without traces both ids are empty.
    `recording` says whether anything of it will be sent: then attributes are worth making."""

    traceparent: str
    trace_id: str
    recording: bool

    def set(self, attributes: Mapping[str, Value | None]) -> None:
        """Adds attributes; those that are None are left out."""

    def child(
        self,
        name: str,
        *,
        began: float,
        seconds: float,
        kind: Kind = "client",
        error: str | None = None,
        attributes: Mapping[str, Value | None] | None = None,
    ) -> None:
        """Adds a span that is over: `began` is in Unix seconds, `error` how it failed."""

    def end(self, *, error: str | None = None) -> None:
        """Ends it now; a second time changes nothing."""


class Tracing(Protocol):
    """Where spans come from. `on` says whether there is any use in making one."""

    on: bool

    def begin(self, name: str, *, parent: str = "", request_id: str = "", kind: Kind = "internal") -> Span:
        """A span. What is no traceparent is no parent: then it begins a trace, with the request's id where that has 32 hex digits."""

    async def aclose(self) -> None:
        """Sends what has not been sent, for a moment. Never raises."""


class NoSpan:
    """Does nothing."""

    traceparent = trace_id = ""
    recording = False

    def set(self, attributes: Mapping[str, Value | None]) -> None:
        """Nothing."""

    def child(
        self,
        name: str,
        *,
        began: float,
        seconds: float,
        kind: Kind = "client",
        error: str | None = None,
        attributes: Mapping[str, Value | None] | None = None,
    ) -> None:
        """Nothing."""

    def end(self, *, error: str | None = None) -> None:
        """Nothing."""


NO_SPAN = NoSpan()


class NoTracing:
    """Gives spans that do nothing."""

    on = False

    def begin(self, name: str, *, parent: str = "", request_id: str = "", kind: Kind = "internal") -> Span:
        """No span."""
        return NO_SPAN

    async def aclose(self) -> None:
        """Nothing is open."""


NO_TRACING = NoTracing()
_CURRENT: ContextVar[Span] = ContextVar("loadsplit_span", default=NO_SPAN)


def current_span() -> Span:
    """What this task works under."""
    return _CURRENT.get()


def work_under(span: Span) -> None:
    """From now on this task, and those that it starts, work under the span."""
    _CURRENT.set(span)


def checked_parent(value: object) -> str:
    """A traceparent, or nothing where it is none."""
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    return text if isinstance(text, str) and TRACEPARENT.match(text) else ""
