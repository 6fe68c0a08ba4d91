"""Charts as inline SVG: bars over time, and shares in one bar. Colours are classes of the style sheet; a table beside each
says the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

WIDTH, HEIGHT, LEFT, BOTTOM = 640, 180, 56, 22
GAP = 0.25
_OPEN = Markup('<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}" xmlns="http://www.w3.org/2000/svg">')
_RECT = Markup('<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>')
_TEXT = Markup('<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>')
_LINE = Markup('<line class="grid" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>')


def bars(label: str, points: Sequence[tuple[str, float, str]]) -> Markup:
    """Columns in order: (name on the axis, value, what a pointer is told). Where there are many, not every name stands on the axis."""
    top = nice(max((value for _, value, _ in points), default=0.0))
    parts = [_OPEN.format(WIDTH, HEIGHT, label)]
    for step in (0.0, 0.5, 1.0):
        y = _y(step)
        parts += [_LINE.format(LEFT, y, WIDTH, y), _TEXT.format(LEFT - 6, y + 4, "end", f"{top * step:g}")]
    room = (WIDTH - LEFT) / max(len(points), 1)
    every = max(1, -(-len(points) // 8))
    for i, (name, value, told) in enumerate(points):
        x, y = LEFT + room * (i + GAP / 2), _y(value / top if top else 0.0)
        parts.append(_RECT.format("bar", x, y, max(room * (1 - GAP), 1), max(_y(0.0) - y, 0), told))
        if i % every == 0:
            parts.append(_TEXT.format(LEFT + room * (i + 0.5), HEIGHT - 5, "middle", name))
    return Markup("").join([*parts, Markup("</svg>")])


def shares(label: str, parts_of: Sequence[tuple[str, float]]) -> Markup:
    """Parts of a whole in one bar: (name, value). The classes are part-0, part-1 and so on, in order."""
    whole = sum(value for _, value in parts_of) or 1.0
    parts, x = [_OPEN.format(WIDTH, 26, label)], 0.0
    for i, (name, value) in enumerate(parts_of):
        width = WIDTH * value / whole
        parts.append(_RECT.format(f"part-{i % 6}", x, 0, width, 26, f"{name}: {value:,.0f} ({value / whole * 100:.1f} %)"))
        x += width
    return Markup("").join([*parts, Markup("</svg>")])


def nice(value: float) -> float:
    """The least of 1, 2, 2.5, 5 times a power of ten that is not below the value; 1 for nothing."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(power * step for step in (1, 2, 2.5, 5, 10) if power * step >= value)


def _y(part: float) -> float:
    return 8 + (HEIGHT - BOTTOM - 8) * (1 - part)
