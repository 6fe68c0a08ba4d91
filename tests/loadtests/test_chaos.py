"""The chaos checker itself: its plan follows from the seed, its command line, and a short run against a whole split."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from loadtests.chaos.clients import Crowd
from loadtests.chaos.plan import WEIGHTS, plan_faults
from loadtests.chaos.scene import MARKER, WORDS, marker, message
from tests.support.chaos_history import history

ROOT = Path(__file__).parents[2]
MEMBERS = {"heavy": 2, "lightweight": 2, "worker": 1, "redis": 1, "postgres": 1, "nginx": 1, "llm": 1, "business": 1}


def run(*arguments: str, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "loadtests.chaos", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds, check=False)


def test_the_plan_follows_from_the_seed() -> None:
    plan = plan_faults(7, turns=1000, faults=300, members=MEMBERS, lease_seconds=3)
    assert plan == plan_faults(7, turns=1000, faults=300, members=MEMBERS, lease_seconds=3)
    assert plan != plan_faults(8, turns=1000, faults=300, members=MEMBERS, lease_seconds=3)
    assert [f.after for f in plan] == sorted(f.after for f in plan)
    assert 0 <= plan[0].after < 10
    assert 990 < plan[-1].after < 1000
    hit = Counter((f.target.partition("-")[0], f.kind) for f in plan)
    assert set(hit) <= set(WEIGHTS)
    assert len({f.target for f in plan if f.target.startswith("heavy")}) == 2
    assert any(f.seconds > 3 for f in plan if f.kind == "freeze" and f.target.startswith("heavy"))
    assert max(f.seconds for f in plan if f.target == "business") < 3  # its callers wait longer
    alone = plan_faults(7, turns=100, faults=50, members={"heavy": 1}, lease_seconds=3)
    assert {f.target for f in alone} == {"heavy-1"}


def test_markers_are_found_in_what_is_said() -> None:
    for kind in WORDS:
        assert MARKER.findall(message(kind, 12)) == [marker(12)]
    assert len({marker(n) for n in range(1000)}) == 1000


def test_keys_of_both_tenants_are_the_same() -> None:
    crowd = Crowd(1, 3, 1)
    assert [crowd.key("a"), crowd.key("b"), crowd.key("a")] == ["order 1", "order 1", "order 2"]
    assert [crowd.number() for _ in range(4)] == [1, 2, 3, None]


def test_evidence_is_judged_again(tmp_path: Path) -> None:
    evidence = history()
    evidence.save(tmp_path)
    proven = run("--judge", str(tmp_path))
    assert (proven.returncode, proven.stdout.splitlines()[-1]) == (0, "proven: every point holds")
    evidence.effects.clear()
    evidence.save(tmp_path)
    violated = run("--judge", str(tmp_path))
    assert violated.returncode == 1
    assert f"{marker(3)} (skill, query, enqueue) turn t_3: expected 1 for its answer; found 0" in violated.stdout
    assert "violations: 1 × effect, 1 × call" in violated.stdout


@pytest.mark.parametrize("folder", ["none", "broken"])
def test_a_folder_without_evidence_cannot_be_judged(tmp_path: Path, folder: str) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "faults.jsonl").write_text("{")
    ended = run("--judge", str(tmp_path / folder))
    assert ended.returncode == 2
    assert "holds no evidence" in ended.stderr


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    ended = run("--quick", "--keep", str(tmp_path))
    assert (ended.returncode, ended.stderr.strip()) == (2, f"{tmp_path} is not empty")


@pytest.mark.timeout(180)
def test_a_short_run_proves_every_point() -> None:
    ended = run("--quick", "--seed", "11", seconds=170)
    assert ended.returncode == 0, ended.stdout[-6000:] + ended.stderr[-2000:]
    assert "proven: every point holds" in ended.stdout
    figures = {name: int(count) for count, name in re.findall(r"^ +(\d+)  (.+)$", ended.stdout, re.MULTILINE)}
    assert figures["messages answered"] > 200
    assert figures["effects"] > 50
    assert figures["streams that were read on"] > 10
    assert sum(int(n) for n in re.findall(r"(\d+) ×", re.findall(r"^faults: (.*)$", ended.stdout, re.MULTILINE)[0])) == 8
