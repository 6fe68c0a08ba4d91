"""HTTP to an MCP server under the egress policy: an address is checked before a socket connects to it, and answers are bounded."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import httpx2

from common.endpoints.egress import EgressPolicy

MAX_ANSWER_BYTES = 4_000_000
CONNECT_SECONDS = 5.0
READ_SECONDS = 300.0  # a stream of events may be quiet that long; calls have a time-out of their own


def open_client(policy: EgressPolicy, headers: dict[str, str]) -> httpx2.AsyncClient:
    """A client that follows no redirect and uses no proxy of the environment."""
    timeout = httpx2.Timeout(CONNECT_SECONDS, read=READ_SECONDS)
    headers = {**headers, "Accept-Encoding": "identity"}  # the bound counts what is sent: nothing may grow behind it
    return httpx2.AsyncClient(headers=headers, timeout=timeout, transport=PolicedTransport(policy), trust_env=False)


class PolicedTransport(httpx2.AsyncBaseTransport):
    """Looks a host up itself and connects to the addresses that the policy permits, one after the other. Certificates are checked
    against the host's name as ever. Raises httpx2.ConnectError when no address may be used."""

    def __init__(self, policy: EgressPolicy) -> None:
        self._policy = policy
        self._inner = httpx2.AsyncHTTPTransport(trust_env=False)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Sends the request to a permitted address of its host."""
        host, port = request.url.host, request.url.port or (443 if request.url.scheme == "https" else 80)
        permitted = await self._addresses(host, port)
        for number, address in enumerate(permitted, 1):
            there = httpx2.Request(
                request.method,
                request.url.copy_with(host=address),
                headers=request.headers,  # with the Host of the name
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": host},
            )
            try:
                response = await self._inner.handle_async_request(there)
            except (httpx2.ConnectError, httpx2.ConnectTimeout):
                if number == len(permitted):
                    raise
                continue
            if response.headers.get("content-encoding", "identity").lower() != "identity":
                await response.aclose()
                raise httpx2.DecodingError("the answer is compressed, which was not asked for")
            return _bounded(response)
        raise httpx2.ConnectError(f"the egress policy permits no address of {host}")

    async def _addresses(self, host: str, port: int) -> list[str]:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as e:
            raise httpx2.ConnectError(f"{host} cannot be found: {e.strerror}") from None
        trusted = self._policy.trusts(host, port)
        return [a for a in dict.fromkeys(str(info[4][0]) for info in found) if self._policy.permits(a, port, trusted=trusted)]

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._inner.aclose()


def _bounded(response: httpx2.Response) -> httpx2.Response:
    """The response; where it is one document its body is bounded. A stream of events is, event by event, by whoever reads it."""
    stream = response.stream
    if response.headers.get("content-type", "").lower().startswith("text/event-stream") or not isinstance(stream, httpx2.AsyncByteStream):
        return response
    return httpx2.Response(response.status_code, headers=response.headers, stream=_Bounded(stream), extensions=response.extensions)


class _Bounded(httpx2.AsyncByteStream):
    def __init__(self, inner: httpx2.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for part in self._inner:
            size += len(part)
            if size > MAX_ANSWER_BYTES:
                raise httpx2.StreamError(f"the answer has more than {MAX_ANSWER_BYTES} bytes")
            yield part

    async def aclose(self) -> None:
        await self._inner.aclose()
