"""The demo in a real browser: `loadsplit serve --demo`, a rule, a tool, an agent skill with tool calls, an error."""

from __future__ import annotations

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By

from tests.browser.conftest import ChatPage
from tests.support.client import Client
from tests.support.waiting import wait_until_sync

# Collects every length that an answer's text has had: more than a few of them means that it came in pieces.
WATCH_TEXT = """
window.lengths = new Set();
const note = () => document.querySelectorAll('.theirs .bubble').forEach((b) => window.lengths.add(b.textContent.length));
new MutationObserver(note).observe(document.getElementById('log'), {childList: true, subtree: true, characterData: true});
"""
LONG_MESSAGE = "const box = document.getElementById('message'); box.maxLength = 100000; box.value = 'y'.repeat(40000);"


@pytest.fixture
def demo(chromium: Chrome, demo_url: str) -> ChatPage:
    return ChatPage(chromium, demo_url)


def test_a_rule_answers_and_says_so(demo: ChatPage) -> None:
    demo.say("What are your opening hours?")
    answer = demo.wait_answer()
    assert "9:00" in answer.find_element(By.CLASS_NAME, "bubble").text
    assert demo.fact(answer, "tier") == "lightweight"
    assert demo.fact(answer, "action") == "flow opening_hours"
    assert demo.fact(answer, "tokens") == "no tokens"
    demo.say("订单A1005到哪了")
    assert "正在派送" in demo.wait_answer(2).find_element(By.CLASS_NAME, "bubble").text
    assert demo.console_errors() == []


def test_a_skill_shows_its_tool_calls_and_streams(demo: ChatPage) -> None:
    demo.driver.execute_script(WATCH_TEXT)
    demo.say("I want to return order A1002, it arrived damaged")
    answer = demo.wait_answer(seconds=40)
    assert demo.fact(answer, "tier") == "heavy"
    assert demo.fact(answer, "action") == "skill returns_desk"
    tools = [t.get_attribute("data-tool") for t in answer.find_elements(By.CSS_SELECTOR, "details.tool")]
    assert len(tools) >= 2
    assert "get_order" in tools
    assert len(answer.find_element(By.CLASS_NAME, "bubble").text) > 10
    assert demo.driver.execute_script("return window.lengths.size") > 3
    assert "LLM call" in demo.fact(answer, "tokens")
    assert demo.console_errors() == []


def test_a_call_waits_for_the_customers_approval(demo: ChatPage) -> None:
    demo.say("Please cancel my order A1007")
    card = demo.wait_card()
    assert "A1007" in card.text
    card.find_element(By.CLASS_NAME, "approve").click()
    wait_until_sync(lambda: demo.bubbles() and "cancelled" in demo.bubbles()[0], "the order is cancelled", 20)
    answer = demo.wait_answer()
    assert demo.fact(answer, "action") == "tool cancel_order"
    assert demo.console_errors() == []


def test_a_colleague_takes_over_and_hands_back(demo: ChatPage, demo_url: str) -> None:
    session = str(demo.driver.find_element(By.ID, "session").get_attribute("value"))
    demo.say("talk to a human")
    demo.wait_answer()
    desk = Client(demo_url)
    desk.call("POST", f"/api/v1/session/{session}/handoff", {"action": "message", "text": "Kim here.", "by": "kim"})
    wait_until_sync(lambda: "Kim here." in demo.bubbles(), "the colleague's words appear")
    desk.call("POST", f"/api/v1/session/{session}/handoff", {"action": "release", "text": "All is well."})
    wait_until_sync(lambda: demo.notes() == ["A colleague has joined.", "The assistant answers again."], "the chat is handed back")
    demo.say("What are your opening hours?")
    wait_until_sync(lambda: "9:00" in demo.bubbles()[-1], "the rules answer again")
    assert demo.console_errors() == []


def test_an_error_is_readable(demo: ChatPage) -> None:
    demo.driver.execute_script(LONG_MESSAGE)
    demo.say("z")
    box = demo.wait_answer().find_element(By.CLASS_NAME, "failed")
    assert "invalid_request" in box.text
    assert "32768" in box.text


def test_a_phone_needs_no_sideways_scrolling(demo: ChatPage) -> None:
    demo.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 360, "height": 640, "deviceScaleFactor": 1, "mobile": True})
    try:
        demo.say("I want to return order A1006")
        demo.wait_answer(seconds=40)
        assert demo.overflow() <= 0
    finally:
        demo.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
