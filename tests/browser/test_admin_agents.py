"""Agents on the admin pages: written, checked while somebody types, stored, tried with a share of the sessions, taken back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from selenium.webdriver import Chrome
from selenium.webdriver.common.keys import Keys

from tests.browser.admin import AdminPages
from tests.support.admin import Pages, words
from tests.support.client import Client
from tests.support.running import Running
from tests.support.services import free_port
from tests.support.waiting import wait_until_sync

SET_TEXT = "const t = document.getElementById('text'); t.value = arguments[0]; t.dispatchEvent(new Event('input', {bubbles: true}));"


def workflow(answer: str, **more: Any) -> str:
    """An agent with one rule."""
    flow = {"flow_id": "hours", "name": "Hours", "trigger_patterns": ["opening hours"], "response_template": answer}
    tests = [{"name": "hours", "say": "your opening hours?", "expect": {"action": "flow", "target": "hours"}}]
    return json.dumps({"agent_id": "desk", "basic_settings": {"name": "Desk"}, "flows": [{**flow, **more}], "tests": tests}, indent=1)


@pytest.fixture(scope="module")
def centre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A single process that serves the config centre, with no agent yet."""
    folder, port = tmp_path_factory.mktemp("centre"), free_port()
    with Running(["serve", "--config", "db:", "--port", str(port)], folder, port=port, ready="/livez") as server:
        yield server


def test_an_agent_is_written_tried_and_taken_back(chromium: Chrome, centre: Running) -> None:
    pages, client = AdminPages(chromium, centre.url), Client(centre.url)
    pages.open("/agents")
    assert "There is no agent yet." in pages.text
    pages.fill("#new-agent", "desk")
    pages.press("Write an agent")
    assert pages.heading == "Edit desk"
    assert pages.faults() == []
    pages.driver.execute_script(SET_TEXT, workflow("We open at 9.", trigger_patterns=["("]))
    wait_until_sync(lambda: "does not hold" in pages.find("#checked").text, "the problem is told while somebody types", 10)
    assert "flows[0]" in pages.find("#checked").text or ":" in pages.find("#checked tbody td").text
    pages.press("Store as a new version")
    assert pages.find("[role=alert]").text.startswith("Invalid configuration")
    pages.driver.get_log("browser")  # the browser notes the 422
    assert pages.faults() == []
    pages.driver.execute_script(SET_TEXT, workflow("We open at 9."))
    wait_until_sync(lambda: "1 passed" in pages.find("#checked").text, "the tests have run", 10)
    pages.fill("#note", "first")
    pages.press("Store as a new version")
    assert pages.find("[role=status]").text == "The version is stored."
    pages.press("Activate for all")
    wait_until_sync(lambda: client.ask("opening hours", "agents-1").status == 200, "version 1 serves", 5)
    assert "at 9" in client.ask("opening hours", "agents-1").json["message"]

    pages.open("/agents/desk/edit")
    assert json.loads(pages.find("#text").get_attribute("value"))["agent_id"] == "desk"
    pages.driver.execute_script(SET_TEXT, workflow("We open at 10."))
    pages.press("Store as a new version")
    slider = pages.find("#percent")
    slider.send_keys(Keys.END)
    assert pages.find("output").text == "99 %"
    pages.press("Try it with that share")
    assert "version 2 for 99" in pages.text
    assert len(pages.all("#comparison tbody tr")) == 2
    assert pages.faults() == []
    sessions = (f"agents-2-{n}" for n in range(1000))
    wait_until_sync(lambda: "at 10" in client.ask("opening hours", next(sessions)).json["message"], "the canary serves", 5)
    pages.open("/agents/desk/versions/2")
    assert "otherwise than version 1" in pages.text
    assert pages.faults() == []
    pages.open("/agents/desk")
    pages.press("Take the canary out")
    wait_until_sync(lambda: "at 9" in client.ask("opening hours", "agents-3").json["message"], "version 1 serves again", 5)
    assert "There is no canary." in pages.text
    assert [row.text for row in pages.all("table")[-1].find_elements("css selector", "tbody th")] == ["rollback", "canary", "activate"]
    pages.open("/audit?action=config")
    assert [row.text for row in pages.all("tbody th")] == [
        "config.rollback", "config.canary", "config.push", "config.activate", "config.push",
    ]  # fmt: skip
    for path in ("/agents", "/agents/desk", "/rules", "/playground"):
        assert (pages.open(path).faults(), pages.pale()) == ([], []), path


def test_what_cannot_be_done_is_told(centre: Running) -> None:
    visitor = Pages(centre.url)
    assert visitor.post("/agents/nobody", action="activate", version="1").status == 404
    assert visitor.post("/agents/nobody", action="canary", version="1", percent="many").status == 400
    assert visitor.post("/agents/nobody", action="canary", version="x", percent="5").status == 400
    assert visitor.post("/agents/nobody", action="dance", version="1").status == 400
    assert visitor.get("/agents/nobody").status == 404
    assert visitor.get("/agents/a%20b").status == 400
    checked = visitor.post("/agents/nobody/lint", text="flows: [", form="yaml")
    assert checked.status == 200
    assert "does not hold" in words(checked)
    assert visitor.post("/agents/nobody/lint", text="x" * 1_100_000).status == 413


def test_agents_of_files_are_looked_at(chromium: Chrome, demo_url: str) -> None:
    pages = AdminPages(chromium, demo_url)
    pages.open("/agents")
    assert "LOADSPLIT_CONFIG" in pages.text
    assert pages.faults() == []
    pages.click("tbody th a")
    assert pages.heading.startswith("Agent ")
    assert pages.faults() == []
    visitor = Pages(demo_url)
    other = workflow("We open at 9.").replace('"desk"', '"other"')
    assert visitor.post("/agents/other/edit", text=other, form="json", action="push").status == 303
    refused = visitor.post("/agents/other", action="activate", version="1")
    assert refused.status == 409
    assert "start it with LOADSPLIT_CONFIG=db:" in words(refused)
