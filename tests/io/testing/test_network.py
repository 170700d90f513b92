"""Network faults: each fault in each direction, in clear text and under TLS, seen by clients of the standard library.

Where time matters, the clock of the server stands still, and the test advances it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import smtplib
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from mailauth import ACCEPT, CloseReason, MessageChunk, Tls, smtp
from mailauth_io.adapters import AsyncServerConnection, Limits
from mailauth_io.testing._link import BUFFER
from mailauth_io.testing._network import Listener, Network
from tests.io.line_echo import EchoEvent, Line, dial
from tests.io.testing.fault_server import (
    TIMEOUT,
    TlsByHand,
    arrived,
    connect,
    exchange,
    fault_server,
    read_exactly,
    read_to_end,
)
from tests.io.tls import client_context

in_clear_and_tls = pytest.mark.parametrize("tls", [False, True], ids=["clear", "tls"])
both_directions = pytest.mark.parametrize("direction", ["downstream", "upstream"])

GREETING = b"hello\r\n"


# Latency


def test_latency_downstream_delays_each_piece_and_the_end() -> None:
    """Each piece arrives after the same time, in order; so does the end of the stream."""
    with fault_server(standing=True) as server:
        server.network.latency(5)
        with connect(server) as client:
            assert arrived(server, client) == b""
            server.advance(4)
            assert arrived(server, client) == b""
            client.sendall(b"one\r\n")
            server.advance(1)
            assert arrived(server, client) == GREETING
            server.advance(1)
            client.sendall(b"two\r\nQUIT\r\n")
            server.advance(3)
            assert arrived(server, client) == b"one\r\n"
            server.advance(1.5)
            assert arrived(server, client) == b""
            server.advance(0.5)
            assert read_to_end(client) == (b"two\r\nbye\r\n", None)
        assert server.network.unused == []


def test_latency_upstream_delays_each_piece_and_the_end() -> None:
    with fault_server(standing=True) as server:
        server.network.latency(5, direction="upstream")
        with connect(server) as client:
            assert arrived(server, client) == GREETING
            client.sendall(b"one\r\n")
            server.advance(3)
            client.sendall(b"two\r\n")
            client.shutdown(socket.SHUT_WR)
            server.advance(1)
            assert server.received() == b""
            server.advance(1)
            assert server.received() == b"one\r\n"
            assert arrived(server, client) == b"one\r\n"
            server.advance(2)
            assert server.ended.empty()
            server.advance(1)
            assert read_to_end(client) == (b"two\r\n", None)
            assert server.machines[0].pieces == [b"one\r\n", b"two\r\n", b""]
            assert server.ended.get(timeout=TIMEOUT) is CloseReason.PEER_CLOSED


def test_data_on_its_way_arrives_after_the_server_has_closed() -> None:
    """The session has ended long before, as with the buffers of a socket."""
    with fault_server(standing=True) as server:
        server.network.latency(60)
        with connect(server) as client:
            client.sendall(b"one\r\nQUIT\r\n")
            server.settle()
            assert server.ended.get(timeout=TIMEOUT) is CloseReason.QUIT
            server.advance(59)  # no session of the server waits so long for a client
            client.sendall(b"more\r\n" * 1_000)  # closing a socket that has unread data would send an RST
            assert arrived(server, client) == b""
            server.advance(1)
            assert read_to_end(client) == (b"hello\r\none\r\nbye\r\n", None)


def test_server_knows_of_a_reset_when_the_latency_has_passed() -> None:
    with fault_server(standing=True) as server:
        server.network.latency(5, direction="upstream")
        with connect(server) as client:
            client.sendall(b"one\r\n")
            server.advance(1)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        server.advance(4)
        assert server.received() == b"one\r\n"
        assert server.ended.empty()
        server.advance(1)
        assert server.ended.get(timeout=TIMEOUT) is CloseReason.PEER_CLOSED


# Bandwidth


def test_bandwidth_downstream_lets_that_many_bytes_through() -> None:
    with fault_server(standing=True) as server:
        server.network.bandwidth(8)
        with connect(server) as client:
            assert arrived(server, client) == b""
            server.advance(0.125)
            assert arrived(server, client) == b"h"
            server.advance(0.25)
            assert arrived(server, client) == b"el"
            client.sendall(b"QUIT\r\n")
            server.advance(0.5)
            assert arrived(server, client) == b"lo\r\n"
            server.advance(0.5)
            assert arrived(server, client) == b"bye\r"
            server.advance(0.125)
            assert read_to_end(client) == (b"\n", None)


def test_bandwidth_upstream_lets_that_many_bytes_through() -> None:
    with fault_server(standing=True) as server:
        server.network.bandwidth(8, direction="upstream")
        with connect(server) as client:
            assert arrived(server, client) == GREETING
            client.sendall(b"ab\r\n")
            server.advance(0.375)
            assert server.received() == b"ab\r"
            assert arrived(server, client) == b""
            server.advance(0.125)
            assert arrived(server, client) == b"ab\r\n"


def test_bandwidth_passes_on_a_tenth_of_a_second_at_once() -> None:
    with fault_server(standing=True) as server:
        server.network.bandwidth(40)
        with connect(server) as client:
            server.advance(0.1)
            assert arrived(server, client) == b"hell"


# Slicer


def test_slicer_downstream_sends_each_piece_by_itself() -> None:
    """The cuts are at multiples of the size, counted from the start of the connection."""
    with fault_server(standing=True) as server:
        server.network.slicer(3, delay=1)
        with connect(server) as client:
            pieces = []
            for _ in range(3):
                pieces.append(arrived(server, client))
                server.advance(1)
            assert pieces == [b"hel", b"lo\r", b"\n"]
            client.sendall(b"abcde\r\n")
            for _ in range(3):
                pieces.append(arrived(server, client))
                server.advance(1)
            assert pieces[3:] == [b"ab", b"cde", b"\r\n"]
            assert server.machines[0].pieces == [b"abcde\r\n"]


@pytest.mark.skipif(sys.platform != "linux", reason="the number of TCP segments received is in TCP_INFO of Linux")
def test_slicer_without_a_delay_sends_each_piece_in_a_segment() -> None:
    with fault_server() as server:
        server.network.slicer(1)
        with connect(server) as client:
            assert read_exactly(client, 7) == GREETING
            info = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            assert struct.unpack_from("I", info, 152) == (7,)  # tcpi_data_segs_in


@pytest.mark.parametrize("delay", [0, 1])
def test_slicer_upstream_lets_the_server_receive_one_piece_at_a_time(delay: float) -> None:
    with fault_server(standing=True) as server:
        server.network.slicer(3, delay=delay, direction="upstream")
        with connect(server) as client:
            assert arrived(server, client) == GREETING
            client.sendall(b"abc\r\n")
            for _ in range(3):
                server.advance(delay)
            client.sendall(b"defg\r\nhi\r\n")
            for _ in range(4):
                server.advance(delay)
            assert server.machines[0].pieces == [b"abc", b"\r\n", b"d", b"efg", b"\r\nh", b"i\r\n"]
            assert arrived(server, client) == b"abc\r\ndefg\r\nhi\r\n"


def test_slices_stay_separate_while_the_server_does_not_read() -> None:
    released = asyncio.Event()

    async def session(connection: AsyncServerConnection[EchoEvent]) -> None:
        async for event in connection:
            if isinstance(event, Line):
                await released.wait()
                connection.answer(event, event.text)

    with fault_server(standing=True, session=session) as server:
        server.network.slicer(4, direction="upstream")
        with connect(server) as client:
            client.sendall(b"a\r\nb\r\nc\r\nd\r\ne\r\n")
            server.settle()
            assert server.machines[0].pieces == [b"a\r\nb"]
            client.shutdown(socket.SHUT_WR)
            server.settle()
            server.call(released.set)
            server.settle()
            assert server.machines[0].pieces == [b"a\r\nb", b"\r\nc\r", b"\nd\r\n", b"e\r\n", b""]


# All faults that lose nothing


DELAYS: list[Callable[[Network, Any], None]] = [
    lambda network, direction: network.latency(0.001, direction=direction),
    lambda network, direction: network.bandwidth(20_000_000, direction=direction),
    lambda network, direction: network.slicer(1_000, direction=direction),
    lambda network, direction: network.slicer(30_000, delay=0.0001, direction=direction),
]


@in_clear_and_tls
@both_directions
@pytest.mark.parametrize("faults", [*[[each] for each in DELAYS], DELAYS, DELAYS[::-1]])
def test_no_byte_is_lost_or_out_of_order(
    faults: list[Callable[[Network, Any], None]], direction: str, tls: bool
) -> None:
    """More data than the network and the sockets hold, in both directions."""
    lines = b"".join(b"%07d%s\r\n" % (number, b"x" * 900) for number in range(600))
    with fault_server(tls=tls) as server:
        for fault in faults:
            fault(server.network, direction)
        with connect(server, tls=tls) as client:
            greeting = b"hello in TLS\r\n" if tls else GREETING
            assert read_exactly(client, len(greeting)) == greeting
            assert exchange(client, lines, len(lines)) == lines
            client.sendall(b"QUIT\r\n")
            assert read_to_end(client) == (b"bye\r\n", None)
        assert server.network.unused == []
        assert server.ended.get(timeout=TIMEOUT) is CloseReason.QUIT


# reset_peer


@pytest.mark.parametrize("after", [0, 1, 6, 7, 9])
def test_reset_peer_resets_after_exactly_that_many_bytes(after: int) -> None:
    """The reset comes later than the data, so that no client loses it, and no ``connect()`` fails."""
    with fault_server(standing=True) as server:
        server.network.reset_peer(after=after)
        with connect(server) as client:
            client.sendall(b"abc\r\n")
            assert read_exactly(client, after) == b"hello\r\nabc\r\n"[:after]
            assert arrived(server, client) == b""
            server.advance_to_end()
            assert read_to_end(client) == (b"", ConnectionResetError)
        assert server.ended.get(timeout=TIMEOUT) is CloseReason.PEER_CLOSED
        assert server.network.unused == []


@pytest.mark.parametrize("after", [0, 1, 500, 1_200])
def test_reset_peer_counts_the_bytes_below_tls(after: int) -> None:
    with fault_server(standing=True, tls=True) as server:
        server.network.reset_peer(after=after)
        with TlsByHand(server) as client:
            client.exchange(b"x" * 900 + b"\r\n", until=after)
            server.advance_to_end()
            assert client.read_to_end() == (after, ConnectionResetError)


def test_reset_peer_waits_until_the_client_has_received_all_bytes() -> None:
    """An RST would discard what is still in the server's buffers, so it is sent when the client has read enough."""
    after = 3_000_000
    with fault_server() as server:
        server.network.reset_peer(after=after)
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
            client.settimeout(TIMEOUT)
            client.connect(("127.0.0.1", server.port))
            assert read_exactly(client, 7) == GREETING
            line = b"x" * 900 + b"\r\n"
            client.setblocking(False)
            sent = 0
            while sent < 4_000:  # the server answers more than it may send: it waits for this client
                with contextlib.suppress(BlockingIOError):
                    sent += client.send(line * 4)
                server.settle()
            client.settimeout(TIMEOUT)
            sender = threading.Thread(target=_send_all, args=(client, line * 4_000))
            sender.start()
            data, error = read_to_end(client)
            sender.join(TIMEOUT)
            assert (len(data) + 7, error) == (after, ConnectionResetError)


