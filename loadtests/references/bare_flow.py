"""Reference: decode + RE2 + one aiohttp POST to a flow API + encode in plain ASGI. The flow path's ceiling.

`python -m loadtests.references.bare_flow --port P --config workflow.json --url http://127.0.0.1:8910/x`. Nothing is checked or retried.
"""

from __future__ import annotations

from typing import Any

import aiohttp
import orjson

from loadtests.references.rules import BareRules
from loadtests.references.running import arguments, run


class BareFlowApp:
    """One POST endpoint on every path."""

    def __init__(self, rules: BareRules, url: str) -> None:
        self._rules = rules
        self._url = url
        self._session: aiohttp.ClientSession | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Calls the flow API for every message, whatever the rules say."""
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        query = orjson.loads(body)
        found = self._rules.find(query["message"])
        async with self._open().post(self._url, json={"message": query["message"], "session_id": query["session_id"]}) as response:
            result = orjson.loads(await response.read())
        data = orjson.dumps({"session_id": query["session_id"], "message": result, "route": found[0] if found else None})
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data})

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0), json_serialize=lambda value: orjson.dumps(value).decode()
            )
        return self._session


def main() -> None:
    """Reads the command line and serves."""
    args = arguments(__doc__, config="", url="")
    run(BareFlowApp(BareRules(args.config), args.url), args)


if __name__ == "__main__":
    main()
