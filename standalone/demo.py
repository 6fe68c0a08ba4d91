"""The two simulators beside a single process, started and ended with it; that of the LLM only where the environment has no key."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Mapping

from common.web.children import Child, Program
from standalone.stores import free_port

LLM_PORT, BUSINESS_PORT = 8900, 8910
LLM_KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY")


class Listening:
    """Whether something accepts connections on a port of 127.0.0.1."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __call__(self) -> bool:
        """Tries once."""
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return False
        writer.close()
        return True


class Demo:
    """Which simulators an environment needs."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[str | None]:
        """The base URL of the LLM simulator, None when a real LLM is configured."""
        llm_url, programs = None, []
        if free_port(BUSINESS_PORT) == BUSINESS_PORT:
            programs.append(self._program("business", BUSINESS_PORT))
        else:
            _say(f"port {BUSINESS_PORT} is taken: what listens there serves as the business API")
        if not any(self._environ.get(name) for name in (*LLM_KEYS, "LOADSPLIT_MODELS")):
            port = free_port(LLM_PORT)
            llm_url = f"http://127.0.0.1:{port}/v1"
            programs.append(self._program("llm", port))
        children = [Child(program, _say) for program in programs]
        async with contextlib.AsyncExitStack() as stack:
            for child in children:
                await child.start()
                stack.push_async_callback(child.stop, 2.0, asyncio.Event())
            for child in children:
                await child.wait_ready()
            yield llm_url

    def _program(self, kind: str, port: int) -> Program:
        command = (sys.executable, "-m", "standalone.cli", "simulate", kind, "--port", str(port))
        return Program(f"{kind}-simulator", command, Listening(port), self._environ)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
