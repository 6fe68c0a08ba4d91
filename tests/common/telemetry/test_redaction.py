"""What is struck out of logs and spans: secrets, personal data by their form, and what an operator's file adds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.settings import SettingsError
from common.telemetry.redaction import Redaction

CLEAN = Redaction()
SECRETS = [
    ("Authorization: Bearer abc.def-123456", "abc.def-123456"),
    ("key sk-proj-AbCdEf123456 used", "AbCdEf123456"),
    ("sk-ant-api03-abcdefghij", "abcdefghij"),
    ("postgresql://app:pa55word@db/x", "pa55word"),
    ("redis://:pa55word@h:1/0", "pa55word"),
    ("api_key=abcd1234", "abcd1234"),
    ('{"api-key": "abcd1234"}', "abcd1234"),
    ("LOADSPLIT_TICKET_SECRET=abcd1234", "abcd1234"),
    ("x-api-key: abcd1234", "abcd1234"),
    ("ticket v1.eyJhIjoxMjM0NTY3ODkw.c2lnbmF0dXJlc2lnbmF0dXJl", "c2lnbmF0dXJlc2lnbmF0dXJl"),
    ("https://h/x?access_token=abcd1234&y=1", "abcd1234"),
]


@pytest.mark.parametrize(("text", "secret"), SECRETS)
def test_secrets_are_struck_out(text: str, secret: str) -> None:
    assert secret not in CLEAN.text(text)
    assert "***" in CLEAN.text(text)


@pytest.mark.parametrize(
    "text", ["tokens: 1234 used", "session s-1 of user u-1", "input_tokens=5123", "GET /orders/A1001 200", "task-12345678 done"]
)
def test_other_words_stay(text: str) -> None:
    assert CLEAN.text(text) == text


PERSONAL = [
    ("write to Ann.O'Neil+shop@mail.example.co.uk, please", "write to <email>, please"),
    ("GET /find?q=ann%40example.com&x=1", "GET /find?q=<email>&x=1"),
    ("邮箱 ann@example.com。", "邮箱 <email>。"),
    ("card 4111 1111 1111 1111.", "card <card>."),
    ("card 5500-0000-0000-0004", "card <card>"),
    ("IBAN DE89 3704 0044 0532 0130 00 it is", "IBAN <iban> it is"),
    ("GB82WEST12345698765432", "<iban>"),
    ("call +49 170 1234567 now", "call <phone> now"),
    ("call (555) 123-4567", "call <phone>"),
    ("call 0170 1234567", "call <phone>"),
    ("手机 13812345678", "手机 <phone>"),
]


@pytest.mark.parametrize(("text", "left"), PERSONAL)
def test_personal_data_are_struck_out(text: str, left: str) -> None:
    assert CLEAN.text(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "t_019a2b3c4d5e0123456789abcdef0123",
        "order 4111 1111 1111 1112",
        "GB82WEST12345698765433",
        "at 2026-11-26T03:20:29.123+00:00",
        "1769400000.123456 1769400000123",
        "127.0.0.1:8080 and 10.0.0.7",
        "550e8400-e29b-41d4-a716-446655440000",
        "a@b",
        "loadsplit 0.4.1, sha256:0123456789abcdef",
    ],
)
def test_what_only_looks_like_it_stays(text: str) -> None:
    assert CLEAN.text(text) == text


def test_values_are_cleaned_all_the_way_down() -> None:
    value = {"to": ["ann@example.com", {"deep": "sk-abcdefghijk"}], "ann@example.com": 1, "password": "x", "n": 5, "ok": None}
    assert CLEAN.value("extra", value) == {"to": ["<email>", {"deep": "sk-***"}], "<email>": 1, "password": "***", "n": 5, "ok": None}


def written(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "redact.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_a_file_adds_and_takes_away(tmp_path: Path) -> None:
    clean = Redaction.read(written(tmp_path, {"staff": "E-[0-9]{6}", "email": False}))
    assert clean.text("E-123456 wrote to ann@example.com from +49 170 1234567, key sk-abcdefghijk") == (
        "<staff> wrote to ann@example.com from <phone>, key sk-***"
    )
    assert Redaction.read(None).text("ann@example.com") == "<email>"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "redact.json:1:2: it is not JSON"),
        ([], "must be an object"),
        ({"Staff": "x"}, "'Staff' is no name"),
        ({"staff": 5}, "staff must be a regular expression, or false"),
        ({"staff": "("}, "staff is no regular expression"),
        ({"staff": "x*"}, "staff matches the empty text"),
    ],
)
def test_a_wrong_file_is_told(tmp_path: Path, content: Any, says: str) -> None:
    with pytest.raises(SettingsError, match="LOADSPLIT_REDACT") as e:
        Redaction.read(written(tmp_path, content))
    assert says in str(e.value)
    assert "\n" not in str(e.value)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        Redaction.read(tmp_path / "none.json")
