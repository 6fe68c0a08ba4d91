"""Tool parameters as a workflow file states them, made into a JSON Schema that every provider takes, and the check of arguments.

It removes what the system fills in itself: the model never sees a context variable.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

import jsonschema_rs
import orjson

from common.errors import ConfigInvalid

SYSTEM_NAMES = frozenset({"session_id", "user_id", "agent_id", "tenant", "chatbotId", "chatbot_id"})
NOTHING: Mapping[str, Any] = {"type": "object", "properties": {}}
_SCHEMA_WORDS = frozenset({"type", "properties", "$ref", "allOf", "anyOf", "oneOf", "required", "$defs", "additionalProperties"})
_log = logging.getLogger(__name__)


def object_schema(parameters: Mapping[str, Any], hidden: Collection[str] = ()) -> dict[str, Any]:
    """A schema of type object. A bare map of names to schemas is taken as its properties, `required: true` on a property is moved
    to the list of required ones; the names in `hidden` and the system's own are left out."""
    schema: dict[str, Any] = dict(parameters) if _SCHEMA_WORDS & parameters.keys() else {"properties": dict(parameters)}
    required = [n for n in schema.get("required") or [] if isinstance(n, str)] if isinstance(schema.get("required"), list) else []
    properties: dict[str, Any] = {}
    for name, prop in (schema.get("properties") or {}).items():
        if name in SYSTEM_NAMES or name in hidden:
            continue
        if isinstance(prop, str):
            prop = {"type": "string", "description": prop}
        if isinstance(prop, Mapping) and isinstance(prop.get("required"), bool):
            if prop["required"] and name not in required:
                required.append(name)
            prop = {k: v for k, v in prop.items() if k != "required"}
        properties[name] = prop
    schema["type"], schema["properties"] = "object", properties
    schema.pop("required", None)
    if kept := [n for n in required if n in properties or (n not in SYSTEM_NAMES and n not in hidden)]:
        schema["required"] = kept
    return schema


class Arguments:
    """Checks the arguments of one tool. Raises ConfigInvalid for a schema that points elsewhere; nothing is ever fetched."""

    def __init__(self, name: str, schema: Mapping[str, Any]) -> None:
        self._defaults = {n: p["default"] for n, p in (schema.get("properties") or {}).items() if isinstance(p, Mapping) and "default" in p}
        refuse_remote(schema, name)
        try:
            self._validator = jsonschema_rs.validator_for(dict(schema), retriever=never_fetched)
        except ValueError as e:
            # old files state parameters loosely; such a tool still works, its arguments are just not checked
            _log.warning("tool %s: its parameters are no valid JSON Schema, arguments are not checked: %s", name, str(e).splitlines()[0])
            self._validator = jsonschema_rs.validator_for({"type": "object"})

    def parse(self, text: str) -> dict[str, Any]:
        """The arguments that a model wrote, with defaults filled in. Raises ValueError with a sentence for the model."""
        try:
            value = orjson.loads(text or "{}")
        except orjson.JSONDecodeError as e:
            raise ValueError(f"the arguments are not valid JSON ({e})") from None
        if not isinstance(value, dict):
            raise ValueError("the arguments must be a JSON object")
        value = {**self._defaults, **value}
        problems = [sentence(e) for e in self._validator.iter_errors(value)]
        if problems:
            raise ValueError("the arguments do not fit the schema: " + "; ".join(problems[:5]))
        return value


def sentence(error: jsonschema_rs.ValidationError) -> str:
    """Where and why a value does not fit, for the model that wrote it."""
    where = ".".join(str(p) for p in error.instance_path)
    return f"{where}: {error.message[:300]}" if where else str(error.message)[:300]


def never_fetched(uri: str) -> Any:
    """What a schema refers to elsewhere is not fetched: raises ValueError."""
    raise ValueError(f"references are not fetched: {uri}")


def refuse_remote(node: Any, name: str) -> None:
    """Raises ConfigInvalid for a schema that refers to another document."""
    if isinstance(node, Mapping):
        ref = node.get("$ref")
        if isinstance(ref, str) and not ref.startswith("#"):
            raise ConfigInvalid(f"tool {name}: its parameters refer to {ref[:100]!r}; only references inside the schema (#/…) are taken")
        for value in node.values():
            refuse_remote(value, name)
    elif isinstance(node, list | tuple):
        for value in node:
            refuse_remote(value, name)
