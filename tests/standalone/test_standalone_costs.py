"""`loadsplit costs` and `loadsplit audit`: what the ledger says, and whether a provider's export says the same."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

import pytest

from heavy.llm.types import CallUsage, Spender
from heavy.storage.open import open_stores
from tests.standalone.test_cli_input import run
from tests.support.ledger import DAY, NOON, call

OPENAI = """start_time,end_time,model,num_model_requests,input_tokens,input_cached_tokens,output_tokens
1767312000,1767398400,gpt-4.1-mini-2025-04-14,2,150,50,15
2026-01-02T09:00:00Z,,gpt-4.1-mini-2025-04-14,1,50,30,5
"""
ANTHROPIC = (
    "usage_date_utc,model_version,api_key,usage_input_tokens_no_cache,usage_input_tokens_cache_write_5m,"
    "usage_input_tokens_cache_write_1h,usage_input_tokens_cache_read,usage_output_tokens\n"
    '2026-01-03,claude-sonnet-4-6-20260101,shop,40,"20",0,40,10\n'
)


@pytest.fixture(params=["sqlite", "postgres"])
def env(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """A database with two calls of OpenAI's on one day and one of Anthropic's on the next."""
    url = f"sqlite:///{tmp_path}/x.db" if request.param == "sqlite" else str(request.getfixturevalue("postgres_database"))

    async def fill() -> None:
        stores = await open_stores(url)
        claude = {"model": "claude-sonnet-4-6", "target": "anthropic/claude-sonnet-4-6", "began": NOON + 86400}
        other = call("c3", Spender("other"), estimated=True, **claude)
        await stores.ledger.record([call("c1"), call("c2"), other, call("c4", usage=CallUsage(1), outcome="reset")])
        await stores.aclose()

    asyncio.run(fill())
    return {"LOADSPLIT_DATABASE_URL": url}


def export(tmp_path: Path, text: str) -> str:
    path = tmp_path / "export.csv"
    path.write_text(text)
    return str(path)


def test_costs_are_shown_in_a_table(env: dict[str, str], tmp_path: Path) -> None:
    days = ("--from", "2026-01-01", "--to", "2026-01-31")
    shown = run("costs", *days, "--group-by", "model,tenant", cwd=tmp_path, env=env)
    lines = shown.stdout.splitlines()
    assert lines[0].split() == ["MODEL", "TENANT", "CALLS", "FAILED", "INPUT", "CACHED", "WRITTEN", "OUTPUT", "USD"]
    assert [line.split() for line in lines[1:3]] == [
        ["claude-sonnet-4-6", "other", "1", "0", "100", "40", "20", "10", "0.001000"],
        ["gpt-4.1-mini", "acme", "3", "1", "200", "80", "40", "20", "0.002000"],
    ]
    assert lines[3] == "2026-01-01 to 2026-01-31: 4 calls, 0.003000 US dollars"
    [row] = json.loads(run("costs", *days, "--group-by", "day", "--tenant", "acme", "--json", cwd=tmp_path, env=env).stdout)
    assert {"day": DAY, "calls": 3, "cost_usd": 0.002}.items() <= row.items()


def test_an_export_that_says_the_same(env: dict[str, str], tmp_path: Path) -> None:
    done = run("audit", export(tmp_path, OPENAI), cwd=tmp_path, env=env)
    assert (done.returncode, done.stdout) == (
        0,
        "2026-01-02 to 2026-01-02: 1 days of a model compared (input, cached, output), 0 differences\n",
    )
    done = run("audit", export(tmp_path, ANTHROPIC), cwd=tmp_path, env=env)
    assert done.returncode == 0
    assert "compared (input, cached, cache_write, output), 0 differences" in done.stdout
    assert "1 calls of the ledger are estimates" in done.stdout


def test_an_export_that_says_otherwise(env: dict[str, str], tmp_path: Path) -> None:
    file = export(tmp_path, OPENAI.replace(",150,", ",160,") + "2026-01-02,,gpt-5,1,7,0,1\n")
    done = run("audit", file, cwd=tmp_path, env=env)
    assert done.returncode == 1
    assert [line.split() for line in done.stdout.splitlines()[1:-1]] == [
        [DAY, "gpt-4.1-mini", "input", "200", "210", "-10"],
        [DAY, "gpt-5", "input", "0", "7", "-7"],
        [DAY, "gpt-5", "output", "0", "1", "-1"],
    ]
    assert run("audit", export(tmp_path, OPENAI.replace(",150,", ",160,")), "--tolerance", "5", cwd=tmp_path, env=env).returncode == 0
    assert run("audit", export(tmp_path, OPENAI.replace(",150,", ",160,")), "--tolerance", "4", cwd=tmp_path, env=env).returncode == 1


def test_columns_and_targets_may_be_named(env: dict[str, str], tmp_path: Path) -> None:
    file = export(tmp_path, "Date,Model,Fresh,Reused,Spent\n2026-01-02,gpt-4.1-mini,120,80,$0.002\n")
    names = ("day=Date", "model=Model", "input=Fresh+Reused", "cost=Spent")
    options = [o for name in names for o in ("--column", name)]
    done = run("audit", file, *options, cwd=tmp_path, env=env)
    assert (done.returncode, "compared (input, cost), 0 differences" in done.stdout) == (0, True)
    done = run("audit", file, *options, "--target", "anthropic/", cwd=tmp_path, env=env)
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("text", "options", "says"),
    [
        ("a,b\n1,2\n", (), "in no known format: name its columns, such as --column day=NAME; it has a, b"),
        (OPENAI, ("--format", "anthropic"), "has no column 'usage_date_utc'"),
        (OPENAI, ("--format", "excel"), "--format must be one of openai, anthropic"),
        (OPENAI, ("--column", "colour=x"), "--column must be WHAT=NAME"),
        (OPENAI.replace(",150,", ",many,"), (), "line 2: 'many' is no number"),
        (OPENAI.replace("1767312000", "soon"), (), "line 2: 'soon' is no day"),
        (OPENAI.splitlines()[0] + "\n", (), "has no line"),
        ("", (), "in no known format"),
    ],
)
def test_what_cannot_be_compared_is_one_line(tmp_path: Path, text: str, options: tuple[str, ...], says: str) -> None:
    done = run("audit", export(tmp_path, text), *options, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--from", "x"), "--from must be a day"),
        (("--from", "2026-02-01", "--to", "2026-01-01"), "--from must not be behind --to"),
        (("--group-by", "colour"), "'colour' is no group"),
    ],
)
def test_wrong_options_of_costs_are_one_line(tmp_path: Path, options: tuple[str, ...], says: str) -> None:
    done = run("costs", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert re.search(re.escape(says), done.stderr)
    assert len(done.stderr.splitlines()) == 1
