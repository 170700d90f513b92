"""The limits on connections, in total and from one address, and the replies to connections over the limit."""

from __future__ import annotations

import errno
import ipaddress
import logging
import resource
import socket
import ssl
from contextlib import ExitStack
from functools import partial
from typing import Any
from unittest.mock import create_autospec

import pytest

from mailauth import ACCEPT, pop3, smtp
from mailauth.addresses import Network
from mailauth_io import on_asyncio, server, stores
from mailauth_io._descriptor_limit import raise_descriptor_limit
from mailauth_io.adapters.connection import AsyncServerConnection
from mailauth_io.adapters.functions import _smtp_machine
from mailauth_io.adapters.stream import Peer, Stream, to_peer
from mailauth_io.cli import accept_errors
from mailauth_io.limits import QUIET_SECONDS, ConnectionLimiter, Limits, LogLimit
from tests.io import loops
from tests.io.by_hand import read_line
from tests.io.line_echo import dial, echo, not_on_uvloop, on_both_loops, read_all, serving
from tests.io.server_support import Clock, accounts
from tests.io.tls import client_context as tls_client, server_context

FULL = Limits(connections=2)


async def greet(connection: AsyncServerConnection[Any]) -> None:
    async for event in connection:
        match event:
            case smtp.Connected():
                connection.answer(event, ACCEPT)
            case pop3.Connected():
                connection.answer(event, ACCEPT)


def test_limiter_limits_connections_in_total_and_per_address() -> None:
    """IPv4 addresses of one network are counted separately; a closed connection makes room."""
    limiter = ConnectionLimiter(Limits(connections=8, connections_per_address=2))
    for address in ("192.0.2.1", "192.0.2.2", "198.51.100.1", "203.0.113.1"):
        assert [limiter.acquire(address) for _ in range(3)] == [True, True, False]
    assert not limiter.acquire("198.51.100.3")
    limiter.release("192.0.2.1")
    assert limiter.acquire("198.51.100.3")
    assert len(limiter) == 8


@not_on_uvloop  # it accepts one connection in each turn
async def test_connections_that_wait_are_accepted_in_several_turns(loop: loops.Loop) -> None:
    """Meanwhile the system keeps them: 120 at least."""
    async with serving(loop, echo) as listener:
        with ExitStack() as stack:
            clients = [stack.enter_context(dial(listener.port)) for _ in range(120)]  # the event loop does not run yet
            if isinstance(listener, on_asyncio.Listener):
                accepted: list[int] = []
                while sum(accepted) < len(clients):
                    before = len(listener._connections)
                    await loop.sleep(0)
                    accepted.append(len(listener._connections) - before)
                assert max(accepted) == on_asyncio.ACCEPTS_PER_TURN
            assert await loop.in_thread(read_line, clients[-1]) == b"hello\r\n"


def test_ipv4_mapped_address_counts_as_ipv4() -> None:
    limiter = ConnectionLimiter(Limits(connections_per_address=1))
    assert limiter.acquire("::ffff:192.0.2.1")
    assert not limiter.acquire("192.0.2.1")
    assert not limiter.acquire("::ffff:c000:201")
    assert limiter.acquire("::ffff:192.0.2.2")
    assert limiter.acquire("2001:db8::1")
    limiter.release("::ffff:192.0.2.1")
    assert limiter.acquire("192.0.2.1")


def test_ipv6_network_counts_as_one_address() -> None:
    """A client has all addresses of its /64, and could open as many connections as the server allows in total."""
    limiter = ConnectionLimiter(Limits(connections=5_000, connections_per_address=2))
    assert sum(limiter.acquire(f"2001:db8::{number:x}") for number in range(499)) == 2
    assert limiter.acquire("2001:db8:0:1::1")
    limiter.release("2001:db8::ffff")
    assert limiter.acquire("2001:db8::1:1")
    single = ConnectionLimiter(Limits(connections_per_address=1), ipv6_prefix=128)
    assert [single.acquire(f"2001:db8::{number}") for number in (1, 2, 1)] == [True, True, False]


