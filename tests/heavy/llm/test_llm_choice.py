"""Which target comes next: the order of groups, health, weights and load."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from heavy.llm.aliases import Alias, Group
from heavy.llm.choice import Choice, less_busy
from heavy.llm.standing import Standings
from heavy.llm.types import Target

A, B, C = (Target("openai", name) for name in "abc")
OTHER = Target("anthropic", "d")


def order(alias: Alias, standings: Standings, provider: str | None = None, tried: Sequence[Target] = ()) -> list[Target]:
    choice = Choice(alias, standings, 10, provider)
    for target in tried:
        choice.tried(target, again=True)
    return list(choice.order(0.0))


def test_an_ordered_alias_keeps_the_files_order_and_then_its_fallbacks() -> None:
    alias = Alias((Group((B, A)), Group((C,))))
    assert order(alias, Standings()) == [B, A, C]
    assert order(alias, Standings(), tried=[B]) == [A, C]


def test_when_all_were_tried_those_come_again_that_may_mend() -> None:
    alias = Alias((Group((A, B)),), attempts=2)
    choice = Choice(alias, Standings(), 10, None)
    choice.tried(A, again=True)
    choice.tried(B, again=False)
    assert list(choice.order(0.0)) == [A]
    choice.tried(A, again=True)
    assert list(choice.order(0.0)) == []
    assert order(Alias.of(A, B), Standings(), tried=[A, B]) == []  # with several targets none is tried twice, unless the file says so
    assert order(Alias.of(A), Standings(), tried=[A]) == [A]


def test_a_target_that_is_out_comes_last_but_rather_than_none() -> None:
    standings = Standings()
    alias = Alias((Group((A, B)), Group((C,))))
    for now, target in enumerate((B, A)):
        for _ in range(5):
            standings.of(target).health.failed(now, probe=False)
    assert order(alias, standings) == [C, B, A]
    assert list(Choice(alias, standings, 1, None).order(100.0)) == [A, B, C]  # their time is over: each may be tried


def test_only_targets_of_the_wanted_protocol() -> None:
    alias = Alias((Group((A, OTHER)),))
    assert order(alias, Standings(), "anthropic") == [OTHER]
    assert not Choice(Alias.of(A), Standings(), 1, "anthropic").possible


def test_a_balanced_alias_offers_each_target_once_and_its_own_before_the_fallbacks() -> None:
    alias = Alias((Group((A, B), "balanced"), Group((C,))))
    for _ in range(20):
        found = order(alias, Standings())
        assert sorted(t.model for t in found) == ["a", "b", "c"]
        assert found[2] == C


def test_without_load_calls_are_spread_by_the_weights() -> None:
    standings, draw = Standings(), random.Random(7).choices
    heavy = Target("openai", "heavy", weight=3)
    counts = Counter(less_busy([heavy, B], standings.of, 10, draw).model for _ in range(4000))
    assert counts["heavy"] / 4000 == pytest.approx(0.75, abs=0.03)


def test_of_two_the_one_with_less_outstanding_or_the_quicker_one_is_taken() -> None:
    standings = Standings()

    def both(targets: Sequence[Target], weights: Sequence[float], k: int) -> list[Target]:
        return list(targets)

    standings.of(A).outstanding = 500
    assert less_busy([A, B], standings.of, 10, both) == B
    standings.of(A).outstanding = 0
    standings.of(A).quick(2.0)
    standings.of(B).quick(0.5)
    assert less_busy([A, B], standings.of, 10, both) == B
    standings.of(B).outstanding = 100  # 0.5 s × 110 is more than 2 s × 10
    assert less_busy([A, B], standings.of, 10, both) == A
    wide = Target("openai", "wide", weight=20)
    standings.of(wide).outstanding = 100
    standings.of(wide).quick(0.5)
    assert less_busy([A, wide], standings.of, 10, both) == wide  # with twenty times the weight it carries twenty times as much


def test_a_slow_target_is_still_asked_now_and_then() -> None:
    standings, draw = Standings(), random.Random(7).choices
    standings.of(A).quick(10.0)
    standings.of(B).quick(0.1)
    counts = Counter(less_busy([A, B], standings.of, 10, draw).model for _ in range(400))
    assert 50 < counts["a"] < 150  # a quarter: else nobody would see that it is quick again


def test_targets_of_one_account_share_their_standing_and_a_reload_keeps_it() -> None:
    standings = Standings()
    patient = Target("openai", "a", total_timeout=600)
    assert standings.of(A) is standings.of(patient)
    before = standings.of(A)
    stays = Target("openai", "a", max_concurrency=3)
    standings.keep({stays})
    assert standings.of(stays) is before
    assert before.slots.limit == 3
    standings.keep({B})
    assert standings.of(A) is not before
