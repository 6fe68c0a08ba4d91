"""A document → the model, with every fault of shape told for people: what is wrong, where, and the way out.

A faulty part is left out and the rest checked on, so that one run tells everything. It knows nothing of what the parts mean together.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from common.workflow.positions import has
from common.workflow.problems import Path
from common.workflow.report import Report
from common.workflow.schema import Workflow

MAX_ROUNDS = 12
STAND_IN = "no-valid-id-"
"""Begins the ids that stand in for missing or faulty ones while the rest is checked; nothing that names one is worth telling."""

_IDS = frozenset({"agent_id", "flow_id", "skill_id", "action_id", "timer_id", "name"})
_NAMES = {
    "str": "text",
    "int": "a number",
    "float": "a number",
    "bool": "true or false",
    "none": "null",
    "dict": "an object",
    "list": "a list",
    "tuple": "a list",
}
_WANTED = {
    "string": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "tuple": "a list",
    "list": "a list",
    "dict": "an object",
    "mapping": "an object",
    "model": "an object",
    "none": "null",
}
_TYPE_FAULTS = frozenset({"type", "parsing", "from_float", "parsing_size", "attributes_type"})
_PATTERNS = {
    "agent_id": "1 to 128 characters of A-Z a-z 0-9 . _ : @ -",
    "tools": "1 to 64 characters of A-Z a-z 0-9 _ . - (the LLM is given it as it stands)",
    "mcp_servers": "1 to 32 characters of A-Z a-z 0-9 _ -",
}


def validate(report: Report) -> Workflow | None:
    """The workflow of the report's document; faults go to the report.

    Where there are some, it is what remains without the faulty parts (None if nothing does). The report then leads paths back to the text.
    """
    doc = report.source.doc
    if not isinstance(doc, dict):
        report.error("wrong_type", f"a workflow file holds one object, not {_kind(doc)}", ())
        return None
    pruned = _Pruned(doc)
    if "config_hash" in doc:
        report.error("unknown_key", "unknown key 'config_hash'", ("config_hash",), "it is computed; remove it", at_key=True)
        pruned.drop([("config_hash",)])
    for first in range(MAX_ROUNDS):
        try:
            workflow = Workflow.model_validate(pruned.doc)
        except ValidationError as e:
            faults = _by_place(e.errors(include_url=False), pruned.doc)
            if first == 0:
                for path, errors in faults.items():
                    _tell(path, errors, report)
            if not pruned.mend(faults):
                return None
            continue
        report.original = pruned.original
        return workflow
    return None


class _Pruned:
    """A copy of a document from which parts are taken out; it knows where the remaining ones stood."""

    def __init__(self, doc: dict[str, Any]) -> None:
        self._stood: dict[int, list[int]] = {}
        self.doc = self._copy(doc)

    def _copy(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {k: self._copy(v) for k, v in value.items()}
        if isinstance(value, list):
            copy = [self._copy(v) for v in value]
            self._stood[id(copy)] = list(range(len(copy)))
            return copy
        return value

    def mend(self, faults: Mapping[Path, list[ErrorDetails]]) -> bool:
        """Puts stand-ins in the place of faulty ids and takes all other faulty parts out. False if there is nothing left to do."""
        stand_ins = []
        for path, errors in faults.items():
            lost = {e["loc"][-1] for e in errors if e["type"] == "missing"}
            if lost and lost <= _IDS and len(lost) == len(errors):
                stand_ins += [(*path, str(name)) for name in lost]
            elif path and path[-1] in _IDS and errors[0]["type"] != "extra_forbidden":
                stand_ins.append(path)
        covered = set(stand_ins) | {p[:-1] for p in stand_ins}
        for number, path in enumerate(stand_ins):
            holder: Any = self.doc
            for part in path[:-1]:
                holder = holder[part]
            holder[path[-1]] = f"{STAND_IN}{id(holder)}-{number}"
        return self.drop(p for p in faults if p not in covered) or bool(stand_ins)

    def drop(self, paths: Iterable[Path]) -> bool:
        """Takes the values at those paths out. False if there was nothing to take."""
        dropped = False
        # list entries from the back, so that the indices of those still to go stay right
        for path in sorted(paths, key=lambda p: tuple((isinstance(x, int), x) for x in p), reverse=True):
            here = self.doc
            for part in path[:-1]:
                if not has(here, part):
                    break
                here = here[part]
            else:
                if path and has(here, path[-1]):
                    del here[path[-1]]
                    if isinstance(here, list):
                        del self._stood[id(here)][path[-1]]  # type: ignore[arg-type]
                    dropped = True
        return dropped

    def original(self, path: Path) -> Path:
        """Where the value at this path of the copy stands in the original document."""
        here: Any = self.doc
        out: list[str | int] = []
        for part in path:
            if isinstance(here, list) and has(here, part):
                out.append(self._stood[id(here)][int(part)])
            else:
                out.append(part)
            here = here[part] if has(here, part) else None
        return tuple(out)


def _by_place(errors: list[ErrorDetails], doc: Any) -> dict[Path, list[ErrorDetails]]:
    """Errors by the path of the value they are about. Parts of a location that lead nowhere are names of union members or missing keys."""
    places: dict[Path, list[ErrorDetails]] = {}
    for error in errors:
        path: list[str | int] = []
        here = doc
        for part in error["loc"]:
            if has(here, part):
                path.append(part)
                here = here[part]
        places.setdefault(tuple(path), []).append(error)
    return places


def _tell(path: Path, errors: list[ErrorDetails], report: Report) -> None:
    first = errors[0]
    if first["type"] == "extra_forbidden":
        known = _keys_at(path[:-1])
        close = difflib.get_close_matches(str(path[-1]), known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
        report.error("unknown_key", f"unknown key {str(path[-1])[:64]!r}", path, hint, at_key=True)
        return
    missing = [e for e in errors if e["type"] == "missing"]
    for error in missing:
        name = error["loc"][-1]
        what = f"{name} is missing" if isinstance(name, str) else "there are too few values in this list"
        report.error("missing", what, path, _purpose(name))
    if len(errors) == len(missing):
        return
    rest = [e for e in errors if e["type"] != "missing"]
    name = next((p for p in reversed(path) if isinstance(p, str)), "the value")
    if path and isinstance(path[-1], int):
        name += f"[{path[-1]}]"
    if len(rest) > 1 and all(len(e["loc"]) > len(path) for e in rest):
        _tell_union(path, name, rest, report)
        return
    for error in rest:
        _tell_one(path, name, error, report)


def _tell_union(path: Path, name: str, errors: list[ErrorDetails], report: Report) -> None:
    value = errors[0]["input"]
    literals = [w for e in errors if e["type"] == "literal_error" for w in _choices(e["ctx"]["expected"])]
    if literals:
        _tell_choice(path, name, value, literals, report)
        return
    members = [str(e["loc"][len(path)]).partition("[")[0] for e in errors]
    wanted = list(dict.fromkeys(_NAMES.get(m, m) for m in members))
    report.error("wrong_type", f"{name} must be {' or '.join(wanted)}, not {_kind(value)}", path)


def _tell_one(path: Path, name: str, error: ErrorDetails, report: Report) -> None:
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    subject, _, fault = kind.partition("_")
    wanted = _WANTED.get(subject) if fault in _TYPE_FAULTS else None
    if kind == "literal_error":
        _tell_choice(path, name, value, _choices(context["expected"]), report)
    elif kind == "string_pattern_mismatch":
        want = _PATTERNS.get(name if name != "name" else str(path[0]), f"it must match {context['pattern']}")
        report.error("wrong_value", f"{_shown(value)} can't be the {name}", path, want)
    elif kind in ("string_too_short", "string_too_long"):
        bound = context.get("min_length", context.get("max_length"))
        report.error("wrong_value", f"{name} must have {'at least' if 'min_length' in context else 'at most'} {bound} characters", path)
    elif kind in ("too_short", "too_long"):
        report.error("wrong_value", f"there are too {kind[4:].replace('short', 'few').replace('long', 'many')} values in {name}", path)
    elif wanted:
        hint = "put it in quotes" if kind == "string_type" and isinstance(value, int | float | bool) else ""
        got = "one with a fraction" if kind == "int_from_float" else _kind(value)
        report.error("wrong_type", f"{name} must be {wanted}, not {got}", path, hint)
    else:
        said = error["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        report.error("wrong_value", f"{name} must be {said}", path)


def _keys_at(path: Path) -> list[str]:
    """The keys that the object at this path may have."""
    model: type[BaseModel] = Workflow
    for part in path:
        if isinstance(part, str):
            field = model.model_fields.get(part)
            inner = _model_in(field.annotation) if field else None
            if inner is None:
                return []
            model = inner
    return [name for name in model.model_fields if not (model is Workflow and name == "config_hash")]


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((m for m in map(_model_in, get_args(annotation)) if m), None)


def _tell_choice(path: Path, name: str, value: Any, choices: list[str], report: Report) -> None:
    close = difflib.get_close_matches(value.lower(), choices, n=1) if isinstance(value, str) else []
    wanted = ", ".join(choices[:-1]) + f" or {choices[-1]}" if len(choices) > 1 else choices[0]
    report.error("wrong_value", f"{name} must be {wanted}, not {_shown(value)}", path, f"did you mean {close[0]!r}?" if close else "")


def _choices(expected: str) -> list[str]:
    """pydantic's "'a', 'b' or 'c'" as a list."""
    return [word.strip().strip("'") for word in expected.replace(" or ", ",").split(",")]


def _purpose(name: Any) -> str:
    return {
        "endpoint": 'add "endpoint": {"url": …}',
        "url": "add the address of the call",
        "expect": "say what the test expects",
    }.get(str(name), f"add {name}" if isinstance(name, str) else "add what is missing")


def _shown(value: Any) -> str:
    return repr(value[:40]) if isinstance(value, str) else _kind(value)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    return "a list" if isinstance(value, list) else "an object"
