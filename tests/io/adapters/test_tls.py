"""TLS in both adapters: implicit, by upgrade, failures, close_notify, and clear text injected before the handshake."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest

from mailauth import CloseReason, Tls, TlsStarted
from mailauth_io.adapters.connection import AsyncClientConnection, AsyncServerConnection
from mailauth_io.adapters.tls import certificates
from mailauth_io.limits import Limits
from tests.io import loops
from tests.io.by_hand import read_line
from tests.io.key_updates import KeyUpdates
from tests.io.line_echo import (
    ClientEvent,
    Echo,
    EchoEvent,
    Ended,
    Line,
    cancel_when_blocked,
    connecting,
    dial,
    echo,
    on_both_loops,
    read_all,
    read_all_or_reset,
    serving,
)
from tests.io.tls import authority, client_context, layers, server_context


def stranger() -> ssl.SSLContext:
    """Return a client's context that does not trust the test authority."""
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


async def upgrade(client: AsyncClientConnection[ClientEvent]) -> Tls:
    """Do STARTTLS, and return the TLS session of the notice that follows."""
    assert await anext(client) == Line(text=b"hello")
    client.send(Line(text=b"STARTTLS"))
    assert await anext(client) == Line(text=b"go")
    started = await anext(client)
    assert isinstance(started, TlsStarted)
    return started.tls


@on_both_loops
async def test_implicit_tls_session_is_passed_to_both_machines(loop: loops.Loop) -> None:
    """Both machines are built with the properties of the TLS session."""
    seen: list[Tls | None] = []

    async def session(connection: AsyncServerConnection[EchoEvent]) -> None:
        seen.append(connection.tls)
        await echo(connection)

    async with (
        serving(loop, session, ssl_context=server_context(), implicit_tls=True) as listener,
        await connecting(loop, listener.port, ssl_context=client_context(), implicit_tls=True) as client,
    ):
        assert await anext(client) == Line(text=b"hello in TLS")
        client.send(Line(text=b"x" * 900))
        assert await anext(client) == Line(text=b"x" * 900)
        assert seen[0] is not None
        assert client.tls is not None
        assert seen[0].version == client.tls.version == "TLSv1.3"
        assert seen[0].cipher == client.tls.cipher != ""
        assert seen[0].peer_certificate is None  # the server did not request a certificate
        assert client.tls.peer_certificate is not None


class Wrapper:
    """A machine of a test kit: it has all methods of an Echo, and is no ServerMachine."""

    def __init__(self, machine: Echo) -> None:
        self._machine = machine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._machine, name)


@on_both_loops
async def test_side_of_tls_does_not_depend_on_the_class_of_the_machine(loop: loops.Loop) -> None:
    """A wrapped server machine does the handshake of a server, and a failed handshake raises nothing in its session."""
    failures: list[Exception] = []

    def build(entropy: bytes, tls: Tls | None) -> Echo:
        wrapped: Any = Wrapper(Echo(entropy=entropy, tls=tls))
        machine: Echo = wrapped
        return machine

    async with serving(
        loop, echo, build=build, ssl_context=server_context(), on_error=lambda error, peer: failures.append(error)
    ) as listener:
        async with await connecting(loop, listener.port, ssl_context=client_context()) as client:
            await upgrade(client)
        client = await connecting(loop, listener.port, ssl_context=stranger())
        with pytest.raises(ssl.SSLCertVerificationError):
            await upgrade(client)
        client.abort()
    assert failures == []


@on_both_loops
async def test_starttls_upgrades_the_connection(loop: loops.Loop) -> None:
    """The reply is sent in clear text, and everything after it inside TLS; both machines learn of the session."""
    async with (
        serving(loop, echo, ssl_context=server_context()) as listener,
        await connecting(loop, listener.port, ssl_context=client_context()) as client,
    ):
        tls = await upgrade(client)
        assert tls.version == "TLSv1.3"
        client.send(Line(text=b"inside"))
        assert await anext(client) == Line(text=b"inside")


