"""The promises of promises.yaml and whether the figures of a run keep them. It knows no section: a figure is `section/name`."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

FILE = Path(__file__).with_name("promises.yaml")
Judge = Literal["absolute", "ratio", "difference"]
Status = Literal["pass", "fail", "broken", "not run"]
_KEYS = {"id", "row", "words", "measured", "reference", "reference_name", "unit", "judge", "at_least", "at_most", "notes"}
_NEEDED = {"id", "row", "words", "measured", "unit", "judge"}


@dataclass(frozen=True, slots=True)
class Promise:
    """One promise: the figure that is measured, what it is held against, and its bound. `row` groups promises that belong together."""

    id: str
    row: str
    words: str
    measured: str
    unit: str
    judge: Judge
    reference: str | None = None
    reference_name: str = ""
    at_least: float | None = None
    at_most: float | None = None
    notes: str = ""

    @property
    def target(self) -> str:
        """The bound in words."""
        sign, bound = ("≥", self.at_least) if self.at_least is not None else ("≤", self.at_most)
        if self.judge == "ratio":
            return f"{sign} {bound:g} ×"
        return f"{sign} {'+' if self.judge == 'difference' else ''}{bound:g} {self.unit}"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a promise: `value` is what the bound is held against (the figure, the ratio, or the difference)."""

    promise: Promise
    status: Status
    measured: float | None = None
    reference: float | None = None
    value: float | None = None
    why: str = ""


def read(path: Path = FILE) -> list[Promise]:
    """All promises. Raises ValueError that names the file and the promise."""
    found: list[Promise] = []
    for number, doc in enumerate(yaml.safe_load(path.read_text(encoding="utf-8")), 1):
        where = f"{path.name}: promise {doc.get('id', number) if isinstance(doc, dict) else number}"
        if not isinstance(doc, dict) or not doc.keys() >= _NEEDED:
            raise ValueError(f"{where} needs {', '.join(sorted(_NEEDED))}")
        if unknown := doc.keys() - _KEYS:
            raise ValueError(f"{where}: {', '.join(sorted(unknown))} is unknown")
        if doc["judge"] not in ("absolute", "ratio", "difference"):
            raise ValueError(f"{where}: judge is absolute, ratio or difference")
        if doc["judge"] != "absolute" and "reference" not in doc:
            raise ValueError(f"{where}: {doc['judge']} needs a reference")
        if ("at_least" in doc) == ("at_most" in doc):
            raise ValueError(f"{where} needs either at_least or at_most")
        found.append(Promise(**doc))
    return found


def judge(promise: Promise, raws: Mapping[str, Mapping[str, Any]]) -> Verdict:
    """Holds a promise against the raw documents of the sections, by their names."""
    for figure in filter(None, (promise.measured, promise.reference)):
        section, _, name = figure.partition("/")
        raw = raws.get(section)
        if raw is None:
            return Verdict(promise, "not run", why=f"the section {section} was not run")
        if name not in raw["figures"] or not raw["figures"][name]:
            if raw["status"] == "not run":
                return Verdict(promise, "not run", why=str(raw.get("error") or "; ".join(raw["notes"])))
            return Verdict(promise, "broken", why=str(raw.get("error") or f"{section} has found no {name}"))
    samples = _samples(promise.measured, raws)
    measured = statistics.median(samples)
    reference, value = None, measured
    if promise.reference is not None:
        others = _samples(promise.reference, raws)
        reference = statistics.median(others)
        if promise.judge != "absolute":
            value = _against(promise, samples, others)
    kept = value >= promise.at_least if promise.at_least is not None else value <= float(promise.at_most or 0.0)
    return Verdict(promise, "pass" if kept else "fail", measured, reference, value)


def _samples(figure: str, raws: Mapping[str, Mapping[str, Any]]) -> Sequence[float]:
    section, _, name = figure.partition("/")
    samples: Sequence[float] = raws[section]["figures"][name]
    return samples


def _against(promise: Promise, samples: Sequence[float], others: Sequence[float]) -> float:
    """The median of the rounds' own ratios or differences; of the medians where the rounds do not belong together."""
    pairs = (
        list(zip(samples, others, strict=True))
        if len(samples) == len(others)
        else [(statistics.median(samples), statistics.median(others))]
    )
    if promise.judge == "ratio":
        return statistics.median(one / other if other else float("inf") for one, other in pairs)
    return statistics.median(one - other for one, other in pairs)
