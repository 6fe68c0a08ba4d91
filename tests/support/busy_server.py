"""A server under common.web.server whose loop can be kept busy: POST /busy blocks it for half a second. It prints its port."""

from __future__ import annotations

import time

from starlette.applications import Starlette
from starlette.routing import Mount

from common.web.asgi import Receive, Scope, Send, read_body, send_json
from common.web.listening import Sockets, bind
from common.web.server import serve

BUSY_SECONDS = 0.5


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Gives back what it got."""
    await send_json(send, 200, await read_body(scope, receive))


async def busy(scope: Scope, receive: Receive, send: Send) -> None:
    """The same, and meanwhile nothing else happens in this process."""
    until = time.monotonic() + BUSY_SECONDS
    while time.monotonic() < until:
        pass
    await echo(scope, receive, send)


if __name__ == "__main__":
    sock = bind("127.0.0.1", 0)
    app = Starlette(routes=[Mount("/busy", busy), Mount("/echo", echo)])
    serve(app, Sockets(sock), drain_seconds=3, on_drain=lambda: None, on_ready=lambda: print(sock.getsockname()[1], flush=True))
