"""An operator without scripts: finds a turn from its request, tries a message, answers a customer, and what customers write stays text."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.support.admin import Pages, text_of, words
from tests.support.client import Client
from tests.support.running import Running, serve
from tests.support.shop import write_workflow
from tests.support.waiting import wait_until_sync

MARKUP = '<script src="https://elsewhere.example/x.js"></script><img src=x onerror=alert(1)>" autofocus onfocus="alert(2)'


@pytest.fixture(scope="module")
def server(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("operator")
    with serve(write_workflow(folder), folder, env) as running:
        yield running


@pytest.fixture
def client(server: Running) -> Client:
    return server.client


@pytest.fixture
def pages(server: Running) -> Pages:
    return Pages(server.url)


def test_a_turn_is_found_from_its_request(client: Client, pages: Pages) -> None:
    answer = client.ask("returns desk please", "pages-1", headers={"x-request-id": "pages-request-1"}).json
    listed = pages.get("/turns?request_id=pages-request-1")
    assert re.findall(r'href="/admin/turns/(t_[0-9a-f]+)"', text_of(listed)) == [answer["turn_id"]]
    told = words(pages.get(f"/turns/{answer['turn_id']}"))
    usage = answer["usage"]
    assert f"{usage['llm_calls']} calls, {usage['input_tokens']:,} tokens in" in told
    assert f"{usage['output_tokens']} out" in told
    assert ("Tool get_order" in told, "Tool open_ticket" in told) == (True, True)
    assert "Your return is open." in told


def test_a_message_is_tried(pages: Pages) -> None:
    sent = pages.post("/playground", message="returns desk please", session_id="pages-2", agent_id="shop")
    where = sent.headers["location"].removeprefix("/admin")
    wait_until_sync(lambda: "The last turn" in words(pages.get(where)), "the turn has ended", 20)
    assert "skill returns_desk by rule" in words(pages.get(where))
    explained = words(pages.post("/playground/explain", message="opening hours", agent_id="shop"))
    assert "flow hours by rule" in explained
    assert pages.post("/playground", message="", session_id="pages-2").status == 400
    assert pages.post("/playground", message="hi", session_id="a b").status == 400


def test_what_customers_write_stays_text(client: Client, pages: Pages) -> None:
    answer = client.ask(MARKUP, "pages-3", user_id=MARKUP).json
    client.ask("talk to a human", "pages-4", user_id=MARKUP)
    client.ask(MARKUP, "pages-4")
    client.call("POST", "/api/v1/webhooks", {"url": "https://receiver.invalid/", "events": ["task.completed"], "description": MARKUP})
    for path in (
        "/sessions",
        "/sessions/pages-3",
        "/turns",
        f"/turns/{answer['turn_id']}",
        "/desk",
        "/desk/pages-4",
        "/webhooks",
        "/rules",
    ):
        page = pages.get(path)
        assert page.status == 200, path
        assert "elsewhere.example/x.js" not in "".join(re.findall(r"<[^>]*>", text_of(page))), path
        assert not re.search(r"<[^>]* (onerror|onfocus)=", text_of(page)), path
        assert "script-src 'self'" in page.headers["content-security-policy"]
        assert page.headers["cache-control"] == "no-store"


def test_a_request_that_makes_no_sense_is_told_and_changes_nothing(pages: Pages) -> None:
    assert pages.get("/nothing").status == 404
    assert pages.get("/turns/no%20id").status == 400
    assert pages.get("/turns?cursor=%00").status == 400
    assert pages.get("/sessions?from=yesterday").status == 400
    assert pages.get("/costs?from=2026-12-01&to=2026-11-01").status == 400
    assert pages.post("/desk/nobody", action="accept").status == 404
    assert pages.post("/desk/nobody", action="dance").status == 400
    assert pages.post("/tasks/t_1", action="dance").status == 400
    assert pages.post("/webhooks/wh_1", action="dance").status == 400
    assert pages.post("/keys", tenant="acme", **{"scope-query": "1"}).status == 403
    assert pages.get("/theme").status == 405
    assert "pages-nobody" not in words(pages.get("/audit"))
    assert "dance" not in words(pages.get("/audit"))
