"""wrk as a load generator: one thread on its own core, rate and latency of one URL. It knows nothing of who answers."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loadtests.programs import output_of

_RATE = re.compile(r"Requests/sec:\s+([\d.]+)")
_P99 = re.compile(r"99%\s+([\d.]+)(us|ms|s)")
_BAD = re.compile(r"Non-2xx or 3xx responses: (\d+)|Socket errors: (.*)")
_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@dataclass(frozen=True, slots=True)
class Asked:
    """What to send: messages in turn, each in one of so many sessions and to one of the agents; `key` is the caller's API key."""

    messages: Sequence[str]
    sessions: int = 1
    agents: Sequence[str] = ()
    key: str | None = None
    prefix: str = "bench"


def run(url: str, asked: Asked, folder: Path, seconds: float, connections: int, cpu: int) -> tuple[float, float]:
    """(Requests a second, p99 in ms). Raises RuntimeError when any reply was not a success."""
    script = folder / "post.lua"
    script.write_text(_script(asked))
    command = ["taskset", "-c", str(cpu), "wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency", "-s", str(script)]
    output = output_of([*command, url])
    if bad := _BAD.search(output):
        raise RuntimeError(f"{url}: {bad.group()}")
    rate, p99 = _RATE.search(output), _P99.search(output)
    if rate is None or p99 is None or float(rate[1]) == 0:
        raise RuntimeError(f"{url}: wrk said nothing of its rate:\n{output}")
    return float(rate[1]), float(p99[1]) * _UNITS[p99[2]]


def _script(asked: Asked) -> str:
    """Bodies are put together in Lua only as far as they differ: the generator must stay cheaper than the server."""
    head = "wrk.method = 'POST'\nwrk.headers['content-type'] = 'application/json'\n"
    if asked.key:
        head += f"wrk.headers['authorization'] = 'Bearer {asked.key}'\n"
    if len(asked.messages) == 1 and asked.sessions == 1 and len(asked.agents) < 2:
        body = {"message": asked.messages[0], "session_id": f"{asked.prefix}-1", **({"agent_id": asked.agents[0]} if asked.agents else {})}
        return head + f"wrk.body = {_lua(json.dumps(body, ensure_ascii=False))}\n"
    parts = ",\n".join(_lua(json.dumps(message, ensure_ascii=False)) for message in asked.messages)
    agents = ", ".join(_lua(f', "agent_id": {json.dumps(agent)}') for agent in asked.agents) or '""'
    return (
        head
        + f"local messages = {{{parts}}}\nlocal agents = {{{agents}}}\nlocal n = 0\n"
        + "function request()\n  n = n + 1\n"
        + f"  local session = (n * 7919) % {asked.sessions}\n"
        + '  local body = \'{"message": \' .. messages[(n % #messages) + 1] .. \', "session_id": "'
        + f"{asked.prefix}-' .. session .. '\"' .. agents[((n * 31) % #agents) + 1] .. '}}'\n"
        + "  return wrk.format(nil, nil, nil, body)\nend\n"
    )


def _lua(value: str) -> str:
    """A string literal of Lua."""
    quoted = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{quoted}"'
