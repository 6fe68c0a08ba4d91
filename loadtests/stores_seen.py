"""The stores of a bench seen from outside with their own command lines: statements, rows, keys. The drivers of the product stay behind
their fences.
"""

from __future__ import annotations

import subprocess

from loadtests.split import program


def sql(database: str, statements: str) -> None:
    """Runs statements. Raises RuntimeError with the first line of what is wrong."""
    _psql(database, statements)


def rows(database: str, query: str) -> list[list[str]]:
    """The rows of a query."""
    return [line.split("\t") for line in _psql(database, query, "-A", "-t", "-F", "\t").splitlines() if line]


def _psql(database: str, statements: str, *more: str) -> str:
    command = [program("psql"), database, "-X", "-q", "-v", "ON_ERROR_STOP=1", *more]
    done = subprocess.run(command, input=statements, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"psql: {(done.stderr.strip().splitlines() or [''])[0]}")
    return done.stdout


def redis(port: int, *words: str) -> str:
    """A command's reply as text."""
    done = subprocess.run([program("redis-cli"), "-p", str(port), *words], capture_output=True, text=True, check=True)
    return done.stdout
