"""Chromium for the page's tests, a stub server for the page alone, and the whole demo server for the real thing."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.browser.stub import StubServer
from tests.support.services import find_binary, free_port
from tests.support.waiting import wait_until_sync

ROOT = Path(__file__).parents[2]
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--window-size=1100,800",
)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Chrome]:
    """One headless Chromium for the whole run, with an empty profile."""
    with tempfile.TemporaryDirectory(prefix="loadsplit-chromium-", ignore_cleanup_errors=True) as profile:
        options = ChromeOptions()
        options.binary_location = find_binary("chromium")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        for flag in (*FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = Chrome(options=options, service=Service(executable_path=find_binary("chromedriver")))
        yield driver
        driver.quit()


class ChatPage:
    """The open page, in the words of a user."""

    def __init__(self, driver: Chrome, url: str) -> None:
        self.driver = driver
        driver.set_window_size(1100, 800)
        driver.get(url + "/")
        driver.execute_script("localStorage.clear(); sessionStorage.clear()")
        driver.get_log("browser")  # what an earlier test left behind
        driver.refresh()

    def say(self, text: str) -> None:
        """Types a message and presses Enter."""
        box = self.driver.find_element(By.ID, "message")
        box.send_keys(text)
        box.send_keys(Keys.ENTER)

    def answers(self) -> list[Any]:
        """The agent's answers, the finished and the running one."""
        return self.driver.find_elements(By.CSS_SELECTOR, "#log > .theirs")

    def wait_answer(self, number: int = 1, seconds: float = 20) -> Any:
        """The number-th answer, once it is finished."""
        wait_until_sync(
            lambda: len(self.answers()) >= number and not self.answers()[number - 1].get_attribute("aria-busy"), f"answer {number}", seconds
        )
        return self.answers()[number - 1]

    def bubbles(self) -> list[str]:
        """What the agent, people and timers have said."""
        return [bubble.text for bubble in self.driver.find_elements(By.CSS_SELECTOR, "#log > .theirs .bubble")]

    def notes(self) -> list[str]:
        """What has happened to the session."""
        return [note.text for note in self.driver.find_elements(By.CSS_SELECTOR, "#log > .happened")]

    def announced(self) -> str:
        """What a screen reader has been told last."""
        return str(self.driver.find_element(By.ID, "announce").get_attribute("textContent"))

    def wait_card(self) -> Any:
        """The question whether a call is approved, once it is there."""
        wait_until_sync(lambda: self.driver.find_elements(By.CLASS_NAME, "approval"), "an approval is asked for")
        return self.driver.find_element(By.CLASS_NAME, "approval")

    def fact(self, answer: Any, name: str) -> str:
        """One of the facts under an answer, such as tier, action, time, tokens."""
        return str(answer.find_element(By.CSS_SELECTOR, f"[data-fact={name}] dd").text)

    def overflow(self) -> int:
        """How many pixels the page is wider than its window."""
        return int(self.driver.execute_script("return document.documentElement.scrollWidth - window.innerWidth"))

    def console_errors(self) -> list[str]:
        """What the browser's console has complained about."""
        return [str(e["message"]) for e in self.driver.get_log("browser") if e["level"] in ("SEVERE", "WARNING")]


@pytest.fixture
def stub() -> Iterator[StubServer]:
    """The stub server, fresh for each test."""
    with StubServer().serving() as server:
        yield server


@pytest.fixture
def page(chromium: Chrome, stub: StubServer) -> ChatPage:
    """The chat page of the stub server."""
    return ChatPage(chromium, stub.url)


def _ready(url: str, process: subprocess.Popen[bytes]) -> bool:
    if process.poll() is not None:
        return True
    try:
        with urllib.request.urlopen(url + "/readyz", timeout=2) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="session")
def demo_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """`loadsplit serve --demo` with the customer service example, on a free port."""
    folder = tmp_path_factory.mktemp("demo")
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    env = {k: v for k, v in os.environ.items() if not k.startswith(("LOADSPLIT_", "OPENAI_", "ANTHROPIC_"))} | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "standalone.cli", "serve", "--demo", "--port", str(port)]
    command += ["--config", str(ROOT / "examples/customer_service/workflow.json"), "--data-dir", str(folder / "data")]
    with open(folder / "serve.log", "wb") as log, subprocess.Popen(command, stdout=log, stderr=log, cwd=folder, env=env) as process:
        try:
            wait_until_sync(lambda: _ready(url, process), "the demo serves", 30)
            assert process.poll() is None, (folder / "serve.log").read_text()[-3000:]
            yield url
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
