"""A SQLite seen through a meter: a few lines that Python runs at the start of a process (sitecustomize), before anything is imported.

They count every statement of every connection of that process, time it, and write the figures into a file ten times a second.
"""

from __future__ import annotations

import json
from pathlib import Path

from loadtests.split import ROOT

_TEXT = """
import collections, json, os, sqlite3, threading, time

calls, seconds = collections.Counter(), collections.Counter()
real = sqlite3.connect

class Metered(sqlite3.Connection):
    def execute(self, sql, *more):
        began = time.perf_counter()
        try:
            return super().execute(sql, *more)
        finally:
            calls[sql] += 1
            seconds[sql] += time.perf_counter() - began

    def executemany(self, sql, rows):
        rows, began = list(rows), time.perf_counter()
        try:
            return super().executemany(sql, rows)
        finally:
            calls[sql] += len(rows)
            seconds[sql] += time.perf_counter() - began

def connect(*given, **more):
    more.setdefault("factory", Metered)
    return real(*given, **more)

def write():
    while True:
        with open(FILE + ".new", "w") as f:
            json.dump({"calls": dict(calls), "seconds": dict(seconds)}, f)
        os.replace(FILE + ".new", FILE)
        time.sleep(0.1)

sqlite3.connect = connect
threading.Thread(target=write, daemon=True).start()
"""


def install(folder: Path) -> dict[str, str]:
    """Writes the lines; the environment of a process that is to be metered."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(f"FILE = {str(folder / 'figures.json')!r}\n{_TEXT}")
    return {"PYTHONPATH": f"{folder}:{ROOT}"}


def read(folder: Path) -> tuple[dict[str, int], dict[str, float]]:
    """How often each statement was executed so far, and its seconds in all."""
    figures = json.loads((folder / "figures.json").read_text())
    return figures["calls"], figures["seconds"]
