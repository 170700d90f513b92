"""Both adapters: ends without a reply to QUIT, empty lines and the timeout, and host names with a dot at their end."""

from __future__ import annotations

import socket
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import pytest

from mailauth import ClientMachine, Command, RemoteProtocolError, pop3, smtp
from mailauth_io.adapters.connection import AsyncClientConnection
from mailauth_io.adapters.stream import Peer
from mailauth_io.adapters.tls.layer import TlsLayer
from tests.io import loops
from tests.io.line_echo import connecting, echo, on_both_loops, serving
from tests.io.time_machine import SlowClient, run_in_no_time
from tests.io.tls import authority, client_context, server_context

RESET: Final = struct.pack("ii", 1, 0)  # of SO_LINGER: close() sends RST


@contextmanager
def server_without_farewell(greeting: bytes, *, tls: bool, reset: bool) -> Iterator[int]:
    """Serve one connection on the port, and close it at QUIT, without a reply and without close_notify."""

    def serve(listener: socket.socket) -> None:
        connection = listener.accept()[0]
        connection.settimeout(20)
        if tls:
            connection = server_context().wrap_socket(connection, server_side=True, suppress_ragged_eofs=True)
        connection.sendall(greeting)
        heard = b""
        while not heard.endswith(b"QUIT\r\n"):
            heard += connection.recv(100)
        if reset:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        connection.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join()


PROTOCOLS: Final[dict[str, tuple[bytes, Any, Any, Command]]] = {
    "SMTP": (b"220 far.test\r\n", smtp.ClientConnection, smtp.ClientSettings, smtp.Quit()),
    "POP3": (b"+OK ready\r\n", pop3.ClientConnection, pop3.ClientSettings, pop3.Quit()),
}


@pytest.mark.parametrize("name", ["asyncio", "trio"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("tls", "reset"), [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize("strict", [False, True])
def test_close_after_quit_without_reply_and_close_notify_ends_the_iteration(
    name: str, protocol: str, tls: bool, reset: bool, strict: bool
) -> None:
    """RFC 5321 section 4.1.1.10, RFC 8446 section 6.1: real servers often leave out both."""
    greeting, connection, settings, quit_ = PROTOCOLS[protocol]

    def build(tls_session: Any) -> ClientMachine[Any]:
        machine: ClientMachine[Any] = connection(settings(strict_syntax=strict), tls=tls_session)
        return machine

    async def main(port: int) -> None:
        client: AsyncClientConnection[Any] = await loops.current().adapter.connect(
            build, "127.0.0.1", port, ssl_context=client_context() if tls else None, implicit_tls=tls
        )
        async with client:
            await anext(client)
            client.send(quit_)
            if strict:
                with pytest.raises(RemoteProtocolError):
                    await anext(client)
            else:
                assert [event async for event in client] == []

    with server_without_farewell(greeting, tls=tls, reset=reset) as port:
        loops.named(name).run(lambda: main(port))


@pytest.mark.parametrize("name", ["asyncio", "trio"])
def test_empty_lines_do_not_restart_the_timeout_of_a_reply(name: str) -> None:
    server = SlowClient((0.0, b"220 hi\r\n"), *[(100.0, b"\r\n")] * 8)
    client: AsyncClientConnection[smtp.ClientEvent] = AsyncClientConnection(
        smtp.ClientConnection(), server, Peer("192.0.2.1", 25), None, None
    )

    async def main() -> None:
        await anext(client)
        client.send(smtp.Noop())
        assert [event async for event in client] == []

    run_in_no_time(name, main)
    assert server.seconds == 300.0


# Host names


@on_both_loops
async def test_dot_at_the_end_of_a_host_name_is_not_part_of_the_name_in_tls(loop: loops.Loop) -> None:
    """RFC 6066 section 3: SNI has no such dot; neither has a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("localhost").configure_cert(context)
    names: list[str | None] = []
    context.sni_callback = lambda _, name, __: names.append(name)
    async with serving(loop, echo, ssl_context=context, implicit_tls=True) as listener:
        for name in ("localhost.", "localhost", "LOCALHOST."):
            client = await connecting(
                loop, listener.port, ssl_context=client_context(), implicit_tls=True, server_hostname=name
            )
            async with client:
                await anext(client)
        for name in ("other.", "local.host.", "localhost.."):
            with pytest.raises((ssl.SSLError, ValueError)):
                await connecting(
                    loop, listener.port, ssl_context=client_context(), implicit_tls=True, server_hostname=name
                )
    assert [name and name.lower() for name in names[:3]] == ["localhost"] * 3


@pytest.mark.parametrize("name", [".", ".."])
def test_name_of_dots_alone_is_not_shortened_to_a_valid_one(name: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # of the ssl module
        TlsLayer(client_context(), server_side=False, server_hostname=name)
