"""The terminal chat as a person sees it: a real process, real input, a stub server."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.browser.stub import StubServer
from tests.support.services import free_port

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


def test_nobody_there_is_one_clear_line() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    ended = talk(url, "hello")
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr.replace("\n", " ").startswith(f"nothing answers at {url}")
    assert "Traceback" not in ended.stderr
