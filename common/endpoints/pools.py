"""The HTTP connections of a process under one egress policy, and what their failures mean. It knows neither endpoints nor webhooks."""

from __future__ import annotations

from collections.abc import Mapping

import aiohttp
from aiohttp.abc import AbstractResolver

from common.endpoints.egress import MARK, EgressPolicy
from common.endpoints.failures import FailureKind

CONNECT_SECONDS = 5.0
# Servers close idle connections after 5 s at the earliest (uvicorn, Node): keeping ours shorter avoids writing into a closing one.
KEEPALIVE_SECONDS = 4.0
# What a request may raise but a time-out. RuntimeError is uvloop's word for a connection that ended while it was being made; with
# ValueError aiohttp refuses a host or header that it cannot encode.
FAILURES = (aiohttp.ClientError, ValueError, RuntimeError)


class Pools:
    """Two connection pools, one for hosts that the policy trusts by name and one for all others: so a socket's rule is known when it is
    made. Nothing of one reply goes into the next request, and no proxy of the environment is used."""

    def __init__(
        self,
        policy: EgressPolicy,
        *,
        headers: Mapping[str, str],
        per_host: int,
        resolver: AbstractResolver | None = None,
        unpack: bool = True,
    ) -> None:
        self.policy = policy
        self._headers = headers
        self._per_host = per_host
        self._resolver = resolver
        self._unpack = unpack
        self._sessions: dict[bool, aiohttp.ClientSession] = {}

    def open(self) -> None:
        """Must be called before `of`, inside the event loop."""
        for trusted in (True, False):
            self._sessions[trusted] = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    limit=0,  # in-flight requests are bounded where they come in; a slow API must not starve the others here
                    limit_per_host=self._per_host,
                    keepalive_timeout=KEEPALIVE_SECONDS,
                    resolver=self._resolver,
                    socket_factory=self.policy.socket_factory(trusted),
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=self._headers,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
                trust_env=False,
                auto_decompress=self._unpack,
            )

    def of(self, host: str, port: int) -> aiohttp.ClientSession:
        """The pool for a host by its name in the URL."""
        return self._sessions[self.policy.trusts(host, port)]

    async def aclose(self) -> None:
        """Closes the connections."""
        for session in self._sessions.values():
            await session.close()
        self._sessions.clear()


def reason_of(error: Exception, whom: str) -> tuple[FailureKind, str]:
    """What one of FAILURES says of a request to `whom` ("the API"): how it failed, and a sentence that is safe to show."""
    if isinstance(error, aiohttp.ClientConnectorError):
        if MARK in str(error.os_error):
            return "egress", "its address is refused by the egress policy"
        return "connect", f"{whom} could not be reached"
    if isinstance(error, aiohttp.InvalidURL):
        return "bad_value", "the URL is wrong"
    if isinstance(error, aiohttp.ClientError):
        return "connect", f"{whom} could not be reached" if isinstance(error, TimeoutError) else f"{whom} broke off"
    if isinstance(error, ValueError):
        return "bad_value", "the request cannot be sent"
    return "connect", f"{whom} could not be reached"
