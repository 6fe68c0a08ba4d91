"""When a target is left alone, for how long, and how it comes back."""

from __future__ import annotations

from heavy.llm.health import FIRST_SECONDS, JUDGED, MOST_SECONDS, Health


def failing(health: Health, times: int, now: float = 0.0) -> None:
    for _ in range(times):
        health.failed(now, probe=False)


def test_failures_in_a_row_put_it_out_and_a_success_begins_the_count_anew() -> None:
    health = Health(3)
    failing(health, 2)
    health.succeeded(0)
    failing(health, 2)
    assert health.admits(0)
    failing(health, 1)
    assert (health.out, health.admits(FIRST_SECONDS - 0.1)) == (True, False)


def test_half_of_the_last_calls_put_it_out_though_others_went_well() -> None:
    health = Health(100)
    for n in range(JUDGED - 1):
        health.succeeded(0) if n % 2 else health.failed(0, probe=False)
    assert not health.out  # not enough calls to judge by
    health.failed(0, probe=False)
    assert health.out


def test_one_call_tries_it_when_its_time_is_over() -> None:
    health = Health(1)
    failing(health, 1)
    later = FIRST_SECONDS + 0.1
    assert health.admits(later)
    assert health.begin(later)
    assert not health.admits(later)  # the others wait for the verdict
    assert not health.begin(later)
    health.succeeded(later)
    assert (health.out, health.admits(later)) == (False, True)


def test_a_probe_that_fails_doubles_the_time_up_to_a_bound() -> None:
    health = Health(1)
    failing(health, 1)
    now, times = 0.0, []
    for _ in range(8):
        times.append(health.back_at - now)
        now = health.back_at
        assert health.begin(now)
        health.failed(now, probe=True)
    assert times == [5, 10, 20, 40, 80, 160, 300, 300]
    assert times[-1] == MOST_SECONDS


def test_after_a_good_while_the_time_is_short_again() -> None:
    health = Health(1)
    failing(health, 1)
    health.begin(6)
    health.failed(6, probe=True)  # 10 s
    health.begin(17)
    health.succeeded(17)
    failing(health, 1, now=18)
    assert health.back_at == 18 + 20
    health.begin(39)
    health.succeeded(39)
    failing(health, 1, now=39 + 21)
    assert health.back_at == 60 + FIRST_SECONDS


def test_a_probe_that_says_nothing_lets_the_next_one_try() -> None:
    health = Health(1)
    failing(health, 1)
    assert health.begin(6)
    health.undecided(probe=True)
    assert health.admits(6)
    assert health.begin(6)


def test_zero_keeps_it_in_whatever_happens() -> None:
    health = Health(0)
    failing(health, 1000)
    assert health.admits(0)
