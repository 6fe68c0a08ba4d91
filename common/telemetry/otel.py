"""Traces by OpenTelemetry, sent by OTLP over HTTP from a thread of its own. The only file that knows the SDK; needs the extra `otel`.

A trace that begins here has the request's id for its own where that has 32 hex digits, as Nginx's and ours have: one id finds both.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
import threading
from collections.abc import Mapping

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased, Sampler, TraceIdRatioBased
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags, set_span_in_context
from opentelemetry.trace import Span as OtelSpan
from opentelemetry.trace import Tracer as OtelTracer

from common.settings import SettingsError
from common.telemetry.redaction import Redaction
from common.telemetry.tracing import Kind, Span, Value, checked_parent

KINDS = {"server": SpanKind.SERVER, "client": SpanKind.CLIENT, "internal": SpanKind.INTERNAL}
LEAVE_SECONDS = 3.0
_HEX32 = re.compile(r"(?!0{32})[0-9a-f]{32}\Z")


class OtelTracing:
    """Implements common.telemetry.tracing.Tracing. The sampler is OTEL_TRACES_SAMPLER's, everything unless it says otherwise."""

    on = True

    def __init__(self, endpoint: str, environ: Mapping[str, str], tier: str, redaction: Redaction) -> None:
        logging.getLogger("opentelemetry.exporter").setLevel(logging.ERROR)  # a batch that is lost is one line, its retries are none
        self._ids = _Ids()
        self._redaction = redaction
        name = environ.get("OTEL_SERVICE_NAME", "").strip() or f"loadsplit-{tier}"
        resource = Resource.create({"service.name": name, "service.namespace": "loadsplit", "loadsplit.tier": tier})
        self._provider = TracerProvider(sampler=_sampler(environ), resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", headers=_headers(environ))
        self._provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=_delay(environ)))
        self._tracer = self._provider.get_tracer("loadsplit")

    def begin(self, name: str, *, parent: str = "", request_id: str = "", kind: Kind = "internal") -> Span:
        """A span, in the parent's trace or in one of its own."""
        parent = checked_parent(parent)
        self._ids.next = None if parent else _trace_id(request_id)
        try:
            span = self._tracer.start_span(self._redaction.text(name), context=_context(parent), kind=KINDS[kind])
        finally:
            self._ids.next = None
        return _Span(span, self._tracer, self._redaction)

    async def aclose(self) -> None:
        """Sends what waits, for a moment. A collector that is away must not keep a process from ending: the thread may be left behind."""
        leaving = threading.Thread(target=self._provider.shutdown, name="traces leave", daemon=True)
        leaving.start()
        await asyncio.to_thread(leaving.join, LEAVE_SECONDS)


class _Span:
    """Implements common.telemetry.tracing.Span."""

    def __init__(self, span: OtelSpan, tracer: OtelTracer, redaction: Redaction) -> None:
        self._span, self._tracer, self._redaction = span, tracer, redaction
        self.recording = span.is_recording()
        context = span.get_span_context()
        self.trace_id = f"{context.trace_id:032x}"
        self.traceparent = f"00-{self.trace_id}-{context.span_id:016x}-{int(context.trace_flags):02x}"

    def set(self, attributes: Mapping[str, Value | None]) -> None:
        if self._span.is_recording():
            self._span.set_attributes(self._clean(attributes))

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
        if not self._span.is_recording():
            return
        start = int(began * 1e9)
        under = set_span_in_context(self._span, Context())
        span = self._tracer.start_span(self._redaction.text(name), context=under, kind=KINDS[kind], start_time=start)
        span.set_attributes(self._clean(attributes or {}))
        _mark(span, error)
        span.end(start + int(max(seconds, 0.0) * 1e9))

    def end(self, *, error: str | None = None) -> None:
        if self._span.is_recording():
            _mark(self._span, error)
            self._span.end()

    def _clean(self, attributes: Mapping[str, Value | None]) -> dict[str, Value]:
        return {name: self._redaction.value(name, value) for name, value in attributes.items() if value is not None}


class _Ids(RandomIdGenerator):
    """Random ids; `next` is that of the next trace where it is set."""

    next: int | None = None

    def generate_trace_id(self) -> int:
        return self.next or super().generate_trace_id()


def _mark(span: OtelSpan, error: str | None) -> None:
    if error is not None:
        span.set_attribute("error.type", error)
        span.set_status(Status(StatusCode.ERROR))


def _trace_id(request_id: str) -> int | None:
    if not request_id:
        return None
    return int(request_id if _HEX32.match(request_id) else hashlib.sha256(request_id.encode()).hexdigest()[:32], 16)


def _context(parent: str) -> Context:
    if not parent:
        return Context()
    _, trace_id, span_id, flags = parent.split("-")
    remote = SpanContext(int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16)))
    return set_span_in_context(NonRecordingSpan(remote), Context())


def _sampler(environ: Mapping[str, str]) -> Sampler:
    """As OTEL_TRACES_SAMPLER and OTEL_TRACES_SAMPLER_ARG say. Raises SettingsError naming the one that is wrong."""
    name = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower() or "parentbased_always_on"
    given = environ.get("OTEL_TRACES_SAMPLER_ARG", "").strip() or "1"
    try:
        share = float(given)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise SettingsError(f"OTEL_TRACES_SAMPLER_ARG must be a share from 0 to 1, not {given!r}")
    roots: dict[str, Sampler] = {"always_on": ALWAYS_ON, "always_off": ALWAYS_OFF, "traceidratio": TraceIdRatioBased(share)}
    known = {**roots, **{f"parentbased_{kind}": ParentBased(root) for kind, root in roots.items()}}
    if name not in known:
        raise SettingsError(f"OTEL_TRACES_SAMPLER must be one of {', '.join(known)}, not {name!r}")
    return known[name]


def _headers(environ: Mapping[str, str]) -> dict[str, str]:
    pairs = (pair.partition("=") for pair in environ.get("OTEL_EXPORTER_OTLP_HEADERS", "").split(",") if pair.strip())
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _delay(environ: Mapping[str, str]) -> int:
    """OTEL_BSP_SCHEDULE_DELAY: after how many milliseconds spans are sent at the latest. Raises SettingsError."""
    given = environ.get("OTEL_BSP_SCHEDULE_DELAY", "").strip() or "2000"
    if not given.isdigit() or int(given) < 1:
        raise SettingsError(f"OTEL_BSP_SCHEDULE_DELAY must be a number of milliseconds, not {given!r}")
    return int(given)
