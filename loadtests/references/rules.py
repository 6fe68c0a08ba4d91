"""The rules of a workflow file as the references use them: one RE2 set, no folding, no groups, no priorities. The least that could work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import re2


class BareRules:
    """The static flows of a JSON workflow file: patterns in one prefiltered set, an answer for each."""

    def __init__(self, path: str) -> None:
        flows = orjson.loads(Path(path).read_bytes())["flows"]
        options = re2.Options()
        options.case_sensitive = False
        options.log_errors = False
        self._filter: Any = re2.Filter()
        self._answers: list[tuple[str, str]] = []
        for flow in flows:
            for pattern in flow.get("trigger_patterns", ()):
                try:
                    self._filter.Add(pattern, options)
                except re2.error:
                    continue
                self._answers.append((flow["flow_id"], flow.get("response_template") or ""))
        self._filter.Compile()

    def find(self, message: str) -> tuple[str, str] | None:
        """(flow id, answer) of the first rule found."""
        hits = self._filter.Match(message.lower())
        return self._answers[hits[0]] if hits else None
