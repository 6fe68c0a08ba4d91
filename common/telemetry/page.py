"""The catalogue of metrics as the tables of docs/metrics.md: `python -m common.telemetry.page docs/metrics.md` writes them anew."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from common.telemetry.genai import GENAI
from common.telemetry.metrics import CATALOGUE
from common.telemetry.specs import Spec, unit_of

HEADING = "## All metrics\n\n"


def tables() -> str:
    """Both tables, in Markdown."""
    own = {f"loadsplit_{name}": spec for name, spec in CATALOGUE.items()}
    return f"{_table(own)}\n## Calls of models, by OpenTelemetry's names\n\n{_table(GENAI)}"


def _table(specs: Mapping[str, Spec]) -> str:
    lines = ["| metric | kind | unit | labels | what it says |", "|---|---|---|---|---|"]
    for name, spec in specs.items():
        labels = ", ".join(f"`{label}`" for label in spec.labels)
        lines.append(f"| `{name}` | {spec.kind} | {unit_of(name)} | {labels} | {spec.says} |")
    return "\n".join(lines) + "\n"


def write(path: Path) -> None:
    """Puts the tables behind the document's heading HEADING, in the place of what stood there."""
    text = path.read_text(encoding="utf-8")
    path.write_text(text[: text.index(HEADING) + len(HEADING)] + tables(), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
