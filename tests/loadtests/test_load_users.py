"""Every kind of Locust user against a running deployment, a few requests each: by a master and a worker, in a shape; replayed arrivals."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from loadtests.arrivals import profile
from loadtests.load import EXAMPLE, LOCUSTFILE
from loadtests.processes import Process, free_port, wait_listening
from loadtests.split import LOADSPLIT
from loadtests.topologies import Running, Topology, start

KINDS = ("rule, static answer", "rule, HTTP call", "agent turn", "stream", "task", "conversation, later on", "real message")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The customer service example in one process with both simulators, at a quick pace."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "profile.json").write_text(json.dumps(profile(first_token_ms=1, token_ms=0)))
    with ExitStack() as stack:
        port = free_port()
        command = [LOADSPLIT, "simulate", "business", "--port", str(port)]
        wait_listening(port, stack.enter_context(Process(command, log=folder / "business.log", grace=5)))
        environ = {"BUSINESS_URL": f"http://127.0.0.1:{port}"}
        single = Topology(
            single=True, redis=False, postgres=False, config=EXAMPLE, profile=folder / "profile.json", environ=environ
        )  # fmt: skip
        yield start(stack, folder, single.unpinned())


def locust(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "locust", "--headless", *arguments]


def test_users_of_every_kind_are_answered(demo: Running, tmp_path: Path) -> None:
    bind = str(free_port())
    common = ["-f", str(LOCUSTFILE), "--host", demo.url]
    with Process(locust(*common, "--worker", "--master-port", bind), log=tmp_path / "worker.log", grace=5) as worker:
        master = ["--master", "--master-bind-port", bind, "--expect-workers", "1", "--shape", "soak", "-u", "20", "-t", "6s"]
        command = locust(*common, *master, "--csv", str(tmp_path / "users"), "--stop-timeout", "5")
        done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
        assert done.returncode == 0, done.stderr[-2000:] + worker.tail()
    rows = {row["Name"]: row for row in csv.DictReader((tmp_path / "users_stats.csv").read_text().splitlines())}
    for kind in KINDS:
        assert int(rows[kind]["Request Count"]) > 0, kind
    assert rows["Aggregated"]["Failure Count"] == "0"


def test_arrivals_are_replayed_with_their_token_counts(demo: Running, tmp_path: Path) -> None:
    path, out = tmp_path / "arrivals.csv", tmp_path / "summary.json"
    lines = ["2023-11-16 18:15:46.0000000,120,7", "2023-11-16 18:15:46.2000000,50,9"]
    path.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]) + "\n")
    replay = ["-f", str(LOCUSTFILE.with_name("replay.py")), "--host", demo.url, "--arrivals", str(path), "-u", "1", "-t", "2s"]
    done = subprocess.run(locust(*replay, "--summary-json", str(out)), capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    document = json.loads(out.read_text())
    assert document["kinds"]["replayed stream"] | {"failures": 0, "count": 2} == document["kinds"]["replayed stream"]
    assert document["kinds"]["first token"]["count"] == 2
