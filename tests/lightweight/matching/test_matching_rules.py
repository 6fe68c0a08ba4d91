"""Which rule answers a text: kinds of match, priorities, exclusions, conditions, ambiguity, groups; and rules that can't be compiled."""

from datetime import UTC, datetime
from typing import Any

import pytest

from common.workflow.schema import Workflow
from lightweight.matching.compile import RulesInvalid, check_pattern, compile_rules
from lightweight.matching.match import Match, Matcher, language_of


def flow(flow_id: str, *patterns: str, **fields: Any) -> dict[str, Any]:
    """A static flow."""
    return {"flow_id": flow_id, "trigger_patterns": patterns, "response_template": flow_id, **fields}


def matcher(*flows: dict[str, Any], **fields: Any) -> Matcher:
    """The rules of a workflow with these flows."""
    return compile_rules(Workflow.model_validate({"flows": flows, **fields}))


def target(match: Match | None) -> str | None:
    """The id of what a match chose."""
    return match.action.id if match else None


def test_patterns_are_found_anywhere_and_without_case() -> None:
    rules = matcher(flow("hours", "opening hours", "营业时间"))
    assert target(rules.match("What are your OPENING   hours?")) == "hours"
    assert target(rules.match("请问营业时间是?")) == "hours"
    assert rules.match("closing time") is None


def test_no_rules_match_nothing() -> None:
    assert matcher().match("anything") is None
    assert matcher(flow("later", "x", type="intent")).match("x") is None


def test_exact_is_the_whole_text_and_contains_is_literal() -> None:
    rules = matcher(flow("exact", "ＰＩＮＧ!", match_type="exact"), flow("contains", "a+b (c)", match_type="contains"))
    assert target(rules.match("  ping! ")) == "exact"
    assert rules.match("ping! me") is None
    assert target(rules.match("what is A+B  (C)?")) == "contains"
    assert rules.match("aab (c)") is None


def test_rules_without_a_literal_are_always_tried() -> None:
    rules = matcher(flow("digits", r"^\d+$"), flow("word", "hello"))
    assert target(rules.match("12345")) == "digits"
    assert target(rules.match("hello")) == "word"


def test_highest_priority_wins_then_the_earliest_definition() -> None:
    rules = matcher(flow("first", "hours"), flow("second", "hours"), flow("vip", "vip hours", priority=10))
    assert target(rules.match("opening hours")) == "first"
    assert target(rules.match("vip hours")) == "vip"


def test_flows_come_before_tools_skills_and_system_actions() -> None:
    rules = compile_rules(
        Workflow.model_validate(
            {
                "system_actions": [{"action_id": "bye", "handler": "close", "trigger_patterns": ["go"]}],
                "skills": [{"skill_id": "talk", "trigger_patterns": ["go"]}],
                "tools": [{"name": "call", "endpoint": {"url": "http://x/"}, "trigger_patterns": ["go"]}],
                "flows": [flow("answer", "go now")],
            }
        )
    )
    assert target(rules.match("go now")) == "answer"
    assert target(rules.match("go")) == "call"
    assert [(r.kind, r.tier) for r in rules.rules] == [
        ("flow", "lightweight"),
        ("tool", "lightweight"),
        ("skill", "heavy"),
        ("system", "heavy"),
    ]


def test_excluded_texts_go_to_the_next_rule() -> None:
    rules = matcher(flow("price", "delivery (cost|price)", exclude_patterns=["too (high|expensive)"]), flow("any", "delivery"))
    assert target(rules.match("delivery price?")) == "price"
    assert target(rules.match("the delivery price is TOO   high")) == "any"


def test_groups_are_cut_from_the_original_text() -> None:
    rules = matcher(flow("order", r"order\s+#?(?P<order_id>[A-Za-z0-9-]+)(?P<rest> now)?", "订单\\s*(?P<order_id>[A-Za-z0-9-]+)"))
    found = rules.match("Where is my ORDER   #Ab-12?")
    assert found
    assert found.groups == {"order_id": "Ab-12"}
    found = rules.match("订单 ＡＢ－１２ 在哪")
    assert found
    assert found.groups == {"order_id": "ＡＢ－１２"}


def test_required_groups_must_have_caught_something() -> None:
    rules = matcher(flow("order", r"order\s*(?P<id>\d*)", required_groups=["id"]), flow("help", "order"))
    assert target(rules.match("order 12")) == "order"
    assert target(rules.match("order")) == "help"


def test_only_interrupting_rules_answer_in_a_conversation() -> None:
    rules = matcher(flow("hours", "hours", priority=5), flow("stop", "stop|hours", interrupts=True))
    assert rules.has_interrupts
    assert target(rules.match("hours", in_conversation=True)) == "stop"
    assert target(rules.match("hours")) == "hours"
    assert rules.match("nothing", in_conversation=True) is None


def test_ambiguity_is_noticed_only_where_the_agent_asks_for_it() -> None:
    flows = (flow("a", "card"), flow("b", "lost"), flow("a2", "lost card", priority=3))
    assert rules_ambiguous(matcher(*flows[:2]).match("lost card")) is False
    escalating = matcher(*flows[:2], ambiguous="escalate")
    assert rules_ambiguous(escalating.match("lost card")) is True
    assert rules_ambiguous(escalating.match("my card")) is False
    assert rules_ambiguous(matcher(*flows, ambiguous="escalate").match("lost card")) is False
    assert rules_ambiguous(matcher(flow("a", "lost", "card"), ambiguous="escalate").match("lost card")) is False


def rules_ambiguous(match: Match | None) -> bool:
    """Whether the match, which must be one, is ambiguous."""
    assert match is not None
    return match.ambiguous


