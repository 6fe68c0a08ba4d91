"""Shapes of users, arrivals of a file, real messages, the fits of curves: what needs no server."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from loadtests.arrivals import Arrival, made_arrivals, profile, read_arrivals, within
from loadtests.profile_rule_path import spent
from loadtests.rows.growth import exponent
from loadtests.rows.soak import slope
from loadtests.shapes import SHAPES, users_at
from loadtests.simulators.asked import openai, tokens
from loadtests.simulators.profile import parse_profile
from loadtests.workflows import made_messages, read_messages

HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens\n"


def test_a_ramp_grows_a_spike_comes_and_goes_a_soak_stays() -> None:
    assert [users_at("ramp", 10, 100, at) for at in (0, 50, 99)] == [1, 5, 10]
    assert [users_at("spike", 10, 100, at) for at in (10, 50, 70)] == [2, 10, 2]
    assert [users_at("soak", 10, 100, at) for at in (0, 10, 99)] == [1, 10, 10]
    assert all(users_at(name, 10, 100, 100) is None for name in SHAPES)


def test_arrivals_are_read_in_seconds_from_the_first(tmp_path: Path) -> None:
    path = tmp_path / "arrivals.csv"
    path.write_text(HEAD + "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:50.9951690,396,0\n")
    first, second = read_arrivals(path)
    assert first == Arrival(0.0, 374, 44)
    assert (round(second.at, 2), second.context, second.generated) == (4.31, 396, 1)
    assert len(read_arrivals(path, limit=1)) == 1
    assert [one.at for one in within([first, second], 3, speed=2)] == [0.0, second.at / 2]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a,b\n1,2\n", "the first line does not name TIMESTAMP, ContextTokens, GeneratedTokens"),
        (HEAD + "2023-11-16 18:15:46,many,1\n", "arrivals.csv:2: not a time and two numbers of tokens"),
        (HEAD, "no arrival in it"),
    ],
)
def test_a_file_that_holds_no_arrivals_says_so(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "arrivals.csv").write_text(content)
    with pytest.raises(ValueError, match=said):
        read_arrivals(tmp_path / "arrivals.csv")


def test_the_counts_of_an_arrival_drive_the_simulated_model() -> None:
    arrival = Arrival(0.0, 374, 44)
    asked = openai({"model": "m", "messages": [{"role": "user", "content": arrival.message()}]})
    rule = parse_profile(json.dumps(profile())).rule(asked)
    assert rule is not None
    assert tokens(rule.filled(asked).text or "") == 44
    assert tokens(arrival.message()) == 374
    assert len(Arrival(0.0, 100_000, 1).message()) < 32_768


def test_made_arrivals_are_always_the_same() -> None:
    assert made_arrivals(5) == made_arrivals(5)
    assert [one.at for one in made_arrivals(50)] == sorted(one.at for one in made_arrivals(50))


def test_messages_are_read_or_made(tmp_path: Path) -> None:
    path = tmp_path / "messages.csv"
    path.write_text('text,category\n"Where, please?",x\n  ,y\n')
    assert read_messages(path) == ["Where, please?"]
    path.write_text("said\nhello\n")
    with pytest.raises(ValueError, match="the first line must name the columns text,category"):
        read_messages(path)
    path.write_text("text,category\n")
    with pytest.raises(ValueError, match="no message in it"):
        read_messages(path)
    assert len(set(made_messages(500))) == 500


def test_an_exponent_and_a_slope_are_fitted() -> None:
    assert exponent([(10, 100), (100, 10), (1000, 1)]) == pytest.approx(-1)
    assert exponent([(10, 50), (1000, 50)]) == pytest.approx(0)
    assert exponent([(10, 50)]) == 0
    assert slope([(0, 1.0), (10, 3.0)]) == pytest.approx(0.2)
    assert slope([(5, 1.0)]) == 0


def test_a_profile_becomes_microseconds_of_each_step() -> None:
    assert spent({"match": 10}, {"match": 40, "encode": 10, "idle": 0}, 80.0) == [("match", 0.75, 60.0), ("encode", 0.25, 20.0)]
    assert spent({}, {}, 80.0) == []