def _send_all(client: socket.socket, data: bytes) -> None:
    with contextlib.suppress(ConnectionResetError, BrokenPipeError):
        client.sendall(data)


def test_reset_peer_during_a_handshake_is_seen_by_ssl() -> None:
    with fault_server(tls=True) as server:
        server.network.reset_peer(after=50)
        client = dial(server.port)
        with client, pytest.raises(ConnectionResetError):
            client_context().wrap_socket(client, server_hostname="localhost")


# limit_data


@pytest.mark.parametrize("size", [0, 1, 6, 7, 9])
def test_limit_data_downstream_closes_after_exactly_that_many_bytes(size: int) -> None:
    """The client sees the end of the stream and no reset, even if it sends more data."""
    with fault_server() as server:
        server.network.limit_data(size)
        with connect(server) as client:
            client.sendall(b"abc\r\n" * 20_000)
            assert read_to_end(client) == (b"hello\r\nabc\r\n"[:size], None)
            client.sendall(b"abc\r\n" * 20_000)
            assert read_to_end(client) == (b"", None)
        assert server.ended.get(timeout=TIMEOUT) is CloseReason.PEER_CLOSED
        assert server.network.unused == []


@pytest.mark.parametrize("size", [0, 1, 500, 1_200])
def test_limit_data_downstream_counts_the_bytes_below_tls(size: int) -> None:
    with fault_server(tls=True) as server:
        server.network.limit_data(size)
        with TlsByHand(server) as client:
            client.exchange(b"x" * 900 + b"\r\n", until=size)
            assert client.read_to_end() == (size, None)


