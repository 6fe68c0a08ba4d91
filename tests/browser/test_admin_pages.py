"""The admin pages in the browser, at the single process and at the split: what they show, what they do, and that everyone can use them."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.keys import Keys

from tests.browser.admin import AdminPages
from tests.support.client import Client
from tests.support.services import PostgresServer
from tests.support.shop import write_workflow
from tests.support.split import Split, split_of
from tests.support.waiting import wait_until_sync

PAGES = ("", "/sessions", "/turns", "/desk", "/playground", "/rules", "/tasks", "/webhooks", "/costs", "/keys", "/audit")
DARK = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
PHONE = {"width": 360, "height": 640, "deviceScaleFactor": 1, "mobile": True}


@pytest.fixture
def pages(chromium: Chrome, demo_url: str) -> AdminPages:
    """The pages of `loadsplit serve --demo`."""
    return AdminPages(chromium, demo_url)


@pytest.fixture(scope="module")
def split(tmp_path_factory: pytest.TempPathFactory, redis_url: str, postgres_server: PostgresServer) -> Iterator[Split]:
    """A rule tier and one heavy replica, without Nginx."""
    folder = tmp_path_factory.mktemp("admin-split")
    stores = {"LOADSPLIT_REDIS_URL": f"{redis_url.rpartition('/')[0]}/13", "LOADSPLIT_DATABASE_URL": postgres_server.create_database()}
    env = {"BUSINESS": "http://127.0.0.1:9", "LOADSPLIT_TICKET_SECRET": "a-secret-of-the-tests-32-characters", **stores}
    with split_of(write_workflow(folder), folder, env, replicas=1) as started:
        yield started


def test_one_turn_is_found_from_its_request_with_every_step(pages: AdminPages, demo_url: str) -> None:
    client = Client(demo_url)
    answer = client.ask("I want to return order A1002, it arrived damaged", "found-1", user_id="ben", headers={"x-request-id": "find-me-1"})
    usage = answer.json["usage"]
    pages.open("/turns")
    pages.fill("#f-request_id", "find-me-1")
    pages.press("Find")
    assert len(pages.all("tbody tr")) == 1
    pages.click("tbody th a")
    assert pages.heading == f"Turn {answer.json['turn_id']}"
    assert pages.find("#request-id").text == "find-me-1"
    llm = pages.find("[data-fact=llm]").text
    assert llm.startswith(f"{usage['llm_calls']} calls, {usage['input_tokens']:,} tokens in")
    assert f"{usage['output_tokens']} out" in llm
    kinds = [step.get_attribute("data-kind") for step in pages.all(".steps > li")]
    assert (kinds[0], kinds[-1]) == ("asked", "said")
    assert kinds.count("llm_call") == usage["llm_calls"]
    assert pages.find("[data-fact=tools]").text.startswith(f"{kinds.count('tool_call')} calls")
    assert kinds.count("tool_call") >= 2
    assert pages.faults() == []
    pages.click("dl a")
    assert pages.heading == "Session found-1"
    assert "ben" in pages.text
    assert pages.faults() == []
    pages.open("/sessions?user_id=ben")
    assert [row.text for row in pages.all("tbody th")] == ["found-1"]


def test_the_playground_tells_why_and_shows_the_steps(pages: AdminPages) -> None:
    pages.open("/playground")
    pages.fill("#message", "What are your opening hours?")
    pages.press("Only explain the route")
    assert "flow opening_hours by rule" in pages.text
    assert pages.faults() == []
    pages.open("/playground")
    pages.fill("#message", "I want to return order A1002, it arrived damaged")
    pages.press("Send")
    wait_until_sync(lambda: pages.all("#turn:not([aria-busy])"), "the turn has ended", 30)
    assert pages.find("#turn h2").text == "The last turn"
    kinds = [step.get_attribute("data-kind") for step in pages.all(".steps > li")]
    assert {"asked", "llm_call", "tool_call", "said"} <= set(kinds)
    assert "skill returns_desk" in pages.find("#turn").text
    assert pages.faults() == []
    pages.fill("#message", "What are your opening hours?")
    pages.press("Send")
    wait_until_sync(lambda: "9:00" in pages.text, "the rule's answer", 10)
    assert len(pages.all(".talk li")) >= 2


def test_a_colleague_takes_a_session_answers_and_gives_it_back(pages: AdminPages, demo_url: str) -> None:
    client = Client(demo_url)
    client.ask("talk to a human", "desk-1", user_id="ann")
    pages.open("/desk")
    pages.follow(next(link for link in pages.all("tbody th a") if link.text == "desk-1"))
    assert pages.faults() == []
    client.ask("Is anybody there?", "desk-1")
    wait_until_sync(lambda: "Is anybody there?" in pages.find("[role=log]").text, "the user's words appear by themselves", 10)
    pages.fill("#by", "kim")
    pages.fill("#text", "Kim here, how can I help?")
    pages.press("Send")
    assert pages.find("[role=status]").text == "Your message is sent."
    assert "with kim" in pages.text
    assert ("assistant", "Kim here, how can I help?") in client.messages("desk-1")
    assert pages.find("#by").get_attribute("value") == "kim"
    pages.fill("#text", "All is well.")
    pages.press("Give it back to the assistant")
    assert "with the assistant" in pages.text
    assert pages.faults() == []
    assert "9:00" in client.ask("What are your opening hours?", "desk-1").json["message"]
    pages.open("/audit?action=desk")
    assert [row.text for row in pages.all("tbody th")][:2] == ["desk.release", "desk.message"]


def test_every_page_is_for_everyone(pages: AdminPages, demo_url: str) -> None:
    Client(demo_url).ask("What are your opening hours?", "everyone-1")
    for path in PAGES:
        pages.open(path)
        assert pages.faults() == [], path
        assert pages.foreign() == [], path
        assert pages.pale() == [], path
        assert "No API keys are configured" in pages.text
    assert len({pages.open(path).driver.title for path in PAGES}) == len(PAGES)


def test_dark_and_narrow(pages: AdminPages) -> None:
    pages.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", DARK)
    pages.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", PHONE)
    try:
        for path in ("", "/turns", "/rules", "/playground"):
            pages.open(path)
            assert (pages.pale(), pages.faults()) == ([], []), path
    finally:
        pages.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
        pages.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = pages.open("/audit").driver.execute_script(ground)
    pages.find("#theme").send_keys("dark")
    pages.press("Set")
    assert pages.driver.current_url.endswith("/admin/audit")
    assert pages.driver.execute_script(ground) != light
    assert pages.find("html").get_attribute("data-theme") == "dark"
    assert pages.pale() == []


def test_the_keyboard_reaches_everything_in_order(pages: AdminPages) -> None:
    pages.open("/turns")
    reached = []
    for _ in range(34):
        element = pages.tab()
        if element.tag_name == "body":
            break
        outline = pages.driver.execute_script("return getComputedStyle(arguments[0]).outlineStyle", element)
        assert outline != "none", element.get_attribute("outerHTML")
        reached.append(element.get_attribute("id") or element.text)
    assert reached[0] == "Skip to the content"
    order = ["theme", "Overview", "f-request_id", "Find"]
    assert [name for name in reached if name in order] == order
    pages.open("/turns")
    pages.tab().send_keys(Keys.ENTER)
    assert pages.driver.switch_to.active_element.get_attribute("id") == "main"
    assert pages.tab().get_attribute("id") == "f-request_id"


@pytest.mark.long
def test_figures_are_live_and_rules_tell_what_was_never_hit(pages: AdminPages, demo_url: str) -> None:
    pages.open()
    before = int(pages.find(".figures dd").text)
    Client(demo_url).ask("What are your opening hours?", "live-1")
    wait_until_sync(lambda: int(pages.find(".figures dd").text) > before, "the overview has counted the turn by itself", 15)
    assert pages.all("svg.chart rect.bar")
    pages.open("/rules")
    hits = [row for row in pages.all("tbody tr") if row.text.startswith("flow opening_hours") and "never hit" not in row.text]
    assert len(hits) == 1
    assert len(pages.all("tr[data-never]")) > 3
    assert pages.faults() == []


def test_tasks_and_messages_to_webhooks(pages: AdminPages, demo_url: str) -> None:
    client = Client(demo_url)
    made = client.call("POST", "/api/v1/webhooks", {"url": "https://receiver.invalid/hook", "events": ["task.completed"]})
    webhook = made.json["webhook_id"]
    far = client.call("POST", "/api/v1/query/async", {"message": "opening hours", "session_id": "later-1", "delay_seconds": 3600}).json
    pages.open("/tasks?status=pending")
    assert pages.faults() == []
    pages.click(f"button[aria-label='Cancel task {far['task_id']}']")
    assert pages.find("[role=status]").text == "The task is cancelled."
    assert client.call("GET", f"/api/v1/task/{far['task_id']}").json["status"] == "cancelled"
    assert pages.faults() == []
    pages.open("/webhooks")
    pages.click(f"button[aria-label='Send a test to {webhook}']")
    assert "webhook.test" in pages.text
    pages.click(f"button[aria-label='Disable {webhook}']")
    failed = "/api/v1/webhooks/deliveries?status=failed"
    wait_until_sync(lambda: client.call("GET", failed).json["deliveries"], "the message has failed", 10)
    pages.open("/webhooks")
    assert pages.faults() == []
    pages.click(f"button[aria-label='Enable {webhook}']")
    pages.press("Send again")
    assert pages.find("[role=status]").text == "The message is on its way again."
    pages.open("/audit")
    done = [row.text for row in pages.all("tbody th")]
    assert [a for a in done if a.startswith(("webhook", "delivery", "task"))][:4] == [
        "delivery.replay",
        "webhook.change",
        "webhook.change",
        "webhook.test",
    ]


def test_what_is_wrong_is_told_on_a_page(pages: AdminPages) -> None:
    wrong = {"/sessions/nobody": "there is no such session", "/turns?status=odd": "status must be one of", "/costs?by=odd": "by must"}
    for path, words in wrong.items():
        pages.open(path)
        assert words in pages.find("[role=alert]").text
        pages.driver.get_log("browser")  # the browser notes the status
        assert pages.faults() == []


def test_the_split_serves_the_pages_at_the_heavy_tier(chromium: Chrome, split: Split) -> None:
    answer = split.client.ask("opening hours", "split-1", headers={"x-request-id": "split-find-1"})
    assert answer.json["route"]["tier"] == "lightweight"
    pages = AdminPages(chromium, split.heavy[0].url)
    for path in ("", "/turns?request_id=split-find-1", "/rules", "/playground", "/desk"):
        pages.open(path)
        assert (pages.faults(), pages.foreign()) == ([], []), path
    pages.open("/turns?request_id=split-find-1")
    assert "flow hours by rule" in pages.find("tbody").text
    pages.open("/playground")
    pages.fill("#message", "opening hours")
    pages.press("Send")
    wait_until_sync(lambda: "We open at 9." in pages.text, "the answer", 10)
    assert "flow hours by rule" in pages.find("#turn").text
    assert split.client.call("GET", "/admin").status == 404
    assert json.loads(split.client.call("GET", "/admin/login").body)["code"] == "not_found"
