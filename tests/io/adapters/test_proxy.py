"""The PROXY header in both adapters: only from listed peers, before TLS, and not one byte after it is consumed."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from typing import Final

import pytest

from mailauth.addresses import Network, is_within
from mailauth_io.adapters.connection import AsyncServerConnection
from mailauth_io.adapters.stream import Peer
from mailauth_io.limits import Limits
from tests.io import loops
from tests.io.by_hand import read_line
from tests.io.line_echo import EchoEvent, dial, echo, on_both_loops, read_all, read_all_or_reset, serving, talk
from tests.io.tls import client_context, server_context

LOOPBACK: Final = (ipaddress.ip_network("127.0.0.1/32"),)
REMOTE_ADDRESS: Final = (ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("::1/128"))
HEADER: Final = b"PROXY TCP4 198.51.100.7 192.0.2.1 4711 25\r\n"
BINARY: Final = (
    bytes.fromhex("0D0A0D0A000D0A515549540A 21 21 0024")
    + ipaddress.ip_address("2001:db8::7").packed
    + ipaddress.ip_address("2001:db8::1").packed
    + (4711).to_bytes(2, "big")
    + (25).to_bytes(2, "big")
)


class Seen:
    """A session that sends every line back, and records its peers."""

    def __init__(self) -> None:
        self.peers: list[Peer] = []

    async def __call__(self, connection: AsyncServerConnection[EchoEvent]) -> None:
        self.peers.append(connection.peer)
        await echo(connection)


@on_both_loops
async def test_peer_is_the_client_in_the_header_of_a_listed_proxy(loop: loops.Loop) -> None:
    """PROXY protocol section 2: data after the header in the same segment is from the client."""
    session = Seen()
    async with serving(loop, session, proxy_from=LOOPBACK) as listener:
        for header in (HEADER, BINARY):
            assert await loop.in_thread(talk, listener.port, header + b"one\r\n") == b"hello\r\none\r\n"
    assert session.peers == [Peer("198.51.100.7", 4711), Peer("2001:db8::7", 4711)]


@on_both_loops
async def test_header_may_arrive_in_pieces(loop: loops.Loop) -> None:
    """PROXY protocol section 2: the server sends nothing before the header is complete."""
    session = Seen()
    async with serving(loop, session, proxy_from=LOOPBACK) as listener:

        def client() -> bytes:
            with dial(listener.port) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                for octet in HEADER:
                    connection.sendall(bytes([octet]))
                assert read_line(connection) == b"hello\r\n"
                connection.sendall(b"QUIT\r\n")
                return read_all(connection)

        assert await loop.in_thread(client) == b"bye\r\n"
    assert session.peers == [Peer("198.51.100.7", 4711)]


@on_both_loops
async def test_header_is_read_before_the_tls_handshake(loop: loops.Loop) -> None:
    """PROXY protocol section 2: the proxy forwards the handshake; here both arrive in one segment."""
    session = Seen()
    async with serving(loop, session, proxy_from=LOOPBACK, ssl_context=server_context(), implicit_tls=True) as listener:

        def client() -> bytes:
            incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
            inside = client_context().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
            heard = b""
            with dial(listener.port) as connection:
                ahead = HEADER
                while not heard.endswith(b"\r\n"):
                    try:
                        heard += inside.read(1_000)
                    except ssl.SSLWantReadError:
                        if outgoing.pending:
                            connection.sendall(ahead + outgoing.read())
                            ahead = b""
                        incoming.write(connection.recv(65_536))
                inside.write(b"QUIT\r\n")
                connection.sendall(outgoing.read())
                connection.shutdown(socket.SHUT_WR)
                incoming.write(read_all(connection))
                return heard + inside.read(1_000)

        assert await loop.in_thread(client) == b"hello in TLS\r\nbye\r\n"
    assert session.peers == [Peer("198.51.100.7", 4711)]


@on_both_loops
async def test_listed_peer_without_a_valid_header_is_disconnected(loop: loops.Loop) -> None:
    """PROXY protocol section 2.1: nothing is sent to it, and no session runs."""
    session = Seen()
    async with serving(loop, session, proxy_from=LOOPBACK) as listener:

        def client(data: bytes) -> bytes:
            with dial(listener.port) as connection:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
                return read_all_or_reset(connection)

        for data in (b"", b"one\r\n", HEADER[:-1], HEADER.replace(b"TCP4", b"TCP6"), BINARY[:20]):
            assert await loop.in_thread(client, data) == b""
    assert session.peers == []


@on_both_loops
async def test_incomplete_header_times_out(loop: loops.Loop) -> None:
    """PROXY protocol section 2: a timeout for the whole header; an incomplete header does not restart it."""
    session = Seen()
    async with serving(loop, session, proxy_from=LOOPBACK, limits=Limits(proxy_header_timeout=0.01)) as listener:

        def client() -> bytes:
            with dial(listener.port) as connection:
                connection.sendall(HEADER[:9])
                return read_all_or_reset(connection)

        assert await loop.in_thread(client) == b""
    assert session.peers == []


@on_both_loops
async def test_header_of_an_unlisted_peer_is_read_as_an_ordinary_line(loop: loops.Loop) -> None:
    """PROXY protocol section 2: any client could send one, so it is read as an ordinary line."""
    session = Seen()
    for networks in ((), REMOTE_ADDRESS):
        async with serving(loop, session, proxy_from=networks) as listener:
            assert await loop.in_thread(talk, listener.port, HEADER) == b"hello\r\n" + HEADER
    assert [peer.address for peer in session.peers] == ["127.0.0.1"] * 2


@on_both_loops
async def test_header_without_addresses_keeps_the_socket_address(loop: loops.Loop) -> None:
    """PROXY protocol sections 2.1 and 2.2: for UNKNOWN and LOCAL the address of the socket is used."""
    session = Seen()
    local = bytes.fromhex("0D0A0D0A000D0A515549540A 20 00 0000")
    async with serving(loop, session, proxy_from=LOOPBACK) as listener:
        for header in (b"PROXY UNKNOWN\r\n", local):
            assert await loop.in_thread(talk, listener.port, header + b"one\r\n") == b"hello\r\none\r\n"
    assert [peer.address for peer in session.peers] == ["127.0.0.1"] * 2


@on_both_loops
async def test_closing_does_not_wait_for_a_header(loop: loops.Loop) -> None:
    """The listener closes while a proxy has not sent anything yet."""
    session = Seen()
    async with serving(loop, session, proxy_from=LOOPBACK, grace=60.0) as listener:
        connection = await loop.in_thread(dial, listener.port)
        while not listener._connections:
            await loop.in_thread(int)
    with connection:
        assert await loop.in_thread(read_all_or_reset, connection) == b""
    assert session.peers == []


@pytest.mark.parametrize(
    ("address", "networks", "expected"),
    [
        ("10.1.2.3", ["10.0.0.0/8"], True),
        ("11.1.2.3", ["10.0.0.0/8", "11.1.2.4/32"], False),
        ("::ffff:10.1.2.3", ["10.0.0.0/8"], True),
        ("fe80::1%eth0", ["fe80::/10"], True),
        ("2001:db8::1", ["10.0.0.0/8", "2001:db8::/32"], True),
        ("10.1.2.3", ["::/0"], False),
    ],
)
def test_address_matches_only_networks_of_its_family(address: str, networks: list[str], expected: bool) -> None:
    """An IPv4-mapped address counts as IPv4, and the zone of an address is ignored."""
    wanted: list[Network] = [ipaddress.ip_network(network) for network in networks]
    assert is_within(address, wanted) is expected
