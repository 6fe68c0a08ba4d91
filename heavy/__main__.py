"""One heavy process: `loadsplit heavy --port P`, or `loadsplit worker`. It knows how a process begins and ends, not what the tier does."""

from __future__ import annotations

from collections.abc import Callable

from starlette.applications import Starlette

from common.telemetry.logs import setup_logging
from common.telemetry.metrics import Metrics
from common.telemetry.redaction import Redaction
from common.web.middleware import InFlight
from common.web.server import bind, bind_admin, require_safe_host, serve
from heavy.app import create_app, create_worker
from heavy.configs.rulebook import Rulebook
from heavy.settings import HeavySettings


def run(settings: HeavySettings, host: str, port: int, *, insecure: bool = False, rulebook: Rulebook | None = None) -> None:
    """Serves until SIGTERM or SIGINT, then drains. `rulebook` as in heavy.app.

    Raises CannotServe, SettingsError or a LoadsplitError before it serves."""
    _run(create_app, settings, host, port, insecure, rulebook, settings.admin_port)


def run_worker(settings: HeavySettings, host: str, port: int, *, insecure: bool = False, rulebook: Rulebook | None = None) -> None:
    """The same for a process that does background work only; it serves nothing of operators beside /metrics."""
    _run(create_worker, settings, host, port, insecure, rulebook)


def _run(
    create: Callable[..., Starlette],
    settings: HeavySettings,
    host: str,
    port: int,
    insecure: bool,
    rulebook: Rulebook | None,
    admin_port: int | None = None,
) -> None:
    require_safe_host(host, has_keys=settings.api_keys is not None, insecure=insecure)
    with bind(host, port) as sock, bind_admin(host, admin_port, port) as admin:
        setup_logging(settings.log_level, redaction=Redaction.read(settings.redact))
        inflight = InFlight()
        metrics = Metrics()
        metrics.watch_process()
        app = create(settings, metrics=metrics, inflight=inflight, rulebook=rulebook)

        serve(app, sock, drain_seconds=settings.drain_seconds, on_drain=inflight.drain, on_ready=lambda: None, admin=admin)
