"""Proposals: messages with one outcome become a readable rule, tried on the log."""

from __future__ import annotations

import re

import pytest

from common.contracts.learned import LearnedRoute
from heavy.intents.proposals import LoggedMessage, propose
from lightweight.matching.compile import check_pattern


def order(message: str, value: str, times: int = 3) -> tuple[str, LearnedRoute, int]:
    start = message.index(value)
    return message, LearnedRoute("flow", "order", {"order_id": (start, start + len(value))}), times


def closing(message: str, times: int = 3) -> tuple[str, LearnedRoute, int]:
    return message, LearnedRoute("system", "close"), times


def test_messages_with_one_outcome_share_a_rule_with_their_parameter_as_a_group() -> None:
    [proposal] = propose([order("where is order a1001", "a1001"), order("please find my order b77", "b77")], [])
    assert (proposal.action_type, proposal.action_target, proposal.times) == ("flow", "order", 6)
    assert check_pattern(proposal.pattern) is None
    found = re.search(proposal.pattern, "is order zz9 late")
    assert found is not None
    assert found["order_id"] == "zz9"
    assert re.search(proposal.pattern, "order form") is None
    assert set(proposal.messages) == {"where is order a1001", "please find my order b77"}


def test_different_wordings_become_different_rules() -> None:
    found = propose([closing("close my account"), closing("close the account now"), closing("delete my profile")], [])
    assert [p.pattern for p in found] == [r"\bclose\b.*\baccount\b", r"\bdelete\b.*\bprofile\b"]
    assert [len(p.messages) for p in found] == [2, 1]


def test_different_outcomes_are_never_in_one_rule() -> None:
    found = propose([closing("close my account"), ("close my ticket", LearnedRoute("flow", "ticket"), 1)], [])
    assert {(p.action_target, p.messages) for p in found} == {("close", ("close my account",)), ("ticket", ("close my ticket",))}


def test_characters_of_unspaced_scripts_stay_together_where_they_do_everywhere() -> None:
    [proposal] = propose([closing("我想办理退款"), closing("如何办理退款呢")], [])
    assert proposal.pattern == "办理退款"


def test_the_log_shows_what_would_have_been_caught_rightly_and_wrongly() -> None:
    log = [
        LoggedMessage("Close that  ACCOUNT of mine", "system", "close"),
        LoggedMessage("close that account of mine", "system", "close"),
        LoggedMessage("please do not close my account", "message", None),
        LoggedMessage("close to my account's branch", "flow", "branches"),
        LoggedMessage("my account is to be closed", "system", "close"),
    ]
    [proposal] = propose([closing("close my account"), closing("please close the account")], log)
    assert [e.message for e in proposal.caught_rightly] == ["Close that  ACCOUNT of mine"]
    assert [e.message for e in proposal.caught_wrongly] == ["please do not close my account", "close to my account's branch"]
    assert (proposal.rightly, proposal.wrongly) == (1, 2)


@pytest.mark.parametrize("message", ["i want to", "???", "how are you", "😀"])
def test_everyday_words_alone_make_no_rule(message: str) -> None:
    assert propose([closing(message)], []) == []


def test_signs_in_words_and_names_are_no_syntax() -> None:
    strange = ("order (a+)+ x1", LearnedRoute("flow", "o", {"not a name": (12, 14)}), 1)
    [proposal] = propose([strange], [LoggedMessage("order" + " a" * 900, "message", None)])
    assert check_pattern(proposal.pattern) is None
    assert proposal.wrongly == 0
