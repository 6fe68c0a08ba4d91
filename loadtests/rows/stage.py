"""What every section of a bench works with: how long and how often (scale), where (stage), and where its findings go (found).

A section is a function that takes a stage and fills its `found`; what it has filled is kept even when it breaks.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

SERVER_CPU, LOAD_CPU = 0, 1
PROGRESS = "    · "  # what a line for the person who waits begins with


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of everything. Seconds are of load for one row and one round."""

    name: str
    rounds: int
    seconds: float
    connections: int = 32
    matched: tuple[int, ...] = (10, 100, 1_000, 10_000)
    rules: tuple[int, ...] = (10, 100, 1_000, 10_000)
    agents: tuple[int, ...] = (1, 10, 100, 1_000)
    sessions: tuple[int, ...] = (1_000, 10_000, 100_000, 1_000_000)
    messages: tuple[int, ...] = (10, 100, 1_000)
    replicas: tuple[int, ...] = (1, 2, 4, 8)
    streams: int = 2_000
    crowd: int = 1_000
    memory_streams: int = 500
    idle_seconds: float = 15
    pressure_seconds: float = 60
    probe_rate: float = 100
    scenario_seconds: int = 30
    activations: int = 200
    soak_seconds: float = 1_200
    soak_history: int = 100  # turns of each session before it begins: as many as a prompt holds


FULL = Scale("full", rounds=5, seconds=1.5)
QUICK = Scale(
    "quick",
    rounds=1,
    seconds=0.8,
    matched=(1_000, 10_000),
    rules=(10, 1_000),
    agents=(1, 100),
    sessions=(1_000, 10_000),
    messages=(10, 100),
    replicas=(1, 2),
    streams=200,
    crowd=200,
    memory_streams=100,
    idle_seconds=2,
    pressure_seconds=4.5,
    scenario_seconds=4,
    activations=3,
    soak_seconds=30,
    soak_history=10,
)
TINY = Scale(
    "tiny",
    rounds=1,
    seconds=0.5,
    connections=4,
    matched=(10, 20),
    rules=(10, 20),
    agents=(1, 2),
    sessions=(10, 20),
    messages=(2, 4),
    replicas=(1, 2),
    streams=4,
    crowd=4,
    memory_streams=4,
    idle_seconds=1,
    pressure_seconds=1,
    probe_rate=20,
    scenario_seconds=2,
    activations=2,
    soak_seconds=4,
    soak_history=1,
)
SCALES = {scale.name: scale for scale in (FULL, QUICK, TINY)}


@dataclass(slots=True)
class Plot:
    """A picture to be: lines by name, each a list of [x, y]. `spans` are [from, to, words] along x; bars stand for lines with `bars`."""

    title: str
    x: str
    y: str
    lines: dict[str, list[list[Any]]] = field(default_factory=dict)
    spans: list[list[Any]] = field(default_factory=list)
    log_x: bool = False
    log_y: bool = False
    bars: bool = False


@dataclass(slots=True)
class Found:
    """Figures by name, a sample for each round; pictures; tables (head first); and what a reader must know of how it was measured."""

    figures: dict[str, list[float]] = field(default_factory=dict)
    plots: dict[str, Plot] = field(default_factory=dict)
    tables: dict[str, list[list[Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, *values: float) -> None:
        """Samples of a figure."""
        self.figures.setdefault(name, []).extend(float(value) for value in values)

    def note(self, words: str) -> None:
        """A sentence for the report, once."""
        if words not in self.notes:
            self.notes.append(words)

    def document(self) -> dict[str, Any]:
        """As JSON data."""
        return asdict(self)


@dataclass(slots=True)
class Stage:
    """One run of one section. `messages` and `arrivals` are files of real text and real arrivals, `litellm` a virtual environment."""

    folder: Path
    scale: Scale
    messages: Path | None = None
    arrivals: Path | None = None
    litellm: Path | None = None
    found: Found = field(default_factory=Found)

    def say(self, words: str) -> None:
        """A line of progress."""
        print(f"{PROGRESS}{words}", file=sys.stderr, flush=True)

    def subfolder(self, name: str) -> Path:
        """A new folder of the stage, which servers of other users may enter."""
        folder = self.folder / name
        folder.mkdir()
        folder.chmod(0o755)
        return folder


def save(path: Path, section: str, status: str, found: Found, seconds: float, **more: Any) -> None:
    """Writes a section's raw file, whole or not at all."""
    document = {"section": section, "status": status, "seconds": round(seconds, 1), "at": time.time(), **more, **found.document()}
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(document, indent=1, ensure_ascii=False))
    draft.replace(path)


def percentile(samples: Sequence[float], share: float) -> float:
    """The sample within which that share (0 to 1) lies."""
    ranked = sorted(samples)
    return ranked[min(len(ranked) - 1, int(len(ranked) * share))]


def over_time(samples: Sequence[tuple[float, float]], share: float, step: float) -> list[list[float]]:
    """[time, percentile] for each step of time; steps without samples are left out."""
    steps: dict[int, list[float]] = {}
    for at, value in samples:
        steps.setdefault(int(at / step), []).append(value)
    return [[round(number * step, 3), percentile(values, share)] for number, values in sorted(steps.items())]


def text(value: object) -> str:
    """A figure as people read it."""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON data; of paths only the file's name: a report tells no machine's folders."""
    return {name: value.name if isinstance(value, Path) else value for name, value in options.items()}