@pytest.mark.parametrize("size", [0, 4, 5, 8, 12])
def test_limit_data_upstream_ends_after_exactly_that_many_bytes(size: int) -> None:
    """The server answers the lines that are complete, and closes; the client sees no reset."""
    lines = b"abc\r\ndef\r\nghi\r\n"
    with fault_server() as server:
        server.network.limit_data(size, direction="upstream")
        with connect(server) as client:
            client.sendall(lines + b"more\r\n" * 20_000)
            answers = b"".join(line for line in lines[:size].splitlines(keepends=True) if line.endswith(b"\n"))
            assert read_to_end(client) == (GREETING + answers, None)
            assert b"".join(server.machines[0].pieces) == lines[:size]
        assert server.ended.get(timeout=TIMEOUT) is CloseReason.PEER_CLOSED
        assert server.network.unused == []


def test_limit_data_downstream_sends_no_close_notify() -> None:
    """A client can tell that data is missing (RFC 8446 section 6.1)."""
    with fault_server(tls=True) as server:
        server.network.limit_data(20_000)
        options: dict[str, Any] = {"server_hostname": "localhost", "suppress_ragged_eofs": False}
        with client_context().wrap_socket(dial(server.port), **options) as client:
            client.sendall((b"x" * 900 + b"\r\n") * 40)
            with pytest.raises(ssl.SSLEOFError):
                list(iter(functools.partial(client.recv, 65_536), b""))


