"""Constructs that RE2 lacks are found by reading a pattern, and only those; named groups and placeholders are found likewise."""

from __future__ import annotations

import pytest

from common.workflow.patterns import foreign_construct, group_names
from common.workflow.placeholders import env_names, fill_env, placeholders, variables_of
from common.workflow.schema import Flow, Tool


@pytest.mark.parametrize(
    ("pattern", "construct", "at"),
    [
        (r"a(?=b)", "look-ahead", 2),
        (r"a(?!b)", "negative look-ahead", 2),
        (r"(?<=a)b", "look-behind", 1),
        (r"(?<!a)b", "negative look-behind", 1),
        (r"(a)\1", r"back-reference \1", 4),
        (r"(?P<x>a)(?P=x)", "back-reference (?P=name)", 9),
        (r"(?P<x>a)\k<x>", "back-reference", 9),
        (r"(?>ab)", "atomic group", 1),
        (r"a++", "possessive", 3),
        (r"a*+", "possessive", 3),
        (r"a?+", "possessive", 3),
        (r"a{1,3}+", "possessive", 7),
        (r"(a)?(?(1)b|c)", "conditional", 5),
        (r"a(?R)?b", "recursion", 2),
        (r"end\Z", r"\Z", 4),
        (r"(?#why)a", "comment", 1),
    ],
)
def test_what_re2_lacks_is_named_with_a_way_out(pattern: str, construct: str, at: int) -> None:
    complaint = foreign_construct(pattern)
    assert complaint is not None
    what, _, way_out = complaint.partition(": ")
    assert construct in what
    assert f"at character {at}" in what
    assert len(way_out) > 5


@pytest.mark.parametrize(
    "pattern",
    [
        r"\(?=\)",
        r"[(?=)]+",
        r"[^](?!]x",
        r"a+?b*?c??",
        r"\++",
        r"(?i)a(?:b|c)+",
        r"(?P<n>\d+)(?<m>x)",
        r"\Q(?=\E",
        r"\\1",
        r"a}+",
        r"[[:alpha:](?=]+",
        "申请.*假",
        r"\d{2,}",
        "(",
        "[a",
        "\\",
    ],
)
def test_what_re2_has_is_left_alone(pattern: str) -> None:
    assert foreign_construct(pattern) is None


def test_groups_are_named_in_order() -> None:
    assert group_names(r"(?P<a>x)(?:y)(?<b>z)\(?P<no>[(?P<neither>]") == ["a", "b"]


def test_placeholders_are_told_from_braces() -> None:
    found = placeholders('{a} {b.c[0].d-e} {{f}} {"g": "{h}"} {} {1} ${I} {名字}')
    assert [p.expression for p in found] == ["a", "b.c[0].d-e", "h", "名字"]
    assert found[1].names == ("b", "c", "d-e")


def test_environment_names_are_filled_once() -> None:
    assert env_names("${A}/${B_1}/{a}/$C") == ["A", "B_1"]
    assert fill_env("${A}-${B}-{a}", {"A": "${B}"}) == "${B}-${B}-{a}"


def test_the_variables_that_an_action_takes() -> None:
    action = Tool.model_validate(
        {
            "name": "t",
            "endpoint": {"url": "http://x.example/{a}", "headers": {"B": "{b}"}, "query_params": {"q": ["{c.d}"]}, "body": {"e": "{e}"}},
            "response_template": "{result.f} {{not_one}}",
            "on_error": "{g}",
            "parameter_mapping": {"h": "profile.name"},
        }
    )
    assert variables_of(action) == {"a", "b", "c", "e", "result", "g", "profile"}
    assert variables_of(Flow(flow_id="f", response_template="plain")) == set()
