"""API keys: who is let in, as whom, with which limits; keys of a file and of the database; what a wrong key file says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.contracts.access import NO_LIMITS, Access, Key, Limits, digest_of
from common.errors import DependencyUnavailable, Forbidden, Unauthorized
from common.web.auth import ANYONE, KeyRing, hash_key

STORED = Key("d1", "other", frozenset({"query"}), digest_of(b"stored"))
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
    assert keys.authenticate([]) == ANYONE
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
        ({**ROW, "tenant": "*"}, "scope admin"),
        ({**ROW, "limits": {"requests_per_minute": 0}}, "requests_per_minute"),
        ({**ROW, "limits": []}, "limits must be an object"),
        ({"tenant": "*", "scopes": ["admin"], "id": "x", "hash": ROW["hash"], "limits": {"open_streams": 5}}, "has none"),
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


def test_two_rows_of_a_tenant_may_not_have_different_limits(tmp_path: Path) -> None:
    limited = {**ROW, "limits": {"open_streams": 5}}
    assert ring(tmp_path, limited, {**limited, "id": "k2"}, ROW).limits_of("acme") == Limits(open_streams=5)
    with pytest.raises(ValueError, match="entry 2: limits: an earlier entry"):
        ring(tmp_path, limited, {**ROW, "limits": {"open_streams": 6}})


def test_a_key_of_the_database_is_asked_for_once_there_was_one() -> None:
    keys = KeyRing.open(None)
    keys.use(Access(1))
    assert keys.empty
    keys.use(Access(2, True, (STORED,)))
    assert not keys.empty
    assert keys.authenticate(bearer("Bearer stored")).tenant == "other"
    for token in ("Bearer another", "Bearer stored2"):
        with pytest.raises(Unauthorized, match="not known"):
            keys.authenticate(bearer(token))
    keys.use(Access(3, True))  # it was revoked: the door does not open for everyone
    with pytest.raises(Unauthorized):
        keys.authenticate(bearer("Bearer stored"))
    with pytest.raises(Unauthorized):
        keys.authenticate([])


async def test_keys_that_are_asked_for_and_not_known_are_no_401() -> None:
    keys = KeyRing.open("db:")
    assert not keys.empty
    with pytest.raises(Unauthorized):
        keys.authenticate([])
    with pytest.raises(DependencyUnavailable) as caught:
        keys.authenticate(bearer("Bearer stored"))
    assert caught.value.retry_after == 1
    with pytest.raises(DependencyUnavailable):
        await keys.check()
    keys.use(Access(1))
    await keys.check()
    with pytest.raises(Unauthorized):
        keys.authenticate(bearer("Bearer stored"))
    keys.use(Access(2, True, (STORED,)))
    assert keys.authenticate(bearer("Bearer stored")).key_id == "d1"


def test_keys_of_file_and_database_hold_side_by_side(tmp_path: Path) -> None:
    keys = ring(tmp_path, ROW)
    keys.use(Access(1, True, (STORED,)))
    assert {keys.authenticate(bearer(f"Bearer {t}")).tenant for t in ("ls-key-one", "stored")} == {"acme", "other"}
    keys.use(Access(2, True))
    assert keys.authenticate(bearer("Bearer ls-key-one")).tenant == "acme"


def test_limits_of_the_database_stand_over_those_of_the_file(tmp_path: Path) -> None:
    keys = ring(tmp_path, {**ROW, "limits": {"open_streams": 5, "requests_per_minute": 60}})
    assert keys.counts_requests
    assert keys.authenticate(bearer("Bearer ls-key-one")).limits == keys.limits_of("acme") == Limits(60, open_streams=5)
    keys.use(Access(1, False, (), {"acme": {"open_streams": 7}, "default": {"tokens_per_day": 9}}))
    assert keys.limits_of("acme") == Limits(60, open_streams=7)
    assert keys.limits_of("default").tokens_per_day == 9
    assert keys.limits_of("nobody") is NO_LIMITS


def test_everyone_has_the_limits_of_the_default_tenant() -> None:
    keys = KeyRing.open(None)
    assert not keys.counts_requests
    keys.use(Access(1, False, (), {"default": {"requests_per_minute": 5}}))
    assert (keys.empty, keys.counts_requests, keys.authenticate([]).limits) == (True, True, Limits(5))


def test_a_file_that_changes_is_read_again_and_a_broken_one_is_not(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    keys = ring(tmp_path, ROW)
    path, state = tmp_path / "keys", keys.state
    assert not keys.reread()
    path.write_text("{ half a file")
    assert not keys.reread()
    assert not keys.reread()
    assert len(caplog.records) == 1  # it is told once, not each second
    assert f"the API keys stay as they are: {path} is neither" in caplog.records[0].message
    assert keys.state is state
    path.unlink()
    assert not keys.reread()
    assert keys.authenticate(bearer("Bearer ls-key-one")).tenant == "acme"
    path.write_text(json.dumps({**ROW, "id": "k9", "hash": hash_key("ls-key-two")}))
    assert keys.reread()
    assert keys.state is not state
    assert keys.authenticate(bearer("Bearer ls-key-two")).key_id == "k9"
    with pytest.raises(Unauthorized):
        keys.authenticate(bearer("Bearer ls-key-one"))


def test_a_file_that_is_replaced_by_another_one_of_the_same_size_is_read_again(tmp_path: Path) -> None:
    keys = ring(tmp_path, ROW)
    other = tmp_path / "other"
    other.write_text(json.dumps({**ROW, "id": "k2"}) + "\n")
    other.rename(tmp_path / "keys")
    assert keys.reread()
    assert keys.authenticate(bearer("Bearer ls-key-one")).key_id == "k2"
