"""Messages that arrive together in one session become turns in one order: one at a time, nothing lost, on one replica or on two."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from tests.support.client import Client
from tests.support.split import Split
from tests.support.waiting import wait_until_sync


def test_simultaneous_messages(client: Client) -> None:
    texts = [f"one by one {n}" for n in range(6)]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda text: client.ask(text, "order-1"), texts))
    assert [a.status for a in answers] == [200] * 6
    history = client.messages("order-1")
    assert [role for role, _ in history] == ["user", "assistant"] * 6
    assert sorted(text for role, text in history if role == "user") == texts


def test_two_replicas_share_one_order(split: Split) -> None:
    """Each replica is asked through a lightweight process of its own tier's making: the second one by the ticket of the first."""
    split.client.ask("opening hours", "order-2")
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda n: split.client.ask(f"one by one {n}", "order-2"), range(4)))
    assert all(a.status == 200 for a in answers)
    here, there = (Client(h.url) for h in split.heavy)
    assert here.messages("order-2") == there.messages("order-2")
    assert len(here.messages("order-2")) == 10


def test_the_session_says_that_it_is_processing(client: Client) -> None:
    stream = client.stream("a slow story", "order-3")
    first = stream.take(3)
    assert [e.type for e in first] == ["start", "route", "text"]
    assert client.call("GET", "/api/v1/session/order-3").json["workflow_state"]["status"] == "processing"
    turn_id = first[0].data["turn_id"]
    client.call("POST", f"/api/v1/turns/{turn_id}/cancel")
    assert list(stream)[-1].type == "cancelled"
    wait_until_sync(
        lambda: client.call("GET", "/api/v1/session/order-3").json["workflow_state"]["status"] == "ready", "the session is ready again"
    )
