"""A section's picture as PNG, with matplotlib. It knows points and words, not what they stand for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

COLOURS = ("#1f5fa8", "#c4521e", "#3d8a4d", "#7b52a1", "#8a6d1f", "#4a4a4a")
SIZE, DPI = (8.0, 4.2), 110


def draw(plot: Mapping[str, Any], path: Path) -> None:
    """Writes the picture."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    if plot["bars"]:
        _bars(axes, plot)
    else:
        for number, (name, points) in enumerate(plot["lines"].items()):
            mark = "o" if len(points) < 20 else None
            colour = COLOURS[number % len(COLOURS)]
            axes.plot([x for x, _ in points], [y for _, y in points], label=name, color=colour, marker=mark, linewidth=1.6)
        for begin, end, words in plot["spans"]:
            axes.axvspan(begin, end, color="#888888", alpha=0.15, label=words)
        axes.legend(frameon=False, fontsize=9)
        if plot["log_x"]:
            axes.set_xscale("log")
        if plot["log_y"]:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
    axes.set_title(plot["title"], fontsize=11, loc="left")
    axes.set_xlabel(plot["y"] if plot["bars"] else plot["x"])
    axes.set_ylabel("" if plot["bars"] else plot["y"])
    axes.grid(True, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path)


def _bars(axes: Any, plot: Mapping[str, Any]) -> None:
    """One lying bar a point, with its figure behind it."""
    points = [point for line in plot["lines"].values() for point in line]
    names, values = [str(name) for name, _ in points], [value for _, value in points]
    drawn = axes.barh(range(len(names)), values, color=COLOURS[0])
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.bar_label(drawn, [f"{value:,.0f}" for value in values], fontsize=8, padding=2)
    axes.invert_yaxis()
    axes.margins(x=0.15)
