"""`python -m nginx --out FOLDER …` writes the configuration, for containers and for a look at it. It starts no Nginx."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from nginx.render import RenderSettings, write


def main(arguments: list[str] | None = None) -> int:
    """Reads the command line, writes the files, returns the exit code (2 with one line for a bad value)."""
    options = _parser().parse_args(arguments)
    try:
        settings = RenderSettings(
            lightweight=tuple(options.lightweight),
            heavy=tuple(options.heavy),
            listen=tuple(options.listen),
            run_dir=options.run_dir,
            resolver=system_resolver() if options.resolver == "auto" else options.resolver,
            access_log=options.access_log,
            worker_processes=options.worker_processes,
            connections_per_client=options.connections_per_client,
            requests_per_client=options.requests_per_client,
        )
        path = write(settings, options.out)
    except (ValueError, OSError) as e:
        print(f"nginx: {e}", file=sys.stderr)
        return 2
    print(path)
    return 0


def system_resolver(path: Path = Path("/etc/resolv.conf")) -> str:
    """The first name server of this machine, as Nginx writes addresses. Raises ValueError where there is none."""
    found = re.search(r"^\s*nameserver\s+([0-9a-fA-F.:]+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise ValueError(f"--resolver auto: {path} names no name server")
    return f"[{found[1]}]" if ":" in found[1] else found[1]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m nginx", description="Write the Nginx configuration of the split.")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="where the files go")
    servers = "HOST:PORT or unix:/PATH"
    parser.add_argument("--lightweight", nargs="+", default=["lightweight:8101"], metavar="ADDRESS", help=f"the rule tier: {servers}")
    parser.add_argument("--heavy", nargs="+", default=["heavy:8201"], metavar="ADDRESS", help=f"the LLM tier: {servers}")
    parser.add_argument("--listen", nargs="+", default=["8080"], metavar="[HOST:]PORT", help="where Nginx listens")
    parser.add_argument(
        "--resolver",
        metavar="IP",
        help="DNS server that knows the replicas behind each name, or auto: this machine's (Nginx 1.27.3 or later)",
    )
    parser.add_argument("--run-dir", default="/tmp", metavar="FOLDER", help="pid and temporary files")  # noqa: S108 - in a container
    parser.add_argument("--access-log", default="/dev/stdout", metavar="PATH", help="a path or off")
    parser.add_argument("--worker-processes", default="auto", metavar="N", help="a number or auto")
    parser.add_argument("--connections-per-client", type=int, default=4096, metavar="N", help="requests open at once for one address")
    parser.add_argument("--requests-per-client", type=int, metavar="N", help="requests a second of one address; without it no limit")
    return parser


if __name__ == "__main__":
    sys.exit(main())
