"""The egress policy on addresses: what nobody may reach, what trusted hosts may, what the allow list opens."""

from __future__ import annotations

import socket

import pytest

from common.endpoints.egress import EgressDenied, EgressPolicy, embedded

PUBLIC = ["93.184.216.34", "8.8.8.8", "2606:4700::1111"]
PRIVATE = ["127.0.0.1", "127.8.9.1", "10.0.0.5", "172.16.3.4", "192.168.1.1", "100.64.0.9", "::1", "fd12::1", "198.18.0.1"]
FORBIDDEN = [
    "169.254.169.254",
    "169.254.1.1",
    "0.0.0.0",
    "0.1.2.3",
    "224.0.0.1",
    "255.255.255.255",
    "240.0.0.1",
    "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16",
    "fe80::1",
    "fe80::1%eth0",
    "ff02::1",
    "::",
    "fd00:ec2::254",
    "::ffff:169.254.169.254",
    "64:ff9b::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "::a9fe:a9fe",
    "::ffff:0:a9fe:a9fe",
    "not an address",
]
CARRIERS = [
    "64:ff9b::7f00:1",
    "64:ff9b::808:808",
    "2002:7f00:1::",
    "2002:808:808::1",
    "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "::7f00:1",
    "64:ff9b:1::1",
]
MAPPED = ["::ffff:127.0.0.1", "::ffff:8.8.8.8"]


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_open(address: str) -> None:
    assert EgressPolicy().permits(address, 443, trusted=False)
    assert EgressPolicy().permits(address, 443, trusted=True)


@pytest.mark.parametrize("address", [*PRIVATE, *CARRIERS, *MAPPED, "192.0.0.1", "192.0.2.1", "2001:db8::1", "192.88.99.1"])
def test_what_is_not_public_needs_trust(address: str) -> None:
    assert not EgressPolicy().permits(address, 80, trusted=False)


@pytest.mark.parametrize("address", [*PRIVATE, "::ffff:127.0.0.1"])
def test_trusted_hosts_may_be_private(address: str) -> None:
    assert EgressPolicy().permits(address, 80, trusted=True)


@pytest.mark.parametrize("address", CARRIERS)
def test_trusted_hosts_may_not_hide_in_carriers(address: str) -> None:
    assert not EgressPolicy().permits(address, 80, trusted=True)


@pytest.mark.parametrize("address", FORBIDDEN)
def test_nobody_reaches_these(address: str) -> None:
    policy = EgressPolicy(allow=("0.0.0.0/0", "::/0", ":80"))
    assert not policy.permits(address, 80, trusted=True)
    assert not policy.permits(address, 80, trusted=False)


def test_allow_list() -> None:
    policy = EgressPolicy(
        allow=("10.1.0.0/16", "127.0.0.1:8910", "api.internal", "db.internal:99", "[fd12::1]:80", ":7777", "5555", "64:ff9b::/96")
    )
    assert policy.permits("10.1.2.3", 1, trusted=False)
    assert not policy.permits("10.2.2.3", 1, trusted=False)
    assert policy.permits("127.0.0.1", 8910, trusted=False)
    assert not policy.permits("127.0.0.1", 8911, trusted=False)
    assert policy.permits("fd12::1", 80, trusted=False)
    assert not policy.permits("fd12::1", 81, trusted=False)
    assert policy.permits("192.168.0.1", 7777, trusted=False)
    assert policy.permits("192.168.0.1", 5555, trusted=False)
    assert policy.permits("64:ff9b::808:808", 1, trusted=False)
    assert policy.trusts("API.internal.", 1)
    assert policy.trusts("db.internal", 99)
    assert not policy.trusts("db.internal", 98)
    assert not policy.trusts("other", 99)


def test_trusted_hosts_by_name() -> None:
    assert EgressPolicy(trusted_hosts=frozenset({"Biz.Local"})).trusts("biz.local", 80)
    assert not EgressPolicy(trusted_hosts=frozenset({"biz.local"}), public_only=True).trusts("biz.local", 80)


@pytest.mark.parametrize("entry", ["a b", "10.0.0.0/99", "host:0", "host:port", "http://x", "[::1", "[::1]x"])
def test_bad_entries_are_refused(entry: str) -> None:
    with pytest.raises(ValueError, match="no host"):
        EgressPolicy(allow=(entry,))


def test_sockets_are_made_only_for_what_is_permitted() -> None:
    make = EgressPolicy().socket_factory(trusted=False)
    with pytest.raises(EgressDenied):
        make((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80)))
    make((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("8.8.8.8", 80))).close()


def test_embedded() -> None:
    import ipaddress

    assert [str(a) for a in embedded(ipaddress.ip_address("2002:a9fe:a9fe::"))] == ["169.254.169.254"]
    assert embedded(ipaddress.ip_address("1.2.3.4")) == []
    assert embedded(ipaddress.ip_address("::1")) == []
