"""The PROXY header: the examples of its specification, invalid headers, and that no byte after it is read."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final

import pytest
from hypothesis import given, strategies as st

from mailauth import LocalProtocolError
from mailauth.proxy import (
    MAX_BINARY,
    MAX_TEXT,
    Address,
    Endpoint,
    Header,
    HeaderReader,
    Invalid,
    Proxied,
    Unproxied,
    crc32c,
)

SIGNATURE: Final = bytes.fromhex("0D0A0D0A000D0A515549540A")
ONE: Final = bytes([192, 168, 0, 1])
TWO: Final = bytes([192, 168, 0, 11])
PORTS: Final = (56324).to_bytes(2, "big") + (443).to_bytes(2, "big")
EXAMPLE: Final = Proxied(
    source=Endpoint(IPv4Address("192.168.0.1"), 56324), destination=Endpoint(IPv4Address("192.168.0.11"), 443)
)
SIX: Final = Proxied(
    source=Endpoint(IPv6Address("2001:db8::1"), 1), destination=Endpoint(IPv6Address("2001:db8::2"), 65535)
)
BEHIND: Final = b"\x16\x03\x01 a ClientHello\r\n"


def binary(command: int, family: int, block: bytes) -> bytes:
    return SIGNATURE + bytes([command, family]) + len(block).to_bytes(2, "big") + block


def is_mapped(address: Address) -> bool:
    return isinstance(address, IPv6Address) and address.ipv4_mapped is not None


def written(header: Proxied, version: int) -> bytes:
    source, destination = header.source, header.destination
    if version == 1:
        words = f"TCP{source.address.version} {source.address} {destination.address} {source.port} {destination.port}"
        return f"PROXY {words}\r\n".encode("ascii")
    block = source.address.packed + destination.address.packed
    block += source.port.to_bytes(2, "big") + destination.port.to_bytes(2, "big")
    return binary(0x21, 0x11 if source.address.version == 4 else 0x21, block)


def read(data: bytes, at_most: int = 1 << 30) -> tuple[Header | None, bytes]:
    """Return the header and the bytes that were not read, with reads of up to *at_most* bytes."""
    reader = HeaderReader()
    while reader.header is None and data:
        size = min(reader.wanted, at_most)
        assert size > 0
        reader.receive_data(data[:size])
        data = data[size:]
    if reader.header is not None:
        assert reader.wanted == 0
    return reader.header, data


VALID: Final[tuple[tuple[bytes, Header], ...]] = (
    (b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", EXAMPLE),
    (
        b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
        Proxied(
            source=Endpoint(IPv4Address("255.255.255.255"), 65535),
            destination=Endpoint(IPv4Address("255.255.255.255"), 65535),
        ),
    ),
    (b"PROXY TCP6 2001:db8::1 2001:0DB8::2 1 65535\r\n", SIX),
    (
        b"PROXY TCP6 :: ::ffff:192.0.2.1 0 0\r\n",
        Proxied(source=Endpoint(IPv6Address("::"), 0), destination=Endpoint(IPv6Address("::ffff:192.0.2.1"), 0)),
    ),
    (b"PROXY UNKNOWN\r\n", Unproxied.UNKNOWN),
    (b"PROXY UNKNOWN \r\n", Unproxied.UNKNOWN),
    (b"PROXY UNKNOWN " + b"ffff:" * 7 + b"ffff " + b"ffff:" * 7 + b"ffff 65535 65535\r\n", Unproxied.UNKNOWN),
    (b"PROXY UNKNOWN \r \n \xff many more blanks than five \r\r\n", Unproxied.UNKNOWN),
    (binary(0x20, 0x00, b""), Unproxied.LOCAL),
    (binary(0x20, 0xFF, b"whatever"), Unproxied.LOCAL),
    (binary(0x21, 0x00, b"whatever"), Unproxied.UNKNOWN),
    (binary(0x21, 0x11, ONE + TWO + PORTS), EXAMPLE),
    (binary(0x21, 0x11, ONE + TWO + PORTS + b"\x04\0\0" + b"\xe2\0\x02ab"), EXAMPLE),
    (binary(0x21, 0x12, ONE + TWO + PORTS), Unproxied.UNKNOWN),
    (written(SIX, 2), SIX),
    (binary(0x21, 0x22, bytes(36)), Unproxied.UNKNOWN),
    (binary(0x21, 0x31, bytes(216)), Unproxied.UNKNOWN),
    (binary(0x21, 0x32, bytes(216)), Unproxied.UNKNOWN),
)


@pytest.mark.parametrize(("data", "header"), VALID)
def test_valid_header_is_read_exactly_to_its_end(data: bytes, header: Header) -> None:
    """Sections 2.1 and 2.2, with reads of any size; the data after it belongs to the client."""
    for at_most in (1, 2, 3, 7, 1 << 30):
        assert read(data + BEHIND, at_most) == (header, BEHIND)


MAPPED: Final = "0000:0000:0000:0000:0000:ffff:192.168.0.1"


@pytest.mark.parametrize(
    ("source", "destination", "read_as"),
    [
        ("::ffff:192.168.0.1", "::ffff:192.168.0.11", "192.168.0.11"),
        ("::ffff:192.168.0.1", "192.168.0.11", "192.168.0.11"),
        ("::FFFF:C0A8:1", "::ffff:c0a8:b", "192.168.0.11"),
        (MAPPED, "192.168.0.11", "192.168.0.11"),
        ("0:0:0:0:0:ffff:192.168.0.1", "2001:db8::1", "2001:db8::1"),
    ],
)
def test_mapped_source_is_an_ipv4_client(source: str, destination: str, read_as: str) -> None:
    """RFC 4291 section 2.5.5.2: the proxy accepts both families on one IPv6 socket."""
    expected = Proxied(
        source=Endpoint(IPv4Address("192.168.0.1"), 56324), destination=Endpoint(ip_address(read_as), 443)
    )
    data = f"PROXY TCP6 {source} {destination} 56324 443\r\n".encode("ascii")
    for at_most in (1, 3, 1 << 30):
        assert read(data + BEHIND, at_most) == (expected, BEHIND)
    if ":" in destination:
        addresses = IPv6Address(source).packed + IPv6Address(destination).packed
        assert (
            read(binary(0x21, 0x21, addresses + (56324).to_bytes(2, "big") + (443).to_bytes(2, "big")))[0] == expected
        )


@pytest.mark.parametrize(
    "addresses",
    [
        "TCP4 ::ffff:192.0.2.1 192.0.2.2",
        "TCP4 192.0.2.1 ::ffff:192.0.2.2",
        "TCP4 2001:db8::1 192.0.2.2",
        "TCP6 192.0.2.1 ::ffff:192.0.2.2",
        "TCP6 192.0.2.1 2001:db8::2",
        "TCP6 2001:db8::1 192.0.2.2",
        "TCP6 ::192.0.2.1 192.0.2.2",
        "TCP6 64:ff9b::192.0.2.1 192.0.2.2",
        "TCP6 ::ffff:0:192.0.2.1 192.0.2.2",
        "TCP6 ::ffff:192.0.2.256 192.0.2.2",
        "TCP6 ::ffff:192.0.2.1 192.0.2.02",
        f"TCP6 0{MAPPED} 192.0.2.2",
    ],
)
def test_no_other_mixture_of_families_is_valid(addresses: str) -> None:
    """An address that is only translated or embedded is not the address of an IPv4 client."""
    header, _ = read(f"PROXY {addresses} 1 2\r\n".encode("ascii"))
    assert isinstance(header, Invalid)


@pytest.mark.parametrize("source", ["::192.0.2.1", "64:ff9b::192.0.2.1", "::ffff:0:192.0.2.1", "2002:c000:201::"])
def test_no_other_ipv6_source_becomes_ipv4(source: str) -> None:
    header, _ = read(f"PROXY TCP6 {source} ::ffff:192.0.2.2 1 2\r\n".encode("ascii"))
    assert header == Proxied(
        source=Endpoint(IPv6Address(source), 1), destination=Endpoint(IPv6Address("::ffff:192.0.2.2"), 2)
    )


def test_longest_lines_of_the_specification_are_accepted() -> None:
    """Section 2.1: 56, 104, 15 and 107 bytes."""
    assert {len(data) for data, _ in VALID if data.startswith(b"PROXY")} >= {56, 15, 107}
    data = b"PROXY TCP6 " + b"ffff:" * 7 + b"ffff " + b"ffff:" * 7 + b"ffff 65535 65535\r\n"
    assert len(data) == 104
    assert isinstance(read(data)[0], Proxied)


@pytest.mark.parametrize(
    "data",
    [
        b"EHLO client.example\r\n",
        BEHIND,
        b"\0",
        b"proxy UNKNOWN\r\n",
        b"PROXY\r\n" + b"x" * 20,
        b"PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY UNKNOWNS\r\n",
        b"PROXY UNKNOWN\n\r\n",
        b"PROXY UNKNOWN\r \r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
        b"PROXY TCP4 192.0.2.1  192.0.2.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1\t192.0.2.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n" + b"x" * 90,
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r" + b"x" * 90,
        b"PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
        b"PROXY TCP4 192.0.2.1 192.0.2.2 \xd9\xa1 2\r\n",
        b"PROXY TCP4 2001:db8::1 2001:db8::2 1 2\r\n",
        b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
        b"PROXY TCP6 fe80::1%eth0 2001:db8::2 1 2\r\n",
        b"PROXY TCP6 2001:db8:::1 2001:db8::2 1 2\r\n",
        b"PROXY UNKNOWN " + b"x" * 200,
        SIGNATURE[:-1] + b"x",
        binary(0x11, 0x11, ONE + TWO + PORTS),
        binary(0x22, 0x11, ONE + TWO + PORTS),
        binary(0x21, 0x41, bytes(216)),
        binary(0x21, 0x13, bytes(216)),
        binary(0x21, 0x11, ONE + TWO + PORTS[:3]),
        binary(0x21, 0x21, bytes(35)),
        binary(0x21, 0x31, bytes(215)),
        binary(0x21, 0x11, ONE + TWO + PORTS + b"\x04"),
        binary(0x21, 0x11, ONE + TWO + PORTS + b"\x04\0\x01"),
        binary(0x21, 0x11, ONE + TWO + PORTS + b"\x03\0\x03abc"),
        binary(0x21, 0x11, bytes(MAX_BINARY)),
    ],
)
def test_malformed_header_is_invalid(data: bytes) -> None:
    """Sections 2.1 and 2.2: the connection must be closed."""
    for at_most in (1, 1 << 30):
        header, _ = read(data, at_most)
        assert isinstance(header, Invalid)
        assert header.reason


@pytest.mark.parametrize("whole", [data for data, _ in VALID])
def test_a_stream_that_ends_inside_the_header_is_invalid(whole: bytes) -> None:
    """Section 2.2: no address is used before the header is complete."""
    for size in range(len(whole)):
        reader = HeaderReader()
        for octet in whole[:size]:
            reader.receive_data(bytes([octet]))
        assert reader.header is None
        reader.receive_data(b"")
        assert isinstance(reader.header, Invalid)


def test_malformed_header_is_detected_before_it_is_complete() -> None:
    """Section 2.1: close the connection early, so that the sender notices the error."""
    for data in (b"E", b"PROXX", b"PROXY X", b"\r\n\r\n\r", SIGNATURE + b"\x31"):
        assert isinstance(read(data)[0], Invalid)


def test_crc32c_matches_the_examples_of_rfc_3720() -> None:
    """The examples of RFC 3720 appendix B.4."""
    assert crc32c(bytes(32)) == 0x8A9136AA
    assert crc32c(b"\xff" * 32) == 0x62A8AB43
    assert crc32c(bytes(range(32))) == 0x46DD794E


@pytest.mark.parametrize("flipped", [None, *range(16, 34), *range(35, 41)])  # 34 is the type of the field
def test_header_with_a_wrong_checksum_is_invalid(flipped: int | None) -> None:
    """Section 2.2.3: over the whole header, with its own bytes set to zero."""
    fields = b"\x04\0\x03abc" + b"\x03\0\x04"
    blank = binary(0x21, 0x11, ONE + TWO + PORTS + fields + bytes(4))
    data = bytearray(blank[:-4] + crc32c(blank).to_bytes(4, "big"))
    if flipped is None:
        assert read(bytes(data))[0] == EXAMPLE
    else:
        data[flipped] ^= 0x10
        assert isinstance(read(bytes(data))[0], Invalid)


def test_second_checksum_is_invalid_and_is_not_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of them would need thousands of computations.  The first checksum here is correct."""
    fields = ONE + TWO + PORTS + b"\x03\0\x04%b" + b"\x03\0\x04" + bytes(4)
    first = crc32c(binary(0x21, 0x11, fields % bytes(4))).to_bytes(4, "big")
    computed: list[bytes] = []

    def counted(data: bytes) -> int:
        computed.append(data)
        return crc32c(data)

    monkeypatch.setattr("mailauth.proxy.crc32c", counted)
    header, _ = read(binary(0x21, 0x11, fields % first))
    assert header == Invalid("more than one checksum, or a checksum that is not 4 bytes")
    assert len(computed) == 1