def test_when_asks_context_and_language() -> None:
    rules = matcher(
        flow("gold", "help", when={"context": {"level": "gold"}}), flow("zh", "help|帮助", when={"language": "zh"}), flow("all", "help")
    )
    assert target(rules.match("help", context={"level": "gold"})) == "gold"
    assert target(rules.match("help", context={"level": "silver"})) == "all"
    assert target(rules.match("请 help")) == "zh"
    assert target(rules.match("help", context={"language": "zh-CN"})) == "zh"


@pytest.mark.parametrize(
    ("at", "answers"),
    [
        ("2026-03-02T09:00", True),  # a Monday
        ("2026-03-02T17:59", True),
        ("2026-03-02T18:00", False),
        ("2026-03-02T08:59", False),
        ("2026-03-07T10:00", False),
    ],
)
def test_when_asks_the_clock_of_its_zone(at: str, answers: bool) -> None:
    rules = matcher(flow("desk", "desk", when={"between": ["09:00", "18:00"], "days": [1, 2, 3, 4, 5], "timezone": "Asia/Shanghai"}))
    now = datetime.fromisoformat(at + "+08:00").astimezone(UTC)
    assert (rules.match("desk", now=now) is not None) is answers


@pytest.mark.parametrize(("at", "answers"), [("2026-03-06T23:00", True), ("2026-03-07T05:59", True), ("2026-03-07T23:00", False)])
def test_a_window_over_midnight_belongs_to_the_day_on_which_it_opened(at: str, answers: bool) -> None:
    rules = matcher(flow("night", "desk", when={"between": ["22:00", "06:00"], "days": [5]}))
    assert (rules.match("desk", now=datetime.fromisoformat(at + "+00:00")) is not None) is answers


@pytest.mark.parametrize(
    ("text", "language"), [("hello", "en"), ("你好", "zh"), ("こんにちは 世界", "ja"), ("안녕", "ko"), ("привет", "ru")]
)
def test_scripts_tell_the_language(text: str, language: str) -> None:
    assert language_of(text) == language


def test_every_bad_rule_is_named_at_once() -> None:
    flows = [
        flow("one", "fine", "(?=ahead)x"),
        flow("two", r"(a)\1", exclude_patterns=["(?<!no)yes"]),
        flow("three", "("),
        flow("four", "x", when={"timezone": "Mars/Olympus"}),
        flow("five", r"(\p{L}{1,400}){1,2}"),
        flow("six", "  ", match_type="exact"),
    ]
    with pytest.raises(RulesInvalid) as caught:
        matcher(*flows)
    problems = {p["path"]: p["message"] for p in caught.value.extra["problems"]}
    assert set(problems) == {
        "$.flows[0].trigger_patterns[1]",
        "$.flows[1].trigger_patterns[0]",
        "$.flows[1].exclude_patterns[0]",
        "$.flows[2].trigger_patterns[0]",
        "$.flows[3].when",
        "$.flows[4].trigger_patterns[0]",
        "$.flows[5].trigger_patterns[0]",
    }
    assert "look-ahead" in problems["$.flows[0].trigger_patterns[1]"]
    assert "back-reference" in problems["$.flows[1].trigger_patterns[0]"]
    assert "exclude_patterns" in problems["$.flows[1].exclude_patterns[0]"]
    assert "too large" in problems["$.flows[4].trigger_patterns[0]"]
    assert "flow one" in caught.value.detail


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("(?=x)", "look-ahead"),
        ("(?!x)", "negative look-ahead"),
        ("(?<=x)y", "look-behind"),
        ("(?<!x)y", "negative look-behind"),
        ("(?P<a>x)(?P=a)", "back-reference"),
        (r"(x)\1", r"\1"),
        ("x++", "possessive"),
        ("(?>x)", "atomic"),
        ("x{2000}", "too large"),
        ("[z-a]", "not a regular expression"),
        ("", "empty"),
    ],
)
def test_complaints_name_the_construct(pattern: str, says: str) -> None:
    assert says in (check_pattern(pattern) or "")


@pytest.mark.parametrize("pattern", [r"\(\?=", "[(?=]", r"a\\1", r"(?i)x", r"(?<name>x)", r"\w{6,20}", r"a+\+", r"[*+]+"])
def test_sound_patterns_have_no_complaint(pattern: str) -> None:
    assert check_pattern(pattern) is None


def test_the_filter_finds_what_each_rule_alone_finds() -> None:
    """The prefilter never hides a rule: all rules over all texts, together and one by one."""
    patterns = [
        "Refund.*Order",
        r"\D+xyz",
        "ÜBER",
        "Straße",
        "ΣΑΣ",
        "ｶﾞｽ",
        "İstanbul",
        r"\p{Han}+x",
        "a|b.*c",
        "K.lvin",
        "(?-i:foo)Bar",
        "ſo",
    ]
    texts = ["refund my order", "REFUND order", "aaXYZ", "über", "ÜBER", "STRASSE", "straße", "σας", "ΣΑΣ", "ガス", "ｶﾞｽ", "istanbul"]
    texts += ["İSTANBUL", "好x", "A", "bbC", "\u212aelvin", "kelvin", "FOObar", "SO", "none"]
    together = matcher(*(flow(p, p) for p in patterns))
    alone = {p: matcher(flow(p, p)) for p in patterns}
    for text in texts:
        hits = {v.rule.action.id for v in together.verdicts(text)}
        assert hits == {p for p, rules in alone.items() if rules.match(text)}, text
    assert alone["Straße"].match("strasse")
    assert alone["ΣΑΣ"].match("σας")


@pytest.mark.long
def test_more_rules_than_one_agent_can_have_are_told() -> None:
    flows = [flow(f"f{n}", f"word{n}x") for n in range(100_000)]
    with pytest.raises(RulesInvalid, match="100000 rules are too many for one agent"):
        matcher(*flows)
