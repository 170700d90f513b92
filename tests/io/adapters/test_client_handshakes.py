"""A client whose STARTTLS or STLS fails is closed: it sends nothing more to the server in clear text."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from mailauth import ClientMachine, Command, LocalProtocolError, RemoteProtocolError, pop3, sasl, smtp
from mailauth_io.adapters.connection import AsyncClientConnection
from tests.io import loops
from tests.io.tls import client_context

PASSWORD = b"open sesame"
AFTER_STARTTLS = {
    "closed": b"",
    "garbage": b"x" * 100,
    "injected": b"250 far.test\r\n+OK\r\n",
    "alert": b"\x15\x03\x03\x00\x02\x02\x28",
}
"""The bytes that the server sends after its positive reply, before it closes."""

SMTP = {b"EHLO": b"250-far.test\r\n250-STARTTLS\r\n250 AUTH PLAIN LOGIN CRAM-MD5\r\n", b"STARTTLS": b"220 go\r\n"}
POP3 = {b"CAPA": b"+OK\r\nSTLS\r\nUSER\r\nSASL PLAIN\r\n.\r\n", b"STLS": b"+OK go\r\n"}


class Server:
    """Serves one connection in a thread, and records all input."""

    def __init__(self, greeting: bytes, replies: dict[bytes, bytes], after: bytes) -> None:
        self.heard = b""
        self.port = 0
        self._greeting, self._replies, self._after = greeting, replies, after

    @contextmanager
    def listening(self) -> Iterator[None]:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]
            thread = threading.Thread(target=self._serve, args=(listener,))
            thread.start()
            try:
                yield
            finally:
                thread.join()

    def _serve(self, listener: socket.socket) -> None:
        connection = listener.accept()[0]
        connection.settimeout(20)
        with connection:
            connection.sendall(self._greeting)
            line = b""
            with connection.makefile("rb") as lines:
                while not line.startswith((b"STARTTLS", b"STLS")):
                    line = lines.readline()
                    self.heard += line
                    reply = self._replies[line.split()[0]]
                    connection.sendall(reply + self._after * line.startswith((b"STARTTLS", b"STLS")))
                connection.shutdown(socket.SHUT_WR)
                with suppress(ConnectionResetError):
                    self.heard += lines.read()


@pytest.mark.parametrize("name", ["asyncio", "trio"])
@pytest.mark.parametrize("protocol", ["SMTP", "POP3"])
@pytest.mark.parametrize("after", AFTER_STARTTLS.values(), ids=AFTER_STARTTLS)
@pytest.mark.parametrize("flushed", [False, True])
def test_client_sends_no_credentials_after_a_failed_handshake(
    name: str, protocol: str, after: bytes, flushed: bool
) -> None:
    """The iteration raises, and the machine refuses every command, whether TLS was required or not."""
    machine: ClientMachine[Any]
    commands: list[Command]
    if protocol == "SMTP":
        server = Server(b"220 far.test ESMTP\r\n", SMTP, after)
        machine, commands = smtp.ClientConnection(), [smtp.Hello(domain="c"), smtp.StartTls()]
    else:
        server = Server(b"+OK ready <1.2@far.test>\r\n", POP3, after)
        machine, commands = pop3.ClientConnection(), [pop3.Capa(), pop3.Stls()]

    async def main() -> None:
        connect = loops.current().adapter.connect
        connected: AsyncClientConnection[Any] = await connect(
            machine, "127.0.0.1", server.port, ssl_context=client_context()
        )
        async with connected as client:
            await anext(client)
            for command in commands[:-1]:
                client.send(command)
                await anext(client)
            client.send(commands[-1])
            if flushed:
                await client.flush()
            with pytest.raises((OSError, RemoteProtocolError)):
                await anext(client)
            for mechanism in sasl.password_mechanisms(
                "alice", PASSWORD, entropy=bytes(32), tls=client.tls, clear_text=True
            ):
                with pytest.raises(LocalProtocolError, match="closed"):
                    client.authenticate(mechanism)
            with pytest.raises(LocalProtocolError):
                client.send(commands[0])
            await client.flush()
            assert client.tls is None

    with server.listening():
        loops.named(name).run(main)
    lines = server.heard.split(b"\r\n")
    verbs = [b"EHLO", b"STARTTLS"] if protocol == "SMTP" else [b"CAPA", b"STLS"]
    assert [line.split(b" ")[0] for line in lines[:2]] == verbs
    rest = b"\r\n".join(lines[2:])
    assert rest == b"" or rest.startswith(b"\x16")  # the ClientHello, followed by an alert
    assert PASSWORD not in rest
    assert b"AUTH" not in rest
