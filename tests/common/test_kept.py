"""Files that are kept for the next start: whole, private, and nothing left of one that could not be written."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.kept import keep, read_kept


def test_the_later_one_stands_in_the_place_of_the_former(tmp_path: Path) -> None:
    path = tmp_path / "new" / "snapshot"
    assert read_kept(path) is None
    keep(path, b"first, and longer")
    keep(path, b"second")
    assert read_kept(path) == b"second"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert [p.name for p in path.parent.iterdir()] == ["snapshot"]


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    in_the_way = tmp_path / "snapshot"
    in_the_way.mkdir()
    (in_the_way / "file").touch()
    with pytest.raises(IsADirectoryError):
        keep(in_the_way, b"x")
    assert [p.name for p in tmp_path.iterdir()] == ["snapshot"]
    assert read_kept(in_the_way) is None
    assert "cannot be read" in caplog.text
