"""The text that a user has seen in one run: parts (text beside a tool call, the final text) separated by a blank line.

It makes the deltas, so that they concatenate exactly to the final text. It knows nothing of models or transports.
"""

from __future__ import annotations

from collections.abc import Iterable

from heavy.llm.types import Message

SEPARATOR = "\n\n"
SHOWN = "shown"  # the author of a tool message whose content is what the user has read


class Said:
    """Collects text. `before` is what an earlier attempt of the same turn has shown already."""

    def __init__(self, before: Iterable[str] = ()) -> None:
        self._parts = [p for p in before if p]
        self._current = ""

    def delta(self, text: str) -> str:
        """The text to send for a piece of the current part; empty when there is nothing to send. White space at a part's
        beginning is dropped: models like to send a line break before a tool call, and the separator stands there already."""
        if not self._current:
            text = text.lstrip()
            if not text:
                return ""
            self._current = text
            return SEPARATOR + text if self._parts else text
        self._current += text
        return text

    def rest(self, whole: str) -> str:
        """What is still to be sent of the current part when its whole text turns out to be `whole`."""
        whole = whole.lstrip()
        if not whole.startswith(self._current):
            return ""
        return self.delta(whole[len(self._current) :])

    def close(self) -> str:
        """Ends the current part; returns it."""
        part, self._current = self._current, ""
        if part:
            self._parts.append(part)
        return part

    def contains(self, text: str) -> bool:
        """Whether a part was this text, or the last part ended with it."""
        wanted = text.strip()
        return any(p.strip() == wanted for p in self._parts) or bool(self._parts and self._parts[-1].rstrip().endswith(wanted))

    @property
    def text(self) -> str:
        """Everything, as the user sees it."""
        return SEPARATOR.join([*self._parts, self._current] if self._current else self._parts)


def said_before(transcript: Iterable[Message]) -> list[str]:
    """The parts that the committed messages of a turn have shown."""
    return [m.content.lstrip() for m in transcript if (m.role == "assistant" or m.author == SHOWN) and m.content.strip()]


def shown_parts(transcript: Iterable[Message]) -> list[str]:
    """The answers of actions that the user has read as they stood; no assistant message of the turn holds them."""
    return [m.content.lstrip() for m in transcript if m.author == SHOWN]
