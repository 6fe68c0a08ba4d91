"""The rule path and the flow path beside their ceilings, through Nginx too, and beside the seed's own service. wrk on one core, the server
on the other.

Rounds go through all servers in turn, so that drift of the machine meets all of them; medians and ratios are what counts.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from loadtests import wrk
from loadtests.http_once import post
from loadtests.rows.stage import LOAD_CPU, SERVER_CPU, Plot, Stage
from loadtests.topologies import SECRET, flow_api, nginx_front, nginx_static, redis_server, reference, tier
from loadtests.turns_bench import resident
from loadtests.workflows import FLOW, STATIC, key_file, made_messages, read_messages, write_workflow
from loadtests.wrk import Asked

BANK = Path(__file__).resolve().parents[2] / "examples" / "bank" / "workflow.json"
RULES, SEED_FLOWS = 1000, 100
REAL = 2000


@dataclass(frozen=True, slots=True)
class Server:
    """A figure's name, where to ask, and what."""

    figure: str
    url: str
    asked: Asked


def seconds(stage: Stage) -> float:
    """How long it takes, about."""
    return 18 + 15 * stage.scale.rounds * (max(1, stage.scale.seconds) + 0.2)


def measure(stage: Stage) -> None:
    """All servers, round after round."""
    scale, found = stage.scale, stage.found
    with ExitStack() as stack:
        servers = _references(stack, stage.folder) + _ours(stack, stage)
        for number in range(scale.rounds):
            for server in servers:
                rate, p99 = wrk.run(server.url, server.asked, stage.folder, scale.seconds, scale.connections, LOAD_CPU)
                found.add(f"{server.figure}.rate", rate)
                found.add(f"{server.figure}.p99_ms", p99)
            stage.say(f"round {number + 1} of {scale.rounds}")
        _one_connection(stage, servers)
    found.note(
        f"wrk, one thread, {scale.connections} connections, {RULES} rules of which half have `.*`; servers, and Nginx where it stands in "
        "front of one, on one core; wrk, Redis and the flow API on the other."
    )
    medians = [[server.figure, statistics.median(found.figures[f"{server.figure}.rate"])] for server in servers]
    found.plots["throughput"] = Plot("Throughput of one core", "", "requests a second", {"req/s": medians}, bars=True)


def _one_connection(stage: Stage, servers: Sequence[Server]) -> None:
    for server in servers:
        if server.figure in ("seed_flow", "flow", "bare_flow"):
            rate, p99 = wrk.run(server.url, server.asked, stage.folder, stage.scale.seconds, 1, LOAD_CPU)
            stage.found.add(f"{server.figure}.rate_1", rate)
            stage.found.add(f"{server.figure}.p99_1_ms", p99)


def _references(stack: ExitStack, folder: Path) -> list[Server]:
    """What stands beside ours."""
    static, flow = Asked([STATIC]), Asked([FLOW])
    api = flow_api(stack, folder)
    config = write_workflow(folder, api, RULES)
    small = write_workflow(folder, api, SEED_FLOWS, "seed.json")
    redis = redis_server(stack, folder)
    echo, _ = reference(stack, folder, "bare_asgi")
    bare, _ = reference(stack, folder, "bare_rules", "--config", str(config))
    gated, _ = reference(stack, folder, "bare_rules", "--config", str(config), "--redis", f"127.0.0.1:{redis}")
    flows, _ = reference(stack, folder, "bare_flow", "--config", str(config), "--url", api)
    seed, _ = reference(stack, folder, "seed_service", "--config", str(small), "--llm", "http://127.0.0.1:9/v1")
    front = nginx_front(stack, folder, [echo], [echo], SERVER_CPU)
    return [
        Server("nginx_static", nginx_static(stack, folder, '{"message": "We open at 9."}', SERVER_CPU), static),
        Server("bare_echo", f"http://127.0.0.1:{echo}/", static),
        Server("bare_rules", f"http://127.0.0.1:{bare}/", static),
        Server("bare_rules_get", f"http://127.0.0.1:{gated}/", static),
        Server("bare_flow", f"http://127.0.0.1:{flows}/", flow),
        Server("seed_flow", f"http://127.0.0.1:{seed}/api/v1/query", flow),
        Server("seed_rule", f"http://127.0.0.1:{seed}/api/v1/query", static),
        Server("nginx_echo", f"http://127.0.0.1:{front}/api/v1/query", static),
    ]


def _ours(stack: ExitStack, stage: Stage) -> list[Server]:
    """The rule tier in its variants."""
    folder = stage.folder
    config = write_workflow(folder, flow_api(stack, folder), RULES, "ours.json")
    environ = {
        "LOADSPLIT_REDIS_URL": f"redis://127.0.0.1:{redis_server(stack, folder)}/0",
        "LOADSPLIT_DATA_DIR": str(folder / "data"),
        "LOADSPLIT_TICKET_SECRET": SECRET,
        "LOADSPLIT_HANDOFF": "accel",
    }
    port, process = tier(stack, folder, "lightweight", config, environ, SERVER_CPU)
    front = nginx_front(stack, folder, [port], [port], SERVER_CPU)
    keyed, _ = tier(stack, folder, "lightweight", config, environ | {"LOADSPLIT_API_KEYS": str(key_file(folder))}, SERVER_CPU)
    stage.found.add("lightweight.rss_mb", resident(process.pid) / 1024)

    def query(at: int) -> str:
        return f"http://127.0.0.1:{at}/api/v1/query"

    servers = [
        Server("rule", query(port), Asked([STATIC])),
        Server("rule_sessions", query(port), Asked([STATIC], sessions=1000)),
        Server("flow", query(port), Asked([FLOW])),
        Server("nginx_rule", query(front), Asked([STATIC])),
        Server("rule_key", query(keyed), Asked([STATIC], key="free")),
        Server("rule_counted", query(keyed), Asked([STATIC], key="limited")),
    ]
    if stage.messages is not None:
        bank, _ = tier(stack, folder, "lightweight", BANK, environ | {"LOADSPLIT_DATA_DIR": str(folder / "bank")}, SERVER_CPU)
        hits = answered_by_rules(bank, read_messages(stage.messages)[:REAL])
        stage.found.note(
            f"Real messages: {len(hits)} of the first {REAL} of {stage.messages.name} are answered by the bank example's rules."
        )
        servers.append(Server("rule_real", query(bank), Asked(hits, sessions=1000)))
    return servers


def answered_by_rules(port: int, messages: Sequence[str]) -> list[str]:
    """The messages that a rule tier answers by itself."""
    found = []
    for number, message in enumerate(messages):
        status, headers, _ = post(port, "/api/v1/query", {"message": message, "session_id": f"probe-{number}"})
        if status == 200 and "x-accel-redirect" not in headers:
            found.append(message)
    if not found:
        raise RuntimeError("no message is answered by a rule")
    return found


def varied(stage: Stage, count: int) -> list[str]:
    """Real messages where a file of them is given, else made ones."""
    if stage.messages is None:
        return made_messages(count)
    return read_messages(stage.messages)[:count]
