"""The chat page by itself: what it shows of a stream, how it takes up a broken one, and how it shows errors."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

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
    wait_until_sync(lambda: page.bubbles() == ["We open at nine."], "the history is shown")
    assert page.console_errors() == []


def test_a_call_that_must_be_approved_has_two_buttons_and_goes_on_after_a_yes(page: ChatPage, stub: StubServer) -> None:
    page.say("cancel order A1007")
    card = page.wait_card()
    assert "May I call cancel_order? (yes / no)" in card.text
    assert page.driver.find_element(By.ID, "send").is_displayed()
    assert "Approval needed: cancel_order." in page.announced()
    names = [button.get_attribute("aria-label") for button in card.find_elements(By.TAG_NAME, "button")]
    assert names == ["Approve cancel_order", "Deny cancel_order"]
    card.find_element(By.CLASS_NAME, "approve").send_keys(Keys.ENTER)
    answer = page.wait_answer()
    wait_until_sync(lambda: answer.find_element(By.CLASS_NAME, "bubble").text.startswith("Your return R5001"), "the turn goes on")
    assert stub.script.decisions == [{"turn_id": "t_1", "decision": "approve", "call_id": "c1", "by": "user"}]
    assert card.find_element(By.CLASS_NAME, "said").text == "Approved."
    assert card.find_elements(By.TAG_NAME, "button") == []
    assert page.driver.switch_to.active_element.get_attribute("id") == "message"
    assert page.console_errors() == []


def test_a_decision_that_is_refused_can_be_seen_and_taken_again(page: ChatPage, stub: StubServer) -> None:
    page.say("cancel order A1007, but too late")
    card = page.wait_card()
    card.find_element(By.CLASS_NAME, "deny").click()
    wait_until_sync(lambda: card.find_elements(By.CSS_SELECTOR, ".said[role=alert]"), "the refusal is shown")
    assert card.find_element(By.CLASS_NAME, "said").text == "Somebody else has denied it."
    assert all(button.is_enabled() for button in card.find_elements(By.TAG_NAME, "button"))
    assert stub.script.decisions == []


def test_a_question_can_be_answered_with_another_message(page: ChatPage, stub: StubServer) -> None:
    page.say("cancel order A1007")
    page.wait_card()
    page.say("opening hours first")
    assert page.wait_answer(2).find_element(By.CLASS_NAME, "bubble").text == "We open at nine."
    # the same turn has been answered there, so its question is no longer open
    assert page.driver.find_element(By.CSS_SELECTOR, ".approval .said").text == "Decided."
    assert [b["message"] for b in stub.script.bodies] == ["cancel order A1007", "opening hours first"]


def test_an_approval_that_somebody_else_gives_is_told(page: ChatPage, stub: StubServer) -> None:
    page.say("opening hours")
    page.wait_answer()
    stub.happen("session.awaiting_approval", turn_id="t_8", calls=[{"call_id": "c8", "name": "wipe", "arguments": {"all": True}}])
    card = page.wait_card()
    assert "wipe" in card.text
    stub.happen("session.approval_decided", turn_id="t_8", call_id="c8", decision="deny", by="Kim")
    wait_until_sync(lambda: card.find_element(By.CLASS_NAME, "said").text == "Denied by Kim.", "the decision is shown")
    assert page.console_errors() == []


def test_a_reload_shows_the_approval_that_is_still_open(page: ChatPage, stub: StubServer) -> None:
    page.say("opening hours, and remember the question")
    page.wait_answer()
    page.driver.refresh()
    card = page.wait_card()
    card.find_element(By.CLASS_NAME, "deny").click()
    wait_until_sync(lambda: stub.script.decisions, "the decision arrives")
    assert stub.script.decisions == [{"turn_id": "t_9", "decision": "deny", "call_id": "c1", "by": "user"}]


def test_what_people_and_timers_say_arrives_by_itself(page: ChatPage, stub: StubServer) -> None:
    page.say("opening hours")
    page.wait_answer()
    stub.happen("session.message", **{"from": "timer", "text": "Are you still there?", "turn_id": "t_2", "timer_id": "still_there"})
    stub.happen("session.transferred", turn_id="t_3", action="human")
    stub.happen("session.accepted", by="kim")
    stub.happen("session.message", **{"from": "human", "text": "Kim here. <i>How</i> can I help?", "turn_id": "t_4"})
    stub.happen("session.message", **{"from": "user", "text": "opening hours", "turn_id": "t_1"})
    stub.happen("session.message", **{"from": "user", "text": "from my phone", "turn_id": "t_5"})
    stub.happen("task.completed", task_id="t_7", status="success", result={"message": "What you asked for <later>."})
    stub.happen("session.released", summary=None)
    stub.happen("session.something_new")
    stub.happen("session.closed", turn_id="t_6", by="timer")
    wait_until_sync(lambda: len(page.notes()) == 4, "all of it arrives")
    said = ["We open at nine.", "Are you still there?", "Kim here. <i>How</i> can I help?", "What you asked for <later>."]
    assert page.bubbles() == said
    mine = [bubble.text for bubble in page.driver.find_elements(By.CSS_SELECTOR, "#log > .mine .bubble")]
    assert mine == ["opening hours", "from my phone"]
    assert page.notes() == [
        "A colleague will answer here.",
        "A colleague has joined.",
        "The assistant answers again.",
        "This chat is closed; the next message opens it again.",
    ]
    assert [a.find_element(By.CLASS_NAME, "note").text for a in page.answers()[1:3]] == ["Reminder", "Colleague"]
    assert page.announced() == "This chat is closed; the next message opens it again."
    assert page.console_errors() == []


def test_a_reload_asks_only_for_what_it_has_not_seen(page: ChatPage, stub: StubServer) -> None:
    page.say("opening hours")
    page.wait_answer()
    stub.happen("session.message", **{"from": "timer", "text": "Are you still there?", "turn_id": "t_2"})
    wait_until_sync(lambda: len(page.answers()) == 2, "the timer's message arrives")
    page.driver.refresh()
    wait_until_sync(lambda: len(stub.script.watched_after) == 2, "the page watches again")
    assert stub.script.watched_after == ["0", "1"]
    page.driver.find_element(By.ID, "new-session").click()
    stub.happen("session.message", **{"from": "timer", "text": "Nobody reads this", "turn_id": "t_3"})
    page.say("hours")
    page.wait_answer()
    assert stub.script.watched_after[2:] == ["0"]


def test_a_server_without_events_of_sessions_is_fine(page: ChatPage, stub: StubServer) -> None:
    stub.script.without_events = True
    page.say("opening hours")
    assert page.wait_answer().find_element(By.CLASS_NAME, "bubble").text == "We open at nine."
    page.say("hours again")
    assert page.wait_answer(2).find_element(By.CLASS_NAME, "bubble").text == "We open at nine."


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
