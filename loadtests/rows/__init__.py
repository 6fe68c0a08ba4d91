"""The sections of a bench, a module each: what it starts, what it loads, which figures it finds. None of them judges or prints.

Each has `seconds(stage)`, what it takes, about, and `measure(stage)`, which fills `stage.found`.
"""

from __future__ import annotations

import importlib
from typing import Any

_SECTIONS = {
    "paths": "rules and flows",
    "matching": "matching",
    "turns": "LLM turns and their streams",
    "gateway": "a model asked directly",
    "isolation": "isolation",
    "handoff": "the hand-off of streams",
    "activation": "the activation of a configuration",
    "scaling": "more replicas",
    "growth": "more data",
    "deployments": "deployments side by side",
    "scenario": "users of every kind, and real arrivals",
}


def sections() -> dict[str, str]:
    """Names of the sections in the order in which they run, with words for a reader. The soak is run only when it is asked for."""
    return dict(_SECTIONS)


def section_of(name: str) -> Any:
    """The module of a section. It is imported only where it is needed: Locust changes the whole process that imports it."""
    return importlib.import_module(f"loadtests.rows.{name}")
