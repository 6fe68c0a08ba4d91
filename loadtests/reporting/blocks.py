"""A report as blocks (headings, paragraphs, tables, pictures), and its two forms: Markdown, and HTML that needs no other file."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1c1c1c;background:#fff}
table{border-collapse:collapse;margin:1rem 0;font-size:14px}td,th{border-bottom:1px solid #ddd;padding:.3rem .7rem;text-align:left}
td:not(:first-child){font-variant-numeric:tabular-nums}img{max-width:100%}h2{margin-top:2.5rem;border-bottom:2px solid #1f5fa8}
.pass{color:#1b6e2e;font-weight:600}.fail,.broken{color:#a81f1f;font-weight:600}.not-run{color:#666}
@media (prefers-color-scheme:dark){body{background:#161616;color:#e6e6e6}td,th{border-color:#444}img{background:#fff}
.pass{color:#7fcf92}.fail,.broken{color:#ff9a8f}.not-run{color:#aaa}}
"""
MARKS = {"pass": "pass", "fail": "fail", "broken": "broken", "not run": "not-run"}


@dataclass(frozen=True, slots=True)
class Block:
    """One of them: `kind` is h2, h3, p, table or img; a picture's file lies beside the report, its words are `text`."""

    kind: str
    text: str = ""
    rows: tuple[tuple[str, ...], ...] = ()
    file: str = ""


@dataclass(slots=True)
class Report:
    """The blocks in order."""

    title: str
    blocks: list[Block] = field(default_factory=list)

    def heading(self, words: str, level: int = 2) -> None:
        """A heading; the title is level 1."""
        self.blocks.append(Block(f"h{level}", words))

    def paragraph(self, words: str) -> None:
        """Plain text."""
        self.blocks.append(Block("p", words))

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Rows of text, the head first."""
        self.blocks.append(Block("table", rows=tuple(map(tuple, rows))))

    def picture(self, file: str, words: str) -> None:
        """A PNG beside the report."""
        self.blocks.append(Block("img", words, file=file))

    def markdown(self) -> str:
        """As Markdown; pictures are linked."""
        return "\n\n".join([f"# {self.title}", *map(_markdown, self.blocks)]) + "\n"

    def page(self, folder: Path) -> str:
        """As HTML; pictures, which lie in the folder, are in it."""
        title = html.escape(self.title)
        head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title><style>{STYLE}</style>'
        body = "\n".join([f"<h1>{title}</h1>", *(_html(block, folder) for block in self.blocks)])
        return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'


def _markdown(block: Block) -> str:
    if block.kind == "table":
        return _markdown_table(block.rows)
    if block.kind == "img":
        return f"![{block.text}]({block.file})"
    return block.text if block.kind == "p" else f"{'#' * int(block.kind[1])} {block.text}"


def _html(block: Block, folder: Path) -> str:
    words = html.escape(block.text)
    if block.kind == "table":
        return _html_table(block.rows)
    if block.kind == "img":
        data = base64.b64encode((folder / block.file).read_bytes()).decode()
        return f'<img alt="{words}" src="data:image/png;base64,{data}">'
    return f"<{block.kind}>{words}</{block.kind}>"


def _markdown_table(rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _html_table(rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in rows[0])
    body = "\n".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows[1:])
    return f"<table><thead><tr>{head}</tr></thead><tbody>\n{body}\n</tbody></table>"


def _cell(text: str) -> str:
    mark = f' class="{MARKS[text]}"' if text in MARKS else ""
    return f"<td{mark}>{html.escape(text)}</td>"
