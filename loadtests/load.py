"""`make load`: starts a split with the simulators on free ports, runs Locust against it for half a minute, stops everything."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from loadtests.processes import Process, free_port, wait_ready

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "customer_service" / "workflow.json"
LOCUSTFILE = Path(__file__).with_name("locustfile.py")


def main() -> int:
    """Returns Locust's exit code: 0 when no request failed."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.load", description=__doc__)
    parser.add_argument("--users", type=int, default=40, help="Locust users")
    parser.add_argument("--seconds", type=int, default=30, help="how long the load lasts")
    parser.add_argument("--lightweight", type=int, default=2)
    parser.add_argument("--heavy", type=int, default=2)
    parser.add_argument("--host", help="load this server instead of starting a split")
    options = parser.parse_args()
    if options.host:
        return locust(options.host, options)
    with tempfile.TemporaryDirectory(prefix="loadsplit-load-") as folder:
        port = free_port()
        url = f"http://127.0.0.1:{port}"
        command = [str(Path(sys.executable).with_name("loadsplit")), "up", "--config", str(EXAMPLE), "--port", str(port), "--demo"]
        command += ["--lightweight", str(options.lightweight), "--heavy", str(options.heavy), "--data-dir", folder]
        with Process(command, log=Path(folder) / "up.log") as split:
            print(f"starting {options.lightweight} lightweight + {options.heavy} heavy behind Nginx on {url}", flush=True)
            wait_ready(f"{url}/api/v1/health", split)
            return locust(url, options)


def locust(url: str, options: argparse.Namespace) -> int:
    """Runs the locustfile headless against a URL."""
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--host", url, "--only-summary"]
    command += ["-u", str(options.users), "-r", str(options.users), "-t", f"{options.seconds}s", "--stop-timeout", "5"]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
