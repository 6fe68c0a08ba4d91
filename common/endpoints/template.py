"""Templates are data, not code: `{name}` and `{name.path[0].x}`, parsed once, filled by walking dicts and lists only.

`{{` is a literal `{`, and the `}}` that closes it a literal `}`. Whatever else is no placeholder stays as it stands, as JSON's braces do.
It knows nothing of HTTP: URLs and headers are put together in `request.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

_TOKEN = re.compile(
    r"\$\{(?P<env>[A-Za-z_]\w*)(?::-(?P<default>[^{}]*))?\}"  # only looked at when an environment is given
    r"|(?P<open>\{\{)|(?P<close>\}\})"
    r"|\{(?P<name>[^\W\d][\w-]*)(?P<path>(?:\.[\w-]+|\[-?\d{1,6}\])*)\}"
)
_STEP = re.compile(r"\.([\w-]+)|\[(-?\d+)\]")


class Missing:
    """The type of MISSING: a variable that is not there. It differs from None, which is a value."""

    __slots__ = ()

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        return "MISSING"


MISSING = Missing()


@dataclass(frozen=True, slots=True)
class Field:
    """One placeholder: the variable's name and the steps from there, names of dict keys and places in lists."""

    name: str
    steps: tuple[str | int, ...] = ()

    def of(self, variables: Mapping[str, Any]) -> Any:
        """The value, MISSING where a step leads nowhere. Only dicts and lists are walked, never attributes."""
        value = variables.get(self.name, MISSING)
        for step in self.steps:
            if type(step) is str:
                if isinstance(value, Mapping):
                    value = value.get(step, MISSING)
                    continue
                if not (isinstance(value, list | tuple) and step.isascii() and step.isdigit()):
                    return MISSING
                step = int(step)
            if not isinstance(value, list | tuple) or not -len(value) <= step < len(value):  # type: ignore[operator]
                return MISSING
            value = value[step]  # type: ignore[index]
        return value


@dataclass(frozen=True, slots=True)
class Template:
    """A parsed text: literal pieces and fields in their order."""

    pieces: tuple[str | Field, ...]

    @classmethod
    def parse(cls, text: str, env: Mapping[str, str] | None = None) -> Template:
        """Parses a text. With `env`, `${NAME}` becomes that variable's value, literally, whatever it holds, and
        `${NAME:-default}` its default without one.

        Raises ValueError for attribute-like access (a name part that begins with `_`) and for a `${NAME}` that `env` lacks.
        """
        pieces: list[str | Field] = []
        literal: list[str] = []
        at = depth = 0
        while found := _TOKEN.search(text, at):
            literal.append(text[at : found.start()])
            at = found.end()
            if name := found["env"]:
                if env is None:  # no environment here: this is a dollar sign before a placeholder
                    literal.append("$")
                    at = found.start() + 1
                elif (value := env.get(name, found["default"])) is None:
                    raise ValueError(f"the environment variable {name} is not set")
                else:
                    literal.append(value)
            elif found["open"]:
                literal.append("{")
                depth += 1
            elif found["close"]:
                # in `{"a": {"b": 1}}` nothing was doubled on purpose, so nothing is halved
                literal.append("}" if depth else "}}")
                depth = max(0, depth - 1)
            else:
                field = _field(found["name"], found["path"])
                if joined := "".join(literal):
                    pieces.append(joined)
                literal = []
                pieces.append(field)
        literal.append(text[at:])
        if joined := "".join(literal):
            pieces.append(joined)
        return cls(tuple(pieces))

    @property
    def names(self) -> frozenset[str]:
        """The variables that it asks for."""
        return frozenset(p.name for p in self.pieces if type(p) is Field)

    @property
    def constant(self) -> str | None:
        """The text, when there is no placeholder in it."""
        return None if self.names else "".join(str(p) for p in self.pieces)

    @property
    def sole(self) -> Field | None:
        """The placeholder, when the text is exactly one."""
        return self.pieces[0] if len(self.pieces) == 1 and type(self.pieces[0]) is Field else None

    def render(self, variables: Mapping[str, Any]) -> str:
        """The text with every value put in: strings as they are, nothing for what is missing or null, compact JSON for the rest."""
        return "".join([p if type(p) is str else as_text(p.of(variables)) for p in self.pieces])  # type: ignore[union-attr]

    @staticmethod
    def fill_json(tree: Any, variables: Mapping[str, Any]) -> Any:
        """Fills a value tree of `compile_json`. Values go in structurally and are never read again: they cannot add keys or templates."""
        return _fill(tree, variables)


def compile_json(value: Any) -> Any:
    """A JSON value with every string that holds a placeholder parsed, to a Field where it holds nothing else; keys stay as they are.

    Raises ValueError like `Template.parse`.
    """
    if type(value) is str:
        template = Template.parse(value)
        constant = template.constant
        return (template.sole or template) if constant is None else constant
    if isinstance(value, Mapping):
        return {k: compile_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [compile_json(v) for v in value]
    return value


def tree_names(tree: Any) -> frozenset[str]:
    """The variables that a compiled value tree asks for."""
    if type(tree) is Template:
        return tree.names
    if type(tree) is Field:
        return frozenset((tree.name,))
    if isinstance(tree, dict | list):
        return frozenset().union(*(tree_names(v) for v in (tree.values() if isinstance(tree, dict) else tree)))
    return frozenset()


def json_tree(text: str) -> Any:
    """The compiled tree of a string that holds JSON, bare placeholders included (`{"amount": {amount}}`). MISSING when it is no JSON."""
    for candidate in (text, _quote_bare(text)):
        try:
            value = json.loads(candidate)
        except (ValueError, RecursionError):
            continue
        return compile_json(value) if isinstance(value, dict | list) else MISSING
    return MISSING


def as_text(value: Any) -> str:
    """A value inside a text: strings as they are, nothing for None and MISSING, compact JSON for the rest."""
    if type(value) is str:
        return value
    if value is None or value is MISSING:
        return ""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # integers of more than 64 bits
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def _field(name: str, path: str) -> Field:
    steps = tuple(key or int(place) for key, place in _STEP.findall(path))
    for part in (name, *steps):
        if type(part) is str and part.startswith("_"):
            raise ValueError(f"the placeholder {{{name}{path}}} reaches for {part!r}: names that begin with _ are refused")
    return Field(name, steps)


def _fill(tree: Any, variables: Mapping[str, Any]) -> Any:
    kind = type(tree)
    if kind is Field:
        value = tree.of(variables)
        return None if value is MISSING else value
    if kind is Template:
        return _fill(tree.sole, variables) if tree.sole else tree.render(variables)
    if kind is dict:
        return {k: _fill(v, variables) for k, v in tree.items()}
    if kind is list:
        return [_fill(v, variables) for v in tree]
    return tree


def _quote_bare(text: str) -> str:
    """Puts quotes around placeholders that stand outside JSON strings."""
    return re.sub(
        r'("(?:[^"\\]|\\.)*")|(\{[^\W\d][\w-]*(?:\.[\w-]+|\[-?\d{1,6}\])*\})',
        lambda m: m[1] or f'"{m[2]}"',
        text,
    )