def test_one_network_has_at_most_half_of_the_connections() -> None:
    """The owner of a /48 has 65,536 addresses, and could lock everybody else out."""
    limiter = ConnectionLimiter(Limits(connections=8, connections_per_address=1))
    own = [f"2001:db8:0:{number}::1" for number in range(8)]
    assert [limiter.acquire(address) for address in own] == [True] * 4 + [False] * 4
    assert [limiter.acquire(f"192.0.2.{number}") for number in range(3)] == [True] * 3
    assert limiter.acquire("2001:db8:1::1")
    limiter.release("192.0.2.0")
    assert not limiter.acquire(own[5])
    limiter.release(own[0])
    assert limiter.acquire(own[5])


def test_one_address_has_its_connections_even_if_they_are_more_than_half() -> None:
    limiter = ConnectionLimiter(Limits(connections=4, connections_per_address=3))
    assert [limiter.acquire("192.0.2.1") for _ in range(4)] == [True, True, True, False]
    assert not limiter.acquire("192.0.2.2")
    assert limiter.acquire("198.51.100.1")


def test_all_forms_of_an_ipv4_address_count_as_one_address() -> None:
    limiter = ConnectionLimiter(
        Limits(connections_per_address=1), nat64_prefixes=[ipaddress.IPv6Network("2001:db8:64::/96")]
    )
    assert limiter.acquire("192.0.2.1")
    for network in ("::ffff:", "64:ff9b::", "64:ff9b:1::", "::ffff:0:", "2001:db8:64::"):
        assert not limiter.acquire(f"{network}192.0.2.1")
        assert limiter.acquire(f"{network}198.51.100.1")
        limiter.release("198.51.100.1")


def test_link_local_peer_has_a_zone() -> None:
    """The fourth item of an IPv6 socket name is the number of the interface.  Limits ignore it, grants do not."""
    assert to_peer(("fe80::1", 25, 0, 2)) == Peer("fe80::1%2", 25)
    assert to_peer(("2001:db8::1", 25, 0, 0)) == Peer("2001:db8::1", 25)
    assert to_peer(("192.0.2.1", 25)) == Peer("192.0.2.1", 25)
    limiter = ConnectionLimiter(Limits(connections_per_address=1))
    assert [limiter.acquire(f"fe80::1%{zone}") for zone in (2, 3)] == [True, False]


def test_peer_without_an_ip_address_is_counted_by_its_name() -> None:
    limiter = ConnectionLimiter(Limits(connections_per_address=1))
    assert [limiter.acquire(name) for name in ("", "", "/run/a", "/run/b")] == [True, False, True, True]


def test_limiter_keeps_no_state_for_closed_connections() -> None:
    limiter = ConnectionLimiter(Limits(connections_per_address=1))
    for number in range(1_000):
        address = f"192.0.2.{number}"
        assert limiter.acquire(address)
        assert not limiter.acquire(address)
        limiter.release(address)
    assert not limiter._by_address
    assert not limiter._by_network
    assert len(limiter) == 0


def test_rejected_connections_are_logged_once_per_minute(caplog: pytest.LogCaptureFixture) -> None:
    """The next line has the number of refused connections."""
    clock = Clock()
    limiter = ConnectionLimiter(Limits(connections=1), clock=clock)
    assert limiter.acquire("192.0.2.1")
    for _ in range(100):
        assert not limiter.acquire("192.0.2.2")
    assert [record.getMessage() for record in caplog.records] == [
        'connection refused peer=192.0.2.2 reason="1 connections are open"'
    ]
    clock.now += QUIET_SECONDS
    assert not limiter.acquire("192.0.2.1")
    assert caplog.records[-1].getMessage().endswith(" suppressed=99")