def test_limit_data_during_a_handshake_is_seen_by_ssl() -> None:
    for direction, size in [("downstream", 50), ("upstream", 50)]:
        with fault_server(tls=True) as server:
            server.network.limit_data(size, direction=direction)  # type: ignore[arg-type]
            with pytest.raises(ssl.SSLError, match="EOF"):
                connect(server, tls=True)
            server.settle()
            assert server.machines == []


@both_directions
def test_client_may_send_after_limit_data_until_it_closes(direction: Any) -> None:
    """What it sends is discarded, and it gets no reset."""
    with fault_server(standing=True) as server:
        server.network.limit_data(4, direction=direction)
        with connect(server) as client:
            client.sendall(b"abc\r\n")
            server.settle()
            assert server.ended.get(timeout=TIMEOUT) is CloseReason.PEER_CLOSED
            for _ in range(3):
                client.sendall(b"more\r\n" * 1_000)
                server.settle()
            assert read_to_end(client) == ({"downstream": b"hell", "upstream": GREETING}[direction], None)
            assert server.call(lambda: server.listener.connected)
        server.settle()
        assert not server.call(lambda: server.listener.connected)


def test_connection_that_was_cut_is_closed_if_the_client_does_not_close_it() -> None:
    with fault_server(standing=True) as server:
        server.network.limit_data(3)
        with connect(server) as client:
            assert read_to_end(client) == (b"hel", None)
            server.advance(9)
            assert server.call(lambda: server.listener.connected)
            server.advance(1)
            assert not server.call(lambda: server.listener.connected)


# Combinations and selection


def test_faults_act_in_the_order_of_the_calls() -> None:
    """If the pieces are sent slowly, the delay is between the pieces; if slow data is cut, after each byte."""
    for slices_first, expected in [(True, [b"hel", b"lo\r", b"\n"]), (False, [b"h", b"e", b"l"])]:
        with fault_server(standing=True) as server:
            if slices_first:
                server.network.slicer(3, delay=1)
            server.network.bandwidth(8)
            if not slices_first:
                server.network.slicer(3, delay=1)
            with connect(server) as client:
                pieces = []
                for _ in range(3):
                    for _ in range(8):
                        server.advance(0.125)
                    pieces.append(arrived(server, client))
                assert pieces == expected


def test_first_cut_counts() -> None:
    for first, last in [("limit_data(0)", "reset_peer()"), ("reset_peer()", "limit_data(0)")]:
        with fault_server() as server:
            for call in (first, last):
                if call == "reset_peer()":
                    server.network.reset_peer()
                else:
                    server.network.limit_data(0)
            with connect(server) as client:
                assert read_to_end(client) == (b"", None if first == "limit_data(0)" else ConnectionResetError)
            assert server.network.unused == [last]


@pytest.mark.parametrize(("cut", "error"), [("limit_data", None), ("reset_peer", ConnectionResetError)])
def test_cut_has_the_latency_of_later_faults(cut: str, error: type[OSError] | None) -> None:
    with fault_server(standing=True) as server:
        if cut == "limit_data":
            server.network.limit_data(3)
        else:
            server.network.reset_peer(after=3)
        server.network.latency(5)
        with connect(server) as client:
            server.advance(4)
            assert arrived(server, client) == b""
            client.sendall(b"abc\r\n")
            server.advance(1)
            assert read_exactly(client, 3) == b"hel"
            server.advance_to_end()
            assert read_to_end(client) == (b"", error)


