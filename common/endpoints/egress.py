"""Where declared calls may connect to. Checked on the final address of every new socket, so that IP spellings, DNS rebinding and
literals in any form meet the same rule. It knows nothing of HTTP.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
AddrInfo = tuple[Any, Any, int, str, tuple[Any, ...]]

MARK = "refused by the egress policy"


def _nets(*texts: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(t) for t in texts)


# Nobody may reach these, whatever a file or LOADSPLIT_EGRESS_ALLOW says: link-local addresses, the metadata services of the clouds,
# "this host", multicast, broadcast and reserved space.
NEVER = _nets(
    "0.0.0.0/8",
    "169.254.0.0/16",
    "100.100.100.200/32",
    "192.0.0.192/32",
    "168.63.129.16/32",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "::/128",
    "fe80::/10",
    "fec0::/10",
    "fd00:ec2::254/128",
    "fd20:ce::254/128",
    "ff00::/8",
)
# Not public, though `is_global` of some Python versions says so: forms that carry an IPv4 address inside, protocol assignments, benchmarks.
NOT_PUBLIC = _nets(
    "192.0.0.0/24",
    "192.88.99.0/24",
    "198.18.0.0/15",
    "100.64.0.0/10",
    "::/96",
    "::ffff:0:0/96",
    "::ffff:0:0:0/96",
    "64:ff9b::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/23",
    "2001:db8::/32",
    "2002::/16",
    "3fff::/20",
    "5f00::/16",
)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")
_TRANSLATED = ipaddress.ip_network("::ffff:0:0:0/96")
_COMPATIBLE = ipaddress.ip_network("::/96")


class EgressDenied(OSError):
    """The policy refuses an address; no packet was sent to it. An OSError, because the connector tries the next address after one."""

    def __init__(self, address: str, port: int) -> None:
        super().__init__(errno.EACCES, f"{MARK}: {address} port {port}")


@dataclass(frozen=True, slots=True)
class Allowance:
    """One entry of LOADSPLIT_EGRESS_ALLOW: a host, a network, a port, or one of the first two with a port. None matches any."""

    host: str | None = None
    network: Network | None = None
    port: int | None = None


@dataclass(frozen=True)
class EgressPolicy:
    """`allow` holds entries such as `api.internal`, `10.0.0.0/8`, `127.0.0.1:8910`, `[::1]:80`, `:8910`. Raises ValueError for a bad entry.

    `trusted_hosts` are those that an operator's file names literally: they may be private or loopback, never link-local. With `public_only`
    (configs that came through admin) they count for nothing.
    """

    allow: tuple[str, ...] = ()
    trusted_hosts: frozenset[str] = frozenset()
    public_only: bool = False
    allowances: tuple[Allowance, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "allowances", tuple(_allowance(entry) for entry in self.allow if entry.strip()))
        object.__setattr__(self, "trusted_hosts", frozenset(normal_host(h) for h in self.trusted_hosts))

    def trust(self, hosts: Iterable[str]) -> None:
        """Adds hosts that an operator's file names, when it has changed. With `public_only` they count for nothing, as ever."""
        object.__setattr__(self, "trusted_hosts", self.trusted_hosts | {normal_host(h) for h in hosts})

    def trusts(self, host: str, port: int) -> bool:
        """Whether this host, by its name in the URL, may have private addresses."""
        host = normal_host(host)
        if not self.public_only and host in self.trusted_hosts:
            return True
        return any(a.host == host and a.port in (None, port) for a in self.allowances)

    def permits(self, address: str, port: int, *, trusted: bool) -> bool:
        """Whether a socket may connect to this address. `trusted` is what `trusts` said of the host that it was found under."""
        try:
            ip = ipaddress.ip_address(address.partition("%")[0])
        except ValueError:
            return False
        inner = [ip, *embedded(ip)]
        if any(_in(a, NEVER) for a in inner):
            return False
        for a in self.allowances:
            if a.host is None and a.port in (None, port) and (a.network is None or _in(ip, (a.network,))):
                return True
        mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
        if trusted:
            return not embedded(ip) or mapped is not None
        return all(a.is_global and not a.is_multicast and not _in(a, NOT_PUBLIC) for a in inner)

    def socket_factory(self, trusted: bool) -> Callable[[AddrInfo], socket.socket]:
        """Makes sockets for aiohttp's connector; raises EgressDenied before one exists for an address that is refused."""

        def make(addr_info: AddrInfo) -> socket.socket:
            family, kind, proto, _, address = addr_info
            if not self.permits(str(address[0]), int(address[1]), trusted=trusted):
                raise EgressDenied(str(address[0]), int(address[1]))
            return socket.socket(family, kind, proto)

        return make


def embedded(ip: Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses that an IPv6 address carries: mapped, compatible, translated, NAT64, 6to4, Teredo."""
    if not isinstance(ip, ipaddress.IPv6Address):
        return []
    found: list[ipaddress.IPv4Address] = [a for a in (ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())) if a is not None]
    if _in(ip, (_NAT64, _NAT64_LOCAL, _TRANSLATED)) or (_in(ip, (_COMPATIBLE,)) and int(ip) > 1):
        found.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
    return found


def normal_host(host: str) -> str:
    """A host as it is compared: lower case, without brackets and the root's dot."""
    return host.lower().strip("[]").rstrip(".")


def _in(ip: Address, networks: Iterable[Network]) -> bool:
    return any(ip.version == n.version and ip in n for n in networks)


def _allowance(entry: str) -> Allowance:
    text = entry.strip()
    host, port = text, None
    if text.startswith("["):
        host, closed, rest = text[1:].partition("]")
        port = rest.removeprefix(":") or None
        if not closed:
            raise ValueError(f"{entry!r} is no host, network or port")
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    elif text.isdigit():
        host, port = "", text
    if port is not None and not (port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"{entry!r} is no host, network or port")
    number = int(port) if port else None
    if not host:
        return Allowance(port=number)
    try:
        return Allowance(network=ipaddress.ip_network(host, strict=False), port=number)
    except ValueError:
        pass
    if "/" in host or not all(c.isalnum() or c in ".-_" for c in host):
        raise ValueError(f"{entry!r} is no host, network or port")
    return Allowance(host=normal_host(host), port=number)
