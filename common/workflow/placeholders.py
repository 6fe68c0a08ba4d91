"""The placeholders of templates, as far as a file can be judged by them: `{name.path[0]}`, `{{`, `}}`, `${NAME}` and `${NAME:-default}`.

It finds and names them; `common.endpoints.template` fills them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from common.workflow.problems import Path
from common.workflow.schema import Ruled

_PARTS = re.compile(
    r"(?P<env>\$\{(?P<env_name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<env_default>[^{}]*))?\})"
    r"|(?P<escaped>\{\{|\}\})"
    r"|\{(?P<expression>[^\W\d][\w-]*(?:\.[\w-]+|\[-?\d{1,6}\])*)\}"
)
_NAMES = re.compile(r"[^\W\d]")


@dataclass(frozen=True, slots=True)
class Placeholder:
    """`name` is the variable, `names` it and the names of the path behind it, `expression` all that stands between the braces."""

    expression: str
    name: str
    names: tuple[str, ...]
    at: int


def placeholders(text: str) -> list[Placeholder]:
    """The placeholders of a template, in order. Braces that are no placeholder, such as those of JSON, are left alone."""
    found = []
    for match in _PARTS.finditer(text):
        expression = match["expression"]
        if expression is not None:
            names = tuple(part for part in re.split(r"[.\[\]]", expression) if _NAMES.match(part))
            found.append(Placeholder(expression, names[0], names, match.start()))
    return found


def env_names(text: str) -> list[str]:
    """The `${NAME}`s of a text, in order."""
    return [match["env_name"] for match in _PARTS.finditer(text) if match["env"]]


def missing_env(text: str, env: Mapping[str, str]) -> list[str]:
    """The names that `env` lacks and that have no default of their own."""
    return [m["env_name"] for m in _PARTS.finditer(text) if m["env"] and m["env_default"] is None and m["env_name"] not in env]


def fill_env(text: str, env: Mapping[str, str]) -> str:
    """The text with each `${NAME}` replaced by its value, or by its default (`${NAME:-default}`); an unknown one stays."""

    def value(match: re.Match[str]) -> str:
        if not match["env"]:
            return match.group()
        default = match["env"] if match["env_default"] is None else match["env_default"]
        return env.get(match["env_name"], default)

    return _PARTS.sub(value, text)


def strings(value: Any, path: Path) -> Iterator[tuple[str, Path]]:
    """Every string inside a JSON value, with its path. Keys are not templates."""
    if isinstance(value, str):
        yield value, path
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from strings(inner, (*path, key))
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            yield from strings(inner, (*path, i))


def variables_of(action: Ruled) -> set[str]:
    """The names of the variables that an action takes: in its endpoint, its texts and its `parameter_mapping`."""
    endpoint = getattr(action, "endpoint", None)
    texts = [
        action.response_template,
        action.on_error,
        action.on_empty,
        *("{" + s.strip("{} ") + "}" for s in action.parameter_mapping.values()),
    ]
    if endpoint is not None:
        texts += [endpoint.url, *endpoint.headers.values(), *(t for t, _ in strings([endpoint.query_params, endpoint.body], ()))]
    return {found.name for text in texts if text for found in placeholders(text)}
