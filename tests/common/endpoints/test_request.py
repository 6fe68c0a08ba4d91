"""Requests put together from declared endpoints: what may go where in URLs, headers and bodies."""

from __future__ import annotations

import json
from typing import Any

import pytest

from common.endpoints.failures import EndpointFailed
from common.endpoints.request import CompiledEndpoint, compile_endpoint
from common.workflow.schema import Endpoint


def compiled(url: str = "http://api.example/x", env: dict[str, str] | None = None, **fields: Any) -> CompiledEndpoint:
    return compile_endpoint(Endpoint(url=url, **fields), name="flow f", env=env or {})


def url_of(url: str, variables: dict[str, Any], **fields: Any) -> str:
    return str(compiled(url, **fields).prepare(variables).url)


@pytest.mark.parametrize(
    ("url", "variables", "want"),
    [
        ("http://h/orders/{id}", {"id": "A/1?x#y z"}, "http://h/orders/A%2F1%3Fx%23y%20z"),
        ("http://h/orders/{id}/items", {"id": "%2e%2e"}, "http://h/orders/%252e%252e/items"),
        ("http://h/o-{id}.json", {"id": ".a"}, "http://h/o-.a.json"),
        ("http://h/{a}{b}/x", {"a": "1", "b": 2}, "http://h/12/x"),
        ("http://h/订单/{id}", {"id": "壶"}, "http://h/%E8%AE%A2%E5%8D%95/%E5%A3%B6"),
        ("http://h/s?q={q}&l=1", {"q": "a&b=c d"}, "http://h/s?q=a%26b%3Dc%20d&l=1"),
        ("http://h/s?q={nowhere}", {}, "http://h/s?q="),
        ("http://h?q={q}#frag", {"q": "1"}, "http://h/?q=1"),
        ("http://h:8/a/{id}", {"id": "x"}, "http://h:8/a/x"),
        ("https://h/a", {}, "https://h/a"),
    ],
)
def test_urls_are_encoded(url: str, variables: dict[str, Any], want: str) -> None:
    assert url_of(url, variables) == want


def test_query_parameters() -> None:
    got = url_of(
        "http://h/s?z=1",
        {"q": "a&b", "tags": ["x", "y"], "f": {"g": 1}},
        query_params={"q": "{q}", "t": "{tags}", "f": "{f}", "n": "{no}", "k": 5},
    )
    assert got == "http://h/s?z=1&q=a%26b&t=x&t=y&f=%7B%22g%22%3A1%7D&k=5"


@pytest.mark.parametrize("value", ["..", ".", "../etc", "a/../../b", "..\\x", "x/.."])
def test_dot_segments_are_refused(value: str) -> None:
    with pytest.raises(EndpointFailed) as caught:
        url_of("http://h/orders/{id}", {"id": value})
    assert caught.value.kind == "bad_value"
    assert value not in caught.value.detail or value == "."


def test_dots_cannot_be_put_together_from_parts() -> None:
    with pytest.raises(EndpointFailed):
        url_of("http://h/a/.{x}/b", {"x": "."})
    with pytest.raises(EndpointFailed):
        url_of("http://h/a/{x}{y}/b", {"x": ".", "y": "."})


@pytest.mark.parametrize("variables", [{}, {"id": None}, {"id": ""}])
def test_a_url_path_needs_its_variable(variables: dict[str, Any]) -> None:
    with pytest.raises(EndpointFailed) as caught:
        url_of("http://h/orders/{id}", variables)
    assert caught.value.kind == "missing_variable"


@pytest.mark.parametrize(
    "url",
    [
        "http://{host}/x",
        "http://a{b}",
        "http://a{b}.example/x",
        "{base}/x",
        "ftp://h/x",
        "/relative",
        "http://",
        "http://h:{port}/x",
        "http://h:99999999/x",
    ],
)
def test_only_literal_http_hosts(url: str) -> None:
    with pytest.raises(ValueError, match=r"URL|host"):
        compiled(url)


