"""`loadsplit match`: the winner, why the others lost, with places in the file; and clear refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.workflow.problems import WorkflowInvalid
from standalone.commands.match import run

FILE = """\
flows:
  - flow_id: hours
    trigger_patterns: [Hours]
    exclude_patterns: ['My\\s+VIP']
    response_template: At 9.
  - flow_id: gold
    trigger_patterns: ["vip hours"]
    when: {context: {plan: gold}}
    response_template: Always.
  - flow_id: late
    trigger_patterns: ["hours?", "(?P<when>late) hours"]
    interrupts: true
    response_template: x
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "w.yaml"
    path.write_text(FILE)
    return path


def told(file: Path, text: str, capsys: pytest.CaptureFixture[str], **options: Any) -> dict[str, Any]:
    run(file, text, **options)
    return dict(json.loads(capsys.readouterr().out))


def outcomes(answer: dict[str, Any]) -> list[tuple[str, str, int, int]]:
    return [(c["pattern"], c["outcome"], c["line"], c["column"]) for c in answer["candidates"]]


def test_every_candidate_says_why_it_lost_and_where_it_stands(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = told(file, "my  VIP late Hours", capsys)
    assert (answer["action_target"], answer["pattern"], answer["folded"]) == ("late", "hours?", "my vip late hours")
    assert outcomes(answer) == [
        ("Hours", r"lost: excluded by My\s+VIP", 3, 24),
        ("hours?", "won", 11, 24),
        ("(?P<when>late) hours", "lost: another pattern of the same action comes first", 11, 34),
    ]
    assert answer["candidates"][2]["groups"] == {"when": "late"}
    assert 0 < answer["micros"] < 100_000


def test_the_context_decides_where_rules_ask_it(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert outcomes(told(file, "our vip hours", capsys))[1][1] == "lost: context.plan is not 'gold'"
    answer = told(file, "our vip hours", capsys, context='{"plan": "gold"}')
    assert [outcome for _, outcome, _, _ in outcomes(answer)] == ["won", *["lost: defined later than flow hours"] * 2]


def test_in_a_conversation_only_interrupting_rules_answer(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answer = told(file, "hours", capsys, in_conversation=True)
    assert answer["action_target"] == "late"
    assert outcomes(answer)[0][1] == "lost: the session is in a conversation"


def test_bad_arguments_are_one_line(file: Path) -> None:
    for context in ("[]", "plan=gold", "{"):
        with pytest.raises(ValueError, match="--context takes a JSON object"):
            run(file, "x", context=context)
    with pytest.raises(ValueError, match="not UTF-8"):
        run(file, "\udcff")
    file.write_text("flows: {}\n")
    with pytest.raises(WorkflowInvalid):
        run(file, "x")