def test_lines_of_a_key_and_in_all_are_limited(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    limit = LogLimit(2, 5, clock)

    def lines() -> list[str]:
        caplog.clear()
        for key in ("a", "a", "a", "b", "b", "b", "c", "d"):
            limit.log(logging.INFO, "failed", {"key": key}, key)
        return [record.getMessage() for record in caplog.records]

    first = ["failed key=a", "failed key=a", "failed key=b suppressed=1", "failed key=b", "failed key=c suppressed=1"]
    assert lines() == first
    assert lines() == []
    clock.now += QUIET_SECONDS
    assert lines() == ["failed key=a suppressed=9", *first[1:]]


@pytest.mark.parametrize("limits", [{"connections": 0}, {"connections_per_address": 0}, {"min_rate": 0}])
def test_zero_limits_raise_value_error(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(limits))):
        Limits(**limits)


@on_both_loops
async def test_connection_over_the_limit_gets_421_or_sys_temp(loop: loops.Loop) -> None:
    """RFC 5321 section 3.1: 421, which in a greeting has no enhanced code; RFC 3206: ``[SYS/TEMP]``; no session."""
    adapter = loop.adapter
    async with (
        adapter.serve_smtp(greet, smtp.ServerSettings(), limits=FULL) as smtp_listener,
        adapter.serve_pop3(greet, pop3.ServerSettings(), limits=FULL) as pop3_listener,
    ):

        def client(port: int) -> bytes:
            with ExitStack() as stack:
                for _ in range(2):
                    assert read_line(stack.enter_context(dial(port)))[:3] in (b"220", b"+OK")
                with dial(port) as connection:
                    return read_all(connection)

        assert (await loop.in_thread(client, smtp_listener.port)).startswith(b"421 service not available")
        assert (await loop.in_thread(client, pop3_listener.port)).startswith(b"-ERR [SYS/TEMP] ")


