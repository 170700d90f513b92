"""Failed TLS handshakes with ``mailauth_io.server``: one line in the log, and the next client is served."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable
from typing import Final

import pytest

from mailauth_io.limits import Limits
from tests.io.by_hand import hear
from tests.io.gone_clients import EHLO, reset
from tests.io.line_echo import read_all_or_reset
from tests.io.server_support import TIMEOUT, Run, Served, meet, on_both_loops

WAYS: Final = {
    "smtps": (),
    "pop3s": (),
    "smtp": (EHLO, b"STARTTLS"),
    "pop3": (b"STLS",),
}
"""The ports, and the commands that lead to a handshake there."""


def before_handshake(served: Served, port: str) -> socket.socket:
    """Return a connection to *port* on which the handshake is next."""
    connection = socket.create_connection(("127.0.0.1", getattr(served.ports, port)), TIMEOUT)
    if WAYS[port]:
        hear(connection)
    for line in WAYS[port]:
        connection.sendall(line + b"\r\n")
        hear(connection)
    return connection


def client_hello(version: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED) -> bytes:
    """Return the ClientHello of a client that supports TLS up to *version*."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = version
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


def too_old() -> bytes:
    """Return a ClientHello for TLS 1.1 (RFC 8996), made from one for TLS 1.2 by changing its version.

    The header of the record has 5 bytes, that of the message 4; the version follows (RFC 5246 section 7.4.1.2).
    """
    hello = client_hello(ssl.TLSVersion.TLSv1_2)
    assert hello[9:11] == b"\x03\x03"
    return hello[:9] + b"\x03\x02" + hello[11:]


def garbage(client: socket.socket) -> None:
    client.sendall(b"EHLO not.a.handshake\r\n")


def wrong_version(client: socket.socket) -> None:
    client.sendall(too_old())


def broken_record(client: socket.socket) -> None:
    client.sendall(client_hello()[:-1] + b"\x00" * 20_000)


def half_a_hello(client: socket.socket) -> None:
    hello = client_hello()
    client.sendall(hello[: len(hello) // 2])
    client.shutdown(socket.SHUT_WR)


def nothing(client: socket.socket) -> None:
    client.shutdown(socket.SHUT_WR)


def half_a_handshake(client: socket.socket) -> None:
    """The server has sent its messages, and the client does not continue."""
    client.sendall(client_hello())
    assert client.recv(1, socket.MSG_PEEK) == b"\x16"
    client.shutdown(socket.SHUT_WR)


def reset_in_the_middle(client: socket.socket) -> None:
    client.sendall(client_hello())
    assert client.recv(1, socket.MSG_PEEK) == b"\x16"
    reset(client)


def distrust(client: socket.socket) -> None:
    """The client does not trust the server's certificate, and sends an alert."""
    with pytest.raises(ssl.SSLCertVerificationError):
        ssl.create_default_context().wrap_socket(client.dup(), server_hostname="127.0.0.1")


FAULTS: Final = (
    garbage, wrong_version, broken_record, half_a_hello, nothing, half_a_handshake, reset_in_the_middle, distrust,
)  # fmt: skip


@on_both_loops
@pytest.mark.parametrize("port", WAYS)
@pytest.mark.parametrize("fault", FAULTS)
def test_failed_handshake_logs_one_line(
    run: Run,
    port: str,
    fault: Callable[[socket.socket], None],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """RFC 3207 section 4: no clear text is sent once TLS was negotiated; the server continues with the next client."""
    caplog.set_level(logging.INFO)

    def client(served: Served) -> None:
        with before_handshake(served, port) as connection:
            fault(connection)
            if connection.fileno() >= 0:
                said = read_all_or_reset(connection)
                assert said[:1] in (b"", b"\x14", b"\x15", b"\x16", b"\x17")  # the types of records, and no text
        if port.startswith("smtp"):
            served.smtp("smtps" if port == "smtps" else "starttls").quit()
        else:
            served.log_in("pop3s" if port == "pop3s" else "stls").quit()

    meet(run, client)
    failures = [record for record in caplog.records if record.getMessage().startswith("TLS failed peer=")]
    assert len(failures) == 1
    assert failures[0].levelno == logging.INFO
    assert "127.0.0.1" in failures[0].getMessage()
    assert "\n" not in failures[0].getMessage()
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert capfd.readouterr() == ("", "")


@on_both_loops
@pytest.mark.parametrize("port", WAYS)
def test_failed_handshakes_of_a_network_are_logged_ten_times_a_minute(
    run: Run, port: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def client(served: Served) -> None:
        for _ in range(15):
            with before_handshake(served, port) as connection:
                connection.sendall(b"not TLS\r\n")
                read_all_or_reset(connection)

    meet(run, client)
    assert sum(record.getMessage().startswith("TLS failed") for record in caplog.records) == 10


@on_both_loops
@pytest.mark.parametrize("port", WAYS)
def test_silent_client_is_disconnected_after_the_handshake_timeout(
    run: Run, port: str, caplog: pytest.LogCaptureFixture
) -> None:
    """In the middle of the ClientHello, with the connection left open."""
    caplog.set_level(logging.INFO)

    def client(served: Served) -> None:
        with before_handshake(served, port) as connection:
            connection.sendall(b"\x16\x03\x01\x02\x00\x01")
            assert read_all_or_reset(connection) == b""
        served.smtp().quit()

    meet(run, client, limits=Limits(handshake_timeout=0.01))
    (line,) = [record.getMessage() for record in caplog.records if "TLS failed" in record.getMessage()]
    assert "reason=" in line
    assert "\n" not in line
