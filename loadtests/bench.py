"""`make bench`: the rule path and the flow path beside their bare-ASGI ceilings, in one run. wrk on one core, the server on the other.

Rounds go through all servers in turn, so that drift of the machine meets all of them; medians and ratios are what counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from common.contracts.access import digest_of
from loadtests.processes import Process, free_port, wait_listening, wait_ready

SERVER_CPU, LOAD_CPU = 0, 1
LOADSPLIT = str(Path(sys.executable).with_name("loadsplit"))
STATIC, FLOW = "what about topic 7 and word7?", "please book the flow now"
RULE = "rule hit, static answer (gate + journal)"
RULE_CEILING, FLOW_CEILING = "bare ASGI: RE2 + coalesced GET", "bare ASGI: RE2 + one POST to a flow API"
_RATE = re.compile(r"Requests/sec:\s+([\d.]+)")
_BAD = re.compile(r"Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)")


@dataclass(frozen=True, slots=True)
class Row:
    """One server under load. `reference` names the row that it is compared with; `key` is the caller's API key."""

    name: str
    url: str
    message: str
    reference: str | None = None
    key: str | None = None


def main() -> int:
    """Measures and prints; writes the raw figures to --out."""
    parser = argparse.ArgumentParser(prog="python -m loadtests.bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of load for each row and round")
    parser.add_argument("--rules", type=int, default=1000, help="rules of the workflow")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--out", type=Path, help="JSON file for the raw figures")
    options = parser.parse_args()
    for tool in ("wrk", "taskset", "nginx"):
        if shutil.which(tool) is None:
            print(f"{tool} is needed: apt install {'util-linux' if tool == 'taskset' else tool}", file=sys.stderr)
            return 2
    with tempfile.TemporaryDirectory(prefix="loadsplit-bench-") as folder, ExitStack() as stack:
        rows = stack.enter_context(servers(Path(folder), options.rules))
        rates: dict[str, list[float]] = {row.name: [] for row in rows}
        for number in range(options.rounds):
            for row in rows:
                rates[row.name].append(load(row, Path(folder), options.seconds, options.connections))
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    report(rows, rates, options)
    return 0


