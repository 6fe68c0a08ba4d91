"""`python -m lightweight --port P`: one process of the tier, settings from the environment. Bad input is one line and exit code 2."""

from __future__ import annotations

import argparse
import logging
import sys

from common.errors import ConfigInvalid
from common.settings import SettingsError
from common.telemetry.logs import setup_logging
from common.telemetry.metrics import Metrics
from common.telemetry.redaction import Redaction
from common.web.middleware import InFlight
from common.web.server import CannotServe, bind, require_safe_host, serve
from lightweight.app import create_app
from lightweight.settings import LightweightSettings

log = logging.getLogger(__name__)


def run(settings: LightweightSettings, host: str, port: int, *, insecure: bool = False) -> None:
    """Serves until SIGTERM or SIGINT, then drains. Raises CannotServe, SettingsError, ValueError or ConfigInvalid before it serves."""
    require_safe_host(host, has_keys=settings.api_keys is not None, insecure=insecure)
    inflight = InFlight()
    metrics = Metrics()

    with bind(host, port) as sock:
        app = create_app(settings, metrics=metrics, inflight=inflight)
        setup_logging(settings.log_level, redaction=Redaction.read(settings.redact))
        if settings.redis_url.startswith("memory:"):
            log.warning(
                "LOADSPLIT_REDIS_URL is not set: this process shares neither session states nor rule-answered turns with the heavy tier"
            )
        metrics.watch_process()
        serve(app, sock, drain_seconds=settings.drain_seconds, on_drain=inflight.drain, on_ready=lambda: None)


def main(argv: list[str] | None = None) -> int:
    """The exit code: 0 after a drain, 2 for input that can't be used."""
    parser = argparse.ArgumentParser(prog="lightweight", description="The stateless tier of loadsplit.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8101)
    parser.add_argument("--insecure", action="store_true", help="serve a public address without API keys")
    args = parser.parse_args(argv)
    try:
        run(LightweightSettings.load(), args.host, args.port, insecure=args.insecure)
    except (SettingsError, CannotServe, ConfigInvalid, ValueError) as e:
        print(e, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
