"""examples/postfix_policy.py answers the requests of Postfix from the grants in a SQLite file."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from examples import postfix_policy
from mailauth.grants import UNAVAILABLE, Lookup
from mailauth_io.stores import MemoryGrants
from mailauth_io.stores.sqlite_grants import SqliteGrants
from tests.examples import programs


@contextlib.contextmanager
def service(tmp_path: Path) -> Iterator[socket.socket]:
    """Yield a connection to the service; 192.0.2.7 has a grant."""
    path = tmp_path / "grants.db"
    grants = SqliteGrants(path)
    asyncio.run(grants.grant("192.0.2.7", "alice"))
    grants.close()
    with (
        programs.listening("postfix_policy.py", path, errors=tmp_path / "errors") as port,
        socket.create_connection(("127.0.0.1", port), timeout=programs.TIMEOUT) as connection,
    ):
        yield connection


def ask(connection: socket.socket, *lines: str) -> str:
    connection.sendall("".join(f"{line}\n" for line in (*lines, "")).encode())
    answer = b""
    while not answer.endswith(b"\n\n"):
        answer += connection.recv(4096)
    return answer.decode()


def test_only_an_address_with_a_grant_may_relay(tmp_path: Path) -> None:
    with service(tmp_path) as connection:
        for address, action in (("192.0.2.7", "OK"), ("192.0.2.8", "DUNNO"), ("192.0.2.7", "OK")):
            request = ("request=smtpd_access_policy", "protocol_state=RCPT", f"client_address={address}", "sender=a=b")
            assert ask(connection, *request) == f"action={action}\n\n"


@pytest.mark.parametrize("lines", [("client_address=unknown",), ("request=smtpd_access_policy",)])
def test_request_without_a_valid_address_has_no_grant(lines: tuple[str, ...], tmp_path: Path) -> None:
    with service(tmp_path) as connection:
        assert ask(connection, *lines) == "action=DUNNO\n\n"


def test_endless_request_closes_the_connection(tmp_path: Path) -> None:
    with service(tmp_path) as connection, contextlib.suppress(ConnectionError):
        connection.sendall(b"a=b\n" * 1000)
        assert connection.recv(4096) == b""


def test_store_that_fails_defers(caplog: pytest.LogCaptureFixture) -> None:
    class Failing(MemoryGrants):
        async def find(self, address: str) -> Lookup:
            raise OSError("planted")

    class Unavailable(MemoryGrants):
        async def find(self, address: str) -> Lookup:
            return UNAVAILABLE

    for grants in (Failing(), Unavailable()):
        assert asyncio.run(postfix_policy.decide(grants, "192.0.2.7")).startswith("DEFER_IF_PERMIT 4.7.1 ")
    assert "planted" in caplog.text


def test_invalid_file_is_reported_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("no database, but long enough to be one " * 50)
    assert postfix_policy.main([str(tmp_path / "text")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("Cannot serve: ")
    assert error.count("\n") == 1