def test_fault_applies_to_later_connections_until_clear() -> None:
    with fault_server(standing=True) as server, connect(server) as before:
        assert read_exactly(before, 7) == GREETING
        server.network.latency(5)
        with connect(server) as during:
            assert arrived(server, during) == b""
            server.network.clear()
            with connect(server) as after:
                assert read_exactly(after, 7) == GREETING
                for client in (before, during, after):
                    client.sendall(b"abc\r\n")
                assert arrived(server, before) == arrived(server, after) == b"abc\r\n"
                assert arrived(server, during) == b""
                server.advance(5)
                assert arrived(server, during) == b"hello\r\nabc\r\n"


def test_fault_for_the_next_connections_only() -> None:
    with fault_server() as server:
        server.network.limit_data(3, connections=2)
        ends = []
        for _ in range(3):
            with connect(server) as client:
                client.sendall(b"QUIT\r\n")
                ends.append(read_to_end(client)[0])
        assert ends == [b"hel", b"hel", b"hello\r\nbye\r\n"]


@pytest.mark.parametrize("protocol", ["SMTP", "POP3", None])
def test_fault_for_one_protocol(protocol: Any) -> None:
    """A connection of another protocol does not count as one of the next connections."""
    with fault_server(protocol=protocol) as server:
        server.network.limit_data(3, protocol="POP3", connections=1)
        with connect(server) as client:
            client.sendall(b"QUIT\r\n")
            assert read_to_end(client)[0] == (b"hel" if protocol == "POP3" else b"hello\r\nbye\r\n")
        expected = [] if protocol == "POP3" else ['limit_data(3, protocol="POP3", connections=1)']
        assert server.network.unused == expected


def test_unused_are_the_faults_without_an_effect() -> None:
    """A fault of a connection counts only when it has changed something."""
    with fault_server() as server:
        network = server.network
        network.slicer(7)
        network.slicer(6)
        network.slicer(1, delay=0.5, direction="upstream", protocol="POP3")
        network.reset_peer()
        network.clear()
        assert network.unused == []
        network.latency(0.001)
        network.bandwidth(1e9, direction="upstream", connections=1)
        network.slicer(7)
        network.slicer(6)
        network.limit_data(12)
        network.limit_data(11, direction="upstream")
        network.reset_peer(after=12, protocol="SMTP")
        network.reset_peer()
        assert network.unused == [
            "latency(0.001)",
            'bandwidth(1000000000.0, direction="upstream", connections=1)',
            "slicer(7)",
            "slicer(6)",
            "limit_data(12)",
            'limit_data(11, direction="upstream")',
            'reset_peer(after=12, protocol="SMTP")',
            "reset_peer()",
        ]
        network.clear()
        network.latency(0.001)
        network.bandwidth(1e9, direction="upstream", connections=1)
        network.slicer(7)
        network.slicer(6)
        network.limit_data(13)
        network.limit_data(11, direction="upstream")
        with connect(server) as client:
            client.sendall(b"QUIT\r\n")
            assert read_to_end(client) == (b"hello\r\nbye\r\n", None)
        assert network.unused == ["slicer(7)", "limit_data(13)", 'limit_data(11, direction="upstream")']


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda network: network.latency(0), "seconds must be finite and above 0, not 0"),
        (lambda network: network.latency(float("nan")), "seconds must be finite and above 0, not nan"),
        (lambda network: network.latency(float("inf")), "seconds must be finite and above 0, not inf"),
        (lambda network: network.latency("1"), "seconds must be an int or a float, not str"),
        (lambda network: network.bandwidth(-1), "bytes_per_second must be finite and above 0, not -1"),
        (lambda network: network.bandwidth(True), "bytes_per_second must be an int or a float, not bool"),
        (lambda network: network.slicer(0), "size must be 1 or more, not 0"),
        (lambda network: network.slicer(1.5), "size must be an int, not float"),
        (lambda network: network.slicer(1, delay=-1), "delay must be finite and 0 or more, not -1"),
        (lambda network: network.reset_peer(after=-1), "after must be 0 or more, not -1"),
        (lambda network: network.limit_data(-1), "size must be 0 or more, not -1"),
        (lambda network: network.limit_data(1, direction="both"), "direction must be one of downstream, upstream"),
        (lambda network: network.latency(1, direction=None), "direction must be a str, not None"),
        (lambda network: network.latency(1, protocol="smtp"), "protocol must be one of SMTP, POP3"),
        (lambda network: network.latency(1, connections=0), "connections must be 1 or more, not 0"),
        (lambda network: network.latency(1, connections=1.0), "connections must be an int or None, not float"),
    ],
)
def test_wrong_values_are_refused(call: Callable[[Network], None], message: str) -> None:
    network = Network()
    with pytest.raises((TypeError, ValueError), match=message):
        call(network)
    assert network.unused == []


