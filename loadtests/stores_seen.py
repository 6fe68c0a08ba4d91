"""The stores of a bench seen from outside with their own command lines: statements, rows, keys. The drivers of the product stay behind
their fences.
"""

from __future__ import annotations

from loadtests.programs import output_of
from loadtests.split import program


def sql(database: str, statements: str) -> None:
    """Runs statements. Raises RuntimeError with the last line of what is wrong."""
    _psql(database, statements)


def rows(database: str, query: str) -> list[list[str]]:
    """The rows of a query."""
    return [line.split("\t") for line in _psql(database, query, "-A", "-t", "-F", "\t").splitlines() if line]


def _psql(database: str, statements: str, *more: str) -> str:
    command = [program("psql"), database, "-X", "-q", "-v", "ON_ERROR_STOP=1", *more]
    return output_of(command, given=statements)


def redis(port: int, *words: str) -> str:
    """A command's reply as text."""
    return output_of([program("redis-cli"), "-p", str(port), *words])
