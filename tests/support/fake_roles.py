"""Fake roles for the supervisor's tests: `python fake_roles.py lightweight --port P` is a process that serves, drains and says what it got.

It knows the contract of a role (port, /readyz, SIGTERM, hand-off header), nothing of rules or LLMs.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from aiohttp import web


async def serve(role: str, port: int) -> None:
    """Runs until SIGTERM; requests that run then are finished."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)

    async def ready(request: web.Request) -> web.Response:
        return web.json_response({"ready": True})

    async def query(request: web.Request) -> web.Response:
        body = await request.json()
        if role == "lightweight":
            return web.Response(headers={"X-Accel-Redirect": "@heavy", "X-Loadsplit-Session": f"t/{body['session_id']}"})
        if body["message"] == "slow":
            print("slow began", flush=True)
            await asyncio.wait_for(asyncio.shield(stop.wait()), 20)  # answers only once it is asked to end
        settings = {k: v for k, v in os.environ.items() if k.startswith(("LOADSPLIT_", "OPENAI_"))}
        return web.json_response({"pid": os.getpid(), "settings": settings})

    app = web.Application()
    app.add_routes([web.get("/readyz", ready), web.post("/api/v1/query", query)])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print(f"serving with pid {os.getpid()}", flush=True)
    await stop.wait()
    await runner.cleanup()


if __name__ == "__main__":
    if "broken" in os.environ["LOADSPLIT_CONFIG"]:
        print("workflow.json:3:9: error no_such_thing", file=sys.stderr)
        sys.exit(2)
    asyncio.run(serve(sys.argv[1], int(sys.argv[-1])))
