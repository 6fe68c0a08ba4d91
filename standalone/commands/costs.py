"""`loadsplit costs` and `loadsplit audit FILE`: what calls of models have cost, and whether a provider says the same.

Who opens the database is given: this room knows its stores only.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import fields
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from standalone.commands.access import AsJson, DataDir, table

if TYPE_CHECKING:
    from heavy.llm.audit import Difference
    from heavy.llm.stores import Costs
    from heavy.turns.stores import Stores

Opens = Callable[[Path | None], Awaitable["Stores"]]
MOST = 1_000_000
DAYS = 30


def register(app: typer.Typer, opens: Opens) -> None:
    """Adds both commands to an app, on the database that `opens` opens for a data directory."""
    _costs(app, opens)
    _audit(app, opens)


def _costs(app: typer.Typer, opens: Opens) -> None:
    @app.command()
    def costs(
        since: Annotated[str | None, typer.Option("--from", help="First day, such as 2026-11-01 (UTC) [default: 30 days].")] = None,
        until: Annotated[str | None, typer.Option("--to", help="Last day [default: today].")] = None,
        group_by: Annotated[str, typer.Option(help="Of day, tenant, agent, skill, key, model, target, purpose; commas between.")] = "model",
        tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
        as_json: AsJson = False,
        data_dir: DataDir = None,
    ) -> None:
        """Show what calls of models have cost, by the prices of the models file."""
        first, last = _days(since, until)
        names = [name.strip() for name in group_by.split(",") if name.strip()]
        rows = _read(opens, data_dir, tenant, first, last, names)
        lines = [_document(row) for row in rows]
        if as_json:
            typer.echo(json.dumps(lines, indent=1))
            return
        head = [*names, "calls", "failed", "input", "cached", "written", "output", "usd"]
        table([n.upper() for n in head], [_cells(names, line) for line in lines])
        total = sum(row.cost_nano for row in rows) / 1e9
        typer.echo(f"{first} to {last}: {sum(row.calls for row in rows)} calls, {total:.6f} US dollars")


def _audit(app: typer.Typer, opens: Opens) -> None:
    @app.command()
    def audit(
        file: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The provider's export, as CSV.")],
        form: Annotated[str | None, typer.Option("--format", help="openai or anthropic [default: what the header fits].")] = None,
        column: Annotated[
            list[str] | None,
            typer.Option(metavar="WHAT=NAME[+NAME]", help="Columns of day, model, input, cached, cache_write, output, cost; repeatable."),
        ] = None,
        target: Annotated[str | None, typer.Option(help="Only targets that begin so, such as openai/ [default: by the format].")] = None,
        tolerance: Annotated[float, typer.Option(min=0, help="Per cent that may be missing or too much.")] = 0.0,
        data_dir: DataDir = None,
    ) -> None:
        """Compare the ledger with a provider's export, by day and model. Exit 1 when they differ."""
        from heavy.llm.audit import FORMATS, KINDS, differences, ledger_sums, read_export

        if form is not None and form not in FORMATS:
            raise ValueError(f"--format must be one of {', '.join(FORMATS)}")
        with file.open(newline="", encoding="utf-8-sig") as opened:
            try:
                chosen, columns, theirs = read_export(opened, form, _columns(column or ()))
            except UnicodeDecodeError:
                raise ValueError(f"{file} is not UTF-8") from None
            except ValueError as e:
                raise ValueError(f"{file}: {e}") from None
        if not theirs:
            raise ValueError(f"{file} has no line")
        days = sorted(day for day, _ in theirs)
        rows = _read(opens, data_dir, None, days[0], days[-1], ["day", "model", "target"])
        ours, estimated = ledger_sums(rows, target if target is not None else f"{chosen}/" if chosen else "")
        kinds = [kind for kind in KINDS if kind in columns]
        found = differences(ours, theirs, kinds, tolerance)
        if found:
            table(("DAY", "MODEL", "WHAT", "LEDGER", "EXPORT", "DIFFERENCE"), [_line(one) for one in found])
        places = len({*ours, *theirs})
        typer.echo(f"{days[0]} to {days[-1]}: {places} days of a model compared ({', '.join(kinds)}), {len(found)} differences")
        if estimated:
            typer.echo(f"{estimated} calls of the ledger are estimates: the provider did not tell their tokens")
        raise typer.Exit(1 if found else 0)


def _read(opens: Opens, data_dir: Path | None, tenant: str | None, first: str, last: str, group_by: Sequence[str]) -> Sequence[Costs]:
    async def read() -> Sequence[Costs]:
        stores = await opens(data_dir)
        try:
            return await stores.ledger.costs(tenant, first=first, last=last, group_by=group_by, limit=MOST)
        finally:
            await stores.aclose()

    return asyncio.run(read())


def _document(row: Costs) -> dict[str, Any]:
    sums = {f.name: getattr(row, f.name) for f in fields(row) if f.name not in ("group", "cost_nano")}
    return {**row.group, **sums, "cost_usd": row.cost_nano / 1e9}


def _cells(names: Sequence[str], line: dict[str, Any]) -> list[str]:
    sums = ("calls", "failed", "input_tokens", "cached_tokens", "cache_write_tokens", "output_tokens")
    return [*(line[name] or "-" for name in names), *(str(line[name]) for name in sums), f"{line['cost_usd']:.6f}"]


def _line(one: Difference) -> tuple[str, ...]:
    return one.day, one.model, one.kind, f"{one.ours:f}", f"{one.theirs:f}", f"{one.ours - one.theirs:+f}"


def _columns(given: Sequence[str]) -> dict[str, list[str]]:
    from heavy.llm.audit import KINDS

    found = {}
    for one in given:
        what, _, names = one.partition("=")
        if what not in ("day", "model", *KINDS) or not names:
            raise ValueError(f"--column must be WHAT=NAME with WHAT one of day, model, {', '.join(KINDS)}, not {one!r}")
        found[what] = names.split("+")
    return found


def _days(since: str | None, until: str | None) -> tuple[str, str]:
    last = _day("--to", until) if until else datetime.now(UTC).date()
    first = _day("--from", since) if since else last - timedelta(days=DAYS - 1)
    if first > last:
        raise ValueError("--from must not be behind --to")
    return first.isoformat(), last.isoformat()


def _day(option: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{option} must be a day such as 2026-11-30, not {text!r}") from None
