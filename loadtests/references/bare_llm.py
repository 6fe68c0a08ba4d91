"""Reference: an LLM that costs next to nothing, so that a bench measures who calls it. OpenAI's chat completions, canned bytes.

`python -m loadtests.references.bare_llm --port P`. What it does stands in the user's message: `deltas 1000`, `paced 50` (so many, one
every PACE seconds), `drip 50` (one every DRIP seconds), `hold 30` (one delta, then quiet for that many seconds) or `wait 10` (milliseconds
before the answer). Everything else is answered with a few deltas.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from loadtests.references.running import arguments, run

HEAD = b'{"id":"c","created":1,"model":"bench","system_fingerprint":null,"object":'
USAGE = b'"usage":{"prompt_tokens":200,"completion_tokens":12,"total_tokens":212}'
WHOLE = (
    HEAD + b'"chat.completion","choices":[{"index":0,"finish_reason":"stop","logprobs":null,'
    b'"message":{"role":"assistant","refusal":null,"content":"Your order left the warehouse this morning."}}],' + USAGE + b"}"
)
_CHUNK = b"data: " + HEAD + b'"chat.completion.chunk","choices":[{"index":0,"delta":{%s},"logprobs":null,"finish_reason":%s}]}\n\n'
DELTA = _CHUNK % (b'"content":" word"', b"null")
END = _CHUNK % (b"", b'"stop"') + b"data: " + HEAD + b'"chat.completion.chunk","choices":[],' + USAGE + b"}\n\ndata: [DONE]\n\n"
PACE, DRIP = 0.1, 5.0
DELTAS, BATCH = 8, 10  # deltas of an ordinary answer; how many of a long one leave in one write
_ASKED = re.compile(rb"(deltas|paced|drip|hold|wait) (\d+)")


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Answers every POST."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    asked = _ASKED.search(body)
    if asked and asked[1] == b"wait":
        await asyncio.sleep(int(asked[2]) / 1000)
    if b'"stream":true' not in body:
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(WHOLE))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": WHOLE})
        return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
    count = int(asked[2]) if asked and asked[1] == b"deltas" else DELTAS
    if asked and asked[1] == b"hold":
        await send({"type": "http.response.body", "body": DELTA, "more_body": True})
        await asyncio.sleep(int(asked[2]))
    if asked and asked[1] in (b"paced", b"drip"):
        count, pause = 0, PACE if asked[1] == b"paced" else DRIP
        for _ in range(int(asked[2])):
            await send({"type": "http.response.body", "body": DELTA, "more_body": True})
            await asyncio.sleep(pause)
    for start in range(0, count, BATCH):
        await send({"type": "http.response.body", "body": DELTA * min(BATCH, count - start), "more_body": True})
        await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": END})


if __name__ == "__main__":
    run(app, arguments(__doc__))