def test_data_beyond_the_wanted_size_raises() -> None:
    """It could include data after the header; nothing is read."""
    reader = HeaderReader()
    with pytest.raises(LocalProtocolError):
        reader.receive_data(b"PROXY UNKNOWN\r\nE")
    reader.receive_data(b"PROXY UNKNOWN\r\n")
    assert reader.header is Unproxied.UNKNOWN
    for data in (b"x", b""):
        with pytest.raises(LocalProtocolError):
            reader.receive_data(data)


addresses4: Final[st.SearchStrategy[Address]] = st.ip_addresses(v=4)
addresses6: Final[st.SearchStrategy[Address]] = st.ip_addresses(v=6).filter(lambda address: not is_mapped(address))
ports = st.integers(0, 65_535)


@given(st.sampled_from([addresses4, addresses6]), st.data(), st.sampled_from([1, 2]), st.integers(1, 200))
def test_generated_header_is_parsed_back(
    addresses: st.SearchStrategy[Address], data: st.DataObject, version: int, at_most: int
) -> None:
    """Both versions, both address families, reads of any size."""
    source, destination = (Endpoint(data.draw(addresses), data.draw(ports)) for _ in range(2))
    header = Proxied(source=source, destination=destination)
    assert read(written(header, version) + BEHIND, at_most) == (header, BEHIND)


beginnings = st.sampled_from(
    [b"", b"PROXY ", b"PROXY TCP4 ", b"PROXY TCP6 ::1 ", b"PROXY UNKNOWN", SIGNATURE, SIGNATURE + b"\x21\x11\0\x20"]
)
pieces = st.sampled_from([b"192.0.2.1 ", b"::1 ", b"25 ", b"\r\n", b"\r", b" ", b"\n", b"\0"]) | st.binary(max_size=40)


@given(beginnings, st.lists(pieces, max_size=12).map(b"".join), st.integers(1, 120))
def test_arbitrary_data_never_raises_at_any_read_size(beginning: bytes, rest: bytes, at_most: int) -> None:
    """For any input, nothing is raised, little is kept, and the size of the reads makes no difference."""
    data = beginning + rest
    header, left = read(data, at_most)
    if header is None:
        assert left == b""
        assert len(data) < (MAX_TEXT if data.startswith(b"P") else MAX_BINARY)
    elif not isinstance(header, Invalid):
        assert read(data) == (header, left)
    else:
        assert isinstance(read(data)[0], Invalid)
