"""What is wrong with a workflow file: one problem with its place and the way out, and the error that carries all of them.

It knows nothing of files or schemas.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from common.errors import ConfigInvalid

Level = Literal["error", "warning"]
Path = tuple[str | int, ...]

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem. `path` is a JSON path such as `$.flows[3].trigger_patterns[0]`; `line` and `column` count from 1, in characters."""

    level: Level
    code: str
    message: str
    hint: str = ""
    path: str = "$"
    file: str = ""
    line: int = 1
    column: int = 1

    def __str__(self) -> str:
        way_out = f" — {self.hint}" if self.hint else ""
        return f"{self.file}:{self.line}:{self.column}: {self.level} {self.code} {self.message}{way_out}"

    def as_dict(self) -> dict[str, Any]:
        """The fields as they stand in `--json` output and in a 422's `problems`."""
        return asdict(self)


class WorkflowInvalid(ConfigInvalid):
    """Workflow files that do not hold. `problems` are all of them, warnings too, in the order of the files."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        errors = [p for p in self.problems if p.level == "error"]
        first = str(errors[0]) if errors else "no reason given"
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        super().__init__(first + more, problems=[p.as_dict() for p in self.problems])

    def __str__(self) -> str:
        return "\n".join(str(p) for p in self.problems if p.level == "error")


def json_path(path: Path) -> str:
    """The path as text: `$`, then `.key`, `['odd key']` and `[index]`."""
    out = ["$"]
    for part in path:
        if isinstance(part, int):
            out.append(f"[{part}]")
        elif _PLAIN_KEY.match(part):
            out.append(f".{part}")
        else:
            out.append("['" + part.replace("\\", "\\\\").replace("'", "\\'") + "']")
    return "".join(out)


def in_order(problems: Iterable[Problem]) -> list[Problem]:
    """By place in the file; errors before warnings at the same place. The same problem is told once."""
    seen = dict.fromkeys(problems)
    return sorted(seen, key=lambda p: (p.file, p.line, p.column, p.level, p.code))
