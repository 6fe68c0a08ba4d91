"""Collects problems while a document is checked and gives each its place in the text. It knows no rule of the format."""

from __future__ import annotations

from collections.abc import Callable

from common.workflow.positions import Source
from common.workflow.problems import Level, Path, Problem, json_path


class Report:
    """The problems of one document. `original` turns a path of the checked model into one of the document as it is written."""

    def __init__(self, source: Source, file: str, original: Callable[[Path], Path] = lambda path: path) -> None:
        self.source, self.file, self.original = source, file, original
        self.problems: list[Problem] = []

    def error(self, code: str, message: str, path: Path, hint: str = "", *, at_key: bool = False) -> None:
        """Something that refuses the file. `at_key` points at the key of the value instead of the value."""
        self.add("error", code, message, path, hint, at_key=at_key)

    def warning(self, code: str, message: str, path: Path, hint: str = "", *, at_key: bool = False) -> None:
        """Something that a person should look at; the file loads."""
        self.add("warning", code, message, path, hint, at_key=at_key)

    def add(self, level: Level, code: str, message: str, path: Path, hint: str = "", *, at_key: bool = False) -> None:
        """One problem of that level."""
        path = self.original(path)
        line, column = self.source.key(path) if at_key else self.source.value(path)
        self.problems.append(Problem(level, code, message, hint, json_path(path), self.file, line, column))
