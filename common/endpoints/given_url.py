"""URLs that callers of the API give: what one must look like, and whether its host, as it is written, may be reached at all.

A name may still lead to a forbidden address: that is seen when a socket is made for it (egress).
"""

from __future__ import annotations

import ipaddress
import re
import socket

from yarl import URL

from common.endpoints.egress import EgressPolicy, normal_host

MAX_URL = 2048
_PRINTABLE = re.compile(r"[\x21-\x7e]+\Z")
_NAME = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.?)+\Z")


def host_of_url(url: object, policy: EgressPolicy) -> str:
    """`host:port` of an http(s) URL in the form of one name for one host. Raises ValueError with the end of a sentence about the URL."""
    if not isinstance(url, str) or not 0 < len(url) <= MAX_URL:
        raise ValueError(f"must be an http or https URL of at most {MAX_URL} characters")
    if not _PRINTABLE.match(url) or "\\" in url:
        raise ValueError("must be of printable ASCII; write other characters percent-encoded, a host name in its xn-- form")
    try:
        parsed = URL(url, encoded=True)
        scheme, host, port = parsed.scheme.lower(), normal_host(parsed.raw_host or ""), parsed.port
    except ValueError:
        raise ValueError("is no URL") from None
    if scheme not in ("http", "https") or not host:
        raise ValueError("must be an http or https URL with a host")
    if "@" in parsed.raw_authority:
        raise ValueError("must not hold a user or password: what receivers trust is the signature")
    if "#" in url:
        raise ValueError("must not have a fragment")
    if not port:
        raise ValueError("must have a port from 1 to 65535")
    _require_reachable(host, port, policy)
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _require_reachable(host: str, port: int, policy: EgressPolicy) -> None:
    address = _address(host)
    if address is None and not _NAME.match(host):
        raise ValueError("has a host that is none")
    if host == "localhost" or host.endswith(".localhost"):
        address = "127.0.0.1"
    if address is not None and not policy.permits(address, port, trusted=policy.trusts(host, port)):
        raise ValueError(f"leads to {host}, which the egress policy refuses: only public addresses and those of LOADSPLIT_EGRESS_ALLOW")


def _address(host: str) -> str | None:
    """The address that a host is, None for a name. Raises ValueError for spellings that only some programs take for an address."""
    try:
        return str(ipaddress.ip_address(host.partition("%")[0]))
    except ValueError:
        pass
    try:
        socket.inet_aton(host)
    except OSError:
        return None
    raise ValueError("has an address in an unusual spelling: write it as four decimal numbers")
