"""The rendered configuration: both variants, every template's promises, values that Nginx would misread."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from nginx.__main__ import main, system_resolver
from nginx.render import TEMPLATES, RenderSettings, render, write
from tests.support.services import find_binary

LISTED = RenderSettings(lightweight=("127.0.0.1:8101", "127.0.0.1:8102"), heavy=("127.0.0.1:8201",))
SCALED = RenderSettings(lightweight=("lightweight:8101",), heavy=("heavy:8201",), listen=("8080",), resolver="127.0.0.11")


def test_nginx_takes_the_listed_variant(tmp_path: Path) -> None:
    folder = tmp_path / "a folder with spaces"
    write(replace(LISTED, run_dir=str(folder), access_log=str(folder / "access.log"), listen=("127.0.0.1:1", "[::1]:1")), folder)
    done = subprocess.run(
        [find_binary("nginx"), "-t", "-q", "-e", "stderr", "-p", str(folder), "-c", "nginx.conf"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_scaled_variant_resolves_names_in_every_upstream() -> None:
    files = render(SCALED)
    upstreams = re.findall(r"^upstream (\w+) \{(.*?)^\}", files["upstreams/lightweight.conf"] + files["upstreams/heavy.conf"], re.M | re.S)
    assert [name for name, _ in upstreams] == ["lightweight", "heavy_by_session", "heavy"]
    for name, text in upstreams:
        assert re.search(rf"zone {name} \w+;", text)
        assert "resolver 127.0.0.11 valid=2s ipv6=off;" in text
        assert re.search(r"server (lightweight:8101|heavy:8201) resolve max_fails=1 fail_timeout=2s;", text)
    assert "listen 8080 default_server" in files["servers/public.conf"]


def test_both_variants_differ_in_the_servers_only() -> None:
    listed, scaled = render(LISTED), render(replace(SCALED, listen=LISTED.listen))
    assert {name for name in listed if listed[name] != scaled[name]} == {"upstreams/lightweight.conf", "upstreams/heavy.conf"}


def test_every_file_is_included_and_says_what_it_is_for() -> None:
    files = render(LISTED)
    included = set(re.findall(r"include ([\w./]+);", "\n".join(files.values())))
    assert included == files.keys() - {"nginx.conf"}
    assert all(text.startswith("# ") for text in files.values())
    assert "{{" not in "".join(files.values())


def test_every_location_that_proxies_sets_the_internal_headers() -> None:
    files = render(LISTED)
    for name, text in files.items():
        for block in re.findall(r"\{[^{}]*proxy_pass[^{}]*\}", text) or ([text] if "proxy_pass http" in text else []):
            assert "include snippets/forward.conf;" in block, name
            assert "set $loadsplit_ticket " in block, name
            assert "set $loadsplit_session " in block, name
            assert "proxy_read_timeout" in block, name


def test_only_lightweight_may_redirect() -> None:
    for name, text in render(LISTED).items():
        for ignored in re.findall(r"proxy_ignore_headers ([^;]*);", text):
            assert ("X-Accel-Redirect" in ignored.split()) is (name != "snippets/to_lightweight.conf")


@pytest.mark.parametrize(
    "bad",
    [
        {"listen": ("8080; include /etc/passwd",)},
        {"heavy": ()},
        {"heavy": ("a b:1",)},
        {"lightweight": ("host:1;",)},
        {"run_dir": '/tmp/"x'},
        {"access_log": "/tmp/$uri"},
        {"resolver": "127.0.0.11 valid=0"},
        {"user": "root; daemon on"},
        {"worker_processes": "2;"},
    ],
)
def test_a_value_that_would_be_read_as_something_else_is_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"cannot stand in an Nginx file|at least one address"):
        render(replace(LISTED, **bad))  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [0, -1, 1_000_001])
def test_a_rate_that_nginx_cannot_keep_is_refused(rate: int) -> None:
    with pytest.raises(ValueError, match="requests_per_client"):
        render(replace(LISTED, requests_per_client=rate))


def test_requests_a_second_are_limited_where_it_is_said(tmp_path: Path) -> None:
    assert "limit_req_zone" not in render(LISTED)["snippets/limits.conf"]
    assert main(["--out", str(tmp_path), "--requests-per-client", "20"]) == 0
    limits = (tmp_path / "snippets/limits.conf").read_text()
    assert "rate=20r/s;" in limits
    assert "burst=20 nodelay;" in limits


def test_the_command_writes_the_files_and_refuses_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path), "--resolver", "127.0.0.11"]) == 0
    assert (tmp_path / "nginx.conf").is_file()
    assert "server heavy:8201 resolve" in (tmp_path / "upstreams/heavy.conf").read_text()
    assert main(["--out", str(tmp_path), "--heavy", "{"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("search a.svc\nnameserver 10.96.0.10\nnameserver 1.1.1.1\n", "10.96.0.10"),
        ("# nameserver 1.1.1.1\n nameserver\t fd00::10\n", "[fd00::10]"),
    ],
)
def test_the_resolver_of_the_machine(text: str, found: str, tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text(text)
    assert system_resolver(tmp_path / "resolv.conf") == found
    assert f"resolver {found} valid=2s" in render(replace(SCALED, resolver=found))["upstreams/heavy.conf"]


def test_a_machine_without_one_is_told(tmp_path: Path) -> None:
    (tmp_path / "resolv.conf").write_text("search a.svc\n")
    with pytest.raises(ValueError, match=r"--resolver auto: .*resolv\.conf names no name server"):
        system_resolver(tmp_path / "resolv.conf")


def test_the_templates_need_nothing_but_the_standard_library() -> None:
    code = "import sys, nginx.__main__; sys.exit(any(m in sys.modules for m in ('pydantic', 'aiohttp', 'common', 'standalone')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=TEMPLATES.parent, check=False).returncode == 0
