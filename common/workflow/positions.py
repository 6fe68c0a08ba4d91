"""A parsed document that knows where in its text each key and value stands. It knows nothing of what the document means.

Positions are kept as text offsets beside each container and turned into lines and columns only when one is asked for.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

from common.workflow.problems import Path

MAX_DEPTH = 64


class TextInvalid(ValueError):
    """The text is not JSON or YAML. `offset` is the place in characters from 0; `hint` the way out."""

    def __init__(self, code: str, message: str, offset: int, hint: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.offset, self.hint = code, message, offset, hint


class Marks:
    """Offsets of keys and values, filled by a parser: for each container (by identity) its key or index → (key offset, value offset)."""

    def __init__(self) -> None:
        self.inside: dict[int, dict[str | int, tuple[int, int]]] = {}

    def note(self, container: Any, places: dict[str | int, tuple[int, int]]) -> None:
        """Records the places of a container's members. The document keeps the container alive, so its identity stays its own."""
        self.inside[id(container)] = places


class Source:
    """A document, its text and its marks. `doc` holds what JSON can hold; no container stands in it twice."""

    def __init__(self, text: str, doc: Any, marks: Marks, start: int = 0) -> None:
        self.text, self.doc, self._marks, self._start = text, doc, marks, start
        self._lines = line_starts(text)

    def value(self, path: Path) -> tuple[int, int]:
        """Line and column of the value at that path; of the nearest enclosing value where the path leads nowhere."""
        return self.line_column(self._find(path)[1])

    def key(self, path: Path) -> tuple[int, int]:
        """Line and column of the key of the value at that path; of the value itself inside a list."""
        return self.line_column(self._find(path)[0])

    def line_column(self, offset: int) -> tuple[int, int]:
        """Line and column, both from 1, of a text offset."""
        line = bisect_right(self._lines, offset)
        return line, offset - self._lines[line - 1] + 1

    def get(self, path: Path) -> Any:
        """The value at that path, None where it leads nowhere."""
        here = self.doc
        for part in path:
            if not has(here, part):
                return None
            here = here[part]
        return here

    def _find(self, path: Path) -> tuple[int, int]:
        here, found = self.doc, (self._start, self._start)
        for part in path:
            if not has(here, part):
                break
            found = self._marks.inside[id(here)][part]
            here = here[part]
        return found


def has(container: Any, part: str | int) -> bool:
    """Whether a dict has that key or a list that index."""
    if isinstance(container, dict):
        return part in container
    return isinstance(container, list) and isinstance(part, int) and 0 <= part < len(container)


def line_starts(text: str) -> list[int]:
    r"""Offsets at which lines begin. Lines end with \n, \r\n or \r, as editors count them."""
    starts = [0]
    if "\r" not in text:
        at = text.find("\n")
        while at >= 0:
            starts.append(at + 1)
            at = text.find("\n", at + 1)
        return starts
    for i, c in enumerate(text):
        if c == "\n" or (c == "\r" and text[i + 1 : i + 2] != "\n"):
            starts.append(i + 1)
    return starts
