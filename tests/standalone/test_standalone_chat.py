"""The terminal chat as a person sees it: a real process, real input, a stub server."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.stub import StubServer
from tests.support.services import free_port
from tests.support.waiting import wait_until_sync

ROOT = Path(__file__).parents[2]
CODE = "import asyncio, sys; from standalone.chat import chat; sys.exit(asyncio.run(chat(sys.argv[1], 'term-1')))"


def talk(url: str, *lines: str) -> subprocess.CompletedProcess[str]:
    typed = "".join(line + "\n" for line in lines)
    return subprocess.run([sys.executable, "-c", CODE, url], input=typed, capture_output=True, text=True, cwd=ROOT, timeout=30, check=False)


@pytest.fixture
def stub() -> Iterator[StubServer]:
    with StubServer().serving() as server:
        yield server


def test_a_rule_answer_with_its_route_until_the_input_ends(stub: StubServer) -> None:
    ended = talk(stub.url + "/", "opening hours?", "", "hours")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("We open at nine.") == 2
    assert "lightweight flow opening_hours · by rule · first token" in ended.stdout
    assert [b["session_id"] for b in stub.script.bodies] == ["term-1", "term-1"]


def test_tool_calls_tokens_and_text_that_looks_like_markup(stub: StubServer) -> None:
    out = talk(stub.url, "return [bold]it[/bold]").stdout
    assert '· get_order {"order_id":"A1002"}' in out
    assert "ok 12 ms" in out
    assert "failed 2100 ms" in out
    assert "<b>not markup</b>" in out
    assert "3 LLM calls, 812 + 64 tokens, $0.000321" in out


def test_a_broken_stream_is_taken_up(stub: StubServer) -> None:
    assert "We open at nine." in talk(stub.url, "hours, but drop").stdout
    assert stub.script.resumed_after == ["4"]


def test_errors_are_one_line_and_the_chat_goes_on(stub: StubServer) -> None:
    ended = talk(stub.url, "refuse me", "fail late", "hours")
    assert "Too many requests: Slow down, please. (rate_limited, status 429)" in ended.stdout
    assert "LLM error: The model went away." in ended.stdout
    assert "We open at nine." in ended.stdout
    assert ended.returncode == 0


def test_a_call_that_must_be_approved_is_asked_about(stub: StubServer) -> None:
    ended = talk(stub.url, "cancel order A1007", "y", "hours")
    assert "May I call cancel_order? (yes / no)" in ended.stdout
    assert "Approve? (y/n) " in ended.stdout
    assert "Your return R5001" in ended.stdout
    assert "We open at nine." in ended.stdout
    assert stub.script.decisions == [{"turn_id": "t_1", "decision": "approve", "by": "user"}]


def test_another_message_instead_of_a_decision_is_said_next(stub: StubServer) -> None:
    ended = talk(stub.url, "cancel order A1007", "opening hours first")
    assert "We open at nine." in ended.stdout
    assert stub.script.decisions == []
    assert [b["message"] for b in stub.script.bodies] == ["cancel order A1007", "opening hours first"]


def test_a_decision_that_is_refused_is_told(stub: StubServer) -> None:
    ended = talk(stub.url, "cancel order A1007, but too late", "no", "hours")
    assert "Somebody else has denied it." in ended.stdout
    assert "We open at nine." in ended.stdout


def test_what_people_and_timers_say_arrives_by_itself(stub: StubServer) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, stub.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    wait_until_sync(lambda: stub.script.watched_after, "the chat watches its session")
    stub.happen("session.message", **{"from": "timer", "text": "Still [there]?", "turn_id": "t_2"})
    stub.happen("session.accepted", by="kim")
    stub.happen("task.completed", task_id="t_9", status="success", result={"message": "What you asked for."})
    stub.happen("session.message", **{"from": "human", "text": "Kim here.", "turn_id": "t_3"})
    stub.happen("session.awaiting_approval", turn_id="t_4", calls=[{"call_id": "c", "name": "wipe", "arguments": {}}])
    stub.happen("session.closed", turn_id="t_5", by="timer")
    assert process.stdout is not None
    seen = ""
    while "chat is closed" not in seen:
        seen += process.stdout.readline()
    _, err = process.communicate("", timeout=20)
    assert (process.returncode, err) == (0, "")
    for said in (
        "reminder Still [there]?",
        "A colleague has joined.",
        "agent What you asked for.",
        "colleague Kim here.",
        "for wipe {}. Answer yes or no.",
    ):
        assert said in seen
    assert stub.script.watched_after == ["0"]


def test_a_server_without_events_of_sessions_is_fine(stub: StubServer) -> None:
    stub.script.without_events = True
    ended = talk(stub.url, "hours")
    assert "We open at nine." in ended.stdout
    assert ended.returncode == 0


def test_ctrl_c_ends_it_like_ctrl_d(stub: StubServer) -> None:
    with subprocess.Popen([sys.executable, "-c", CODE, stub.url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as process:
        wait_until_sync(lambda: stub.script.watched_after, "the chat watches its session")
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


def test_input_from_a_file_is_said_line_by_line(stub: StubServer, tmp_path: Path) -> None:
    (tmp_path / "said.txt").write_text("hours\r\nopening hours?", encoding="utf-8")
    with open(tmp_path / "said.txt") as said:
        ended = subprocess.run([sys.executable, "-c", CODE, stub.url], stdin=said, capture_output=True, cwd=ROOT, timeout=30, check=False)
    assert ended.returncode == 0
    assert [b["message"] for b in stub.script.bodies] == ["hours", "opening hours?"]


def test_nobody_there_is_one_clear_line() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    ended = talk(url, "hello")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.replace("\n", " ").startswith(f"nothing answers at {url}")
    assert "Traceback" not in ended.stderr
