"""The chat page by itself: what it shows of a stream, how it takes up a broken one, and how it shows errors."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.by import By

from tests.browser.conftest import ChatPage
from tests.browser.stub import StubServer
from tests.support.waiting import wait_until_sync


def test_a_rule_answer_shows_its_route_time_and_no_tokens(page: ChatPage) -> None:
    page.say("opening hours?")
    answer = page.wait_answer()
    assert answer.find_element(By.CLASS_NAME, "bubble").text == "We open at nine."
    assert page.fact(answer, "tier") == "lightweight"
    assert page.fact(answer, "action") == "flow opening_hours"
    assert page.fact(answer, "matched-by") == "by rule"
    assert page.fact(answer, "pattern") == "opening hours"
    assert page.fact(answer, "tokens") == "no tokens"
    assert "first token" in page.fact(answer, "time")
    assert page.console_errors() == []


def test_an_agent_answer_shows_tool_calls_tokens_and_cost(page: ChatPage) -> None:
    page.say("return my order")
    answer = page.wait_answer()
    assert answer.find_element(By.CLASS_NAME, "bubble").text == "Your return R5001 is open. <b>not markup</b>"
    good, bad = answer.find_elements(By.CSS_SELECTOR, "details.tool")
    assert good.text == "get_order✓ 12 ms"
    assert "failed, 2.1 s" in bad.text
    good.find_element(By.TAG_NAME, "summary").click()
    assert [p.text for p in good.find_elements(By.TAG_NAME, "pre")] == ['{\n  "order_id": "A1002"\n}', '{\n  "status": "delivered"\n}']
    assert page.fact(answer, "tokens") == "3 LLM calls, 812 (256 cached) + 64 tokens"
    assert page.fact(answer, "cost") == "$0.000321"
    assert page.console_errors() == []


def test_a_broken_stream_is_taken_up_after_the_last_event(page: ChatPage, stub: StubServer) -> None:
    page.say("opening hours, but drop")
    answer = page.wait_answer()
    assert answer.find_element(By.CLASS_NAME, "bubble").text == "We open at nine."
    assert stub.script.resumed_after == ["4"]
    assert len(stub.script.bodies) == 1
    assert page.console_errors() == []


def test_a_refusal_is_readable_and_can_be_sent_again(page: ChatPage, stub: StubServer) -> None:
    page.say("refuse me")
    box = page.wait_answer().find_element(By.CLASS_NAME, "failed")
    assert "Too many requests" in box.text
    assert "Slow down, please." in box.text
    assert "rate_limited · status 429 · request r-7" in box.text
    assert box.get_attribute("role") == "alert"
    box.find_element(By.TAG_NAME, "button").click()
    wait_until_sync(lambda: stub.script.refusals == 2, "the message is sent again")
    assert page.wait_answer().find_elements(By.CLASS_NAME, "failed")


def test_an_error_after_the_first_word_keeps_the_text(page: ChatPage) -> None:
    page.say("fail late")
    answer = page.wait_answer()
    assert answer.find_element(By.CLASS_NAME, "bubble").text.startswith("Your return R5001")
    assert "The model went away." in answer.find_element(By.CLASS_NAME, "failed").text


def test_stop_cancels_the_turn(page: ChatPage) -> None:
    page.say("hold on")
    wait_until_sync(lambda: page.answers()[0].find_elements(By.CSS_SELECTOR, ".bubble.writing"), "the answer streams")
    page.driver.find_element(By.ID, "stop").click()
    answer = page.wait_answer()
    assert answer.find_element(By.CLASS_NAME, "note").text == "Stopped: asked."
    assert page.driver.find_element(By.ID, "send").is_displayed()


def test_the_session_stays_until_a_new_one_is_asked_for(page: ChatPage, stub: StubServer) -> None:
    page.say("opening hours")
    page.wait_answer(1)
    page.say("hours again")
    page.wait_answer(2)
    page.driver.find_element(By.ID, "new-session").click()
    assert page.answers() == []
    page.say("opening hours")
    page.wait_answer(1)
    first, second, third = [b["session_id"] for b in stub.script.bodies]
    assert first == second != third


def test_a_reload_keeps_the_session_and_shows_what_was_said(page: ChatPage) -> None:
    page.say("opening hours")
    page.wait_answer()
    page.driver.refresh()
    wait_until_sync(lambda: [a.text for a in page.answers()] == ["We open at nine."], "the history is shown")
    assert page.console_errors() == []


def test_user_and_context_travel_and_bad_context_is_explained(page: ChatPage, stub: StubServer) -> None:
    page.driver.find_element(By.CSS_SELECTOR, "#options summary").click()
    page.driver.find_element(By.ID, "user").send_keys("u-2")
    page.driver.find_element(By.ID, "context").send_keys('{"channel": "staff"}')
    page.say("hours")
    page.wait_answer(1)
    assert {k: stub.script.bodies[0].get(k) for k in ("user_id", "context")} == {"user_id": "u-2", "context": {"channel": "staff"}}
    page.driver.find_element(By.ID, "context").send_keys("}")
    page.say("hours")
    assert "The context is not valid JSON" in page.wait_answer(2).text
    assert len(stub.script.bodies) == 1


@pytest.mark.parametrize("width", [360, 700])
def test_a_narrow_window_needs_no_sideways_scrolling(page: ChatPage, width: int) -> None:
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 640, "deviceScaleFactor": 1, "mobile": False}
    )
    try:
        assert page.overflow() <= 0
        page.say("return " + "x" * 300)
        page.wait_answer().find_element(By.TAG_NAME, "summary").click()
        assert page.overflow() <= 0
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_everything_has_a_name_for_screen_readers(page: ChatPage) -> None:
    nameless = page.driver.execute_script(
        "return [...document.querySelectorAll('input, textarea, button, ol, ul')].filter(e => e.offsetParent && "
        "!(e.labels?.length || e.getAttribute('aria-label') || (e.tagName === 'BUTTON' && e.textContent.trim()))).map(e => e.outerHTML)"
    )
    assert nameless == []
    page.say("opening hours")
    page.wait_answer()
    announcer = page.driver.find_element(By.ID, "announce")
    assert announcer.get_attribute("aria-live") == "polite"
    assert announcer.get_attribute("textContent") == "Agent: We open at nine."


def test_a_server_that_is_away_is_said_so(page: ChatPage) -> None:
    page.driver.execute_cdp_cmd("Network.enable", {})
    page.driver.execute_cdp_cmd(
        "Network.emulateNetworkConditions", {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    )
    try:
        page.say("hello")
        assert "The server cannot be reached." in page.wait_answer().text
    finally:
        page.driver.execute_cdp_cmd(
            "Network.emulateNetworkConditions", {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
        )
