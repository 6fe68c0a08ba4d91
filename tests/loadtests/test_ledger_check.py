"""The ledger says what the provider has told, to the token, and a budget holds under 64 callers: a few hundred mixed calls of a server.

`python -m loadtests.ledger_check` does the same with ten thousand.
"""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import pytest

from loadtests.ledger_check import Books, check, findings

LINE = {"model": "gpt", "outcome": "ok", "estimated": False, "cost_usd": 0.001}
TOKENS = {"input_tokens": 100, "cached_tokens": 40, "cache_write_tokens": 20, "output_tokens": 10}


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_the_ledger_equals_the_simulators_own_count(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    database = request.getfixturevalue("postgres_database") if kind == "postgres" else None
    assert await check(300, 64, database, tmp_path) == []


def test_every_difference_is_found() -> None:
    books = Books()
    books.add(LINE | TOKENS)
    books.add(LINE | TOKENS | {"estimated": True})
    stats = {"by_model": {"gpt": 2}, "told": {"gpt": dict(TOKENS)}}
    total = {"calls": 2, "cost_usd": 0.002, **{name: 2 * count for name, count in TOKENS.items()}}
    assert findings(books, stats, total) == []
    for name in TOKENS:
        other = copy.deepcopy(stats)
        other["told"]["gpt"][name] += 1
        assert len(findings(books, other, total)) == 1, name
        assert len(findings(books, stats, total | {name: 0})) == 1, name
    assert len(findings(books, stats | {"by_model": Counter(gpt=3)}, total)) == 1
    assert len(findings(books, stats | {"by_model": {"gpt": 2, "new": 1}}, total)) == 1
    assert len(findings(books, stats, total | {"calls": 3})) == 1
    assert len(findings(books, stats, total | {"cost_usd": 0.002000001})) == 1