# Deadlines, backpressure and ends


async def large_answer(connection: AsyncServerConnection[EchoEvent], ended: list[object], size: int) -> None:
    async for event in connection:
        if isinstance(event, Line):
            connection.answer(event, b"x" * size)
        elif hasattr(event, "reason"):
            ended.append(event.reason)


def test_session_waits_for_a_slow_network_and_gives_up_at_its_deadline() -> None:
    """The network holds 64 KiB for the client; the rest must be taken at ``Limits.min_rate``."""
    ended: list[object] = []
    size = BUFFER + 3_000
    with fault_server(
        standing=True,
        session=functools.partial(large_answer, ended=ended, size=size),
        limits=Limits(write_timeout=10, min_rate=1_000),
    ) as server:
        server.network.bandwidth(100, connections=1)
        server.network.bandwidth(1_000)
        with connect(server) as client:
            client.sendall(b"go\r\n")
            for _ in range(9):
                server.advance(1)
            assert ended == []
            assert server.call(lambda: len(server.listener._connections)) == 1
            for _ in range(10):
                server.advance(1)
            assert ended == [CloseReason.PEER_CLOSED]
        server.network.clear()
        server.network.bandwidth(1_000)
        with connect(server) as client:
            client.sendall(b"go\r\nQUIT\r\n")
            data = b""
            for _ in range(70):
                data += arrived(server, client)
                server.advance(1)
            assert data + read_to_end(client)[0] == GREETING + b"x" * size + b"\r\nbye\r\n"
        assert ended == [CloseReason.PEER_CLOSED, CloseReason.QUIT]


def test_small_answers_do_not_wait_for_a_slow_network() -> None:
    """As with the buffers of a socket: the server answers all lines at once."""
    with fault_server(standing=True) as server:
        server.network.bandwidth(1)
        with connect(server) as client:
            client.sendall(b"a\r\n" * 100 + b"QUIT\r\n")
            server.settle()
            assert server.ended.get(timeout=TIMEOUT) is CloseReason.QUIT


def test_client_waits_for_a_slow_network() -> None:
    """The network holds 64 KiB for the server, and then does not read from the socket."""
    with fault_server(standing=True) as server:
        server.network.bandwidth(1, direction="upstream")
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16_384)
            client.connect(("127.0.0.1", server.port))
            client.setblocking(False)
            sent = 0
            with contextlib.suppress(BlockingIOError):
                while sent < 8_000_000:
                    sent += client.send(b"x" * 16_384)
                    server.settle()
            assert BUFFER < sent < 4_000_000


def test_timeout_of_a_handshake_includes_the_latency() -> None:
    with fault_server(standing=True, tls=True, limits=Limits(handshake_timeout=10)) as server:
        server.network.latency(11, direction="upstream")
        errors: list[BaseException] = []

        def handshake() -> None:
            try:
                connect(server, tls=True).close()
            except OSError as error:
                errors.append(error)

        client = threading.Thread(target=handshake)
        client.start()
        while not server.connected:
            server.settle()
        server.advance(10)
        client.join(TIMEOUT)
        assert len(errors) == 1
        assert [type(error) for _, error in server.failed] == [TimeoutError]


@pytest.mark.parametrize("resets", [False, True], ids=["closes", "resets"])
@in_clear_and_tls
@both_directions
def test_client_that_disconnects_ends_its_session(direction: Any, tls: bool, resets: bool) -> None:
    with fault_server(tls=tls) as server:
        server.network.slicer(100, delay=0.0001, direction=direction)
        client = connect(server, tls=tls)
        client.sendall((b"x" * 900 + b"\r\n") * 20)
        assert client.recv(1)
        if resets:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
        assert server.ended.get(timeout=TIMEOUT) is CloseReason.PEER_CLOSED


