"""Reference: decode + RE2 + encode in plain ASGI, and with --redis HOST:PORT a coalesced GET a request. The rule path's ceiling.

`python -m loadtests.references.bare_rules --port P --config workflow.json`. No sessions, no checks of the body, no errors, no metrics.
"""

from __future__ import annotations

from typing import Any

import orjson

from loadtests.references.coalesced_get import CoalescedGet
from loadtests.references.rules import BareRules
from loadtests.references.running import arguments, run


class BareRulesApp:
    """One POST endpoint on every path."""

    def __init__(self, rules: BareRules, gates: CoalescedGet | None) -> None:
        self._rules = rules
        self._gates = gates

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers with what the first rule says."""
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        query = orjson.loads(body)
        if self._gates is not None:
            await self._gates.get(query["session_id"])
        found = self._rules.find(query["message"])
        reply = {"session_id": query["session_id"], "message": found[1] if found else "", "route": found[0] if found else None}
        data = orjson.dumps(reply)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(data))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": data})


def main() -> None:
    """Reads the command line and serves."""
    args = arguments(__doc__, config="", redis="")
    run(BareRulesApp(BareRules(args.config), CoalescedGet(args.redis) if args.redis else None), args)


if __name__ == "__main__":
    main()
