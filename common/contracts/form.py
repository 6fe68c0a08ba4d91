"""The form in which an agent's answer is asked for: OpenAI's `response_format`. Its outside is read here; the schema in the heavy tier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from common.errors import InvalidRequest

SCHEMA_FIELD = "response_format.json_schema.schema"
ANY_OBJECT: Mapping[str, Any] = {"type": "object"}


def read_form(form: Any) -> Mapping[str, Any] | None:
    """The JSON Schema that the answer must fit, None where words are wanted. Raises InvalidRequest naming the parameter."""
    if form is None:
        return None
    kind = form.get("type") if type(form) is dict else None
    if kind == "text":
        return None
    if kind == "json_object":
        return ANY_OBJECT
    if kind != "json_schema":
        raise InvalidRequest("response_format.type must be text, json_object or json_schema", field="response_format")
    inner = form.get("json_schema")
    if type(inner) is not dict or type(inner.get("name")) is not str or not inner["name"]:
        raise InvalidRequest("response_format.json_schema must be an object with a name and a schema", field="response_format.json_schema")
    schema = inner.get("schema", ANY_OBJECT)
    if type(schema) is not dict or schema.get("type") != "object":
        raise InvalidRequest(f'{SCHEMA_FIELD} must be a JSON Schema of "type": "object"', field=SCHEMA_FIELD)
    return schema
