"""How values are written on the pages: times, money, durations, shares; and the environment of the templates with these as filters."""

from __future__ import annotations

import functools
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup

TEMPLATES = Path(__file__).resolve().parent / "templates"
NOTHING = "–"


@functools.cache
def environment() -> Environment:
    """The templates, compiled on first use. Everything that is not markup of ours is escaped."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(when=when, usd=usd, ms=ms, share=share, percent=percent, count=count, pretty=pretty, short=short, list=list)
    return made


def when(at: float | None) -> Markup | str:
    """Unix seconds as a time that people and programs read, UTC."""
    if not at:
        return NOTHING
    moment = datetime.fromtimestamp(at, UTC)
    return Markup('<time datetime="{}">{}</time>').format(moment.isoformat(timespec="seconds"), moment.strftime("%Y-%m-%d %H:%M:%S"))


def usd(amount: float | None) -> str:
    """US dollars, with as many digits as small amounts need."""
    if amount is None:
        return NOTHING
    if amount == 0:
        return "$0"
    return f"${amount:,.2f}" if amount >= 1 else f"${amount:.6f}".rstrip("0") if amount >= 0.000001 else f"${amount:.9f}".rstrip("0")


def ms(value: float | None) -> str:
    """Milliseconds."""
    if value is None:
        return NOTHING
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.1f} ms" if value >= 1 else f"{value:.3f} ms"


def share(value: float | None) -> str:
    """A share from 0 to 1, in per cent."""
    return NOTHING if value is None else f"{value * 100:.1f} %"


def percent(value: float) -> str:
    """A share from 0 to 100."""
    return f"{value:g} %"


def count(value: float | None) -> str:
    """A whole number with its thousands apart."""
    return NOTHING if value is None else f"{value:,.0f}"


def pretty(value: Any) -> str:
    """A value as it is read: text as it stands, the rest as indented JSON."""
    return value if isinstance(value, str) else orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode()


def short(text: str | None, most: int = 120) -> str:
    """The beginning of a text."""
    text = " ".join((text or "").split())
    return text if len(text) <= most else text[: most - 1] + "…"
