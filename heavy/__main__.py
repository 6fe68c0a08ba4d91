"""Heavy processes behind one port: `loadsplit heavy --port P`, or `loadsplit worker`.

It knows how a process begins and ends, not what the tier does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from starlette.applications import Starlette

from common.telemetry.logs import setup_logging
from common.telemetry.metrics import Metrics
from common.telemetry.redaction import Redaction
from common.web.listening import Sockets, open_sockets, require_safe_host
from common.web.middleware import InFlight
from common.web.server import serve
from common.web.siblings import Place
from common.web.workers import join, supervise
from heavy.app import create_app, create_worker
from heavy.configs.rulebook import Rulebook
from heavy.settings import HeavySettings


def run(
    settings: HeavySettings,
    host: str,
    port: int,
    *,
    insecure: bool = False,
    rulebook: Rulebook | None = None,
    uds: Path | None = None,
    place: Place | None = None,
) -> int:
    """Serves until SIGTERM or SIGINT, then drains; the exit code. `rulebook` as in heavy.app. Several workers are processes of their own,
    each of which is told its `place`; `uds` is a unix socket to listen on beside the port.

    Raises CannotServe, SettingsError or a LoadsplitError before it serves."""
    require_safe_host(host, has_keys=settings.api_keys is not None, insecure=insecure)
    setup_logging(settings.log_level, redaction=Redaction.read(settings.redact))
    if settings.workers > 1 and place is None:
        return supervise(settings, host, port, settings.admin_port, uds=uds)
    metrics = Metrics()
    with open_sockets(host, port, settings.admin_port, uds=uds, given=place.open() if place else None) as sockets:
        _serve(create_app, settings, sockets, metrics, rulebook, join(place, metrics))
    return 0


def run_worker(settings: HeavySettings, host: str, port: int, *, insecure: bool = False, rulebook: Rulebook | None = None) -> None:
    """The same for one process that does background work only; it serves nothing of operators beside /metrics."""
    require_safe_host(host, has_keys=settings.api_keys is not None, insecure=insecure)
    setup_logging(settings.log_level, redaction=Redaction.read(settings.redact))
    with open_sockets(host, port) as sockets:
        _serve(create_worker, settings, sockets, Metrics(), rulebook, lambda: None)


def _serve(
    create: Callable[..., Starlette],
    settings: HeavySettings,
    sockets: Sockets,
    metrics: Metrics,
    rulebook: Rulebook | None,
    on_ready: Callable[[], None],
) -> None:
    inflight = InFlight()
    metrics.watch_process()
    app = create(settings, metrics=metrics, inflight=inflight, rulebook=rulebook)
    serve(app, sockets, drain_seconds=settings.drain_seconds, on_drain=inflight.drain, on_ready=on_ready)
