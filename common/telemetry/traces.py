"""Chooses between traces and none, by the environment. What makes them is imported only then: the rule tier stays light."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping

from common.settings import SettingsError
from common.telemetry.redaction import Redaction
from common.telemetry.tracing import NO_TRACING, Tracing

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def open_tracing(environ: Mapping[str, str], tier: str, redaction: Redaction | None = None) -> Tracing:
    """Traces where OTEL_EXPORTER_OTLP_ENDPOINT is set, else none. Raises SettingsError naming what is wrong or missing."""
    endpoint = environ.get(ENDPOINT, "").strip()
    if not endpoint or environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return NO_TRACING
    if not endpoint.startswith(("http://", "https://")):
        raise SettingsError(f"{ENDPOINT} must be an http:// or https:// URL (OTLP over HTTP)")
    if not _installed():
        raise SettingsError(f"{ENDPOINT} is set, but traces need the extra `otel`: pip install 'loadsplit[otel]'")
    from common.telemetry.otel import OtelTracing

    return OtelTracing(endpoint, environ, tier, redaction or Redaction())


def _installed() -> bool:
    try:
        return importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http.trace_exporter") is not None
    except ModuleNotFoundError:  # of a package above it
        return False
