"""API keys: who is let in, as whom, and what a wrong key file says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.errors import Forbidden, Unauthorized
from common.web.auth import ANYONE, KeyRing, hash_key

ROW = {"id": "k1", "tenant": "acme", "scopes": ["query", "llm"], "hash": hash_key("ls-key-one")}


def ring(tmp_path: Path, *rows: Any, lines: bool = True) -> KeyRing:
    path = tmp_path / "keys"
    path.write_text("\n".join(json.dumps(r) for r in rows) + "\n" if lines else json.dumps(rows))
    return KeyRing.open(path)


def bearer(token: str) -> list[tuple[bytes, bytes]]:
    return [(b"accept", b"*/*"), (b"authorization", token.encode())]


def test_without_keys_everyone_is_the_default_tenant() -> None:
    keys = KeyRing.open(None)
    assert keys.empty
    assert keys.authenticate([]) is ANYONE
    ANYONE.need("admin")


@pytest.mark.parametrize("lines", [True, False])
def test_a_key_names_its_tenant_and_scopes(tmp_path: Path, lines: bool) -> None:
    keys = ring(tmp_path, {**ROW, "id": "k0", "hash": hash_key("other")}, ROW, lines=lines)
    for _ in range(2):  # the second time from the cache
        caller = keys.authenticate(bearer("Bearer ls-key-one"))
        assert (caller.tenant, caller.key_id) == ("acme", "k1")
    assert keys.authenticate(bearer("bearer  ls-key-one")).tenant == "acme"
    caller.need("llm")
    with pytest.raises(Forbidden, match="admin"):
        caller.need("admin")


@pytest.mark.parametrize("token", ["Bearer wrong", "Bearer ", "Bearer", "Basic bHM6eA==", "ls-key-one", "Bearer ls-key-one x"])
def test_other_credentials_are_refused(tmp_path: Path, token: str) -> None:
    with pytest.raises(Unauthorized):
        ring(tmp_path, ROW).authenticate(bearer(token))


def test_no_credentials_are_refused(tmp_path: Path) -> None:
    with pytest.raises(Unauthorized, match="API key is needed"):
        ring(tmp_path, ROW).authenticate([])


def test_expired_keys_are_refused(tmp_path: Path) -> None:
    keys = ring(tmp_path, {**ROW, "expires": 1.0})
    for _ in range(2):
        with pytest.raises(Unauthorized, match="expired"):
            keys.authenticate(bearer("Bearer ls-key-one"))


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({**ROW, "hash": "abc"}, "SHA-256"),
        ({**ROW, "id": ""}, "no id"),
        ({**ROW, "tenant": "a/b"}, "tenant"),
        ({**ROW, "scopes": ["fly"]}, "'fly' is no scope"),
        ({**ROW, "scopes": "query"}, "scopes"),
        ({**ROW, "expires": "tomorrow"}, "expires"),
        ([1], "no object"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, row: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        ring(tmp_path, ROW, row)
    assert "entry 2" in str(caught.value)


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        KeyRing.open(tmp_path / "nowhere")
    (tmp_path / "broken").write_text("{")
    with pytest.raises(ValueError, match="neither"):
        KeyRing.open(tmp_path / "broken")
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(ValueError, match="no key"):
        KeyRing.open(tmp_path / "empty")
