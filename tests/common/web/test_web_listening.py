"""Unix sockets and shared ports: what is replaced, what is refused, in which words."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest

from common.web.listening import CannotServe, bind, bind_shared, bind_unix, open_sockets


def test_a_unix_socket_is_for_user_and_group_and_goes_with_its_process(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with bind_unix(path) as sock:
        assert sock is not None
        sock.listen()
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
    assert not path.exists()


def test_what_a_dead_process_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with bind_unix(path):
        assert path.is_socket()


def test_the_file_of_a_successor_stays(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with bind_unix(path), socket.socket(socket.AF_UNIX) as successor:
        path.unlink()
        successor.bind(str(path))
    assert path.is_socket()


def test_a_unix_socket_in_use_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "api.sock"
    with bind_unix(path) as first:
        assert first is not None
        first.listen()
        with pytest.raises(CannotServe, match=r"--uds: .*api.sock is in use: stop what listens there"), bind_unix(path):
            pass
        assert path.is_socket()


def test_no_other_file_is_touched(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("mine")
    with pytest.raises(CannotServe, match=r"--uds: .*notes exists and is no socket"), bind_unix(path):
        pass
    assert path.read_text() == "mine"


@pytest.mark.parametrize(("path", "why"), [("no/such/folder/s", "No such file or directory"), ("x" * 200, "too long")])
def test_a_path_that_cannot_be_is_named(tmp_path: Path, path: str, why: str) -> None:
    with pytest.raises(CannotServe, match=f"--uds: cannot listen on .*{why}"), bind_unix(tmp_path / path):
        pass


def test_without_a_path_there_is_none() -> None:
    with bind_unix(None) as none:
        assert none is None


def test_connections_are_dealt_out_among_the_sockets_of_a_port() -> None:
    sockets = bind_shared("127.0.0.1", 0, 4)
    port = sockets[0].getsockname()[1]
    assert {sock.getsockname()[1] for sock in sockets} == {port}
    for sock in sockets:
        sock.listen()
        sock.setblocking(False)
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
    got = [0] * 4
    for number, sock in enumerate(sockets):
        while True:
            try:
                sock.accept()[0].close()
            except BlockingIOError:
                break
            got[number] += 1
    assert sum(got) == 100
    assert min(got) > 0
    with pytest.raises(CannotServe, match=f"port {port} on 127.0.0.1 is in use"):
        bind_shared("127.0.0.1", port, 2)
    for sock in (*clients, *sockets):
        sock.close()


def test_a_lone_socket_shares_its_port_with_nobody() -> None:
    with bind("127.0.0.1", 0) as alone:
        alone.listen()
        port = alone.getsockname()[1]
        with pytest.raises(CannotServe, match=f"port {port} on 127.0.0.1 is in use"):
            bind_shared("127.0.0.1", port, 2)


def test_given_sockets_stand_for_the_ports() -> None:
    api, admin = bind("127.0.0.1", 0), bind("127.0.0.1", 0)
    with open_sockets("127.0.0.1", 1, 1, given=[api, admin]) as sockets:
        assert (sockets.api, sockets.unix, sockets.admin) == (api, None, admin)
    assert api.fileno() == admin.fileno() == -1
