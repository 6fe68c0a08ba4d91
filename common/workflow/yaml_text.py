"""YAML text → a `Source`: the values that JSON has (YAML 1.2's core schema), with the place of every key and value.

So `no` is a text, `18:00` is a text and a date is a text. Keys given twice, tags and unbounded aliases are errors.
"""

from __future__ import annotations

import math
import re
from typing import Any

import yaml

from common.workflow.positions import MAX_DEPTH, Marks, Source, TextInvalid

MAX_ALIASED = 10_000
_TAG = "tag:yaml.org,2002:"


class _CoreLoader(yaml.SafeLoader):
    """Resolves plain scalars as YAML 1.2's core schema does; bounds the depth while composing."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 — the attribute's type is the library's

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise TextInvalid("too_deep", f"nested deeper than {MAX_DEPTH} levels", self.peek_event().start_mark.index)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_CoreLoader.add_implicit_resolver(_TAG + "null", re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""])
_CoreLoader.add_implicit_resolver(_TAG + "bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF"))
_CoreLoader.add_implicit_resolver(_TAG + "int", re.compile(r"[-+]?[0-9]{1,400}\Z"), list("-+0123456789"))
_CoreLoader.add_implicit_resolver(
    _TAG + "float", re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z"), list("-+.0123456789")
)


def parse_yaml(text: str) -> Source:
    """The document of a YAML text. Raises TextInvalid with the place of the first fault."""
    text = text.removeprefix("\ufeff")
    try:
        # the constructor reads the first characters already and refuses control characters
        loader = _CoreLoader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as e:
        at = e.position if isinstance(e.position, int) else 0
        raise TextInvalid("syntax", f"the character U+{_code(e.character):04X} is not allowed in YAML", at) from None
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        raise TextInvalid("syntax", _said(e), mark.index if mark else 0) from None
    if node is None:
        raise TextInvalid("syntax", "the file is empty", 0)
    marks = Marks()
    doc = _Builder(marks).value(node, 1)
    return Source(text, doc, marks, node.start_mark.index)


def _code(character: str | bytes | int) -> int:
    return character if isinstance(character, int) else ord(character[:1])


def _said(error: yaml.MarkedYAMLError) -> str:
    return ", ".join(part for part in (error.context, error.problem) if part) or "not valid YAML"


class _Builder:
    """Builds each alias anew, so that no container stands in the document twice; the total that aliases may add is bounded."""

    def __init__(self, marks: Marks) -> None:
        self.marks = marks
        self.seen: set[int] = set()
        self.aliased = 0

    def value(self, node: yaml.Node, depth: int) -> Any:
        at = node.start_mark.index
        if depth > MAX_DEPTH:
            raise TextInvalid("too_deep", f"nested deeper than {MAX_DEPTH} levels", at, "does an alias hold itself?")
        if id(node) in self.seen:
            self.aliased += 1
            if self.aliased > MAX_ALIASED:
                raise TextInvalid("too_large", f"aliases add more than {MAX_ALIASED} values", at)
        self.seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, depth)
        if isinstance(node, yaml.SequenceNode):
            return self.sequence(node, depth)
        return _scalar(node)

    def mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        _refuse_tag(node, "map")
        out: dict[str, Any] = {}
        places: dict[str | int, tuple[int, int]] = {}
        self.marks.note(out, places)
        for key_node, value_node in node.value:
            at = key_node.start_mark.index
            if not isinstance(key_node, yaml.ScalarNode):
                raise TextInvalid("syntax", "a key must be plain text", at)
            key = str(key_node.value)
            if key in out:
                raise TextInvalid("duplicate_key", f"the key {key[:64]!r} stands twice in this object", at, "only one of the two can hold")
            places[key] = (at, value_node.start_mark.index)
            out[key] = self.value(value_node, depth + 1)
        return out

    def sequence(self, node: yaml.SequenceNode, depth: int) -> list[Any]:
        _refuse_tag(node, "seq")
        out: list[Any] = []
        places: dict[str | int, tuple[int, int]] = {}
        self.marks.note(out, places)
        for i, item in enumerate(node.value):
            places[i] = (item.start_mark.index, item.start_mark.index)
            out.append(self.value(item, depth + 1))
        return out


def _refuse_tag(node: yaml.Node, kind: str) -> None:
    if node.tag != _TAG + kind:
        raise TextInvalid("syntax", f"the tag {node.tag[:64]!r} is not allowed", node.start_mark.index, "remove the tag")


def _scalar(node: yaml.Node) -> Any:
    text, at = str(node.value), node.start_mark.index
    kind = node.tag.removeprefix(_TAG)
    try:
        if kind == "str":
            return text
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind == "int":
            return int(text)
        if kind == "float" and math.isfinite(float(text)):
            return float(text)
    except ValueError:  # an explicit tag on a text that does not fit it: `!!int x`
        raise TextInvalid("syntax", f"{text[:40]!r} is not of the type {node.tag[:64]!r}", at) from None
    if kind == "float":
        raise TextInvalid("syntax", "this number is too large", at)
    raise TextInvalid("syntax", f"the tag {node.tag[:64]!r} is not allowed", at, "remove the tag")
