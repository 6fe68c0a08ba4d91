"""What `explain` tells of a text: the same route as `match`, and every candidate with its outcome."""

from common.workflow.schema import Workflow
from lightweight.matching.compile import compile_rules
from lightweight.matching.explain import explain

WORKFLOW = Workflow.model_validate(
    {
        "skills": [{"skill_id": "desk", "trigger_patterns": ["refund desk"]}],
        "flows": [
            {"flow_id": "hours", "trigger_patterns": ["hours"], "response_template": "9"},
            {"flow_id": "vip", "trigger_patterns": ["vip (?P<what>hours)"], "priority": 2, "response_template": "always"},
            {"flow_id": "never", "trigger_patterns": ["hours"], "exclude_patterns": ["vip"], "response_template": "x"},
            {"flow_id": "late", "trigger_patterns": ["hours"], "response_template": "x"},
        ],
    }
)


def test_the_winner_and_the_losers_are_told() -> None:
    told = explain(WORKFLOW, "VIP  Hours!")
    assert (told["tier"], told["action_type"], told["action_target"], told["matched_by"]) == ("lightweight", "flow", "vip", "rule")
    assert told["groups"] == {"what": "Hours"}
    assert told["folded"] == "vip hours!"
    assert told["micros"] > 0
    assert {c["action_target"]: c["outcome"] for c in told["candidates"]} == {
        "vip": "won",
        "hours": "lost: lower priority than flow vip",
        "never": "lost: excluded by vip",
        "late": "lost: lower priority than flow vip",
    }


def test_agent_skills_are_heavy_by_rule() -> None:
    told = explain(compile_rules(WORKFLOW), "refund desk please")
    assert (told["tier"], told["action_type"], told["action_target"], told["matched_by"]) == ("heavy", "skill", "desk", "rule")


def test_without_a_rule_it_is_a_message_for_heavy() -> None:
    told = explain(WORKFLOW, "tell me a story")
    assert (told["tier"], told["action_type"], told["action_target"], told["matched_by"]) == ("heavy", "message", None, "none")
    assert told["candidates"] == []
    assert told["pattern"] is None


def test_ambiguous_rules_leave_it_to_the_llm() -> None:
    told = explain(WORKFLOW.model_copy(update={"ambiguous": "escalate"}), "hours")
    assert told["matched_by"] == "none"
    assert {c["outcome"] for c in told["candidates"]} == {"lost: ambiguous, the LLM chooses"}
