"""Tool schemas, names and results: what a model sees of a workflow's tools, and what it never does."""

from __future__ import annotations

from typing import Any

import pytest

from common.errors import ConfigInvalid
from heavy.agent.names import wire_names
from heavy.agent.said import Said
from heavy.agent.tool_schema import Arguments, object_schema
from heavy.agent.toolbox import Toolbox, for_model
from heavy.llm.types import ToolCall, ToolSpec


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, {"type": "object", "properties": {}}),
        ({"type": "object"}, {"type": "object", "properties": {}}),
        ({"a": {"type": "string", "required": True}}, {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}),
        ({"a": "an order id"}, {"type": "object", "properties": {"a": {"type": "string", "description": "an order id"}}}),
        (
            {"properties": {"a": {"type": "string"}, "user_id": {"type": "string"}, "shop": {}}, "required": ["a", "user_id", "shop"]},
            {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]},
        ),
        ({"type": "object", "properties": {"session_id": {}}, "required": ["session_id"]}, {"type": "object", "properties": {}}),
    ],
)
def test_object_schema(given: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert object_schema(given, hidden={"shop"}) == wanted


def test_remote_references_are_refused_and_local_ones_work() -> None:
    for ref in ("http://127.0.0.1:1/schema.json", "other.json#/a", "file:///etc/passwd"):
        with pytest.raises(ConfigInvalid, match="tool t"):
            Arguments("t", {"type": "object", "properties": {"a": {"$ref": ref}}})
    schema = {"type": "object", "properties": {"a": {"$ref": "#/$defs/n"}}, "$defs": {"n": {"type": "integer"}}}
    with pytest.raises(ValueError, match='a: "x" is not of type "integer"'):
        Arguments("t", schema).parse('{"a": "x"}')


def test_a_sloppy_schema_still_works_and_checks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    assert Arguments("t", {"type": "object", "properties": {"a": {"type": "str"}}}).parse('{"a": 1}') == {"a": 1}
    assert "no valid JSON Schema" in caplog.text


def test_defaults_are_filled_in() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer", "default": 3}}, "required": ["n"]}
    assert Arguments("t", schema).parse("{}") == {"n": 3}
    assert Arguments("t", schema).parse('{"n": 4}') == {"n": 4}


def test_wire_names() -> None:
    assert wire_names(["get_order", "get.order", "退款", "done", "x" * 80], reserved={"done"}) == [
        "get_order",
        "get_order_2",
        "action_3",
        "done_2",
        "x" * 64,
    ]


def test_results_are_cut_for_the_model() -> None:
    assert for_model({"a": "ü"}) == '{"a":"ü"}'
    cut = for_model("x" * 30_000)
    assert len(cut) < 20_100
    assert cut.endswith("the result has 30000 characters]")


def test_a_call_with_unknown_name_lists_the_tools() -> None:
    box = Toolbox([ToolSpec("a", "", {"type": "object", "properties": {}})])
    with pytest.raises(ValueError, match="the tools are: a"):
        box.parse(ToolCall("1", "b", "{}"))


def test_deltas_concatenate_to_the_text() -> None:
    said = Said(["before"])
    out = [said.delta(t) for t in ("\n", " ", "Let me", " look. ")]
    said.close()
    out += [said.delta("\n\n"), said.delta("  Done"), said.rest("\n\n  Done!")]
    said.close()
    assert "before" + "".join(out) == said.text == "before\n\nLet me look. \n\nDone!"
    assert said.contains(" Done! ")
    assert not said.contains("other")
