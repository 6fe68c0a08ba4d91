"""The HR assistant example: it loads without errors, its tests hold, and every rule that calls the staff's API gives a whole sentence."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from common.workflow.load import load_text
from common.workflow.schema import Workflow, WorkflowTest
from lightweight.matching.compile import compile_rules
from loadtests.simulators import staff
from loadtests.simulators.shop import Refused, Shop
from standalone.commands.check import check
from tests.support.examples import answer_at, calls_by_rule

FILE = Path(__file__).parents[2] / "examples" / "hr_assistant" / "workflow.json"
TEXT = FILE.read_text(encoding="utf-8")
EXAMPLE: Workflow = load_text(TEXT, str(FILE), {})
RULES = compile_rules(EXAMPLE)


def test_it_has_no_errors_and_its_tests_hold() -> None:
    checked = check([FILE], {})
    assert [str(p) for p in checked.problems if p.level == "error"] == []
    assert [t for t in checked.tests if t.outcome != "passed"] == []
    assert checked.exit_code == 0


def test_it_has_tests_of_both_kinds_and_every_flow_has_one() -> None:
    assert len(EXAMPLE.tests) >= 25
    assert sum((t.name or "").startswith("NOT") for t in EXAMPLE.tests) >= 10
    assert {f.id for f in EXAMPLE.flows} <= {t.expect.target for t in EXAMPLE.tests}


def test_a_request_for_leave_needs_days_and_kind() -> None:
    match = RULES.match("我想请3天年假")
    assert match is not None
    assert (match.action.id, dict(match.groups)) == ("leave_request", {"days": "3", "kind": "年假"})
    incomplete = RULES.match("我想请几天年假")
    assert incomplete is not None
    assert incomplete.action.id == "leave_desk"


@pytest.mark.parametrize("user_id", ["u-2", None])
@pytest.mark.parametrize("test", calls_by_rule(EXAMPLE), ids=lambda t: str(t.name))
async def test_a_rule_with_a_call_gives_a_whole_sentence(test: WorkflowTest, user_id: str | None, business_port: int) -> None:
    outcome = await answer_at(business_port, TEXT, test, user_id)
    assert outcome.failure is None
    assert outcome.text
    assert not re.search(r"[{}]|（，|：[。；]|None|null|  ", outcome.text), outcome.text


def test_an_expense_above_the_limit_is_refused_and_a_good_one_is_kept() -> None:
    shop = Shop()
    with pytest.raises(Refused, match="最多 600 元"):
        staff.file_expense(shop, "u-1", "hotel", 900.0, "")
    claim = staff.file_expense(shop, "u-1", "taxi", 42.0, "加班")
    assert staff.expense(shop, claim["expense_id"])["status_zh"] == "等待主管审批"
    assert staff.expenses_of(shop, "u-1")["expenses"][0] == claim
    assert claim not in staff.expenses_of(shop, "u-2")["expenses"]


@pytest.mark.parametrize(("category", "amount"), [("yacht", 10.0), ("taxi", None), ("taxi", 0.0), ("taxi", -5.0)])
def test_an_expense_that_makes_no_sense_is_refused(category: str, amount: float | None) -> None:
    with pytest.raises(Refused):
        staff.file_expense(Shop(), "u-1", category, amount, "")


def test_the_handbook_finds_what_is_asked() -> None:
    assert staff.search_handbook("远程办公的规定")[0]["title"] == "远程办公"
    assert staff.search_handbook("quantum") == []
