"""A program that is run to its end for what it prints. When it fails, the error is its own last words, not that it failed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from typing import Any


def output_of(command: Sequence[str], *, given: str | None = None) -> str:
    """What it prints. Raises RuntimeError with the last line of its errors."""
    done = subprocess.run(command, input=given, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise RuntimeError(f"{_name(command)} ended with {done.returncode}: {last}")
    return done.stdout


def json_of(command: Sequence[str]) -> Any:
    """The same of a program that prints JSON."""
    return json.loads(output_of(command))


def _name(command: Sequence[str]) -> str:
    """The module or program that a command runs, behind `taskset -c 1` and `python -m`."""
    words = list(command)
    if "-m" in words:
        return words[words.index("-m") + 1]
    return words[3 if words[0] == "taskset" else 0].rpartition("/")[2]
