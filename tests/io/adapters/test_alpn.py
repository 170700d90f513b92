"""ALPN (RFC 7301): a client that offers another protocol than that of the port may be under attack (CVE-2021-3618)."""

from __future__ import annotations

import ssl
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, strategies as st

from mailauth_io import server, stores
from mailauth_io.adapters.tls import certificates, layer
from mailauth_io.adapters.tls._client_hello import ClientHello
from tests.io import loops
from tests.io.by_hand import read_line
from tests.io.line_echo import connecting, dial, echo, on_both_loops, read_all, serving
from tests.io.server_support import accounts
from tests.io.tls import authority, client_context, server_context

names = st.text(st.characters(codec="ascii", exclude_categories=["C"]), min_size=1, max_size=255)
few_numbers = st.lists(st.integers(1, 400), max_size=4)


def a_client(*protocols: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    if protocols:
        context.set_alpn_protocols(protocols)
    return context


def hello(*protocols: str, host: str = "localhost") -> bytes:
    """Return the ClientHello of the ssl module."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        a_client(*protocols).wrap_bio(incoming, outgoing, server_hostname=host).do_handshake()
    return outgoing.read()


def records(message: bytes, *sizes: int) -> bytes:
    """Return a handshake message in records of these sizes, and one for the rest."""
    cut = b""
    for size in (*sizes, len(message)):
        if piece := message[:size]:
            cut += b"\x16\x03\x01" + len(piece).to_bytes(2, "big") + piece
        message = message[size:]
    return cut


def read(*pieces: bytes) -> frozenset[str] | None:
    reader = ClientHello()
    for piece in pieces:
        reader.receive_data(piece)
    return reader.protocols


@given(
    st.lists(names, max_size=5), st.lists(st.integers(1, 400), max_size=4), st.lists(st.integers(0, 800), max_size=4)
)
def test_alpn_protocols_are_parsed_for_any_segmentation(offered: list[str], sizes: list[int], cuts: list[int]) -> None:
    """RFC 8446 section 5.1: a message may span records, and a record any number of reads."""
    data = records(hello(*offered)[5:], *sizes)
    places = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    pieces = [data[start:end] for start, end in pairwise(places)]
    assert read(*pieces) == frozenset(offered)
    assert read(data[:-1]) is None


@given(st.binary(max_size=300), st.booleans(), st.integers(0, 300))
def test_client_hello_parser_raises_no_exception_for_any_data(data: bytes, framed: bool, at: int) -> None:
    """Data of an attacker, or a ClientHello with a damaged byte."""
    read(records(b"\x01\x00" + len(data).to_bytes(2, "big") + data) if framed else data)
    damaged = bytearray(hello("smtp", "pop3"))
    damaged[min(at, len(damaged) - 1)] ^= 0x55
    read(bytes(damaged))


@pytest.mark.parametrize(
    "data",
    [
        b"EHLO client.example\r\n",
        b"\x80\x2e\x01\x03\x01",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\x00\x01\x02",
    ],
)
def test_data_that_is_not_a_client_hello_returns_no_protocols(data: bytes) -> None:
    assert read(data) == frozenset()


def test_other_extensions_are_not_searched_for_alpn() -> None:
    """The bytes of a key share are random: a search in them would refuse one client in a few thousand."""
    offer = b"\x00\x10\x00\x05\x00\x03\x02h2"
    for kind, offered in ((0x0033, frozenset[str]()), (0x0010, frozenset({"h2"}))):
        body = offer if kind != 0x0010 else offer[4:]
        extension = kind.to_bytes(2, "big") + len(body).to_bytes(2, "big") + body
        fields = b"\x03\x03" + bytes(32) + b"\x00" + b"\x00\x02\x13\x01" + b"\x01\x00"
        message = fields + len(extension).to_bytes(2, "big") + extension
        assert read(records(b"\x01" + len(message).to_bytes(3, "big") + message)) == offered


def test_buffer_for_an_endless_client_hello_is_limited() -> None:
    """Nor is it scanned again with each record: a message of 16 MiB in records of one byte."""
    reader = ClientHello()
    reader.receive_data(records(b"\x01\xff\xff\xff"))
    for _ in range(3):
        reader.receive_data(b"\x16\x03\x01\x00\x01x" * 30_000)
    assert reader.protocols == frozenset()
    assert len(reader._message) <= 65_540


def handshake(port: int, context: ssl.SSLContext) -> str | None:
    with context.wrap_socket(dial(port), server_hostname="localhost") as connection:
        return connection.selected_alpn_protocol()


@on_both_loops
async def test_client_offering_other_protocols_gets_no_application_protocol(loop: loops.Loop) -> None:
    """Implicit TLS: no session, the fatal alert no_application_protocol; in TLS 1.2 and 1.3 alike."""
    async with serving(loop, never, ssl_context=server_context(), implicit_tls=True, alpn="smtp") as listener:
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            for offered in (["http/1.1", "h2"], ["pop3"], ["SMTP"], ["smtps"]):
                context = a_client(*offered)
                context.maximum_version = version
                with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
                    await loop.in_thread(handshake, listener.port, context)


async def never(connection: Any) -> None:
    raise AssertionError("a session for a client of another protocol")


def of_this_authority() -> ssl.SSLContext:
    context = certificates.server_context()
    authority().issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


@on_both_loops
async def test_client_offering_the_protocol_of_the_port_or_none_is_accepted(loop: loops.Loop) -> None:
    """The server confirms the choice if its context has the names set, as ``certificates.server_context()`` does."""
    for tls, chosen in ((of_this_authority(), "smtp"), (server_context(), None)):
        async with serving(loop, echo, ssl_context=tls, implicit_tls=True, alpn="smtp") as listener:
            assert await loop.in_thread(handshake, listener.port, a_client("h2", "smtp")) == chosen
            assert await loop.in_thread(handshake, listener.port, a_client()) is None
    async with serving(loop, echo, ssl_context=server_context(), implicit_tls=True) as listener:
        assert await loop.in_thread(handshake, listener.port, a_client("h2")) is None


@on_both_loops
async def test_selected_protocol_of_another_port_closes_the_connection(loop: loops.Loop) -> None:
    """The client offers both names, and the context chooses the first one, which is not that of the port."""
    async with serving(loop, never, ssl_context=of_this_authority(), implicit_tls=True, alpn="pop3") as listener:

        def client() -> bytes:
            with a_client("smtp", "pop3").wrap_socket(dial(listener.port), server_hostname="localhost") as connection:
                return read_all(connection)

        assert await loop.in_thread(client) == b""


@on_both_loops
async def test_alpn_is_checked_with_starttls(loop: loops.Loop) -> None:
    """The check also applies to STARTTLS and STLS; a client that offers nothing is accepted."""
    async with serving(loop, echo, ssl_context=server_context(), alpn="smtp") as listener:

        def client(context: ssl.SSLContext) -> bytes:
            with dial(listener.port) as connection:
                read_line(connection)
                connection.sendall(b"STARTTLS\r\n")
                assert read_line(connection) == b"go\r\n"
                with context.wrap_socket(connection, server_hostname="localhost") as inside:
                    inside.sendall(b"x\r\nQUIT\r\n")
                    return read_all(inside)

        with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
            await loop.in_thread(client, a_client("http/1.1"))
        assert await loop.in_thread(client, a_client("smtp")) == b"x\r\nbye\r\n"
        async with await connecting(loop, listener.port, ssl_context=client_context()) as ours:
            await anext(ours)


@on_both_loops
async def test_smtps_and_pop3s_ports_have_their_own_alpn_protocol(loop: loops.Loop) -> None:
    """One context serves all ports."""
    config = server.Config(smtps=0, pop3s=0, ssl_context=of_this_authority())
    kept = server.Stores(accounts=accounts(), maildrops=stores.MemoryMaildrops(), outbox=stores.MemoryOutbox())
    async with server.serve(config, kept) as ports:
        for port, name, other in ((ports.smtps, "smtp", "pop3"), (ports.pop3s, "pop3", "smtp")):
            assert port is not None
            assert await loop.in_thread(handshake, port, a_client(name)) == name
            with pytest.raises(ssl.SSLError, match=r"(?i)no.application.protocol"):
                await loop.in_thread(handshake, port, a_client(other))


def test_server_context_rejects_tls_below_1_2() -> None:
    """RFC 8996: no TLS 1.0 and 1.1, whatever the default of the library is."""
    assert certificates.server_context().minimum_version == ssl.TLSVersion.TLSv1_2
    old = a_client()
    old.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    client = layer.TlsLayer(old, server_side=False, server_hostname="localhost")
    made = layer.TlsLayer(of_this_authority(), server_side=True, server_hostname=None)
    assert not client.step_handshake()
    made.feed(client.take())
    with pytest.raises(ssl.SSLError, match=r"(?i)unsupported.protocol"):
        made.step_handshake()
