"""`loadsplit keys` and `loadsplit tenants` on a database of each kind: what they print, and one clear line for what is wrong."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from standalone.commands.access import expiry
from tests.standalone.test_cli_input import run

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC).timestamp()


@pytest.fixture(params=["sqlite", "postgres"])
def env(request: pytest.FixtureRequest) -> dict[str, str]:
    """An empty database: the data directory's, or a PostgreSQL."""
    return {} if request.param == "sqlite" else {"LOADSPLIT_DATABASE_URL": request.getfixturevalue("postgres_database")}


def test_keys_are_made_listed_and_revoked(env: dict[str, str], tmp_path: Path) -> None:
    made = run(
        *("keys", "create", "--tenant", "acme", "--scopes", "query,llm", "--name", "the shop", "--expires", "30d"),
        *("--tokens-per-day", "5000", "--cost-usd-per-day", "2.5"),
        cwd=tmp_path,
        env=env,
    )
    assert made.returncode == 0
    assert re.fullmatch(r"ls_[0-9a-f]{12}_[A-Za-z0-9_-]{43}\n", made.stdout)  # nothing else: KEY=$(loadsplit keys create)
    assert "not shown again" in made.stderr
    assert made.stdout.strip() not in made.stderr
    key_id = made.stdout.split("_")[1]

    listed = run("keys", "list", cwd=tmp_path, env=env).stdout
    assert re.search(
        rf"^{key_id} +acme +llm,query +active +\d{{4}}-\d\d-\d\d \d\d:\d\d +\d{{4}}-\d\d-\d\d \d\d:\d\d "
        r"+tokens_per_day 5000, cost_usd_per_day 2.5 +the shop$",
        listed,
        re.MULTILINE,
    )
    [row] = json.loads(run("keys", "list", "--tenant", "acme", "--json", cwd=tmp_path, env=env).stdout)
    assert (row["key_id"], row["scopes"], row["state"]) == (key_id, ["llm", "query"], "active")
    assert abs(row["expires_at"] - time.time() - 30 * 86400) < 60
    assert made.stdout.strip()[-20:] not in listed
    assert json.loads(run("keys", "list", "--tenant", "other", "--json", cwd=tmp_path, env=env).stdout) == []

    revoked = run("keys", "revoke", key_id, cwd=tmp_path, env=env)
    assert (revoked.returncode, revoked.stdout) == (0, f"key {key_id} of tenant acme is revoked\n")
    assert "revoked" in run("keys", "list", cwd=tmp_path, env=env).stdout


def test_limits_are_set_taken_away_and_listed(env: dict[str, str], tmp_path: Path) -> None:
    given = run("tenants", "set", "acme", "--requests-per-minute", "60", "--cost-usd-per-day", "2.5", cwd=tmp_path, env=env)
    assert (given.returncode, given.stdout) == (0, "acme: requests_per_minute 60, cost_usd_per_day 2.5\n")
    taken = run("tenants", "set", "acme", "--no-limit", "requests-per-minute", "--open-streams", "10", cwd=tmp_path, env=env)
    assert taken.returncode == 0
    run("keys", "create", "--tenant", "zoo", cwd=tmp_path, env=env)
    run("keys", "create", "--tenant", "*", "--scopes", "admin", cwd=tmp_path, env=env)
    acme, zoo = json.loads(run("tenants", "list", "--json", cwd=tmp_path, env=env).stdout)
    assert (acme["tenant"], acme["limits"]) == ("acme", {"cost_usd_per_day": 2.5, "open_streams": 10})
    assert (zoo["tenant"], zoo["limits"], zoo["today"]) == ("zoo", {}, {"tokens": 0, "cost_usd": 0.0})
    lines = run("tenants", "list", cwd=tmp_path, env=env).stdout.splitlines()
    assert lines[0].split() == ["TENANT", "TOKENS", "TODAY", "USD", "TODAY", "LIMITS"]
    assert lines[2].split() == ["zoo", "0", "0.0000", "none"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["keys", "create", "--tenant", "a b"], "tenant must be"),
        (["keys", "create", "--scopes", "fly"], "'fly' is no scope"),
        (["keys", "create", "--scopes", ","], "scopes"),
        (["keys", "create", "--tenant", "*"], "scope admin"),
        (["keys", "create", "--expires", "soon"], "--expires"),
        (["keys", "create", "--expires", "2020-01-01"], "is past"),
        (["keys", "create", "--expires", "0d"], "--expires"),
        (["keys", "create", "--name", "x" * 201], "name must be"),
        (["keys", "revoke", "abc"], "there is no key abc"),
        (["keys", "revoke"], "key_id"),
        (["keys", "fly"], "fly"),
        (["tenants", "set", "acme"], "at least one limit"),
        (["tenants", "set", "a/b", "--open-streams", "5"], "tenant must be"),
        (["tenants", "set", "*", "--open-streams", "5"], "tenant must be"),
        (["tenants", "set", "acme", "--open-streams", "0"], "open_streams must be"),
        (["tenants", "set", "acme", "--no-limit", "speed"], "'speed' is no limit"),
        (["tenants", "set", "acme", "--tokens-per-day", "many"], "--tokens-per-day"),
    ],
)
def test_one_line_for_what_is_wrong(arguments: list[str], part: str, tmp_path: Path) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert part in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_a_database_that_is_away(tmp_path: Path) -> None:
    done = run("keys", "list", cwd=tmp_path, env={"LOADSPLIT_DATABASE_URL": "sqlite:////proc/none/x.db"})
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, "loadsplit: the database is unavailable")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("12h", NOW + 12 * 3600),
        ("30d", NOW + 30 * 86400),
        ("2w", NOW + 14 * 86400),
        ("2027-01-01", datetime(2027, 1, 1, tzinfo=UTC).timestamp()),
        ("2027-01-01T10:00", datetime(2027, 1, 1, 10, tzinfo=UTC).timestamp()),
        ("2027-01-01T10:00+02:00", datetime(2027, 1, 1, 8, tzinfo=UTC).timestamp()),
    ],
)
def test_when_a_key_expires(text: str, seconds: float) -> None:
    assert expiry(text, NOW) == seconds
