"""`python -m lightweight --port P`: the tier's processes behind one port, settings from the environment.

Bad input is one line and exit code 2.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from common.errors import ConfigInvalid
from common.settings import SettingsError
from common.telemetry.logs import setup_logging
from common.telemetry.metrics import Metrics
from common.telemetry.redaction import Redaction
from common.web.listening import CannotServe, open_sockets, require_safe_host
from common.web.middleware import InFlight
from common.web.server import serve
from common.web.siblings import Place
from common.web.workers import AS_WORKER, join, supervise
from lightweight.app import create_app
from lightweight.settings import LightweightSettings

log = logging.getLogger(__name__)


def run(
    settings: LightweightSettings,
    host: str,
    port: int,
    *,
    insecure: bool = False,
    uds: Path | None = None,
    place: Place | None = None,
) -> int:
    """Serves until SIGTERM or SIGINT, then drains; the exit code. Several workers are processes of their own, each of which is told its
    `place`; `uds` is a unix socket to listen on beside the port. Raises CannotServe, SettingsError, ValueError or ConfigInvalid before it
    serves."""
    require_safe_host(host, has_keys=settings.api_keys is not None, insecure=insecure)
    setup_logging(settings.log_level, redaction=Redaction.read(settings.redact))
    if settings.workers > 1 and place is None:
        return supervise(settings, host, port, uds=uds)
    inflight = InFlight()
    metrics = Metrics()
    with open_sockets(host, port, uds=uds, given=place.open() if place else None) as sockets:
        app = create_app(settings, metrics=metrics, inflight=inflight)
        if settings.redis_url.startswith("memory:"):
            log.warning(
                "LOADSPLIT_REDIS_URL is not set: this process shares neither session states nor rule-answered turns with the heavy tier"
            )
        metrics.watch_process()
        serve(app, sockets, drain_seconds=settings.drain_seconds, on_drain=inflight.drain, on_ready=join(place, metrics))
    return 0


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0 after a drain, 2 for input that can't be used."""
    parser = argparse.ArgumentParser(prog="lightweight", description="The stateless tier of loadsplit.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8101)
    parser.add_argument("--workers", metavar="N|auto", help="processes that share the port [LOADSPLIT_WORKERS]")
    parser.add_argument("--uds", type=Path, metavar="PATH", help="a unix socket to listen on beside the port")
    parser.add_argument(AS_WORKER, type=Place.read, help=argparse.SUPPRESS)
    parser.add_argument("--insecure", action="store_true", help="serve a public address without API keys")
    args = parser.parse_args(argv)
    try:
        settings = LightweightSettings.load(workers=args.workers)
        return run(settings, args.host, args.port, insecure=args.insecure, uds=args.uds, place=args.as_worker)
    except (SettingsError, CannotServe, ConfigInvalid, ValueError) as e:
        print(e, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