def load(row: Row, folder: Path, seconds: int, connections: int) -> float:
    """Requests a second of one row. Raises RuntimeError when any reply was not a success."""
    script = folder / "post.lua"
    body = json.dumps({"message": row.message, "session_id": "bench-1"}, ensure_ascii=False).replace("'", "\\'")
    head = f"wrk.headers['authorization'] = 'Bearer {row.key}'\n" if row.key else ""
    script.write_text(f"wrk.method = 'POST'\nwrk.headers['content-type'] = 'application/json'\n{head}wrk.body = '{body}'\n")
    command = ["taskset", "-c", str(LOAD_CPU), "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), row.url]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if bad := _BAD.search(output):
        raise RuntimeError(f"{row.name}: {bad.group()}")
    found = _RATE.search(output)
    if found is None:
        raise RuntimeError(f"{row.name}: wrk said nothing of its rate:\n{output}")
    return float(found[1])


def report(rows: list[Row], rates: Mapping[str, list[float]], options: argparse.Namespace) -> None:
    """Medians, spread and ratios."""
    machine = f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {platform.system()} {platform.release()}"
    print(f"\n{machine}; server on core {SERVER_CPU}, wrk -t1 -c{options.connections} on core {LOAD_CPU};")
    print(f"{options.rounds} rounds of {options.seconds} s, {options.rules} rules\n")
    print(f"{'row':<44} {'median req/s':>12} {'min':>8} {'max':>8}  ratio")
    for row in rows:
        values = rates[row.name]
        ratio = ""
        if row.reference:
            pairs = [a / b for a, b in zip(values, rates[row.reference], strict=True)]
            ratio = f"{statistics.median(pairs):.2f} of {row.reference}"
        print(f"{row.name:<44} {statistics.median(values):>12.0f} {min(values):>8.0f} {max(values):>8.0f}  {ratio}")
    if options.out:
        options.out.write_text(
            json.dumps({"machine": machine, "options": {**vars(options), "out": str(options.out)}, "rates": rates}, indent=1)
        )


@contextmanager
def servers(folder: Path, rules: int) -> Iterator[list[Row]]:
    """Starts a flow API (nginx), Redis, the references and the lightweight tier, each on the server core."""
    with ExitStack() as stack:
        api = stack.enter_context(flow_api(folder))
        redis = stack.enter_context(redis_server(folder))
        config = folder / "workflow.json"
        config.write_text(json.dumps(workflow(api, rules)))
        rules_file = ["--config", str(config)]
        rows = []
        for name, module, message, more in (
            ("bare ASGI echo", "bare_asgi", STATIC, []),
            ("bare ASGI: decode + RE2 + encode", "bare_rules", STATIC, rules_file),
            (RULE_CEILING, "bare_rules", STATIC, [*rules_file, "--redis", redis.removeprefix("redis://").removesuffix("/0")]),
            (FLOW_CEILING, "bare_flow", FLOW, [*rules_file, "--url", api]),
        ):
            port = free_port()
            command = [sys.executable, "-m", f"loadtests.references.{module}", "--port", str(port), *more]
            process = stack.enter_context(Process(command, log=folder / f"reference-{port}.log", cpu=SERVER_CPU))
            wait_listening(port, process)
            rows.append(Row(name, f"http://127.0.0.1:{port}/", message))
        env = [f"LOADSPLIT_REDIS_URL={redis}", f"LOADSPLIT_DATA_DIR={folder / 'data'}", "LOADSPLIT_HANDOFF=accel"]
        url = stack.enter_context(lightweight(folder, config, env))
        rows.append(Row(RULE, url, STATIC, RULE_CEILING))
        rows.append(Row("rule hit with an HTTP call", url, FLOW, FLOW_CEILING))
        asking = stack.enter_context(lightweight(folder, config, [*env, f"LOADSPLIT_API_KEYS={key_file(folder)}"]))
        rows.append(Row("the same rule hit, with an API key", asking, STATIC, RULE, "free"))
        rows.append(Row("… whose tenant's requests are counted", asking, STATIC, RULE, "limited"))
        yield rows


@contextmanager
def lightweight(folder: Path, config: Path, env: list[str]) -> Iterator[str]:
    """A process of the tier on the server core; the URL of its queries."""
    port = free_port()
    command = ["env", *env, LOADSPLIT, "lightweight", "--port", str(port), "--config", str(config)]
    with Process(command, log=folder / f"lightweight-{port}.log", cpu=SERVER_CPU) as process:
        wait_ready(f"http://127.0.0.1:{port}/readyz", process)
        yield f"http://127.0.0.1:{port}/api/v1/query"


def key_file(folder: Path) -> Path:
    """A thousand keys of as many tenants, and two more that are used: `free` without limits, `limited` with one that is never reached."""
    rows: list[dict[str, object]] = [
        {"id": key, "tenant": key, "scopes": ["query"], "hash": digest_of(key.encode()).hex()}
        for key in ("free", "limited", *(f"tenant-{n}" for n in range(1000)))
    ]
    rows[1]["limits"] = {"requests_per_minute": 10_000_000}
    path = folder / "keys.json"
    path.write_text(json.dumps(rows))
    return path


def workflow(api: str, rules: int) -> dict[str, object]:
    """A workflow of so many rules, half of them with `.*`, and one flow behind an API."""
    flows: list[dict[str, object]] = [
        {
            "flow_id": f"topic_{n}",
            "trigger_patterns": [f"topic {n} .*word{n}" if n % 2 else f"about subject{n}"],
            "response_template": f"Answer {n}.",
        }
        for n in range(1, rules)
    ]
    flows.append(
        {
            "flow_id": "booking",
            "trigger_patterns": ["book the (?P<what>\\w+)"],
            "endpoint": {"url": api, "method": "POST", "body": {"what": "{what}", "user": "{user_id}", "message": "{message}"}},
            "response_template": "Booked: {result.status}",
        }
    )
    return {"agent_id": "bench", "flows": flows}


@contextmanager
def flow_api(folder: Path) -> Iterator[str]:
    """nginx as a business API that answers at once, beside the load generator's core."""
    port = free_port()
    config = folder / "api.conf"
    as_root = "user root; " if os.geteuid() == 0 else ""  # else its worker could not enter the private folder
    config.write_text(
        f"{as_root}daemon off; pid {folder}/api.pid; error_log {folder}/api.log; events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {folder}/api-body; keepalive_requests 100000000;\n"
        f"server {{ listen 127.0.0.1:{port}; location / {{ default_type application/json; "
        'return 200 \'{"status": "ok", "id": 1}\'; } } }\n'
    )
    with Process(["nginx", "-c", str(config), "-p", str(folder)], log=folder / "api.out", cpu=LOAD_CPU) as process:
        wait_ready(f"http://127.0.0.1:{port}/", process)
        yield f"http://127.0.0.1:{port}/book"


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """A private Redis beside the load generator's core."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    with Process(command, log=folder / "redis.log", cpu=LOAD_CPU):
        yield f"redis://127.0.0.1:{port}/0"


if __name__ == "__main__":
    sys.exit(main())
