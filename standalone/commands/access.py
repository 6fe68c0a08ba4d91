"""`loadsplit keys …` and `loadsplit tenants …`: API keys and limits in the database, also while servers run: they follow in two seconds.

Who opens the database is given: this room knows its stores only.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from heavy.tenants.stores import KeyRow
    from heavy.turns.stores import Stores

Opens = Callable[[Path | None], Awaitable["Stores"]]
T = TypeVar("T")

MOST = 100_000
SECONDS = {"h": 3600, "d": 86400, "w": 7 * 86400}
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Where SQLite is, without LOADSPLIT_DATABASE_URL [default: .data].")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]


def commands(opens: Opens) -> tuple[typer.Typer, typer.Typer]:
    """The commands of keys and of tenants, on the database that `opens` opens for a data directory."""
    return _keys(opens), _tenants(opens)


def _keys(opens: Opens) -> typer.Typer:
    app = typer.Typer(help="API keys in the database.", no_args_is_help=True)

    @app.command()
    def create(
        tenant: Annotated[str, typer.Option(help="Whose key it is; * for an operator's, with the scope admin alone.")] = "default",
        scopes: Annotated[str, typer.Option(help="Of query, admin, llm; with commas between.")] = "query",
        name: Annotated[str, typer.Option(help="What it is for.")] = "",
        expires: Annotated[str | None, typer.Option(help="30d, 12h, 2w, or a date such as 2027-01-01 (UTC) [default: never].")] = None,
        tokens_per_day: Annotated[int | None, typer.Option(help="Tokens, input and output, of a UTC day, with this key.")] = None,
        cost_usd_per_day: Annotated[float | None, typer.Option(help="US dollars of a UTC day, with this key.")] = None,
        data_dir: DataDir = None,
    ) -> None:
        """Make a key. Its text is printed this once, alone on stdout."""
        from heavy.tenants.keys import create_key

        listed = [s.strip() for s in scopes.split(",") if s.strip()]
        expires_at = None if expires is None else expiry(expires, time.time())
        limits = {"tokens_per_day": tokens_per_day, "cost_usd_per_day": cost_usd_per_day}

        def make(stores: Stores) -> Awaitable[tuple[str, KeyRow]]:
            return create_key(stores.access, tenant=tenant, scopes=listed, name=name, expires_at=expires_at, limits=limits)

        text, row = _run(opens, data_dir, make)
        sys.stderr.write(f"key {row.key_id} of tenant {row.tenant} ({', '.join(row.scopes)}); it is not shown again:\n")
        typer.echo(text)

    @app.command(name="list")
    def list_keys(
        tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None, as_json: AsJson = False, data_dir: DataDir = None
    ) -> None:
        """Show the keys, without their texts, the newest first."""
        from heavy.tenants.keys import state_of

        rows = _run(opens, data_dir, lambda stores: stores.access.keys(tenant, limit=MOST))
        if as_json:
            typer.echo(json.dumps([{**asdict(row), "state": state_of(row)} for row in rows], indent=1))
        else:
            table(
                ("KEY ID", "TENANT", "SCOPES", "STATE", "CREATED", "EXPIRES", "LIMITS", "NAME"), [_line(row, state_of(row)) for row in rows]
            )

    @app.command()
    def revoke(key_id: Annotated[str, typer.Argument(help="As `keys list` shows it.")], data_dir: DataDir = None) -> None:
        """End a key for ever."""
        row = _run(opens, data_dir, lambda stores: stores.access.revoke(None, key_id))
        if row is None:
            raise ValueError(f"there is no key {key_id}")
        typer.echo(f"key {row.key_id} of tenant {row.tenant} is revoked")

    return app


def _tenants(opens: Opens) -> typer.Typer:
    app = typer.Typer(help="Limits of tenants in the database.", no_args_is_help=True)

    @app.command(name="set")
    def set_limits(
        tenant: Annotated[str, typer.Argument(help="Whose limits.")],
        requests_per_minute: Annotated[int | None, typer.Option(help="Requests with an API key.")] = None,
        concurrent_turns: Annotated[int | None, typer.Option(help="LLM turns that wait or run at once.")] = None,
        tokens_per_day: Annotated[int | None, typer.Option(help="Tokens, input and output, of a UTC day.")] = None,
        cost_usd_per_day: Annotated[float | None, typer.Option(help="US dollars of a UTC day.")] = None,
        open_streams: Annotated[int | None, typer.Option(help="Streams and WebSockets open at once [default: 5000].")] = None,
        no_limit: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Take a limit away; may be repeated.")] = None,
        data_dir: DataDir = None,
    ) -> None:
        """Set limits; those not named stay as they are."""
        from common.contracts.access import check_limits, check_tenant

        given = {
            "requests_per_minute": requests_per_minute,
            "concurrent_turns": concurrent_turns,
            "tokens_per_day": tokens_per_day,
            "cost_usd_per_day": cost_usd_per_day,
            "open_streams": open_streams,
        }
        removed = [name.replace("-", "_") for name in no_limit or ()]
        check_limits(dict.fromkeys(removed))
        changes: dict[str, Any] = {**check_limits(given), **dict.fromkeys(removed)}
        if not changes:
            raise ValueError("name at least one limit to set, or one to take away with --no-limit")
        row = _run(opens, data_dir, lambda stores: stores.access.set_limits(check_tenant(tenant), changes))
        typer.echo(f"{row.tenant}: {_limits(row.limits)}")

    @app.command(name="list")
    def list_tenants(as_json: AsJson = False, data_dir: DataDir = None) -> None:
        """Show the tenants that have keys or limits, with what they have spent today (UTC)."""
        from heavy.llm.today import NOTHING, spent_today

        async def read(stores: Stores) -> list[dict[str, Any]]:
            today = await spent_today(stores.ledger)
            rows = await stores.access.tenants(None, limit=MOST)
            return [{"tenant": r.tenant, "limits": dict(r.limits), "today": dict(today.get(r.tenant, NOTHING))} for r in rows]

        found = _run(opens, data_dir, read)
        if as_json:
            typer.echo(json.dumps(found, indent=1))
            return
        lines = [(t["tenant"], str(t["today"]["tokens"]), f"{t['today']['cost_usd']:.4f}", _limits(t["limits"])) for t in found]
        table(("TENANT", "TOKENS TODAY", "USD TODAY", "LIMITS"), lines)

    return app


def expiry(text: str, now: float) -> float:
    """The Unix time of `30d`, `12h`, `2w`, or of a date or time of ISO 8601 (UTC, where it names no zone). Raises ValueError."""
    if found := re.fullmatch(r"([1-9]\d{0,4})([hdw])", text):
        return now + int(found[1]) * SECONDS[found[2]]
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"--expires must be 30d, 12h, 2w, or a date such as 2027-01-01, not {text!r}") from None
    seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
    if seconds <= now:
        raise ValueError(f"--expires: {text} is past")
    return seconds


def _run(opens: Opens, data_dir: Path | None, work: Callable[[Stores], Awaitable[T]]) -> T:
    async def run() -> T:
        stores = await opens(data_dir)
        try:
            return await work(stores)
        finally:
            await stores.aclose()

    return asyncio.run(run())


def _line(row: KeyRow, state: str) -> tuple[str, ...]:
    until = "never" if row.expires_at is None else _day(row.expires_at)
    return (row.key_id, row.tenant, ",".join(row.scopes), state, _day(row.created_at), until, _limits(row.limits), row.name)


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M")


def _limits(limits: Any) -> str:
    return ", ".join(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in limits.items()) or "none"


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Prints lines under a head, each column as wide as its widest cell."""
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    for line in (head, *lines):
        typer.echo("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
