"""`loadsplit match FILE "text"`: the routing of a text by rule, as JSON, without calling anything."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import orjson

from common.settings import read_environ
from common.workflow.load import examine_file
from common.workflow.problems import WorkflowInvalid
from lightweight.matching.compile import check_pattern, compile_rules
from lightweight.matching.explain import explain
from standalone.commands.advice import RulePlaces


def run(file: Path, text: str, *, context: str = "{}", in_conversation: bool = False) -> None:
    """Prints the explanation. Raises WorkflowInvalid with every problem of the file, ValueError for a context that is no JSON object."""
    told = explained(file, text, _context(context), in_conversation=in_conversation)
    sys.stdout.write(orjson.dumps(told, option=orjson.OPT_INDENT_2).decode() + "\n")


def explained(file: Path, text: str, context: dict[str, Any], *, in_conversation: bool = False) -> dict[str, Any]:
    """What `explain` tells, and of each candidate the line and column of its pattern in the file."""
    examined = examine_file(file, read_environ(), check_pattern=check_pattern)
    if examined.workflow is None:
        raise WorkflowInvalid(sorted(examined.problems, key=lambda p: p.level))
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("the text is not UTF-8") from None
    matcher = compile_rules(examined.workflow)
    told = explain(matcher, text, context, in_conversation=in_conversation)
    paths = RulePlaces.of(examined.workflow, examined.place, str(file)).paths
    for candidate in told["candidates"]:
        path = paths[candidate["action_type"], candidate["action_target"], candidate["pattern"]]
        candidate["line"], candidate["column"] = examined.place(path)
    return told


def _context(written: str) -> dict[str, Any]:
    try:
        value = json.loads(written)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(f'--context takes a JSON object such as \'{{"plan": "gold"}}\', not {written[:60]!r}')
    return value
