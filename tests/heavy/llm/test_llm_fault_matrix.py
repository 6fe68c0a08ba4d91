"""The fault matrix of docs/llm.md, cell by cell, for both providers: the table there is what is tested here."""

from __future__ import annotations

import itertools
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from heavy.llm.aliases import Alias, Group
from heavy.llm.gateway import open_gateway
from heavy.llm.types import Completed, LLMCallFailed, LLMRequest, Message, Target, TextDelta
from loadtests.simulators.llm import Simulator, running
from loadtests.simulators.profile import Profile
from tests.support.llm_books import RecordingBooks

DOC = Path(__file__).parents[3] / "docs" / "llm.md"
COLUMNS = ("not streamed", "before the first token", "after it", "after it, `continue_after_failure`", "one target")
IMPOSSIBLE = "–"
# A status comes instead of a stream, and so does no connection: nothing of that is possible after the first token.
INSTEAD = {"400", "401", "404", "429", "500", "503", "529", "spend_limit", "connect"}
WITHIN = {"reset", "eof", "garbage", "error_event", "stall", "held_open"}


def table() -> dict[str, dict[str, str]]:
    """The cells of the table, by fault and column."""
    section = DOC.read_text("utf-8").split("### The fault matrix")[1].split("\n- ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")]
    head, body = rows[0], rows[2:]
    return {row[0].strip("`"): dict(zip(head, row, strict=True)) for row in body}


MATRIX = table()
CELLS = [
    pytest.param(fault, column, MATRIX[fault][column], provider, id=f"{fault}-{column}-{provider}".replace(" ", "_"))
    for fault, column, provider in itertools.product(MATRIX, COLUMNS, ("openai", "anthropic"))
    if MATRIX[fault][column] != IMPOSSIBLE
]


def test_the_table_has_every_fault_and_leaves_out_only_what_cannot_be() -> None:
    assert set(MATRIX) == INSTEAD | WITHIN
    left_out = {(fault, column) for fault in MATRIX for column in COLUMNS if MATRIX[fault][column] == IMPOSSIBLE}
    assert left_out == {(fault, column) for fault in INSTEAD for column in COLUMNS[2:4]}


def profile(fault: str, after: int) -> Profile:
    rules = [
        {"when": {"user": "broke off in the middle"}, "text": "and the rest"},
        {"when": {"model": "bad"}, "text": "bad one two three", "token_ms": 5},
        {"text": "from the good one"},
    ]
    faults = [{"kind": fault, "when": {"model": "bad"}, "every": 1, "after_tokens": after, "seconds": 20}] if fault != "connect" else []
    return Profile.model_validate({"first_token_ms": 0, "token_ms": 0, "rules": rules, "faults": faults})


async def call(alias: Alias, streaming: bool, books: RecordingBooks) -> tuple[list[str], Completed | LLMCallFailed]:
    """The deltas and how it ended."""
    request = LLMRequest("default", [Message("user", "Hello")])
    said: list[str] = []
    async with open_gateway({"default": alias}, books=books) as gateway:
        try:
            if not streaming:
                return said, await gateway.complete(request)
            async with aclosing(gateway.stream(request)) as chunks:
                async for chunk in chunks:
                    if isinstance(chunk, TextDelta):
                        said.append(chunk.text)
                    else:
                        return said, chunk
        except LLMCallFailed as e:
            return said, e
    raise AssertionError("no end")


def check(cell: str, said: str, end: Completed | LLMCallFailed, simulator: Simulator, *, streaming: bool, unreachable: bool) -> None:
    """What a word of the table says."""
    bad = {} if unreachable else {"bad": 1}
    if cell == "next target":
        assert isinstance(end, Completed)
        assert (end.message.content, simulator.by_model) == ("from the good one", bad | {"good": 1})
    elif cell == "goes on":
        assert isinstance(end, Completed)
        assert said == end.message.content == "bad oneand the rest"
        assert simulator.by_model == bad | {"good": 1}
    elif cell == "complete":
        assert isinstance(end, Completed)
        assert (end.message.content, simulator.by_model) == ("bad one two three", bad)
    elif cell == "typed error":
        assert isinstance(end, LLMCallFailed)
        assert (end.code, end.partial, said) == ("llm_error", "bad one", "bad one")
        assert simulator.by_model == bad
    else:
        assert cell == "final"
        assert isinstance(end, LLMCallFailed)
        assert (end.partial, simulator.by_model) == ("", bad)
    if streaming and isinstance(end, Completed):
        assert said == end.message.content


@pytest.mark.parametrize(("fault", "column", "cell", "provider"), CELLS)
async def test_cell(fault: str, column: str, cell: str, provider: Any) -> None:
    after, streaming = (2 if column.startswith("after") else 0), column != "not streamed"
    async with running(profile(fault, after)) as (url, simulator):

        def target(model: str) -> Target:
            at = "http://127.0.0.1:9/v1" if fault == "connect" and model == "bad" else f"{url}/v1"
            times = {"first_token_timeout": 0.3, "idle_timeout": 0.3, "total_timeout": 0.6} if fault == "stall" and model == "bad" else {}
            return Target(provider, model, base_url=at, api_key="k", **times)

        targets = (target("bad"),) if column == "one target" else (target("bad"), target("good"))
        alias = Alias((Group(targets),), backoff=0.001, continues="continue" in column)
        books = RecordingBooks()
        said, end = await call(alias, streaming, books)
    if cell in ("once", "twice"):
        assert len(books.lines) == 1 + (cell == "twice")
        assert simulator.calls == (0 if fault == "connect" else len(books.lines))
        assert isinstance(end, Completed if fault == "held_open" else LLMCallFailed)
        return
    check(cell, "".join(said), end, simulator, streaming=streaming, unreachable=fault == "connect")