@pytest.mark.parametrize(
    "fault",
    [
        lambda network: network.latency(60),
        lambda network: network.latency(60, direction="upstream"),
        lambda network: network.bandwidth(1),
        lambda network: network.bandwidth(1, direction="upstream"),
        lambda network: network.slicer(1, delay=60),
        lambda network: network.slicer(1, delay=60, direction="upstream"),
        lambda network: network.limit_data(3),
        lambda network: network.limit_data(3, direction="upstream"),
        lambda network: (network.reset_peer(after=100), network.latency(60)),
        lambda network: None,
    ],
)
@pytest.mark.parametrize("end", ["server", "abort", "client"])
def test_nothing_is_left_when_a_connection_ends(fault: Callable[[Network], None], end: str) -> None:
    """Data is on its way in both directions; ``fault_server()`` checks tasks, timers and sockets."""
    with contextlib.ExitStack() as later, fault_server(standing=True) as server:
        fault(server.network)
        client = later.enter_context(connect(server))
        client.sendall(b"abc\r\n" * 100)
        server.settle()
        if end == "abort":
            server.call(server.listener.abort_connections)
            server.settle()
            assert not server.call(lambda: server.listener.connected)
            assert server.loop.pending(before=1_000) == []  # the timeout of the listener is later
        elif end == "client":
            client.close()
            server.settle()


def test_aborted_connections_are_closed_at_once() -> None:
    """Data on its way does not arrive, even if the session has already ended."""
    with fault_server(standing=True) as server:
        server.network.latency(5)
        with connect(server) as ended, connect(server) as running:
            ended.sendall(b"QUIT\r\n")
            ended.shutdown(socket.SHUT_WR)
            server.settle()
            assert server.ended.get(timeout=TIMEOUT) is CloseReason.QUIT
            server.call(server.listener.abort_connections)
            server.settle()
            assert not server.call(lambda: server.listener.connected)
            assert [read_to_end(client)[0] for client in (ended, running)] == [b"", b""]


def test_data_for_a_session_that_has_ended_is_discarded() -> None:
    """While the server waits to reset the connection, the client goes on sending; no timer is left for its data."""

    async def session(connection: AsyncServerConnection[EchoEvent]) -> None:
        async for event in connection:
            if isinstance(event, Line):
                raise RuntimeError("the session has failed")

    with fault_server(standing=True, session=session) as server:
        server.network.reset_peer()
        server.network.latency(0.0625, direction="upstream")
        with connect(server) as client:
            client.sendall(b"a\r\n")
            server.advance(0.0625)
            client.sendall(b"b\r\n")
            server.advance(0.046875)
            assert read_to_end(client) == (b"", ConnectionResetError)
            assert server.machines[0].pieces == [b"a\r\n"]
            assert not server.call(lambda: server.listener.connected)


@pytest.mark.parametrize(
    "fault",
    [
        lambda network: None,
        lambda network: network.limit_data(1_000),
        lambda network: network.slicer(100, direction="upstream"),
    ],
)
def test_data_before_a_reset_is_received_by_a_busy_session(fault: Callable[[Network], None]) -> None:
    released = asyncio.Event()

    async def session(connection: AsyncServerConnection[EchoEvent]) -> None:
        async for event in connection:
            if isinstance(event, Line):
                await released.wait()
                connection.answer(event, event.text)

    with fault_server(standing=True, session=session) as server:
        fault(server.network)
        with connect(server) as client:
            for line in (b"a\r\n", b"b\r\n", b"c\r\n"):
                client.sendall(line)
                server.settle()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        server.call(released.set)
        assert server.received() == b"a\r\nb\r\nc\r\n"
        assert server.machines[0].pieces[-1] == b""


def test_aborted_write_ends() -> None:
    """A session that waits for the network ends when the connection is aborted."""
    ended: list[object] = []
    session = functools.partial(large_answer, ended=ended, size=10_000_000)
    with fault_server(standing=True, session=session) as server:
        server.network.bandwidth(1)
        with connect(server) as client:
            client.sendall(b"go\r\n")
            server.settle()
            assert ended == []
            server.call(server.listener.abort_connections)
            server.settle()
            assert ended == [CloseReason.PEER_CLOSED]


def test_session_sees_the_end_of_the_stream_after_the_latency() -> None:
    """So do ``peer_closed`` and ``input_waiting``."""
    connections: list[AsyncServerConnection[EchoEvent]] = []

    async def session(connection: AsyncServerConnection[EchoEvent]) -> None:
        connections.append(connection)
        async for event in connection:
            if isinstance(event, Line):
                connection.answer(event, event.text)

    with fault_server(standing=True, session=session) as server:

        def seen() -> tuple[bool, bool]:
            return connections[0].peer_closed, connections[0].input_waiting

        server.network.latency(5, direction="upstream")
        with connect(server) as client:
            assert read_exactly(client, 7) == GREETING
            client.sendall(b"half a line")
            server.advance(1)
            client.shutdown(socket.SHUT_WR)
            server.advance(3)
            assert server.call(seen) == (False, False)
            server.advance(1)
            assert server.call(seen) == (False, False)  # the machine has the data
            server.advance(1)
            assert server.call(seen) == (True, True)


