"""The command of the bench: what cannot run is said in one line, a section that breaks is recorded, one that lacks is run again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtests import bench
from loadtests.rows.stage import Found, save


def prepared(folder: Path, **asked: object) -> Path:
    (folder / "raw").mkdir(parents=True)
    machine = {"cores": "2"}
    given = {"scale": "tiny", "rounds": None, "soak": None, "date": "2026-01-02", "name": "here", "machine": machine, **asked}
    (folder / "options.json").write_text(json.dumps(given))
    return folder


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--resume", "nowhere"], "--resume: nowhere is no report's folder"),
        (["--report-only", "nowhere"], "nowhere is no report's folder"),
        (["--messages", "nowhere.csv"], "--messages: there is no file nowhere.csv"),
        (["--out", "made", "--soak", "soon"], "--soak: soon is no time such as 20m or 90s"),
    ],
)
def test_what_cannot_run_is_said_in_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert bench.main(arguments) == 2
    assert capsys.readouterr().err == f"bench: {said}\n"


def test_an_unknown_section_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        bench.main(["--only", "everything"])
    assert "isolation" in capsys.readouterr().err


def test_a_section_that_breaks_is_recorded_with_its_last_words(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = prepared(tmp_path / "report")
    (tmp_path / "messages.csv").write_text("said\nhello\n")
    bench.run_section("matching", folder, 1.0, {"messages": tmp_path / "messages.csv"})
    raw = json.loads((folder / "raw" / "matching.json").read_text())
    assert raw["status"] == "broken"
    assert "matching_speed" in raw["error"]
    assert "matching is broken" in capfd.readouterr().err
    assert bench.main(["--report-only", str(folder)]) == 1


def test_only_what_is_missing_is_run_again(tmp_path: Path) -> None:
    folder = prepared(tmp_path / "report")
    save(folder / "raw" / "matching.json", "matching", "ok", Found(), 1.0)
    save(folder / "raw" / "paths.json", "paths", "broken", Found(), 1.0)
    options = bench.parser().parse_args(["--resume", str(folder), "--only", "matching", "--only", "paths", "--only", "turns"])
    assert list(bench.wanted(options, bench.prepared(options))) == ["paths", "turns"]


def test_the_options_of_a_report_name_no_folders(tmp_path: Path) -> None:
    (tmp_path / "real.csv").write_text("text,category\nhello,x\n")
    options = bench.parser().parse_args(["--quick", "--out", str(tmp_path / "r"), "--messages", str(tmp_path / "real.csv")])
    folder = bench.prepared(options)
    assert str(tmp_path) not in (folder / "options.json").read_text()


def test_full_takes_at_most_25_minutes_and_quick_five(tmp_path: Path) -> None:
    for scale, most in (("--full", 25 * 60), ("--quick", 5 * 60)):
        options = bench.parser().parse_args([scale, "--out", str(tmp_path / scale)])
        assert sum(bench.wanted(options, bench.prepared(options)).values()) <= most


def test_a_report_is_finished_by_its_length_of_soak(tmp_path: Path) -> None:
    options = bench.parser().parse_args(["--out", str(tmp_path / "r"), "--soak", "2m", "--only", "soak"])
    plan = bench.wanted(options, bench.prepared(options))
    assert list(plan) == ["soak"]
    assert 120 < plan["soak"] < 240
