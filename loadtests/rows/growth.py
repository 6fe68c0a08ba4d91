"""More data: rules of a workflow, agents of a process, sessions in the database, messages of a session. What throughput is left, and the
exponent of the curve: throughput ∝ size^exponent, fitted over all points; `kept` is what doubling leaves, 2^exponent.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from loadtests import asking, wrk
from loadtests.programs import json_of
from loadtests.rows.paths import varied
from loadtests.rows.stage import LOAD_CPU, SERVER_CPU, Plot, Stage
from loadtests.stores_seen import redis, sql
from loadtests.topologies import SECRET, Running, Topology, flow_api, redis_server, start, tier
from loadtests.workflows import TURN, workflow, write_workflow
from loadtests.wrk import Asked

AGENT_RULES = 20
SESSIONS_WITH_MESSAGES = 500
UNSEEN = 2000
# What a session and its first turn leave behind, in the schema's own words: one row in `sessions`, one in `turns`, two in `messages`.
FILL = """
INSERT INTO sessions (tenant, session_id, agent_id, turn_seq, active, message_count, created_at, updated_at)
SELECT 'default', '{prefix}' || n, 'bench', {turns}, 0, {turns} * 2, extract(epoch FROM now()), extract(epoch FROM now())
FROM generate_series({first}, {last}) n;
INSERT INTO turns (tenant, session_id, seq, turn_id, agent_id, state, request, reply, created_at, started_at, finished_at)
SELECT 'default', '{prefix}' || n, t, 't_{prefix}' || n || '_' || t, 'bench', 'done', '{{"message":"where is my order"}}', '{{}}',
  extract(epoch FROM now()), extract(epoch FROM now()), extract(epoch FROM now())
FROM generate_series({first}, {last}) n, generate_series(1, {turns}) t;
INSERT INTO messages (tenant, session_id, turn_seq, idx, turn_id, content, at)
SELECT 'default', '{prefix}' || n, t, i, 't_{prefix}' || n || '_' || t,
  CASE i WHEN 0 THEN '{{"role":"user","content":"where is my order","tool_calls":[],"tool_call_id":null}}'
         ELSE '{{"role":"assistant","content":"Your order left the warehouse this morning.","tool_calls":[],"tool_call_id":null}}' END,
  extract(epoch FROM now())
