"""Compares the ledger with a provider's own export, by day and model: a CSV file whose columns are known or named. It knows no database.

OpenAI's input contains the part read from the cache; Anthropic's parts stand side by side. Both become what the ledger has: all input, and
the parts of it.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import TextIO

from heavy.llm.prices import NANO
from heavy.llm.stores import Costs

KINDS = ("input", "cached", "cache_write", "output", "cost")
"""What is compared: tokens, and US dollars."""

Columns = Mapping[str, Sequence[str]]
"""For `day`, `model` and some of KINDS the columns whose sum it is."""

FORMATS: Mapping[str, Columns] = {
    "openai": {
        "day": ["start_time"],
        "model": ["model"],
        "input": ["input_tokens"],
        "cached": ["input_cached_tokens"],
        "output": ["output_tokens"],
    },
    "anthropic": {
        "day": ["usage_date_utc"],
        "model": ["model_version"],
        "input": [
            "usage_input_tokens_no_cache",
            "usage_input_tokens_cache_write_5m",
            "usage_input_tokens_cache_write_1h",
            "usage_input_tokens_cache_read",
        ],
        "cached": ["usage_input_tokens_cache_read"],
        "cache_write": ["usage_input_tokens_cache_write_5m", "usage_input_tokens_cache_write_1h"],
        "output": ["usage_output_tokens"],
    },
}
_DATED = re.compile(r"(-\d{8}|-\d{4}-\d{2}-\d{2})$")

Sums = dict[tuple[str, str], dict[str, Decimal]]
"""By day and model the amount of each kind."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where the ledger (`ours`) and the export (`theirs`) do not say the same."""

    day: str
    model: str
    kind: str
    ours: Decimal
    theirs: Decimal


def columns_for(header: Sequence[str], name: str | None, given: Columns) -> tuple[str | None, Columns]:
    """The format of a file (the one of that name, or the one that its header fits) and its columns, `given` ones in the place of its own.
    Raises ValueError naming a column that is not there."""
    fits = next((known for known, columns in FORMATS.items() if set(_names(columns)) <= set(header)), None)
    chosen = name or fits
    columns = {**FORMATS.get(chosen or "", {}), **given}
    for needed in ("day", "model"):
        if needed not in columns:
            raise ValueError(
                f"the file is in no known format: name its columns, such as --column {needed}=NAME; it has {', '.join(header)}"
            )
    if not set(columns) & set(KINDS):
        raise ValueError("nothing is to be compared: name columns of input, cached, cache_write, output or cost")
    if missing := [column for column in _names(columns) if column not in header]:
        raise ValueError(f"the file has no column {missing[0]!r}; it has {', '.join(header)}")
    return chosen, columns


def read_export(file: TextIO, name: str | None, given: Columns) -> tuple[str | None, Columns, Sums]:
    """The sums of an export, with its format and columns. Raises ValueError naming the line that is wrong."""
    reader = csv.DictReader(file)
    header = [column.strip().lstrip("\ufeff") for column in reader.fieldnames or ()]
    reader.fieldnames = header
    chosen, columns = columns_for(header, name, given)
    sums: Sums = {}
    for row in reader:
        try:
            place = (_day(row[columns["day"][0]]), base_name(row[columns["model"][0]]))
            at = sums.setdefault(place, {})
            for kind in KINDS:
                if kind in columns:
                    at[kind] = sum((_amount(row[column]) for column in columns[kind]), at.get(kind, Decimal(0)))
        except (ValueError, TypeError, AttributeError) as e:
            raise ValueError(f"line {reader.line_num}: {e}") from None
    return chosen, columns, sums


def ledger_sums(rows: Iterable[Costs], target: str) -> tuple[Sums, int]:
    """The same of the ledger's rows by day, model and target, as far as the target begins so; and how many of their calls are estimated."""
    sums: Sums = {}
    estimated = 0
    for row in rows:
        if not (row.group["target"] or "").startswith(target):
            continue
        estimated += row.estimated
        at = sums.setdefault((row.group["day"] or "", base_name(row.group["model"] or "")), dict.fromkeys(KINDS, Decimal(0)))
        tokens = (row.input_tokens, row.cached_tokens, row.cache_write_tokens, row.output_tokens)
        amounts = (*map(Decimal, tokens), Decimal(row.cost_nano) / NANO)
        for kind, amount in zip(KINDS, amounts, strict=True):
            at[kind] += amount
    return sums, estimated


def differences(ours: Sums, theirs: Sums, kinds: Iterable[str], tolerance: float) -> list[Difference]:
    """Where both differ by more than `tolerance` per cent of what the export says, by day and model."""
    share, nothing = Decimal(str(tolerance)) / 100, Decimal(0)
    found = []
    for day, model in sorted({*ours, *theirs}):
        for kind in kinds:
            mine, other = (sums.get((day, model), {}).get(kind, nothing) for sums in (ours, theirs))
            if abs(mine - other) > share * other:
                found.append(Difference(day, model, kind, mine, other))
    return found


def base_name(model: str) -> str:
    """A model's name without the date of its version, which exports have and requests often have not."""
    return _DATED.sub("", model.strip())


def _names(columns: Columns) -> list[str]:
    return [column for names in columns.values() for column in names]


def _day(text: str) -> str:
    text = text.strip()
    if re.fullmatch(r"\d{9,10}(\.\d+)?", text):
        return datetime.fromtimestamp(float(text), UTC).strftime("%Y-%m-%d")
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text[:40]!r} is no day") from None
    return (at.astimezone(UTC) if at.tzinfo else at).strftime("%Y-%m-%d")


def _amount(text: str | None) -> Decimal:
    text = (text or "").strip().replace(",", "").removeprefix("$")
    try:
        amount = Decimal(text or 0)
    except InvalidOperation:
        raise ValueError(f"{text[:40]!r} is no number") from None
    if not amount.is_finite():
        raise ValueError(f"{text[:40]!r} is no number")
    return amount
