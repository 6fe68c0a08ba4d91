"""POSTs to URLs that callers of the API gave: one attempt each, bounded in time and in what is read of the answer. Redirects are not
followed, and nothing of the answer but its status and Retry-After leaves this module.
"""

from __future__ import annotations

import asyncio
import email.utils
import socket
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import TracebackType

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from common.endpoints.egress import EgressPolicy
from common.endpoints.pools import FAILURES, Pools, reason_of

MAX_ANSWER = 4096
READ_SECONDS = 1.0
PER_HOST = 64
LOOKUPS = 32
_WHOM = "the receiver"
_HEADERS = {"User-Agent": "loadsplit", "Accept": "*/*", "Accept-Encoding": "identity", "Content-Type": "application/json"}


@dataclass(frozen=True, slots=True)
class Posted:
    """What came of it. `status` is None where there was no answer; `reason` is one safe line, None for 2xx; `retry_after` seconds."""

    status: int | None = None
    reason: str | None = None
    retry_after: float | None = None


class Poster:
    """An async context manager; one for a process and policy."""

    def __init__(self, policy: EgressPolicy, *, resolver: AbstractResolver | None = None) -> None:
        self.policy = policy
        self._resolver = resolver or OwnThreads()
        self._pools = Pools(policy, headers=_HEADERS, per_host=PER_HOST, resolver=self._resolver, unpack=False)

    async def __aenter__(self) -> Poster:
        self._pools.open()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self._pools.aclose()
        await self._resolver.close()

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], *, seconds: float) -> Posted:
        """One attempt, from the look-up of the name to the answer. Never raises for what the receiver does."""
        try:
            async with asyncio.timeout(seconds):
                return await self._post(URL(url, encoded=True), body, headers)
        except TimeoutError:
            return Posted(None, f"{_WHOM} did not answer within {seconds:g} s")
        except aiohttp.ClientConnectorDNSError:
            return Posted(None, "its host name is not known")
        except aiohttp.ClientSSLError:
            return Posted(None, "its TLS certificate is not valid, or it does not speak TLS")
        except FAILURES as e:
            return Posted(None, reason_of(e, _WHOM)[1])

    async def _post(self, url: URL, body: bytes, headers: Mapping[str, str]) -> Posted:
        session = self._pools.of(url.raw_host or "", url.port or 0)
        async with session.post(url, data=body, headers=headers, allow_redirects=False) as response:
            await _read_little(response)
            if 200 <= response.status < 300:
                return Posted(response.status)
            after = _seconds(response.headers.get("Retry-After"))
            return Posted(response.status, f"{_WHOM} answered {response.status}", after)


class OwnThreads(AbstractResolver):
    """Looks names up in threads of its own. A name server that does not answer holds up a look-up for many seconds, and whoever names a
    host chooses its name server: in the process's common threads that would hold up every other look-up."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="look-up")

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        """All addresses of a name. Raises OSError where it has none."""
        ask = partial(socket.getaddrinfo, host, port, family=family, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
        found = await asyncio.get_running_loop().run_in_executor(self._threads, ask)
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        return [
            ResolveResult(hostname=host, host=str(address[0]), port=port, family=kind, proto=proto, flags=flags)
            for kind, _, proto, _, address in found
        ]

    async def close(self) -> None:
        """Gives up what has not begun."""
        self._threads.shutdown(wait=False, cancel_futures=True)


async def _read_little(response: aiohttp.ClientResponse) -> None:
    """Reads a short answer to its end, so that the connection can be used again; a long or slow one is cut off with its connection.
    Whatever happens here, the status has been told."""
    size = 0
    try:
        async with asyncio.timeout(READ_SECONDS):
            while chunk := await response.content.read(MAX_ANSWER):
                size += len(chunk)
                if size > MAX_ANSWER:
                    response.close()
                    return
    except (TimeoutError, *FAILURES):
        response.close()


def _seconds(retry_after: str | None) -> float | None:
    """Retry-After in seconds from now: it is a number, or a date. None for anything else."""
    if retry_after is None:
        return None
    text = retry_after.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
