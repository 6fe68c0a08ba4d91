"""Lines typed at a terminal, or piped in, without blocking the event loop. It knows nothing of what they are for."""

from __future__ import annotations

import asyncio
import codecs
import os
import sys


class TypedLines:
    """What is typed, line by line. `prompt` is shown whenever a line is waited for, and again after something was printed above it."""

    def __init__(self, fd: int = 0) -> None:
        self._fd = fd
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        self._rest = ""
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._prompt: str | None = None
        self._reading = False

    def open(self) -> None:
        """Begins to listen. A file that stands in for a terminal is read at once: it never makes anyone wait."""
        loop = asyncio.get_running_loop()
        try:
            loop.add_reader(self._fd, self._read)
            self._reading = True
        except PermissionError:  # epoll takes no regular files
            while self._take(os.read(self._fd, 65536)):
                pass

    def close(self) -> None:
        """Stops listening."""
        if self._reading:
            asyncio.get_running_loop().remove_reader(self._fd)
            self._reading = False

    async def next(self, prompt: str) -> str | None:
        """The next line without its end, None at the end of the input."""
        self._prompt = prompt
        self._show()
        try:
            line = await self._lines.get()
        finally:
            self._prompt = None
        if line is None:  # the end stays the end, however often it is asked for
            self._lines.put_nowait(None)
        return line

    @property
    def waiting(self) -> bool:
        """Whether the prompt is shown."""
        return self._prompt is not None

    def again(self) -> None:
        """Shows the prompt once more, where one is shown."""
        self._show()

    def _show(self) -> None:
        if self._prompt is not None:
            sys.stdout.write(self._prompt)
            sys.stdout.flush()

    def _read(self) -> None:
        if not self._take(os.read(self._fd, 65536)):
            self.close()

    def _take(self, data: bytes) -> bool:
        """Cuts what was read into lines; False at the end."""
        *lines, self._rest = (self._rest + self._decoder.decode(data, final=not data)).split("\n")
        if not data and self._rest:
            lines.append(self._rest)
        for line in lines:
            self._lines.put_nowait(line.removesuffix("\r"))
        if not data:
            self._lines.put_nowait(None)
        return bool(data)
