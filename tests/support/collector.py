"""A collector of traces in a thread of the test: it takes OTLP over HTTP, as protobuf, and keeps every span that comes."""

from __future__ import annotations

import gzip
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support.threaded import served


@dataclass(frozen=True)
class Seen:
    """One span as it came. Ids are hex; times are Unix seconds."""

    name: str
    service: str
    trace_id: str
    span_id: str
    parent_id: str
    began: float
    ended: float
    failed: bool
    attributes: dict[str, Any]


@dataclass
class Collector:
    """A context manager; `url` is what OTEL_EXPORTER_OTLP_ENDPOINT must be. `bodies` are the requests as they came."""

    spans: list[Seen] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __enter__(self) -> Collector:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                collector.take(body if self.headers.get("content-encoding") != "gzip" else gzip.decompress(body), dict(self.headers))
                self.send_response(200 if self.path == "/v1/traces" else 404)
                self.send_header("content-type", "application/x-protobuf")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Nothing to tell."""

        self._served = served(Handler, lambda: None)
        self.url = f"http://127.0.0.1:{self._served.__enter__()}"
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._served.__exit__(kind, error, trace)

    def take(self, body: bytes, headers: dict[str, str]) -> None:
        """Keeps the spans of one request."""
        found = ExportTraceServiceRequest.FromString(body)
        with self._lock:
            self.bodies.append(body)
            self.headers.append({name.lower(): value for name, value in headers.items()})
            for resource in found.resource_spans:
                service = _values(resource.resource.attributes).get("service.name", "")
                self.spans += [_seen(span, service) for scope in resource.scope_spans for span in scope.spans]

    def trace(self, trace_id: str) -> list[Seen]:
        """The spans of one trace, in the order in which they began."""
        with self._lock:
            return sorted((s for s in self.spans if s.trace_id == trace_id), key=lambda s: s.began)

    def named(self, trace_id: str, name: str) -> list[Seen]:
        """Those of a trace whose name begins so."""
        return [s for s in self.trace(trace_id) if s.name.startswith(name)]


def _seen(span: Any, service: str) -> Seen:
    return Seen(
        span.name,
        service,
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        span.start_time_unix_nano / 1e9,
        span.end_time_unix_nano / 1e9,
        span.status.code == span.status.STATUS_CODE_ERROR,
        _values(span.attributes),
    )


def _values(attributes: Any) -> dict[str, Any]:
    return {a.key: getattr(a.value, str(a.value.WhichOneof("value"))) for a in attributes}
