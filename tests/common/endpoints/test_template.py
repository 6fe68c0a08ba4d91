"""Templates: what is a placeholder, what is refused, how values go into texts and JSON."""

from __future__ import annotations

import pytest

from common.endpoints.template import MISSING, Template, as_text, compile_json, json_tree, tree_names

VALUES = {"name": "Ann", "n": 3, "yes": True, "no": None, "result": {"items": [{"name": "kettle"}], "total": 1.5, "order-id": "A1"}}


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("hello {name}", "hello Ann"),
        ("{n} {yes} {no}|{nowhere}", "3 true |"),
        ("{result.items[0].name}", "kettle"),
        ("{result.items.0.name} {result.items[-1].name}", "kettle kettle"),
        ("{result.order-id}", "A1"),
        ("{result.items[7].name}{result.total.x}{name[0]}", ""),
        ("{result.items}", '[{"name":"kettle"}]'),
        ("{{name}} is {name}", "{name} is Ann"),
        ("{{{name}}}", "{Ann}"),
        ('{"a": {"b": 1}}', '{"a": {"b": 1}}'),
        ('{{"a": {{"b": {n}}}}}', '{"a": {"b": 3}}'),
        ("{} {0} {a b} { name } }{", "{} {0} {a b} { name } }{"),
        ("{name!r} {name:>9}", "{name!r} {name:>9}"),
        ("costs ${n}", "costs $3"),
        ("{中文}", ""),
        ("", ""),
    ],
)
def test_text_is_filled(text: str, filled: str) -> None:
    assert Template.parse(text).render(VALUES) == filled


@pytest.mark.parametrize("text", ["{name.__class__}", "{_private}", "{a.b[0]._c}", "{result.__init__.__globals__}"])
def test_names_with_an_underscore_first_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="refused"):
        Template.parse(text)


def test_values_are_never_read_again() -> None:
    assert Template.parse("{a}").render({"a": "{b}", "b": "secret"}) == "{b}"
    assert Template.fill_json(compile_json({"x": "{a}"}), {"a": '", "y": "{b}', "b": "secret"}) == {"x": '", "y": "{b}'}


def test_only_dicts_and_lists_are_walked() -> None:
    class Thing:
        password = "x"

    assert Template.parse("{thing.password}").render({"thing": Thing()}) == ""


def test_environment_is_literal() -> None:
    template = Template.parse("${BASE}/x/{id}", {"BASE": "http://h/{id}"})
    assert template.render({"id": "7"}) == "http://h/{id}/x/7"
    with pytest.raises(ValueError, match="NOT_THERE"):
        Template.parse("${NOT_THERE}", {})


def test_names_constant_and_sole() -> None:
    assert Template.parse("{a} {b.c}").names == {"a", "b"}
    assert Template.parse("{{x}}").constant == "{x}"
    assert Template.parse("a{b}").constant is None
    assert Template.parse("{b}").sole is not None
    assert Template.parse("{b} ").sole is None


def test_json_values_keep_their_type() -> None:
    tree = compile_json({"n": "{n}", "t": "n={n}", "l": ["{result.items}", 5], "no": "{nowhere}", "s": "{digits}", "k{n}": 1})
    assert Template.fill_json(tree, {**VALUES, "digits": "007"}) == {
        "n": 3,
        "t": "n=3",
        "l": [[{"name": "kettle"}], 5],
        "no": None,
        "s": "007",
        "k{n}": 1,
    }
    assert tree_names(tree) == {"n", "result", "nowhere", "digits"}


def test_a_string_that_holds_json_becomes_a_tree() -> None:
    assert Template.fill_json(json_tree('{"amount": {amount}, "by": "{who}", "o": {"p": {}}}'), {"amount": 5, "who": 'a"b'}) == {
        "amount": 5,
        "by": 'a"b',
        "o": {"p": {}},
    }
    assert json_tree("{input}") is MISSING
    assert json_tree("plain words") is MISSING
    assert json_tree("[" * 100_000) is MISSING


def test_any_value_has_a_text() -> None:
    assert as_text(2**80) == str(2**80)
    assert as_text({"中": [1, None]}) == '{"中":[1,null]}'
    assert as_text(MISSING) == ""
    assert repr(MISSING) == "MISSING"
