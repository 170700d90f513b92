"""The server behind a proxy: grants are for the client named in the PROXY header, and never for the proxy itself."""

from __future__ import annotations

import ipaddress
import socket
from typing import Any

import pytest

from tests.io.by_hand import converse
from tests.io.server_support import PASSWORD, TIMEOUT, Run, Served, meet, on_both_loops
from tests.io.tls import client_context

LOCAL = bytes.fromhex("0D0A0D0A000D0A515549540A 20 00 0000")
"""Version 2, command LOCAL: a connection of the proxy itself, for a health check."""
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)


def header(client: str) -> bytes:
    return f"PROXY TCP4 {client} 192.0.2.1 4711 25\r\n".encode()


def connect(port: int | None, first: bytes, *, tls: bool = False) -> Any:
    """Connect as a proxy does: send *first*, then start TLS if *tls*."""
    connection = socket.create_connection(("127.0.0.1", port or 0), TIMEOUT)
    connection.sendall(first)
    return client_context().wrap_socket(connection, server_hostname="localhost") if tls else connection


def say(connection: socket.socket, *commands: str) -> list[str]:
    with connection:
        return converse(connection, *commands)


def log_in(served: Served, first: bytes) -> None:
    answers = say(connect(served.ports.pop3s, first, tls=True), "USER alice", f"PASS {PASSWORD}", "QUIT")
    assert [answer[:3] for answer in answers] == ["+OK"] * 4


def relays(served: Served, first: bytes) -> bool:
    answers = say(connect(served.ports.smtp, first), "EHLO c.test", "MAIL FROM:<a@far.test>", "RCPT TO:<b@far.test>")
    return answers[-1].startswith("250")


@on_both_loops
def test_grant_is_for_the_client_in_the_proxy_header(run: Run) -> None:
    def client(served: Served) -> None:
        log_in(served, header("198.51.100.7"))
        assert relays(served, header("198.51.100.7"))
        assert not relays(served, header("198.51.100.8"))
        assert not relays(served, LOCAL)

    meet(run, client, proxy_from=LOOPBACK)


@on_both_loops
@pytest.mark.parametrize("first", [LOCAL, b"PROXY UNKNOWN\r\n", header("127.0.0.9")], ids=["LOCAL", "UNKNOWN", "chain"])
def test_login_with_the_address_of_a_proxy_makes_no_grant(run: Run, first: bytes) -> None:
    """All clients of the proxy share its address, and would be permitted to relay."""

    def client(served: Served) -> None:
        log_in(served, first)
        assert not relays(served, first)

    meet(run, client, proxy_from=LOOPBACK)


@on_both_loops
def test_proxy_header_from_other_address_is_an_unknown_command(run: Run) -> None:
    def client(served: Served) -> None:
        answers = say(connect(served.ports.smtp, b""), header("198.51.100.7").decode().strip(), "NOOP")
        assert [answer[:3] for answer in answers] == ["220", "500", "250"]

    meet(run, client, proxy_from=(ipaddress.ip_network("192.0.2.0/24"),))
