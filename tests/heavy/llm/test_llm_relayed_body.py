"""A relayed body differs from the client's in the model's name and, for streams, in the wish for usage: nowhere else."""

from __future__ import annotations

import orjson
import pytest

from common.errors import InvalidRequest
from heavy.llm.relayed_body import read

USAGE = b'"stream_options":{"include_usage":true}'


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (b'{"model":"models/a","n":1}', b'{"model":"m \\"1\\"","n":1}'),
        (b'{ "x" : [1, 2 ,"]}"] , "model" :\n"models/a" }', b'{ "x" : [1, 2 ,"]}"] , "model" :\n"m \\"1\\"" }'),
        (b'{"messages":[{"role":"model"}],"model":"models/a"}', b'{"messages":[{"role":"model"}],"model":"m \\"1\\""}'),
        (b'{"x":{"model":"models/b"},"model":"models/a"}', b'{"x":{"model":"models/b"},"model":"m \\"1\\""}'),
        (b'{"\\u006dodel":"models/a","y":{"model":"z"}}', b'{"\\u006dodel":"m \\"1\\"","y":{"model":"z"}}'),
        (
            b'{"model":"models\\/a","text":"\xe4\xbd\xa0 \\"model\\": \\\\"}',
            b'{"model":"m \\"1\\"","text":"\xe4\xbd\xa0 \\"model\\": \\\\"}',
        ),
    ],
)
def test_only_the_models_name_is_replaced(body: bytes, sent: bytes) -> None:
    assert read(body, "openai").for_model('m "1"') == sent
    assert read(body, "anthropic").for_model('m "1"') == sent


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (b'{"model":"models/a","stream":true}', b'{"model":"m",' + USAGE + b',"stream":true}'),
        (
            b'{"stream":true,"stream_options": {"x":{"y":[]}} ,"model":"models/a","z":0}',
            b'{"stream":true,"stream_options": {"x":{"y":[]},"include_usage":true} ,"model":"m","z":0}',
        ),
        (
            b'{"model":"models/a","stream":true,"stream_options":null,"z":0}',
            b'{"model":"m","stream":true,' + USAGE + b',"z":0}',
        ),
        (
            b'{"model":"models/a","stream":true,"stream_options":{"include_usage":false}}',
            b'{"model":"m","stream":true,' + USAGE + b"}",
        ),
    ],
)
def test_a_stream_is_asked_for_its_usage(body: bytes, sent: bytes) -> None:
    relayed = read(body, "openai")
    assert relayed.for_model("m") == sent
    assert orjson.loads(sent)["stream_options"]["include_usage"] is True
    assert relayed.streaming
    assert relayed.hides_usage


def test_who_asks_for_the_usage_sees_it() -> None:
    body = b'{"model":"models/a","stream":true,"stream_options":{"include_usage":true}}'
    relayed = read(body, "openai")
    assert not relayed.hides_usage
    assert relayed.for_model("models/a") == body
    anthropic = read(b'{"model":"models/a","stream":true}', "anthropic")
    assert anthropic.for_model("m") == b'{"model":"m","stream":true}'
    assert not anthropic.hides_usage


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b'{"model":"models/a","model":"models/b"}', "model"),
        (b'{"model":"models/a","\\u006dodel":"models/b"}', "model"),
        (b'{"messages":[]}', "model"),
        (b'{"model":5}', "model"),
        (b'{"model":"models/a","stream":"yes"}', "stream"),
        (b'{"model":"models/a","stream_options":[]}', "stream_options"),
        (b'{"model":"models/a","stream":true,"stream_options":{},"stream_options":{}}', "stream_options"),
        (b"[]", None),
        (b"{", None),
    ],
)
def test_what_cannot_be_relayed_is_refused(body: bytes, field: str | None) -> None:
    with pytest.raises(InvalidRequest) as caught:
        read(body, "openai")
    assert caught.value.extra.get("field") == field


def test_what_a_call_may_cost_is_read_off_it() -> None:
    relayed = read(b'{"model":"models/a","max_tokens":50,"x":"' + b"y" * 400 + b'"}', "openai")
    assert 100 <= relayed.tokens <= 120
    assert relayed.most_output == 50
    for picture in (b'{"url":"data:image/png;base64,' + b"QUJD" * 50_000 + b'"}', b'{"type":"base64","data":"' + b"QUJD" * 50_000 + b'"}'):
        shown = read(b'{"model":"models/a","messages":[{"text":"what is this?","image":' + picture + b"}]}", "openai")
        assert 1600 < shown.tokens < 1700
    assert read(b'{"model":"a","max_completion_tokens":7,"max_tokens":-1}', "openai").most_output == 7
    assert read(b'{"model":"a","max_tokens":true}', "openai").most_output == 0
