"""Runs a reference app under uvicorn with the settings of the real tiers, so that only the app differs. Knows nothing of what it serves."""

from __future__ import annotations

import argparse
from typing import Any

import uvicorn


def run(app: Any, args: argparse.Namespace, *, lifespan: bool = False) -> None:
    """Serves `args.host`:`args.port` until Ctrl-C."""
    uvicorn.run(
        app,
        host=args.host,
        port=args.port,
        loop="uvloop",
        http="httptools",
        lifespan="on" if lifespan else "off",
        access_log=False,
        server_header=False,
        log_level="warning",
        timeout_keep_alive=75,
    )


def arguments(doc: str | None, **more: str) -> argparse.Namespace:
    """The command line: --host, --port, and text options with their defaults in `more`."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    for name, default in more.items():
        parser.add_argument(f"--{name}", default=default)
    return parser.parse_args()
