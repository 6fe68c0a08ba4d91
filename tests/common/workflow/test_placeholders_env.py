"""`${NAME:-default}`: the environment's value where there is one, else the default; a name without either refuses the file."""

from __future__ import annotations

import pytest

from common.endpoints.template import Template
from common.workflow.load import load_text
from common.workflow.problems import WorkflowInvalid

FLOW = '{"flows": [{"flow_id": "x", "trigger_patterns": ["x"], "endpoint": {"url": "%s/a", "method": "GET"}}]}'


def test_the_default_stands_where_the_environment_is_silent() -> None:
    url = "${API:-http://127.0.0.1:8910}"
    workflow = load_text(FLOW % url, env={})
    assert Template.parse(workflow.flows[0].endpoint.url, workflow.env).constant == "http://127.0.0.1:8910/a"  # type: ignore[union-attr]
    workflow = load_text(FLOW % url, env={"API": "https://api.example.com"})
    assert Template.parse(workflow.flows[0].endpoint.url, workflow.env).constant == "https://api.example.com/a"  # type: ignore[union-attr]


def test_without_a_default_the_file_is_refused() -> None:
    with pytest.raises(WorkflowInvalid) as caught:
        load_text(FLOW % "${API}", env={})
    assert [p.code for p in caught.value.problems if p.level == "error"] == ["missing_env"]
