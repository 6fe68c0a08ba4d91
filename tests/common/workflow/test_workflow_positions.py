"""JSON and YAML texts are read as the standard readers read them, and every value and key is found at its line and column."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import yaml

from common.workflow.json_text import parse_json
from common.workflow.positions import MAX_DEPTH, Source, TextInvalid, line_starts
from common.workflow.yaml_text import MAX_ALIASED, parse_yaml

WORDS = ["", "a", "flows", 'q"uote', "back\\slash", "tab\there", "line\nbreak", "名字", "😀", "\x7f", "{name}", "é", " a b "]


def documents(seed: int, words: list[str], count: int = 60) -> Iterator[Any]:
    rng = random.Random(seed)

    def value(depth: int) -> Any:
        kind = rng.randrange(8 if depth < 4 else 6)
        if kind == 6:
            return {rng.choice(words) + str(i): value(depth + 1) for i in range(rng.randrange(4))}
        if kind == 7:
            return [value(depth + 1) for _ in range(rng.randrange(4))]
        return [rng.choice(words), rng.randint(-(10**12), 10**12), rng.uniform(-1e9, 1e9), True, False, None][kind]

    for _ in range(count):
        yield {f"k{i}": value(0) for i in range(rng.randrange(5))}


def paths(value: Any, here: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    if here:
        yield here, value
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in members:
        yield from paths(inner, (*here, key))


def text_at(source: Source, place: tuple[int, int]) -> str:
    line, column = place
    return source.text[line_starts(source.text)[line - 1] + column - 1 :]


@pytest.mark.parametrize("form", [{}, {"indent": 1}, {"indent": 3, "ensure_ascii": False}, {"separators": (",", ":")}])
def test_json_is_read_as_the_standard_library_reads_it(form: dict[str, Any]) -> None:
    for doc in documents(1, WORDS):
        text = json.dumps(doc, **form)
        assert parse_json(text).doc == json.loads(text)


@pytest.mark.parametrize("form", [{}, {"indent": 2}, {"indent": 0, "ensure_ascii": False}])
def test_every_json_value_and_key_is_where_its_place_says(form: dict[str, Any]) -> None:
    for doc in documents(2, WORDS):
        source = parse_json(json.dumps(doc, **form))
        ascii_only = form.get("ensure_ascii", True)
        for path, value in paths(doc):
            begins = {dict: "{", list: "["}.get(type(value)) or json.dumps(value, ensure_ascii=ascii_only)
            assert text_at(source, source.value(path)).startswith(begins)
            key = json.dumps(path[-1], ensure_ascii=ascii_only) if isinstance(path[-1], str) else begins
            assert text_at(source, source.key(path)).startswith(key)


def test_broken_json_is_refused_exactly_when_the_standard_library_refuses_it() -> None:
    rng = random.Random(3)
    for doc in documents(3, WORDS, 80):
        text = json.dumps(doc, indent=1)
        for _ in range(12):
            at = rng.randrange(len(text))
            broken = text[:at] + rng.choice(["", ",", '"', "}", "]", ":", "\\", "x", "-", "0", ".", "\n"]) + text[at + rng.randrange(2) :]
            expected, found = attempt(json.loads, broken), attempt(lambda text: parse_json(text).doc, broken)
            if isinstance(found, TextInvalid):
                assert isinstance(expected, ValueError) or found.code == "duplicate_key", broken
                assert 0 <= found.offset <= len(broken)
            else:
                assert found == expected, broken


def attempt(read: Callable[[str], Any], text: str) -> Any:
    try:
        return read(text)
    except ValueError as e:
        return e


@pytest.mark.parametrize(
    ("text", "code", "line", "column", "says"),
    [
        ('{\n "a": 1,\n "b" 2\n}', "syntax", 3, 6, "':' is expected"),
        ('{\n "a": 1\n "b": 2\n}', "syntax", 3, 2, "',' or '}'"),
        ('{"a": [1, 2,]}', "syntax", 1, 13, "comma"),
        ('{"a": 1,\n}', "syntax", 2, 1, "comma"),
        ('{\n  "a": {"b": 1}', "syntax", 1, 1, "never closed"),
        ('{"a": "open', "syntax", 1, 7, "closing quote"),
        ('{"a": True}', "syntax", 1, 7, "not a JSON value"),
        ("{\"a\": 'x'}", "syntax", 1, 7, "double quotes"),
        ("{a: 1}", "syntax", 1, 2, "key in double quotes"),
        ('// hello\n{"a": 1}', "syntax", 1, 1, "comments"),
        ('{"a": 1} x', "syntax", 1, 10, "after the end"),
        ('{"a": NaN}', "syntax", 1, 7, "not a JSON value"),
        ('{"a": 01}', "syntax", 1, 7, "not a JSON number"),
        ('{"a": 1e999}', "syntax", 1, 7, "too large"),
        ('{"a": -}', "syntax", 1, 8, "digit"),
        ('{"a": "\\x"}', "syntax", 1, 8, "escape"),
        ('{"a": "x\ty"}', "syntax", 1, 9, "control character"),
        ('{"a": 1,\n "b": {"c": 1,\n "c": 2}}', "duplicate_key", 3, 2, "twice"),
        ("", "syntax", 1, 1, "value is expected"),
        ("   ", "syntax", 1, 4, "end of the text"),
        ("[" * 100, "too_deep", 1, MAX_DEPTH + 1, "deeper"),
        ('{"a": ' + "9" * 5000 + "}", "syntax", 1, 7, "digits"),
    ],
)
def test_a_json_fault_is_told_with_its_place(text: str, code: str, line: int, column: int, says: str) -> None:
    with pytest.raises(TextInvalid, match=says.replace("(", "\\(")) as told:
        parse_json(text)
    source = Source(text, None, parse_json("{}")._marks)
    assert told.value.code == code
    assert source.line_column(told.value.offset) == (line, column)


def test_json_takes_a_byte_order_mark_and_surrogate_pairs() -> None:
    source = parse_json('\ufeff{"a": "\\ud83d\\ude00", "b": "\\u4f60"}')
    assert source.doc == {"a": "😀", "b": "你"}
    assert source.value(("a",)) == (1, 7)


def test_yaml_is_read_as_yaml() -> None:
    words = ["", "a", "flows", 'q"uote', "back\\slash", "line\nbreak", "名字", "{name}", "x: y", "# no", "- d", " a b ", "null", "true"]
    for doc in documents(4, words, 30):
        for form in ({}, {"default_flow_style": True}, {"allow_unicode": True, "indent": 4}):
            text = yaml.safe_dump(doc, **form)  # type: ignore[call-overload]
            source = parse_yaml(text)
            assert source.doc == doc
            for path, value in paths(doc):
                if type(value) in (int, bool, type(None)):
                    assert text_at(source, source.value(path)).startswith(json.dumps(value))


def test_yaml_keeps_to_the_core_schema() -> None:
    source = parse_yaml("no: [no, on, 18:00, 2026-01-02, 0x1f, 1e3, .5, ~, Null, True, '5', 007]\n5: x\n")
    assert source.doc == {"no": ["no", "on", "18:00", "2026-01-02", "0x1f", 1000.0, 0.5, None, None, True, "5", 7], "5": "x"}
    assert source.value(("no", 2)) == (1, 14)
    assert source.key(("5",)) == (2, 1)


def test_yaml_aliases_are_values_of_their_own() -> None:
    source = parse_yaml("a: &x\n  k: [1]\nb: *x\n")
    assert source.doc["b"] == {"k": [1]}
    assert source.doc["a"] is not source.doc["b"]
    assert source.value(("b", "k", 0)) == (2, 7)


@pytest.mark.parametrize(
    ("text", "code", "line"),
    [
        ("a: 1\nb: [1, 2\nc: 3\n", "syntax", 3),
        ("a: 1\n  b: 2\n", "syntax", 2),
        ("a: 1\na: 2\n", "duplicate_key", 2),
        ("a: !!python/object:os.system x\n", "syntax", 1),
        ("a: !!int x\n", "syntax", 1),
        ("a: !mine {b: 1}\n", "syntax", 1),
        ("? [a]\n: 1\n", "syntax", 1),
        ("a: *nowhere\n", "syntax", 1),
        ("a: \x01\n", "syntax", 1),
        ("a: 1\n---\nb: 2\n", "syntax", 2),
        ("", "syntax", 1),
        ("a: &x [*x]\n", "too_deep", 1),
        ("a: " + "[" * 200 + "]" * 200, "too_deep", 1),
    ],
)
def test_a_yaml_fault_is_told_with_its_line(text: str, code: str, line: int) -> None:
    with pytest.raises(TextInvalid) as told:
        parse_yaml(text)
    assert told.value.code == code
    assert Source(text, None, parse_json("{}")._marks).line_column(told.value.offset)[0] == line


def test_a_yaml_alias_bomb_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(TextInvalid, match=str(MAX_ALIASED)):
        parse_yaml("\n".join(lines))


def test_lines_end_as_editors_count_them() -> None:
    assert line_starts("a\r\nb\rc\nd") == [0, 3, 5, 7]
    assert line_starts("a\n\nb") == [0, 2, 3]


def test_a_path_that_leads_nowhere_is_placed_at_its_nearest_holder() -> None:
    source = parse_json('{\n "a": {"b": [1]}\n}')
    assert source.value(("a", "b", 7)) == (2, 13)
    assert source.value(("a", "x", "y")) == (2, 7)
    assert source.value(()) == (1, 1)
    assert source.get(("a", "b", 0)) == 1
    assert source.get(("a", 0)) is None
