"""Keeps a resumed turn's text whole: what earlier attempts have shown is not shown again, and what they could not show is made up for.

A node that dies may have streamed text that it could not commit. The next attempt produces that text once more: where it is the same,
only the rest is sent; where it differs, it follows as a new paragraph. It knows strings only.
"""

from __future__ import annotations

from heavy.agent.said import SEPARATOR


class Echo:
    """Passes deltas on. `shown` is the answer's text that the user has seen so far (None: not known, everything passes), `committed` the
    text of the committed messages."""

    def __init__(self, shown: str | None, committed: str) -> None:
        self._known = shown is not None
        self._shown = shown or ""
        self._seen_again = ""
        self._tail = self._lead = ""
        if shown is not None and shown.startswith(committed):
            self._tail = shown[len(committed) :]
        elif shown is not None and committed.startswith(shown):
            self._lead = committed[len(shown) :]

    def delta(self, text: str) -> str:
        """What of a delta is to be sent; may be empty."""
        if self._tail:
            self._seen_again += text
            if self._tail.startswith(self._seen_again):
                return ""
            same = self._seen_again.startswith(self._tail)
            text = self._seen_again[len(self._tail) :] if same else SEPARATOR + self._seen_again.lstrip()
            self._tail = ""
        text, self._lead = self._lead + text, ""
        self._shown += text
        return text

    def settle(self) -> str:
        """A part has been committed or the action has ended: what comes next is new. Returns text that is still to be sent."""
        self._tail, lead, self._lead = "", self._lead, ""
        self._shown += lead
        return lead

    def whole(self, text: str) -> str:
        """The answer's whole text, `text` where nothing is known of earlier attempts."""
        return self._shown if self._known else text
