"""Labelled messages: reading them and dividing them into a training part and a part held back. It knows nothing of rules."""

from __future__ import annotations

import csv
import hashlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Message:
    """What a customer wrote and the category that a person gave it."""

    text: str
    category: str


def read_messages(file: Path) -> list[Message]:
    """The rows of a CSV with the columns `text` and `category`. Raises ValueError where a column is missing, OSError where the file is."""
    with file.open(encoding="utf-8", newline="") as rows:
        reader = csv.DictReader(rows)
        missing = {"text", "category"} - set(reader.fieldnames or ())
        if missing:
            raise ValueError(f"{file}: no column {' and '.join(sorted(missing))}; it needs text,category")
        return [Message(row["text"].strip(), row["category"].strip()) for row in reader if row["text"] and row["category"]]


def divide(messages: list[Message], held_back: float, seed: int) -> tuple[list[Message], list[Message]]:
    """(training part, part held back), the same share of every category, whatever the order of the rows.

    A text that occurs twice stands on one side only. The order is that of SHA-256 over seed and text, so it is the same on every Python.
    """
    by_category: dict[str, dict[str, list[Message]]] = defaultdict(lambda: defaultdict(list))
    for message in messages:
        by_category[message.category][" ".join(message.text.lower().split())].append(message)
    training: list[Message] = []
    held: list[Message] = []
    for category in sorted(by_category):
        texts = sorted(by_category[category], key=lambda text: hashlib.sha256(f"{seed}\n{text}".encode()).digest())
        cut = round(len(texts) * held_back)
        held += [m for text in texts[:cut] for m in by_category[category][text]]
        training += [m for text in texts[cut:] for m in by_category[category][text]]
    return training, held