FROM generate_series({first}, {last}) n, generate_series(1, {turns}) t, generate_series(0, 1) i;
"""


def seconds(stage: Stage) -> float:
    """How long it takes, about."""
    scale = stage.scale
    starts, others = len(scale.rules) + len(scale.agents), len(scale.sessions) + len(scale.messages)
    load = (_rounds(stage) + 1) * (max(1, scale.seconds) + 0.3)
    return 12 + scale.sessions[-1] / 30_000 + 3 * starts + (starts + others) * load


def measure(stage: Stage) -> None:
    """One kind of data after the other."""
    for name, sizes, grown in (
        ("rules", stage.scale.rules, _rules),
        ("agents", stage.scale.agents, _agents),
        ("stored", stage.scale.sessions, _stored),
    ):
        with ExitStack() as stack:
            grown(stack, stage, stage.subfolder(name), sizes)
    stage.found.note(
        "Rules and agents: the rule tier on one core, real or made messages of which none comes twice in a row, 1 000 sessions."
    )
    stage.found.note(
        "Sessions and messages: heavy on one core, turns a second of one LLM call each, in stored sessions that are far from each other "
        "and cold in Redis; PostgreSQL, Redis, the mock LLM and the load on the other."
    )


def exponent(points: Sequence[tuple[float, float]]) -> float:
    """The least-squares slope of log(y) over log(x)."""
    xs, ys = [math.log(x) for x, _ in points], [math.log(y) for _, y in points]
    middle_x, middle_y = statistics.fmean(xs), statistics.fmean(ys)
    spread = sum((x - middle_x) ** 2 for x in xs)
    return sum((x - middle_x) * (y - middle_y) for x, y in zip(xs, ys, strict=True)) / spread if spread else 0.0


def _rounds(stage: Stage) -> int:
    return min(3, stage.scale.rounds)


def _curve(stage: Stage, name: str, size: int, rate: Callable[[], float]) -> None:
    rate()
    for _ in range(_rounds(stage)):
        stage.found.add(f"{name}.{size}.rate", rate())
    stage.say(f"{size} {name}")


def _fitted(stage: Stage, name: str, sizes: Sequence[int], what: str) -> None:
    points = [(float(size), statistics.median(stage.found.figures[f"{name}.{size}.rate"])) for size in sizes]
    slope = exponent(points)
    stage.found.add(f"{name}.exponent", slope)
    stage.found.add(f"{name}.kept", 2**slope)
    line = {"measured": [list(point) for point in points]}
    plot = Plot(f"Throughput by {what} (exponent {slope:+.3f})", what, "a second", line, log_x=True)
    stage.found.plots[name] = plot


def _lightweight(stack: ExitStack, folder: Path, config: Path) -> str:
    environ = {
        "LOADSPLIT_REDIS_URL": f"redis://127.0.0.1:{redis_server(stack, folder)}/0",
        "LOADSPLIT_DATA_DIR": str(folder / "data"),
        "LOADSPLIT_TICKET_SECRET": SECRET,
        "LOADSPLIT_HANDOFF": "accel",
    }
    port, _ = tier(stack, folder, "lightweight", config, environ, SERVER_CPU)
    return f"http://127.0.0.1:{port}/api/v1/query"


def _rules(stack: ExitStack, stage: Stage, folder: Path, sizes: Sequence[int]) -> None:
    """A message has a rule that answers it, whatever their number; one for each of the first rules, so that all are asked."""
    api = flow_api(stack, folder)
    for size in sizes:
        with ExitStack() as one:
            home = folder / str(size)
            home.mkdir()
            url = _lightweight(one, home, write_workflow(home, api, size))
            messages = [
                f"{said} what about topic {n} and word{n}" for n, said in zip(range(1, size, 2), varied(stage, UNSEEN), strict=False)
            ]
            asked = Asked(messages or [f"topic {1} word1"], sessions=1000)
            _curve(stage, "rules", size, lambda url=url, asked=asked, home=home: _wrk(stage, url, asked, home))  # type: ignore[misc]
    _fitted(stage, "rules", sizes, "rules")


def _wrk(stage: Stage, url: str, asked: Asked, folder: Path) -> float:
    return wrk.run(url, asked, folder, stage.scale.seconds, stage.scale.connections, LOAD_CPU)[0]


def _agents(stack: ExitStack, stage: Stage, folder: Path, sizes: Sequence[int]) -> None:
    api = flow_api(stack, folder)
    for size in sizes:
        with ExitStack() as one:
            home = folder / str(size)
            (home / "agents").mkdir(parents=True)
            names = [f"agent{n}" for n in range(size)]
            for name in names:
                (home / "agents" / f"{name}.json").write_text(json.dumps(workflow(api, AGENT_RULES, name)))
            url = _lightweight(one, home, home / "agents")
            asked = Asked(["what about topic 7 and word7?"], sessions=1000, agents=names if size > 1 else [names[0], names[0]])
            _curve(stage, "agents", size, lambda url=url, asked=asked, home=home: _wrk(stage, url, asked, home))  # type: ignore[misc]
    _fitted(stage, "agents", sizes, "agents of one process")


def _stored(stack: ExitStack, stage: Stage, folder: Path, sizes: Sequence[int]) -> None:
    """Sessions in the database, then messages of a session, in one deployment."""
    plain = Topology(rule_cpu=LOAD_CPU, heavy_cpu=SERVER_CPU, front_cpu=LOAD_CPU, redis_cpu=LOAD_CPU)
    running = start(stack, folder, replace(plain, rules=AGENT_RULES))
    filled = 0
    for size in sizes:
        _fill(running, "ask-", filled, size - 1, 1)
        filled = size
        _curve(stage, "sessions", size, lambda size=size: _cold(stage, running, size))  # type: ignore[misc]
    _fitted(stage, "sessions", sizes, "stored sessions")
    for size in stage.scale.messages:
        sql(running.database, "TRUNCATE sessions, turns, messages CASCADE")
        _fill(running, "ask-", 0, SESSIONS_WITH_MESSAGES - 1, max(1, size // 2))
        _curve(stage, "messages", size, lambda: _cold(stage, running, SESSIONS_WITH_MESSAGES))
    _fitted(stage, "messages", stage.scale.messages, "messages of a session")


def _cold(stage: Stage, running: Running, sessions: int) -> float:
    """The same after Redis has forgotten everything: few sessions would be warm, many cold, and the figures would tell of that alone."""
    redis(running.redis_port, "FLUSHALL")
    return _turns(stage, running, sessions)


def _turns(stage: Stage, running: Running, sessions: int) -> float:
    """Turns a second in so many sessions in turn."""
    wanted = asking.command(running.port, TURN, max(1.0, stage.scale.seconds), connections=16, sessions=sessions, cpu=LOAD_CPU)
    return asking.rate_of(json_of(wanted)["samples"])


def _fill(running: Running, prefix: str, first: int, last: int, turns: int) -> None:
    if last >= first:
        sql(running.database, FILL.format(prefix=prefix, first=first, last=last, turns=turns) + "ANALYZE;")
