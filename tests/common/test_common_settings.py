"""Settings: what the environment says, one line for what is wrong, and the shared ticket secret."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pydantic import ValidationError

from common.settings import KNOWN_NAMES, CommonSettings, SettingsError, read_environ


class TierSettings(CommonSettings):
    """A tier with a field of its own."""

    own_thing: int = 5


def load(tmp_path: Path, **names: str) -> TierSettings:
    return TierSettings.load({"LOADSPLIT_DATA_DIR": str(tmp_path), **{f"LOADSPLIT_{k}": v for k, v in names.items()}})


def test_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path)
    assert (settings.redis_url, settings.drain_seconds, settings.log_level, settings.egress_allow) == ("memory://", 20.0, "info", ())
    assert settings.config is None
    assert CommonSettings.model_fields["data_dir"].default == Path(".data")


def test_values(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        EGRESS_ALLOW="10.0.0.0/8, api.internal:80",
        MAX_INFLIGHT="7",
        LOG_LEVEL="DEBUG",
        OWN_THING="6",
        CONFIG=" a.json ",
        API_KEYS="",
    )
    assert settings.egress_allow == ("10.0.0.0/8", "api.internal:80")
    assert (settings.max_inflight, settings.log_level, settings.own_thing, settings.config, settings.api_keys) == (
        7,
        "debug",
        6,
        "a.json",
        None,
    )


def test_the_command_line_wins(tmp_path: Path) -> None:
    settings = CommonSettings.load({"LOADSPLIT_CONFIG": "a.json"}, config="b.json", data_dir=tmp_path, log_level=None)
    assert (settings.config, settings.data_dir, settings.log_level) == ("b.json", tmp_path, "info")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("MAX_INFLIGHT", "many", "LOADSPLIT_MAX_INFLIGHT: "),
        ("MAX_INFLIGHT", "0", "LOADSPLIT_MAX_INFLIGHT: "),
        ("DRAIN_SECONDS", "-1", "LOADSPLIT_DRAIN_SECONDS: "),
        ("LOG_LEVEL", "loud", "LOADSPLIT_LOG_LEVEL: "),
        ("REDIS_URL", "http://x", "LOADSPLIT_REDIS_URL: must be memory:// or a redis:// URL"),
        ("REDIS_ULR", "x", "LOADSPLIT_REDIS_ULR is no setting of loadsplit; did you mean LOADSPLIT_REDIS_URL?"),
        ("OWN_THINGS", "x", "did you mean LOADSPLIT_OWN_THING?"),
        ("ZZZ", "x", "LOADSPLIT_ZZZ is no setting of loadsplit"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, name: str, value: str, says: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(tmp_path, **{name: value})
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_names_of_the_other_tiers_are_known(tmp_path: Path) -> None:
    assert load(tmp_path, DATABASE_URL="sqlite:///x", HANDOFF="accel", HEAVY_URL="http://h", MODELS="m.yaml").own_thing == 5
    assert {"LOADSPLIT_" + n.upper() for n in CommonSettings.model_fields if n != "environ"} <= KNOWN_NAMES


def test_settings_are_frozen_and_secrets_starred(tmp_path: Path) -> None:
    settings = load(tmp_path, TICKET_SECRET="hush-hush", REDIS_URL="redis://:pa55@h")
    for shown in (repr(settings), str(settings.model_dump())):
        assert "hush" not in shown
    assert "pa55" not in repr(settings)
    assert settings.ticket_key == b"hush-hush"
    with pytest.raises(ValidationError):
        settings.max_inflight = 5


def test_the_ticket_secret_is_made_once_and_shared(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: load(tmp_path / "d").ticket_key, range(16)))
    assert len(keys) == 1
    path = tmp_path / "d" / "ticket.secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [p.name for p in path.parent.iterdir()] == ["ticket.secret"]
    assert len(keys.pop()) >= 32


def test_a_data_dir_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="LOADSPLIT_DATA_DIR"):
        load(tmp_path / "file")
    (tmp_path / "ticket.secret").write_text("")
    with pytest.raises(SettingsError, match="empty"):
        load(tmp_path)


def test_no_secret_no_key() -> None:
    with pytest.raises(SettingsError, match="TICKET_SECRET"):
        _ = CommonSettings().ticket_key


def test_dot_env_is_read_and_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text('LOADSPLIT_MAX_INFLIGHT=3\nLOADSPLIT_LOG_LEVEL=error # quiet\nOPENAI_API_KEY="sk-x$Y"\nEMPTY\n')
    monkeypatch.setenv("LOADSPLIT_LOG_LEVEL", "warning")
    settings = CommonSettings.load()
    assert (settings.max_inflight, settings.log_level) == (3, "warning")
    assert settings.environ["OPENAI_API_KEY"] == "sk-x$Y"
    assert "sk-x" not in repr(settings)
    (tmp_path / ".env").write_bytes(b"\xff\xfe")
    with pytest.raises(SettingsError, match="UTF-8"):
        read_environ()
    assert "OPENAI_API_KEY" not in os.environ


def test_workers_are_a_number_or_as_many_as_there_are_cpus(tmp_path: Path) -> None:
    assert load(tmp_path).workers == 1
    assert load(tmp_path, WORKERS="4").workers == 4
    assert load(tmp_path, WORKERS="Auto").workers == min(64, len(os.sched_getaffinity(0)))


@pytest.mark.parametrize("value", ["0", "65", "many", "-1", "1.5"])
def test_workers_that_cannot_be_are_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(SettingsError, match=r"^LOADSPLIT_WORKERS: "):
        load(tmp_path, WORKERS=value)