# The listener


def test_listener_reports_connections_and_failed_handshakes() -> None:
    with fault_server(tls=True) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            ssl.create_default_context().wrap_socket(dial(server.port), server_hostname="localhost")
        with connect(server, tls=True) as client:
            assert client.recv(100) == b"hello in TLS\r\n"
            port = client.getsockname()[1]
        server.settle()
        assert len(server.connected) == 2
        assert (server.connected[1].address, server.connected[1].port) == ("127.0.0.1", port)
        assert [peer for peer, _ in server.failed] == server.connected[:1]
        assert isinstance(server.failed[0][1], ssl.SSLError)


def test_listener_reports_a_handshake_that_fails_after_starttls() -> None:
    with fault_server() as server:
        server.network.slicer(1)
        with connect(server) as client:
            client.sendall(b"STARTTLS\r\n")
            assert read_exactly(client, 11) == GREETING + b"go\r\n"
            with pytest.raises(ssl.SSLCertVerificationError):
                ssl.create_default_context().wrap_socket(client, server_hostname="localhost")
        server.advance_to_end()
        assert [peer for peer, _ in server.failed] == server.connected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"network": None}, "network must be a Network, not None"),
        ({"protocol": "smtp"}, "protocol must be one of SMTP, POP3"),
        ({"on_connect": 1}, "on_connect must be"),
        ({"on_tls_failure": None}, "on_tls_failure must be"),
    ],
)
def test_listener_checks_its_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        Listener(
            None, **{"network": Network(), **options}, implicit_tls=False, grace=0.0, proxy_from=(), limits=Limits(),
            limiter=None, alpn=None, on_error=None,
        )  # fmt: skip


# smtplib


CONTENT = b"Subject: dots\r\n\r\n" + b".a line that begins with a dot\r\n" * 2_000


async def accept_mail(connection: AsyncServerConnection[smtp.ServerEvent], messages: list[bytes]) -> None:
    content = b""
    async for event in connection:
        match event:
            case MessageChunk():
                content += event.data
            case smtp.MessageComplete() as complete:
                messages.append(content)
                connection.answer(complete, ACCEPT)
            case smtp.Connected() | smtp.Mail() | smtp.Rcpt() | smtp.Data() | smtp.StartTls() as question:
                connection.answer(question, ACCEPT)
            case _:
                pass


def build_smtp(entropy: bytes, tls: Tls | None) -> smtp.ServerConnection:
    return smtp.ServerConnection(smtp.ServerSettings(host_name="localhost", starttls=True), entropy=entropy, tls=tls)


@pytest.mark.parametrize("starttls", [False, True])
def test_smtplib_sends_a_message_through_a_bad_network(starttls: bool) -> None:
    messages: list[bytes] = []
    session = functools.partial(accept_mail, messages=messages)
    with fault_server(session=session, build=build_smtp, protocol="SMTP") as server:
        server.network.slicer(1, protocol="SMTP")
        server.network.latency(0.0005)
        server.network.slicer(1_000, direction="upstream")
        server.network.bandwidth(10_000_000, direction="upstream")
        with smtplib.SMTP("127.0.0.1", server.port, "client.test", timeout=TIMEOUT) as client:
            if starttls:
                client.starttls(context=client_context())
            assert client.sendmail("alice@example.test", "bob@example.test", CONTENT) == {}
        assert messages == [CONTENT]
        assert server.network.unused == []


def test_smtplib_reports_a_cut_and_a_reset() -> None:
    with fault_server(session=functools.partial(accept_mail, messages=[]), build=build_smtp) as server:
        server.network.limit_data(10, connections=1)
        with (
            smtplib.SMTP("127.0.0.1", server.port, "client.test", timeout=TIMEOUT) as client,
            pytest.raises(smtplib.SMTPServerDisconnected),
        ):
            client.noop()
        server.network.reset_peer(after=10)
        with pytest.raises(smtplib.SMTPServerDisconnected, match="reset") as caught:
            smtplib.SMTP("127.0.0.1", server.port, "client.test", timeout=TIMEOUT)
        assert isinstance(caught.value.__context__, ConnectionResetError)
