"""What first words say of a node: slow beside the usual of their kind, or not."""

from __future__ import annotations

import pytest

from common.contracts.query import Route
from common.hotstore.memory import MemoryHotStore
from common.web.adaptive import AdaptiveLimit
from heavy.turns.log import TurnLog
from heavy.turns.pace import FirstWord, Pace
from heavy.turns.telling import Telling
from tests.support.node import Node

SKILL, FLOW = ("shop", "skill", True), ("shop", "flow", True)


class Watched:
    """A pace with a clock and a number of turns that the test sets."""

    def __init__(self, most: int = 100, least: int = 10) -> None:
        self.now, self.under_way = 0.0, 50
        self.limit = AdaptiveLimit(most, least)
        self.pace = Pace(self.limit, lambda: self.under_way, lambda: self.now)

    def window(self, *seconds: float, kind: tuple[str, str, bool] = SKILL, turns: int = 20) -> int:
        """A second in which turns take so long, in turn; the limit behind it."""
        for n in range(turns - 1):
            self.pace.first_word(kind, seconds[n % len(seconds)])
        self.now += 1.0
        self.pace.first_word(kind, seconds[-1])
        return self.limit.now


@pytest.fixture
def it() -> Watched:
    return Watched()


def test_the_usual_changes_nothing(it: Watched) -> None:
    assert [it.window(1.0, 1.5, 0.8) for _ in range(5)] == [100] * 5


def test_three_times_the_usual_is_too_slow(it: Watched) -> None:
    it.window(1.0)
    assert it.window(3.0) == round(50 * 2 / 3)


def test_one_window_takes_half_at_most(it: Watched) -> None:
    it.window(1.0)
    assert it.window(30.0) == 25


def test_it_recovers(it: Watched) -> None:
    it.window(1.0)
    it.window(30.0)
    assert [it.window(1.0) for _ in range(8)] == [35, 45, 55, 65, 75, 85, 95, 100]


def test_what_is_quick_is_never_slow(it: Watched) -> None:
    """Five times as long, and still sooner than anybody notices."""
    it.window(0.04)
    assert it.window(0.2) == 100


def test_kinds_are_compared_with_themselves(it: Watched) -> None:
    it.window(5.0)
    it.window(0.1, kind=FLOW)
    for _ in range(3):
        assert it.window(5.0) == 100
        assert it.window(0.1, kind=FLOW) == 100


def test_some_slow_ones_among_many_are_no_load(it: Watched) -> None:
    it.window(1.0)
    assert it.window(1.0, 1.0, 9.0) == 100


def test_few_turns_say_nothing(it: Watched) -> None:
    it.window(1.0)
    assert it.window(30.0, turns=5) == 100
    assert it.window(30.0, turns=5) == 25  # with those before they are enough


def test_what_stays_slow_becomes_the_usual(it: Watched) -> None:
    """A provider that has become slower for good is no load of ours for ever."""
    it.window(1.0)
    limits = [it.window(3.0) for _ in range(20)]
    assert (limits[0], limits[-1]) == (33, 100)


def test_turns_given_up_without_a_word_count(it: Watched) -> None:
    it.window(1.0)
    for _ in range(20):
        it.now += 0.1
        it.pace.silent("shop", True, 20.0)
    assert it.limit.now == 25


def test_silence_of_an_unknown_agent_says_nothing(it: Watched) -> None:
    for _ in range(20):
        it.now += 0.1
        it.pace.silent("nobody", True, 20.0)
    assert it.limit.now == 100


def test_a_wait_is_told_once_with_its_kind(it: Watched) -> None:
    FirstWord(it.pace, "shop", True, 0.0).heard("skill")
    assert list(it.pace._usual) == [SKILL]


async def test_a_greeting_is_no_first_word() -> None:
    heard: list[str] = []
    told = Telling(TurnLog(MemoryHotStore(), "t_1"), heard.append)
    told.once("route", Route("heavy", "skill", "talk", "llm"))
    told.greet("Welcome.\n\n")
    told.say("")
    assert (heard, told.text) == ([], "Welcome.\n\n")
    told.say("Yes.")
    assert heard == ["skill"]
    await told.events.flush()


async def test_the_turns_of_a_node_are_heard(here: Node) -> None:
    await here.talking(await here.say("t_1"))
    assert list(here.turns.entrance.pace._usual) == [("shop", "skill", True)]
    await here.idle()
