"""The promises: every row has its figures, a bound that can be judged, and clear words for a file that does not hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from loadtests.promises import Promise, judge, read
from loadtests.rows import section_of, sections

ROWS = (
    "rule path",
    "flow path",
    "through Nginx",
    "matching",
    "isolation",
    "hand-off",
    "overhead of one LLM turn",
    "/v1/chat/completions to a model",
    "stream relay",
    "memory",
    "config activation",
    "scaling",
    "soak",
)


def raw(status: str = "ok", **figures: list[float]) -> dict[str, Any]:
    return {"status": status, "figures": figures, "notes": []}


def promise(**more: Any) -> Promise:
    given: dict[str, Any] = {"id": "x", "row": "r", "words": "w", "measured": "paths/ours", "unit": "req/s", "judge": "ratio"}
    return Promise(**{**given, "reference": "paths/theirs", "at_least": 0.75, **more})


def test_every_row_is_promised() -> None:
    assert tuple(dict.fromkeys(p.row for p in read())) == ROWS


def test_ids_are_unique_and_every_figure_is_of_a_section() -> None:
    promises = read()
    assert len({p.id for p in promises}) == len(promises)
    for figure in [f for p in promises for f in (p.measured, p.reference) if f]:
        assert figure.partition("/")[0] in {*sections(), "soak"}, figure


@pytest.mark.parametrize("name", [*sections(), "soak"])
def test_every_section_can_be_planned_and_run(name: str) -> None:
    module = section_of(name)
    assert callable(module.measure)
    assert callable(module.seconds)


def test_a_ratio_is_the_median_of_the_rounds_own() -> None:
    verdict = judge(promise(), {"paths": raw(ours=[8, 9, 10], theirs=[10, 10, 20])})
    assert (verdict.status, verdict.value, verdict.measured, verdict.reference) == ("pass", 0.8, 9, 10)


def test_rounds_that_do_not_belong_together_are_compared_by_their_medians() -> None:
    assert judge(promise(), {"paths": raw(ours=[7], theirs=[10, 10, 20])}).value == 0.7
    assert judge(promise(), {"paths": raw(ours=[7], theirs=[10, 10, 20])}).status == "fail"


def test_a_difference_and_an_absolute_bound() -> None:
    raws = {"paths": raw(ours=[3.0], theirs=[1.5])}
    assert judge(promise(judge="difference", at_least=None, at_most=1.0), raws).status == "fail"
    assert judge(promise(judge="difference", at_least=None, at_most=1.0), raws).value == 1.5
    assert judge(promise(judge="absolute", at_least=None, at_most=3.0), raws).status == "pass"
    assert judge(promise(judge="absolute", at_least=None, at_most=0), {"paths": raw(ours=[0], theirs=[1])}).status == "pass"


def test_a_section_that_broke_or_was_not_run_is_told() -> None:
    assert judge(promise(), {}).status == "not run"
    broken = judge(promise(), {"paths": {**raw("broken", ours=[1.0]), "error": "RuntimeError: wrk said nothing"}})
    assert (broken.status, broken.why) == ("broken", "RuntimeError: wrk said nothing")
    assert judge(promise(), {"paths": raw(ours=[1.0])}).why == "paths has found no theirs"


def test_bounds_are_readable() -> None:
    assert promise().target == "≥ 0.75 ×"
    assert promise(judge="difference", at_least=None, at_most=2.0, unit="ms").target == "≤ +2 ms"
    assert promise(judge="absolute", at_least=None, at_most=0, unit="pauses").target == "≤ 0 pauses"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("judge: guess", "judge is absolute, ratio or difference"),
        ("judge: ratio", "ratio needs a reference"),
        ("judge: absolute, at_least: 1", "either at_least or at_most"),
        ("judge: absolute, colour: red", "colour is unknown"),
    ],
)
def test_a_broken_promise_names_itself(tmp_path: Path, change: str, said: str) -> None:
    path = tmp_path / "promises.yaml"
    path.write_text("- {id: one, row: r, words: w, measured: a/b, unit: s, at_most: 1, " + change + "}\n")
    with pytest.raises(ValueError, match=said) as error:
        read(path)
    assert str(error.value).startswith("promises.yaml: promise one")