def test_environment_in_urls_and_headers() -> None:
    endpoint = compiled("${BASE}/x", {"BASE": "http://h:81/p", "KEY": "k{y}"}, headers={"X-Key": "Bearer ${KEY}"})
    request = endpoint.prepare({"y": "!"})
    assert str(request.url) == "http://h:81/p/x"
    assert request.headers["X-Key"] == "Bearer k{y}"
    assert (endpoint.host, endpoint.port) == ("h", 81)
    assert "k{y}" not in endpoint.key
    with pytest.raises(ValueError, match="NOPE"):
        compiled("${NOPE}/x")


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\x00b", "a\x7f"])
def test_control_characters_are_refused_in_headers(value: str) -> None:
    with pytest.raises(EndpointFailed) as caught:
        compiled(headers={"X-User": "{u}"}).prepare({"u": value})
    assert caught.value.kind == "bad_value"
    with pytest.raises(EndpointFailed):
        compiled(body={"a": 1}).prepare({}, idempotency_key=value)


def test_headers() -> None:
    assert compiled(headers={"X-User": "u={u}", "Content-Length": "5", "Connection": "close"}).prepare({"u": "安"}).headers == {
        "X-User": "u=安"
    }
    with pytest.raises(ValueError, match="header name"):
        compiled(headers={"X User": "1"})
    with pytest.raises(ValueError, match="control"):
        compiled(headers={"X": "a\nb"})


def sent(body: Any, variables: dict[str, Any], **fields: Any) -> tuple[str, str]:
    request = compiled(body=body, **fields).prepare(variables)
    return request.headers.get("Content-Type", ""), (request.body or b"").decode()


def test_json_bodies_are_structural() -> None:
    kind, text = sent({"m": "{m}", "n": "{n}", "t": "<{m}>"}, {"m": 'a","n":"9', "n": 5})
    assert kind == "application/json"
    assert json.loads(text) == {"m": 'a","n":"9', "n": 5, "t": '<a","n":"9>'}
    assert json.loads(sent('{"m": "{m}", "n": {n}}', {"m": "x\ny", "n": 5})[1]) == {"m": "x\ny", "n": 5}


def test_other_bodies() -> None:
    assert sent("hello {m}", {"m": "a b"}) == ("text/plain; charset=utf-8", "hello a b")
    assert sent("{m}", {"m": {"a": 1}}) == ("application/json", '{"a":1}')
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    assert sent({"a": "{m}", "b": "{none}"}, {"m": "x&y"}, headers=form)[1] == "a=x%26y"
    assert sent("a={m}&b=1", {"m": "x&y"}, headers=form)[1] == "a=x%26y&b=1"
    assert sent('{"a": "{m}", // note\n}', {"m": 'q"x'})[1] == '{"a": "q\\"x", // note\n}'


def test_no_body_with_get_and_key_only_with_writes() -> None:
    assert compiled(method="GET", body={"a": 1}).prepare({}, idempotency_key="k") == compiled(method="GET").prepare({})
    assert compiled(method="POST").prepare({}, idempotency_key="k").headers["Idempotency-Key"] == "k"


def test_what_has_no_bytes_is_refused() -> None:
    for endpoint in (compiled("http://h/{v}"), compiled(body={"v": "{v}"}), compiled(query_params={"v": "{v}"})):
        with pytest.raises(EndpointFailed) as caught:
            endpoint.prepare({"v": "\ud800"})
        assert caught.value.kind == "bad_value"


def test_repeatable() -> None:
    assert compiled().repeatable(None)
    assert not compiled(body={}, method="POST").repeatable(None)
    assert compiled(body={}, method="POST").repeatable("key")
    assert compiled(body={}, method="POST", idempotent=True).repeatable(None)
    assert not compiled(idempotent=False).repeatable("key")


def test_bad_jmespath_is_one_line() -> None:
    with pytest.raises(ValueError, match="JMESPath") as caught:
        compiled(success_when="a[")
    assert "\n" not in str(caught.value)