@pytest.mark.parametrize("name", ["asyncio", "trio"])
def test_rejected_client_that_disconnects_is_not_logged_as_an_error(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    loop, limiter = loops.named(name), ConnectionLimiter(Limits(connections=1))
    assert limiter.acquire("192.0.2.1")
    gone = create_autospec(Stream, instance=True)
    gone.peer.return_value = Peer("192.0.2.2", 25)
    gone.write_all.side_effect = ConnectionResetError

    async def main() -> None:
        async with loop.adapter.serve_smtp(greet, smtp.ServerSettings(), limiter=limiter) as listener:
            await listener.handle(gone, greet, partial(_smtp_machine, smtp.ServerSettings()))

    loop.run(main)
    assert gone.abort.called
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@on_both_loops
async def test_new_connection_is_accepted_after_a_session_has_ended(loop: loops.Loop) -> None:
    limiter = ConnectionLimiter(Limits(connections=1))
    async with serving(loop, echo, limiter=limiter) as listener:

        def client() -> bytes:
            with dial(listener.port) as connection:
                connection.sendall(b"QUIT\r\n")
                return read_all(connection)

        for _ in range(3):
            assert await loop.in_thread(client) == b"hello\r\nbye\r\n"
            while len(limiter):
                await loop.sleep(0)


@on_both_loops
async def test_connection_over_the_limit_with_implicit_tls_gets_no_reply(loop: loops.Loop) -> None:
    """A handshake costs more than all the rest of a connection, so the connection is closed without one."""
    tls = server_context()
    async with serving(loop, echo, ssl_context=tls, implicit_tls=True, limits=Limits(connections=1)) as listener:

        def client() -> bytes:
            with tls_client().wrap_socket(dial(listener.port), server_hostname="localhost") as inside:
                assert read_line(inside) == b"hello in TLS\r\n"
                with dial(listener.port) as second:
                    return read_all(second)

        assert await loop.in_thread(client) == b""


@on_both_loops
async def test_limit_per_address_counts_the_client_of_a_proxy(loop: loops.Loop) -> None:
    """By the address in the header; the number of connections of the proxy is not limited."""
    networks: list[Network] = [ipaddress.ip_network("127.0.0.0/8")]
    limits = Limits(connections_per_address=1)
    async with serving(loop, echo, proxy_from=networks, limits=limits) as listener:

        def client() -> list[bytes]:
            with ExitStack() as stack:
                said = []
                for last in (1, 2, 1):
                    connection = stack.enter_context(dial(listener.port))
                    connection.sendall(b"PROXY TCP4 192.0.2.%d 192.0.2.9 1 2\r\n" % last)
                    said.append(read_line(connection))
                said.append(read_all(connection))
                return said

        assert await loop.in_thread(client) == [b"hello\r\n", b"hello\r\n", b"hello\r\n", b"closing: SHUT_DOWN\r\n"]


@on_both_loops
async def test_smtp_and_pop3_ports_share_one_connection_limit(loop: loops.Loop) -> None:
    config = server.Config(smtp=0, pop3=0, limits=Limits(connections=1))
    kept = server.Stores(accounts=accounts(), maildrops=stores.MemoryMaildrops(), outbox=stores.MemoryOutbox())
    async with server.serve(config, kept) as ports:

        def client() -> bytes:
            assert ports.smtp is not None
            assert ports.pop3 is not None
            with dial(ports.smtp) as first:
                assert read_line(first).startswith(b"220 ")
                with dial(ports.pop3) as second:
                    return read_line(second)

        assert (await loop.in_thread(client)).startswith(b"-ERR [SYS/TEMP]")


def test_config_rejects_a_context_that_allows_tls_below_1_2() -> None:
    """RFC 8996."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.raises(ValueError, match=r"before 1\.2"):
        server.Config(smtp=0, ssl_context=context)
    server.Config(smtp=0, ssl_context=server_context())


def test_descriptor_limit_is_raised_to_the_hard_limit() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(before[0], 512), before[1]))
        raise_descriptor_limit()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (before[1], before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_running_out_of_descriptors_is_logged_once_per_minute() -> None:
    """The event loops log every attempt, with a traceback."""
    clock = Clock()
    few = accept_errors.AcceptErrorFilter(clock)

    def record(error: OSError) -> logging.LogRecord:
        return logging.LogRecord("asyncio", logging.ERROR, "", 0, "accept %s", ("failed",), (OSError, error, None))

    first = record(OSError(errno.EMFILE, "Too many open files"))
    assert few.filter(first)
    assert first.getMessage() == "cannot accept connections until some are closed: Too many open files"
    assert first.exc_info is None
    assert not few.filter(record(OSError(errno.EMFILE, "Too many open files")))
    other = record(OSError(errno.EIO, "Input/output error"))
    assert few.filter(other)
    assert other.getMessage() == "accept failed"
    clock.now += QUIET_SECONDS
    assert few.filter(record(OSError(errno.ENFILE, "Too many open files in system")))


@on_both_loops
async def test_running_out_of_descriptors_pauses_accepting(loop: loops.Loop) -> None:
    """Open connections continue; new ones wait, and are served when there is room again."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = accept_errors.AcceptErrorFilter()
    loggers = [logging.getLogger(name) for name in ("asyncio", "trio.serve_listeners")]
    for logger in loggers:
        logger.addFilter(few)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("asyncio.constants.ACCEPT_RETRY_DELAY", 0.01)
            async with serving(loop, echo) as listener:
                with dial(listener.port) as first, socket.socket() as late:
                    late.settimeout(20)
                    assert await loop.in_thread(read_line, first) == b"hello\r\n"
                    resource.setrlimit(resource.RLIMIT_NOFILE, (first.fileno() // 2, before[1]))
                    late.connect(("127.0.0.1", listener.port))
                    first.sendall(b"x\r\n")
                    assert await loop.in_thread(read_line, first) == b"x\r\n"
                    resource.setrlimit(resource.RLIMIT_NOFILE, before)
                    assert await loop.in_thread(read_line, late) == b"hello\r\n"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for logger in loggers:
            logger.removeFilter(few)
