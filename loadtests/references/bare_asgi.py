"""Reference: an ASGI app that echoes a fixed JSON body. The server's own ceiling. `python -m loadtests.references.bare_asgi --port P`."""

from __future__ import annotations

from typing import Any

from loadtests.references.running import arguments, run

BODY = b'{"message":"We open at 9.","status":"success"}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(BODY))]


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Reads the body, answers the same for everything."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


if __name__ == "__main__":
    run(app, arguments(__doc__))
