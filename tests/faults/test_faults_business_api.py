"""Business APIs that hang, fail, flood or redirect, values that try to leave their place, addresses that nobody may reach."""

from __future__ import annotations

import json
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from tests.support.client import Answer
from tests.support.fault_agents import METADATA_HOSTS, ZERO_HOSTS
from tests.support.odd_api import FLOOD_BYTES, OddApi, Seen
from tests.support.split import Split, metric, resident
from tests.support.waiting import wait_until_sync

FAILED = "The shop does not answer."
MEGABYTE = 1_000_000
REFUSALS = ("egress", "bad_value")  # the second: a spelling that is no address, refused before it is looked up


def ask(split: Split, message: str, session: str = "odd-1") -> Answer:
    """A message to the agent whose API misbehaves."""
    return split.client.ask(message, session, agent_id="odd")


def says(split: Split, message: str, session: str = "odd-1") -> str:
    """The answer of a rule, which must come."""
    answer = ask(split, message, session)
    assert answer.status == 200, answer.body
    assert answer.json["route"]["tier"] == "lightweight"
    return str(answer.json["message"])


def test_a_hanging_api_costs_its_time_out_and_nobody_else_anything(split: Split) -> None:
    with ThreadPoolExecutor(10) as pool:
        hanging = [pool.submit(says, split, "call hang", f"hang-{n}") for n in range(10)]
        for _ in range(20):
            start = time.monotonic()
            assert says(split, "call fine") == "It is fine."
            assert time.monotonic() - start < 0.4
        start = time.monotonic()
        assert [h.result() for h in hanging] == [FAILED] * 10
        assert time.monotonic() - start < 2
    assert metric(split.lightweight.client, "endpoint_calls_total", endpoint="flow hang", outcome="timeout") >= 10


def test_a_callers_deadline_ends_the_call(split: Split) -> None:
    """Sooner than the flow's own time-out would, and the flow says what it says when its call fails."""
    late = metric(split.lightweight.client, "endpoint_calls_total", endpoint="flow hang", outcome="timeout")
    start = time.monotonic()
    answer = split.client.ask("call hang", "odd-late", agent_id="odd", headers={"X-Loadsplit-Timeout": "0.1"})
    assert time.monotonic() - start < 0.45
    assert (answer.status, answer.json["message"]) == (200, FAILED)
    assert metric(split.lightweight.client, "endpoint_calls_total", endpoint="flow hang", outcome="timeout") == late + 1


def test_a_failing_api_is_left_alone_and_found_again(split: Split, odd_api: OddApi) -> None:
    """At most a fifth of the requests are retries (and one); the breaker opens, nothing more is sent, and it heals by itself."""
    odd_api.failing = True
    for n in range(80):
        assert says(split, "call fail", f"fail-{n}") == FAILED
    tries = Counter(s.headers["x-session"] for s in odd_api.seen if s.path == "/fail")
    retries = sum(tries.values()) - len(tries)
    assert retries <= 0.2 * len(tries) + 1
    assert 10 <= sum(tries.values()) <= 25
    assert metric(split.lightweight.client, "breaker_open", endpoint="flow fail") == 1
    start = time.monotonic()
    assert says(split, "call fail") == FAILED
    assert time.monotonic() - start < 0.2
    assert says(split, "call fine") == "It is fine."
    odd_api.failing = False
    wait_until_sync(lambda: says(split, "call fail") == "It is healed.", "the breaker has closed", 6)
    assert metric(split.lightweight.client, "breaker_open", endpoint="flow fail") == 0
    assert "internal-secret" not in split.logs()


@pytest.mark.parametrize("name", ["flood", "bomb", "deep", "nested"])
def test_huge_and_deep_answers_are_cut_off(split: Split, odd_api: OddApi, name: str) -> None:
    says(split, "call fine")
    before = resident(split.lightweight)
    start = time.monotonic()
    assert says(split, f"call {name}") == FAILED
    assert time.monotonic() - start < 5
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda n: says(split, f"call {name}", f"large-{n}"), range(4))) == [FAILED] * 4
    assert resident(split.lightweight) - before < 20 * MEGABYTE
    assert odd_api.flooded < FLOOD_BYTES / 10


def test_a_redirect_is_not_followed(split: Split, odd_api: OddApi) -> None:
    assert says(split, "call redirect") == FAILED
    assert odd_api.paths("/redirect")
    assert odd_api.paths("/landing") == []


def test_headers_of_an_api_steer_nobody(split: Split) -> None:
    answer = ask(split, "call steer")
    assert answer.json["message"] == "It is fine."
    assert not [name for name in answer.headers if name.startswith("x-accel")]


@pytest.mark.parametrize("number", range(len(METADATA_HOSTS) + len(ZERO_HOSTS)), ids=[*METADATA_HOSTS, *ZERO_HOSTS])
def test_addresses_that_nobody_may_reach(split: Split, odd_api: OddApi, number: int) -> None:
    """Refused before a socket exists. The second half would really lead to the test's API, which sees no connection."""
    connections = odd_api.connections
    start = time.monotonic()
    assert says(split, f"call hidden{number}") == FAILED
    assert time.monotonic() - start < 0.4
    calls = {o: metric(split.client, "endpoint_calls_total", endpoint=f"flow hidden{number}", outcome=o) for o in REFUSALS}
    assert sum(calls.values()) == 1, calls
    assert odd_api.connections == connections
    assert odd_api.paths("/x") == []


VALUES = [
    'say "hi"',
    "{session_id} {result} {user_id}",
    "{value.__class__}",
    "a/b",
    "a&safe=2",
    "a#b?c",
    "100% %2e%2e",
    "'; DROP TABLE users; --",
    "订单 ü 😀",
    "<script>",
    "a\\b",
    '","safe":2,"x":"',
]


def sent(split: Split, odd_api: OddApi, place: str, value: str) -> list[Seen]:
    """What reached the API for one value."""
    before = len(odd_api.seen)
    says(split, f"{place} {value}")
    return [s for s in odd_api.seen[before:] if s.path.startswith("/echo")]


@pytest.mark.parametrize("value", VALUES)
def test_a_value_stays_in_its_place(split: Split, odd_api: OddApi, value: str) -> None:
    path = urlsplit(sent(split, odd_api, "path", value)[0].path)
    assert path.query == path.fragment == ""
    assert path.path.count("/") == 3
    assert unquote(path.path) == f"/echo/path/{value}"
    query = urlsplit(sent(split, odd_api, "query", value)[0].path).query
    assert parse_qs(query) == {"value": [value], "safe": ["1"]}
    assert json.loads(sent(split, odd_api, "body", value)[0].body) == {"value": value, "safe": 1}


@pytest.mark.parametrize("value", ["../admin", "..", ".", "../../etc/passwd", "a/../../b", "..\\admin"])
def test_a_path_is_not_left(split: Split, odd_api: OddApi, value: str) -> None:
    assert sent(split, odd_api, "path", value) == []
    assert json.loads(sent(split, odd_api, "body", value)[0].body) == {"value": value, "safe": 1}


@pytest.mark.parametrize("value", ["x\r\nX-Safe: 2", "x\nX-Evil: 1", "x\r\n\r\nGET /admin HTTP/1.1", "x\x00y"])
def test_a_header_takes_no_line_breaks(split: Split, odd_api: OddApi, value: str) -> None:
    assert sent(split, odd_api, "header", value) == []
    assert [s.headers["x-safe"] for s in sent(split, odd_api, "header", "plain")] == ["1"]
    assert json.loads(sent(split, odd_api, "body", value)[0].body) == {"value": value, "safe": 1}
