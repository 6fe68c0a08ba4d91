"""URLs that callers give: what is taken, what is refused by its form, and what by the address that it is."""

from __future__ import annotations

import pytest

from common.endpoints.egress import EgressPolicy
from common.endpoints.given_url import host_of_url

POLICY = EgressPolicy(public_only=True)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://example.com", "example.com:443"),
        ("http://example.com/hook", "example.com:80"),
        ("HTTPS://Example.COM.:8443/a?b=c&d=%20", "example.com:8443"),
        ("https://8.8.8.8/x", "8.8.8.8:443"),
        ("https://[2606:4700::1111]/x", "[2606:4700::1111]:443"),
        ("https://xn--bcher-kva.example/x", "xn--bcher-kva.example:443"),
        ("https://my_host.internal/x", "my_host.internal:443"),
        ("https://a-b.c1.example/" + "x" * 2000, "a-b.c1.example:443"),
    ],
)
def test_good_ones(url: str, host: str) -> None:
    assert host_of_url(url, POLICY) == host


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/",
        "http://127.0.0.1:8080/x",
        "http://localhost/",
        "http://LOCALHOST.:80/",
        "http://me.localhost/",
        "http://10.0.0.1/",
        "http://192.168.1.1/",
        "http://169.254.169.254/latest/meta-data",
        "http://100.100.100.200/",
        "http://0.0.0.0/",
        "http://[::1]/",
        "http://[::]/",
        "http://[::ffff:127.0.0.1]/",
        "http://[64:ff9b::a9fe:a9fe]/",
        "http://[fe80::1%25eth0]/",
        "http://[fd00:ec2::254]/",
    ],
)
def test_addresses_that_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="which the egress policy refuses"):
        host_of_url(url, POLICY)


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f.0.0.1", "0177.0.0.1", "0x7f000001", "8.8.2056", "017700000001"])
def test_odd_spellings_of_addresses(host: str) -> None:
    with pytest.raises(ValueError, match="unusual spelling"):
        host_of_url(f"http://{host}/", POLICY)


@pytest.mark.parametrize(
    ("url", "match"),
    [
        (None, "http or https URL of at most 2048"),
        (7, "at most 2048"),
        ("", "at most 2048"),
        (["https://example.com"], "at most 2048"),
        ("https://example.com/" + "x" * 2048, "at most 2048"),
        ("https://exämple.com/", "printable ASCII"),
        ("https://①②⑦.0.0.1/", "printable ASCII"),
        ("https://example.com/a b", "printable ASCII"),
        ("https://example.com/\n", "printable ASCII"),
        ("https://example.com\\@127.0.0.1/", "printable ASCII"),
        ("ftp://example.com/", "http or https"),
        ("file:///etc/passwd", "http or https"),
        ("javascript:alert(1)", "http or https"),
        ("//example.com/x", "http or https"),
        ("/x", "http or https"),
        ("example.com", "http or https"),
        ("https://", "no URL|with a host"),
        ("https:///x", "no URL|with a host"),
        ("https://user:pass@example.com/", "user or password"),
        ("https://user@example.com/", "user or password"),
        ("https://@example.com/", "user or password"),
        ("https://example.com/#top", "fragment"),
        ("https://example.com:0/", "port from 1"),
        ("https://example.com:99999/", "no URL"),
        ("https://example.com:http/", "no URL"),
        ("https://[::1/", "no URL"),
        ("https://%31%32%37.0.0.1/", "host that is none"),
        ("https://a..b/", "host that is none"),
        ("https://-a.example/", "host that is none"),
        ("https://ex!ample.com/", "host that is none"),
    ],
)
def test_what_is_no_url_for_us(url: object, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        host_of_url(url, POLICY)


def test_what_an_operator_allows() -> None:
    policy = EgressPolicy(("127.0.0.1:8910", "localhost", "10.0.0.0/8"), public_only=True)
    assert host_of_url("http://127.0.0.1:8910/x", policy) == "127.0.0.1:8910"
    assert host_of_url("http://localhost:1/x", policy) == "localhost:1"
    assert host_of_url("http://10.2.3.4/x", policy) == "10.2.3.4:80"
    with pytest.raises(ValueError, match="refuses"):
        host_of_url("http://127.0.0.1:8911/x", policy)


def test_hosts_that_workflow_files_name_are_not_open_to_callers() -> None:
    policy = EgressPolicy(trusted_hosts=frozenset({"127.0.0.1"}), public_only=True)
    with pytest.raises(ValueError, match="refuses"):
        host_of_url("http://127.0.0.1/x", policy)
