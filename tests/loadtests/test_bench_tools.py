"""What a bench measures with: the open loop, wrk's bodies, shares of a core, stores seen from outside. Real servers, a few requests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from loadtests import asking, wrk
from loadtests.http_once import get, post
from loadtests.members import MARK, marked
from loadtests.processes import Process
from loadtests.programs import json_of, output_of
from loadtests.quota import _Turns, limited
from loadtests.rows.paths import answered_by_rules
from loadtests.stores_seen import redis
from loadtests.topologies import Topology, flow_api, redis_server, reference, stand_in_llm
from loadtests.workflows import FLOW, STATIC, TURN, workflow, write_workflow
from loadtests.wrk import Asked
from tests.support.waiting import wait_until_sync

BUSY = [sys.executable, "-c", "while True: pass"]


def asked(port: int, message: str, seconds: float, **more: float) -> dict[str, object]:
    command = asking.command(port, message, seconds, cpu=None, **more)  # type: ignore[arg-type]
    found: dict[str, object] = json_of(command)
    return found


def test_requests_are_due_at_their_rate_and_timed_from_then(tmp_path: Path) -> None:
    with ExitStack() as stack:
        port, _ = reference(stack, tmp_path, "bare_asgi", cpu=None)
        found = asked(port, STATIC, 0.5, rate=40, connections=2)
        samples: list[tuple[float, float, int]] = found["samples"]  # type: ignore[assignment]
        assert [status for _, _, status in samples] == [200] * 20
        assert sorted(at for at, _, _ in samples) == pytest.approx([n / 40 for n in range(20)], abs=1e-3)
        assert asked(port, STATIC, 0.3, connections=2)["done"] > 5  # type: ignore[operator]


def test_a_server_that_is_away_is_a_status_of_its_own() -> None:
    found = asked(1, STATIC, 0.2, rate=10, connections=1)
    assert [status for _, _, status in found["samples"]] == [0, 0]  # type: ignore[attr-defined]


def test_refusals_are_no_answers_and_no_errors() -> None:
    assert asking.rate_of([(0.0, 500.0, 200), (0.5, 1500.0, 200), (0.6, 1.0, 503)]) == 1.0
    with pytest.raises(RuntimeError, match=r"1 of 2 requests failed, 1 were answered; statuses \[500\]"):
        asking.rate_of([(0.0, 1.0, 200), (0.0, 1.0, 500)])
    with pytest.raises(RuntimeError, match="0 were answered"):
        asking.rate_of([(0.0, 1.0, 503)])


def test_the_seeds_service_answers_as_the_product_is_asked(tmp_path: Path) -> None:
    with ExitStack() as stack:
        config = write_workflow(tmp_path, flow_api(stack, tmp_path, None), 10)
        llm = f"http://127.0.0.1:{stand_in_llm(stack, tmp_path, None)}/v1"
        port, _ = reference(stack, tmp_path, "seed_service", "--config", str(config), "--llm", llm, cpu=None)
        for message, answer in ((STATIC, "Answer 7."), (FLOW, "Booked: ok"), (TURN, "Your order left the warehouse this morning.")):
            status, _, body = post(port, "/api/v1/query", {"message": message, "session_id": "s"})
            assert (status, json.loads(body)["message"]) == (200, answer)
        status, _, body = post(port, "/api/v1/query/stream", {"message": STATIC, "session_id": "s"})
        assert (status, body.count(b"data: ")) == (200, 2)
        assert answered_by_rules(port, [STATIC]) == [STATIC]
        assert wrk.run(f"http://127.0.0.1:{port}/api/v1/query", Asked([STATIC, 'say "x"\n', FLOW], 3, ["a", "b"]), tmp_path, 1, 2, 0)[0] > 0
        assert get(port, "/nowhere")[0] == 404
        with pytest.raises(RuntimeError, match="Non-2xx or 3xx responses"):
            wrk.run(f"http://127.0.0.1:{port}/nowhere", Asked([STATIC]), tmp_path, 1, 1, 0)


def used(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


@pytest.mark.parametrize("way", ["whatever works here", "turns"])
def test_a_process_gets_its_share_of_a_core(tmp_path: Path, way: str) -> None:
    with Process(BUSY, log=tmp_path / "busy.log") as busy:
        wait_until_sync(lambda: used(busy.pid) > 0.02, "it is busy", 10)
        with limited([busy.pid], 0.2) if way != "turns" else _Turns(busy.pid, 0.2):
            began, before = time.monotonic(), used(busy.pid)
            wait_until_sync(lambda: used(busy.pid) - before > 0.2, "it has used a fifth of a second", 20)
            assert time.monotonic() - began > 0.5
        wait_until_sync(lambda: psutil.Process(busy.pid).status() != psutil.STATUS_STOPPED, "it runs on", 10)


def test_a_program_that_fails_says_its_own_last_words() -> None:
    with pytest.raises(RuntimeError, match=r"^loadtests.asking ended with 2: .*--port"):
        output_of(["taskset", "-c", "0", sys.executable, "-m", "loadtests.asking"])
    with pytest.raises(RuntimeError, match=r"^false ended with 1: it said nothing$"):
        output_of(["false"])


def test_redis_is_seen_from_outside(tmp_path: Path) -> None:
    with ExitStack() as stack:
        port = redis_server(stack, tmp_path, None)
        assert redis(port, "DBSIZE").split()[-1] == "0"


def test_what_a_section_has_started_is_found_by_its_mark() -> None:
    with subprocess.Popen(["env", f"{MARK}=a-mark-of-this-test", *BUSY], start_new_session=True) as child:
        wait_until_sync(lambda: [pid for pid, _ in marked("a-mark-of-this-test")] == [child.pid], "it is found", 10)
        os.kill(child.pid, signal.SIGKILL)


def test_deployments_have_names() -> None:
    assert Topology(lightweight=2).name() == "split 2+1, Redis and PostgreSQL"
    assert Topology(single=True, redis=False, postgres=False).name() == "single process, memory and SQLite"
    assert Topology().unpinned().heavy_cpu is None


def test_a_workflow_of_a_bench_has_so_many_rules() -> None:
    document = workflow("http://127.0.0.1:9/x", 100)
    assert len(document["flows"]) == 100
    assert sum(".*" in flow["trigger_patterns"][0] for flow in document["flows"]) == 50