@on_both_loops
async def test_send_of_many_tls_records_arrives_in_order(loop: loops.Loop) -> None:
    """A Send of many records arrives whole and in order, as fast as the peer reads."""
    lines = [b"%d " % number * 100 for number in range(3_000)]

    async def session(connection: AsyncServerConnection[EchoEvent]) -> None:
        async for event in connection:
            if isinstance(event, Line):
                connection.answer(event, b"\r\n".join(lines))

    async with (
        serving(loop, session, ssl_context=server_context(), implicit_tls=True) as listener,
        await connecting(loop, listener.port, ssl_context=client_context(), implicit_tls=True) as client,
    ):
        client.send(Line(text=b"much"))
        assert await anext(client) == Line(text=b"hello in TLS")
        assert [await anext(client) for _ in lines] == [Line(text=line) for line in lines]


def do_handshake(
    tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, connection: socket.socket
) -> None:
    """Do a handshake as a client; what it sends last stays in *outgoing*."""
    while True:
        try:
            return tls.do_handshake()
        except ssl.SSLWantReadError:
            connection.sendall(outgoing.read())
            incoming.write(connection.recv(65_536))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("name", ["asyncio", "trio"])
def test_data_sent_with_the_end_of_the_handshake_is_read(name: str, version: ssl.TLSVersion) -> None:
    """A client may send its first command together with its Finished.

    In TLS 1.2, the Finished of the client is the last message only if a session is resumed (RFC 5246 section 7.3).
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = version

    def client(port: int, session: ssl.SSLSession | None) -> tuple[bytes, ssl.SSLSession | None]:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, session=session)
        with dial(port) as connection:
            do_handshake(tls, incoming, outgoing, connection)
            assert tls.session_reused is (session is not None)
            assert bool(outgoing.pending) is (version is ssl.TLSVersion.TLSv1_3 or session is not None)
            tls.write(b"early\r\nQUIT\r\n")
            connection.sendall(outgoing.read())
            incoming.write(read_all(connection))
            incoming.write_eof()
            got = b""
            while piece := tls.read(65_536):
                got += piece
            return got, tls.session

    def clients(port: int) -> None:
        session = None
        if version is ssl.TLSVersion.TLSv1_2:
            _, session = client(port, None)
        got, _ = client(port, session)
        assert got == b"hello in TLS\r\nearly\r\nbye\r\n"

    async def main() -> None:
        loop = loops.current()
        async with serving(loop, echo, ssl_context=server_context(), implicit_tls=True) as listener:
            await loop.in_thread(clients, listener.port)

    loops.named(name).run(main)


@on_both_loops
async def test_server_ends_the_tls_session_with_close_notify(loop: loops.Loop) -> None:
    """The client can tell the end of the session from a truncation attack, even if it has sent more than is read."""
    async with serving(loop, echo, ssl_context=server_context(), implicit_tls=True) as listener:

        def client() -> bytes:
            with client_context().wrap_socket(
                dial(listener.port), server_hostname="127.0.0.1", suppress_ragged_eofs=False
            ) as connection:
                connection.sendall(b"QUIT\r\n" + bytes(200_000))
                return read_all(connection)

        assert await loop.in_thread(client) == b"hello in TLS\r\nbye\r\n"


@on_both_loops
async def test_reply_is_sent_after_close_notify_of_the_client(loop: loops.Loop) -> None:
    """A TLS client that has sent close_notify is a half-closed client."""
    ends: list[CloseReason] = []

    async def session(connection: AsyncServerConnection[EchoEvent]) -> None:
        async for event in connection:
            if isinstance(event, Line):
                connection.answer(event, event.text)
            elif isinstance(event, Ended):
                ends.append(event.reason)

    async with serving(loop, session, ssl_context=server_context(), implicit_tls=True) as listener:

        def client() -> bytes:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            tls = client_context().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
            with dial(listener.port) as connection:
                do_handshake(tls, incoming, outgoing, connection)
                tls.write(b"x\r\n")
                with pytest.raises(ssl.SSLWantReadError):
                    tls.unwrap()  # writes close_notify; the server's own is still missing
                connection.sendall(outgoing.read())
                incoming.write(read_all(connection))
                got = b""
                with contextlib.suppress(ssl.SSLZeroReturnError):  # at the close_notify of the server
                    while piece := tls.read(65_536):
                        got += piece
                return got

        assert await loop.in_thread(client) == b"hello in TLS\r\nx\r\n"
    assert ends == [CloseReason.PEER_CLOSED]


@on_both_loops
async def test_plaintext_before_the_handshake_is_not_processed_inside_tls(loop: loops.Loop) -> None:
    """CVE-2011-0411: data between STARTTLS and the handshake is discarded, or makes the handshake fail."""
    asked: list[bytes] = []
    injected = threading.Event()

    async def session(connection: AsyncServerConnection[EchoEvent]) -> None:
        async for event in connection:
            if isinstance(event, Line):
                asked.append(event.text)
                if event.text == b"STARTTLS":
                    await loop.in_thread(injected.wait, 20)
                connection.answer(event, event.text)

    async with serving(loop, session, ssl_context=server_context()) as listener:

        def client() -> None:
            with dial(listener.port) as connection:
                read_line(connection)
                connection.sendall(b"STARTTLS\r\nin the same piece\r\n")
                while asked != [b"STARTTLS"]:
                    pass
                connection.sendall(b"in another piece\r\n")
                injected.set()
                assert read_line(connection) == b"go\r\n"
                try:
                    with client_context().wrap_socket(connection, server_hostname="127.0.0.1") as inside:
                        inside.sendall(b"inside\r\nQUIT\r\n")
                        assert read_all(inside) == b"inside\r\nbye\r\n"
                except OSError:  # the server had not read the injected data before the handshake
                    pass

        await loop.in_thread(client)
    assert asked in ([b"STARTTLS"], [b"STARTTLS", b"inside"])


@on_both_loops
async def test_failed_handshake_ends_only_its_session(loop: loops.Loop) -> None:
    """The machine sees the end of the stream; the next client is served."""
    ends: list[EchoEvent] = []

    async def session(connection: AsyncServerConnection[EchoEvent]) -> None:
        async for event in connection:
            if isinstance(event, Line):
                connection.answer(event, event.text)
            else:
                ends.append(event)

    async with serving(loop, session, ssl_context=server_context()) as listener:

        def garbage() -> None:
            with dial(listener.port) as connection:
                read_line(connection)
                connection.sendall(b"STARTTLS\r\n")
                read_line(connection)
                connection.sendall(b"EHLO not.a.ClientHello\r\n")
                read_all(connection)

        await loop.in_thread(garbage)
        async with await connecting(loop, listener.port, ssl_context=client_context()) as client:
            await upgrade(client)
    assert [type(event) for event in ends] == [TlsStarted, Ended]


@on_both_loops
async def test_client_rejects_an_unverified_server_certificate(loop: loops.Loop) -> None:
    """Implicit TLS: ``connect`` raises the ssl error.  Upgraded: the iteration raises it, at each further call."""
    async with (
        serving(loop, echo, ssl_context=server_context(), implicit_tls=True) as implicit,
        serving(loop, echo, ssl_context=server_context()) as upgraded,
    ):
        with pytest.raises(ssl.SSLCertVerificationError):
            await connecting(loop, implicit.port, ssl_context=stranger(), implicit_tls=True)
        with pytest.raises(ssl.SSLCertVerificationError):
            await connecting(
                loop, implicit.port, ssl_context=client_context(), implicit_tls=True, server_hostname="example.org"
            )
        client = await connecting(loop, upgraded.port, ssl_context=stranger())
        assert await anext(client) == Line(text=b"hello")
        client.send(Line(text=b"STARTTLS"))
        assert await anext(client) == Line(text=b"go")
        for _ in range(2):
            with pytest.raises(ssl.SSLCertVerificationError):
                await anext(client)
        await client.aclose()
        async with await connecting(loop, implicit.port, ssl_context=client_context(), implicit_tls=True) as good:
            assert await anext(good) == Line(text=b"hello in TLS")


@on_both_loops
async def test_handshake_times_out(loop: loops.Loop) -> None:
    """A client that connects to a TLS port and sends nothing is disconnected, without a session."""

    async def session(connection: AsyncServerConnection[EchoEvent]) -> None:
        raise AssertionError("a session without a handshake")

    limits = Limits(handshake_timeout=0.01)
    async with serving(loop, session, ssl_context=server_context(), implicit_tls=True, limits=limits) as listener:
        with await loop.in_thread(dial, listener.port) as connection:
            assert await loop.in_thread(read_all, connection) == b""


@on_both_loops
async def test_leaving_the_context_ends_handshakes(loop: loops.Loop) -> None:
    """A handshake in progress does not delay the end of the server, whatever the grace period."""
    async with serving(loop, echo, ssl_context=server_context(), implicit_tls=True, grace=3600.0) as listener:
        connection = await loop.in_thread(dial, listener.port)
        connection.sendall(b"\x16")
        while not listener._connections:
            await loop.sleep(0)
    with connection:
        assert await loop.in_thread(read_all_or_reset, connection) == b""


@on_both_loops
async def test_cancelled_handshake_makes_further_calls_raise(loop: loops.Loop) -> None:
    """The next call raises."""
    told = threading.Event()

    async def session(connection: AsyncServerConnection[EchoEvent]) -> None:
        question = await anext(connection)
        assert isinstance(question, Line)
        connection.answer(question, b"")
        await cancel_when_blocked(connection.__anext__)
        with pytest.raises(ConnectionAbortedError, match="TLS handshake"):
            await anext(connection)
        told.set()

    async with serving(loop, session, ssl_context=server_context()) as listener:

        def client() -> None:
            with dial(listener.port) as connection:
                read_line(connection)
                connection.sendall(b"STARTTLS\r\n")
                assert read_line(connection) == b"go\r\n"
                assert told.wait(20)
                assert read_all(connection) == b""

        await loop.in_thread(client)


@on_both_loops
async def test_shut_down_during_the_handshake_closes_the_connection(loop: loops.Loop) -> None:
    """Nothing can be sent during the handshake, so the connection is closed."""
    connections: list[AsyncServerConnection[EchoEvent]] = []

    async def session(connection: AsyncServerConnection[EchoEvent]) -> None:
        connections.append(connection)
        await echo(connection)

    async with serving(loop, session, ssl_context=server_context()) as listener:
        with await loop.in_thread(dial, listener.port) as connection:
            connection.sendall(b"STARTTLS\r\n")
            assert await loop.in_thread(read_line, connection) == b"hello\r\n"
            assert await loop.in_thread(read_line, connection) == b"go\r\n"
            connections[0].shut_down()
            assert await loop.in_thread(read_all, connection) == b""


@on_both_loops
async def test_tls_without_an_ssl_context_raises(loop: loops.Loop) -> None:
    """The error is raised before anything listens or connects."""
    with pytest.raises(ValueError, match="ssl_context"):
        async with serving(loop, echo, implicit_tls=True):
            raise AssertionError("TLS without a certificate")
    async with serving(loop, echo, ssl_context=server_context()) as listener:
        with pytest.raises(ValueError, match="ssl_context"):
            await connecting(loop, listener.port, implicit_tls=True)
        async with await connecting(loop, listener.port) as client:
            assert await anext(client) == Line(text=b"hello")
            client.send(Line(text=b"STARTTLS"))
            assert await anext(client) == Line(text=b"go")
            with pytest.raises(RuntimeError, match="without an ssl_context"):
                await anext(client)


def test_a_forged_record_ends_the_stream() -> None:
    """Data before it is valid; nothing after it is returned."""
    server, client = layers()
    good, forged = client.encrypt(b"good"), bytearray(client.encrypt(b"forged"))
    forged[-1] ^= 1
    server.feed(good + bytes(forged))
    assert server.decrypt() == b"good"
    assert server.ended
    assert server.decrypt() == b""


def test_key_updates_do_not_increase_memory_and_end_the_session(tmp_path: Path) -> None:
    """architecture.md, invariant 4: each is answered, and the answers would be kept until the next reply."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    context.keylog_filename = str(tmp_path / "keys")
    server, client = layers(client_side=context)
    assert client.tls.cipher == "TLS_AES_256_GCM_SHA384"
    key_updates = KeyUpdates(tmp_path / "keys")
    for _ in range(20):
        server.feed(key_updates.next())
        assert server.decrypt() is None
    client.feed(server.encrypt(b"answered"))
    received = 0
    while not server.ended and received < 100:
        server.feed(key_updates.next())
        server.decrypt()
        received += 1
    assert 30 < received < 50
    assert server.decrypt() == b""


def test_server_refuses_renegotiation() -> None:
    """With TLS 1.2 and OpenSSL 1.1.1, a client could otherwise cause any number of handshakes."""
    assert certificates.server_context().options & ssl.OP_NO_RENEGOTIATION
    assert certificates.temporary_certificate().server.options & ssl.OP_NO_RENEGOTIATION
