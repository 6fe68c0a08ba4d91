"""The customer service example: it loads clean, its tests hold, and every rule that calls the business API gives a whole sentence."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from common.workflow.load import load_text
from common.workflow.schema import Workflow, WorkflowTest
from lightweight.matching.compile import compile_rules
from standalone.commands.check import check
from tests.support.examples import answer_at, calls_by_rule

FILE = Path(__file__).parents[2] / "examples" / "customer_service" / "workflow.json"
TEXT = FILE.read_text(encoding="utf-8")
EXAMPLE: Workflow = load_text(TEXT, str(FILE), {})
RULES = compile_rules(EXAMPLE)


def test_it_is_clean_and_its_tests_hold() -> None:
    checked = check([FILE], {})
    assert checked.exit_code == 0
    assert [str(p) for p in checked.problems if p.level in ("error", "warning")] == []


def test_it_has_the_variety_that_a_shop_needs() -> None:
    assert len(EXAMPLE.flows) + len(EXAMPLE.tools) >= 15
    assert Counter(s.execution_mode for s in EXAMPLE.skills) == {"agent": 2, "function": 1}
    assert {a.handler for a in EXAMPLE.system_actions} == {"handoff", "close", "update_profile"}
    assert EXAMPLE.kb_config.enabled
    assert sum(bool(re.search("[一-鿿]", t.say or "")) for t in EXAMPLE.tests) >= 12
    assert sum((t.name or "").startswith("NOT") for t in EXAMPLE.tests) >= 8


@pytest.mark.parametrize("user_id", ["u-2", None])
@pytest.mark.parametrize("test", calls_by_rule(EXAMPLE), ids=lambda t: str(t.name))
async def test_a_rule_with_a_call_gives_a_whole_sentence(test: WorkflowTest, user_id: str | None, business_port: int) -> None:
    outcome = await answer_at(business_port, TEXT, test, user_id)
    assert outcome.failure is None
    assert outcome.text
    assert not re.search(r"[{}]|\(\s*[,)]|\$\s|: *[.。]|None|null|  ", outcome.text), outcome.text
