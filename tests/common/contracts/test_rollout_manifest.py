"""The manifest of versions in force, and the share of sessions that a canary gets."""

from __future__ import annotations

import pytest

from common.contracts.rollout import Manifest, Serving, decode, encode, in_canary, pack, unpack

MANIFEST = Manifest(7, {"shop": Serving("a" * 16, "b" * 16, 12.5, "c" * 16), "desk": Serving("d" * 16)})


def test_a_manifest_comes_through_and_only_from_who_has_the_secret() -> None:
    data = encode(MANIFEST, b"secret")
    assert decode(data, b"secret") == MANIFEST
    assert list(MANIFEST.agents) == list((decode(data, b"secret") or Manifest()).agents)
    assert decode(data, b"another") is None
    assert decode(data.replace(b"shop", b"shoq"), b"secret") is None
    for nonsense in (b"", b"\n", b"{}", data[:-1]):
        assert decode(nonsense, b"secret") is None


def test_a_session_stays_on_its_side_and_the_share_only_grows() -> None:
    sessions = [f"s{i}" for i in range(4000)]
    five = {s for s in sessions if in_canary(Serving("a", "b", 5.0), "acme", s)}
    twenty = {s for s in sessions if in_canary(Serving("a", "b", 20.0), "acme", s)}
    assert five < twenty
    assert 0.035 < len(five) / len(sessions) < 0.065
    assert 0.175 < len(twenty) / len(sessions) < 0.225
    assert all(in_canary(Serving("a", "b", 100.0), "acme", s) for s in sessions)
    assert not any(in_canary(Serving("a", None, 100.0), "acme", s) for s in sessions)


def test_another_canary_or_tenant_gets_other_sessions() -> None:
    sessions = [f"s{i}" for i in range(1000)]
    first = {s for s in sessions if in_canary(Serving("a", "b", 10.0), "acme", s)}
    assert first != {s for s in sessions if in_canary(Serving("a", "c", 10.0), "acme", s)}
    assert first != {s for s in sessions if in_canary(Serving("a", "b", 10.0), "other", s)}


def test_a_text_is_packed_with_its_form() -> None:
    assert unpack(pack("yaml", "name: ä\n")) == ("yaml", "name: ä\n")
    for nonsense in (b"", b"toml\nx", b"json"):
        if nonsense == b"json":
            assert unpack(nonsense) == ("json", "")
            continue
        with pytest.raises(ValueError, match="no version"):
            unpack(nonsense)
