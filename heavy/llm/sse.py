"""An incremental decoder of server-sent events over bytes, quick enough to stand in every token's way.

It follows the event stream format of the HTML standard (9.2.6) and knows nothing of JSON or of any provider.
"""

from __future__ import annotations

MAX_EVENT_BYTES = 4 * 1024 * 1024
_BOM = b"\xef\xbb\xbf"


class StreamTooLarge(ValueError):
    """One event grew past MAX_EVENT_BYTES without an end."""


class SSEDecoder:
    """Takes bytes split anywhere and gives whole events as (type, data); the type is "message" where the stream names none.

    Works on bytes, so a character cut in two by a chunk border needs no care. `unknown` holds the first line that is no field of
    the format: the standard ignores such lines, but to a caller who must not lose data they are a sign of a broken stream.
    """

    __slots__ = ("_rest", "_skip_lf", "_started", "unknown")

    def __init__(self) -> None:
        self._rest = b""
        self._skip_lf = False
        self._started = False
        self.unknown: bytes | None = None

    def feed(self, chunk: bytes) -> list[tuple[str, bytes]]:
        """The events that `chunk` completes. Raises StreamTooLarge."""
        if self._skip_lf and chunk:
            if chunk.startswith(b"\n"):  # the second half of a CRLF whose first half ended the last chunk
                chunk = chunk[1:]
            self._skip_lf = False
        if b"\r" in chunk:
            self._skip_lf = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        blocks = (self._rest + chunk).split(b"\n\n")
        self._rest = blocks.pop()
        if len(self._rest) > MAX_EVENT_BYTES:
            raise StreamTooLarge(f"an event of more than {MAX_EVENT_BYTES} bytes")
        events: list[tuple[str, bytes]] = []
        for block in blocks:
            if block.startswith(b"data: ") and self._started and b"\n" not in block:  # nearly every event of nearly every provider
                events.append(("message", block[6:]))
            else:
                self._parse(block, events)
        return events

    def flush(self) -> list[tuple[str, bytes]]:
        """What stands unfinished when the stream ends. The standard drops it; some servers leave out the last empty line."""
        rest, self._rest = self._rest, b""
        events: list[tuple[str, bytes]] = []
        if rest:
            self._parse(rest, events)
        return events

    def _parse(self, block: bytes, events: list[tuple[str, bytes]]) -> None:
        if not self._started:
            block = block.removeprefix(_BOM)
            self._started = bool(block)
        kind = "message"
        data: list[bytes] = []
        for line in block.split(b"\n"):
            if not line or line.startswith(b":"):
                continue
            name, _, value = line.partition(b":")
            value = value.removeprefix(b" ")
            if name == b"data":
                data.append(value)
            elif name == b"event":
                kind = value.decode("utf-8", "replace")
            elif name not in (b"id", b"retry") and self.unknown is None:
                self.unknown = line[:200]
        if data:
            events.append((kind or "message", data[0] if len(data) == 1 else b"\n".join(data)))
