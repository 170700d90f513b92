"""The PROXY protocol, versions 1 and 2: the header in which a proxy sends the address of the client.

The section numbers are those of "The PROXY protocol, Versions 1 & 2" by HAProxy Technologies (2020).

Read the header only from peers that are known to be proxies: any client can forge one.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from typing import Final, TypeAlias

import attrs

from ._validators import check_type, integer
from .errors import LocalProtocolError

__all__ = [
    "MAX_BINARY",
    "MAX_TEXT",
    "Address",
    "Endpoint",
    "Header",
    "HeaderReader",
    "Invalid",
    "Proxied",
    "Unproxied",
    "crc32c",
]

MAX_TEXT: Final = 107
"""The maximum length of a version 1 header, in bytes with its CRLF (section 2.1)."""

MAX_BINARY: Final = 16_384
"""The maximum length of a version 2 header, in bytes.

Section 2.2 allows 65,551 bytes, but requires that the header fits a TCP segment.  16 KiB leaves room for a client's
certificate."""

_CRLF: Final = b"\r\n"
_UNKNOWN: Final = b"PROXY UNKNOWN"
_BEGINNINGS: Final = (b"PROXY TCP4 ", b"PROXY TCP6 ", _UNKNOWN)
_SHORTEST_TEXT: Final = 15
_SPACES: Final = 5  # in a version 1 header with addresses
_PORT: Final = rb"(0|[1-9][0-9]{0,4})"
_ADDRESS: Final = rb"([0-9A-Fa-f:.]{2,45})"  # 45 characters: an IPv4-mapped address with all its zeros
_TEXT: Final = re.compile(rb"PROXY TCP([46]) %b %b %b %b\r\n" % (_ADDRESS, _ADDRESS, _PORT, _PORT))

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_PREFIX: Final = 16  # bytes of a version 2 header before its addresses
_LOCAL: Final = 0x20  # version and command
_PROXY: Final = 0x21
_ADDRESSES: Final = (0, 12, 36, 216)  # bytes of addresses and ports, by family: unspecified, IPv4, IPv6, UNIX
_STREAM: Final = 0x1
_CRC32C: Final = 0x03  # the type of the checksum (section 2.2.3)

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address


def _check_address(instance: object, attribute: object, address: Address) -> None:
    if not isinstance(address, (ipaddress.IPv4Address, ipaddress.IPv6Address)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise LocalProtocolError(
            f"address must be an IPv4Address or an IPv6Address, not {type(address).__name__};"
            " use ipaddress.ip_address('192.0.2.1')"
        )


@attrs.frozen
class Endpoint:
    """One end of the connection between the client and the proxy.

    For example:

        case proxy.Proxied(source=proxy.Endpoint(address=address, port=port)):
            connection.replace_peer(adapters.Peer(str(address), port))
    """

    address: Address = attrs.field(validator=_check_address)
    port: int = attrs.field(validator=integer(0, 65_535))


@attrs.frozen(kw_only=True)
class Proxied:
    """The proxy relays a TCP connection of a client.

    For example:

        case proxy.Proxied(source=source, destination=destination):
            print(f"{source.address} has connected to port {destination.port}")
    """

    source: Endpoint
    """The address of the client."""

    destination: Endpoint
    """The address that the client connected to."""


class Unproxied(enum.Enum):
    """A valid header without addresses: use those of the socket.

    For example:

        case proxy.Unproxied():
            address, port = sock.getpeername()[:2]
    """

    LOCAL = "a connection of the proxy itself, such as a health check"
    UNKNOWN = "the header has no TCP addresses"


@attrs.frozen
class Invalid:
    """An invalid header: the connection must be closed (sections 2.1 and 2.2).

    For example:

        case proxy.Invalid(reason=reason):
            raise ConnectionAbortedError(f"invalid PROXY header: {reason}")
    """

    reason: str


Header: TypeAlias = Proxied | Unproxied | Invalid


class HeaderReader:
    """Reads a header from the start of a connection, without reading past its end.

    Read at most ``wanted`` bytes and pass them to ``receive_data()``, until ``header`` is set.

        >>> reader, sent = proxy.HeaderReader(), io.BytesIO(b"PROXY TCP4 192.0.2.1 192.0.2.2 4321 25\\r\\nEHLO c\\r\\n")
        >>> while reader.header is None:
        ...     reader.receive_data(sent.read(reader.wanted))
        >>> reader.header.source, sent.read()
        (Endpoint(address=IPv4Address('192.0.2.1'), port=4321), b'EHLO c\\r\\n')
    """

    __slots__ = ("_data", "header", "wanted")

    def __init__(self) -> None:
        self._data = bytearray()
        self.header: Header | None = None
        """The header, once it is complete; an Invalid as soon as the input cannot be a valid header."""
        self.wanted = _SHORTEST_TEXT
        """The maximum number of bytes to read next, never past the end of a valid header.  0 once ``header`` is set."""

    def receive_data(self, data: bytes) -> None:
        """Add received bytes; ``b""`` is the end of the stream.

        Raises LocalProtocolError for more than ``wanted`` bytes, and for any call once ``header`` is set.
        """
        check_type("data", bytes, data)
        if self.header is not None:
            raise LocalProtocolError("the header is complete: pass further data to the connection")
        if len(data) > self.wanted:
            raise LocalProtocolError(f"{len(data)} bytes may include data after the header: read at most {self.wanted}")
        if not data:
            self._end(Invalid("the connection was closed inside the header"))
            return
        self._data += data
        if _SIGNATURE.startswith(bytes(self._data[: len(_SIGNATURE)])):
            self._take_binary()
        else:
            self._take_text()

    def _end(self, header: Header) -> None:
        self.header = header
        self.wanted = 0

    # Version 1, section 2.1

    def _take_text(self) -> None:
        data = bytes(self._data)
        size = len(data)
        if not any(data.startswith(words[:size]) for words in _BEGINNINGS):
            return self._end(Invalid("not a PROXY protocol header"))
        if _CRLF in data:
            return self._end(_read_text(data))
        unknown = data.startswith(_UNKNOWN)
        if unknown and data[len(_UNKNOWN) : size].strip(b"\r")[:1] not in (b"", b" "):
            return self._end(Invalid("UNKNOWN must be followed by a space or CRLF"))
        spaces = data.count(b" ")
        if not unknown and (spaces > _SPACES or b"\r" in data[:-1] or b"\n" in data):
            return self._end(Invalid("not a version 1 header"))
        if size >= MAX_TEXT:
            return self._end(Invalid(f"the version 1 header is longer than {MAX_TEXT} bytes"))
        if size < _SHORTEST_TEXT:
            self.wanted = _SHORTEST_TEXT - size
            return
        # Never read past the CRLF.  Missing are at least one or two bytes of the CRLF, and for each missing field a
        # space and one character.
        least = 1 if data.endswith(b"\r") else 2
        if not unknown:
            least += 2 * (_SPACES - spaces)
        self.wanted = min(least, MAX_TEXT - size)

    # Version 2, section 2.2

    def _take_binary(self) -> None:
        data = self._data
        if len(data) > 12 and data[12] not in (_LOCAL, _PROXY):
            return self._end(Invalid("the command is neither LOCAL nor PROXY of version 2"))
        if len(data) < _PREFIX:
            self.wanted = _PREFIX - len(data)
            return
        size = _PREFIX + int.from_bytes(data[14:16], "big")
        if size > MAX_BINARY:
            return self._end(Invalid(f"the version 2 header is longer than {MAX_BINARY} bytes"))
        self.wanted = size - len(data)
        if self.wanted == 0:
            self._end(_read_binary(bytes(data)))


def _read_text(data: bytes) -> Header:
    if data.startswith(_UNKNOWN):
        rest = data[len(_UNKNOWN) :]
        if data.endswith(_CRLF) and rest.startswith((b" ", _CRLF)):
            return Unproxied.UNKNOWN  # anything before the CRLF is ignored (section 2.1)
        return Invalid("UNKNOWN must be followed by a space or CRLF")
    found = _TEXT.fullmatch(data)
    if found is None:
        return Invalid("not a version 1 header")
    family, *words = (word.decode("ascii") for word in found.groups())
    try:
        source, destination = _addresses(family, words[0], words[1])
    except ValueError:
        return Invalid(f"invalid TCP{family} address")
    ports = int(words[2]), int(words[3])
    if max(ports) > 65_535:
        return Invalid("a port is greater than 65535")
    return Proxied(source=Endpoint(source, ports[0]), destination=Endpoint(destination, ports[1]))


def _addresses(family: str, first: str, second: str) -> tuple[Address, Address]:
    """Return the source and the destination of a version 1 header.  Raises ValueError if they do not fit *family*.

    A proxy that listens on an IPv6 socket for both families writes the address of an IPv4 client in its IPv4-mapped
    form (RFC 4291 section 2.5.5.2), and its own address in either form.  They are then returned as IPv4 addresses.
    """
    if family == "4":
        return ipaddress.IPv4Address(first), ipaddress.IPv4Address(second)
    source = ipaddress.IPv6Address(first)
    if source.ipv4_mapped is None:
        return source, ipaddress.IPv6Address(second)
    return _unmapped(source), _unmapped(ipaddress.ip_address(second))


def _unmapped(address: Address) -> Address:
    """Return *address*, or the IPv4 address of which it is the IPv4-mapped form."""
    return address if address.version == 4 else address.ipv4_mapped or address


def _read_binary(data: bytes) -> Header:
    if data[12] == _LOCAL:
        return Unproxied.LOCAL  # family and addresses are ignored (section 2.2)
    family, transport = data[13] >> 4, data[13] & 0xF
    if family > 3 or transport > 2:
        return Invalid("unknown address family or transport")
    if family == 0 or transport == 0:
        return Unproxied.UNKNOWN  # the addresses are ignored (section 2.2)
    end = _PREFIX + _ADDRESSES[family]
    if len(data) < end:
        return Invalid("the header is too short for its addresses")
    fault = _fault_in_fields(data, end)
    if fault:
        return Invalid(fault)
    if family == 3 or transport != _STREAM:
        return Unproxied.UNKNOWN
    address: type[ipaddress.IPv4Address] | type[ipaddress.IPv6Address]
    address, size = (ipaddress.IPv4Address, 4) if family == 1 else (ipaddress.IPv6Address, 16)
    middle = _PREFIX + size
    ports = middle + size
    source: Address = address(data[_PREFIX:middle])
    destination: Address = address(data[middle:ports])
    if _unmapped(source) is not source:
        source, destination = _unmapped(source), _unmapped(destination)
    return Proxied(
        source=Endpoint(source, int.from_bytes(data[ports : ports + 2], "big")),
        destination=Endpoint(destination, int.from_bytes(data[ports + 2 : end], "big")),
    )


def _fault_in_fields(data: bytes, start: int) -> str:
    """Return the error in the type-length-value fields at *start*, after the addresses; "" if there is none.

    Only the checksum is verified.
    """
    checked = False
    while start < len(data):
        value = start + 3
        end = value + int.from_bytes(data[start + 1 : value], "big")
        if value > len(data) or end > len(data):
            return "a field extends past the end of the header"
        if data[start] == _CRC32C:
            if checked or end - value != 4:  # several would make the work quadratic in the size
                return "more than one checksum, or a checksum that is not 4 bytes"
            checked = True
            if crc32c(data[:value] + bytes(4) + data[end:]) != int.from_bytes(data[value:end], "big"):
                return "the checksum is wrong"
        start = end
    return ""


def _crc32c_table() -> tuple[int, ...]:
    table: list[int] = []
    for number in range(256):
        for _ in range(8):
            number = number >> 1 ^ (0x82F63B78 if number & 1 else 0)
        table.append(number)
    return tuple(table)


_CRC32C_TABLE: Final = _crc32c_table()


def crc32c(data: bytes) -> int:
    """Return the CRC32c checksum of *data* (section 2.2.3, RFC 9260 appendix A)."""
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder = remainder >> 8 ^ _CRC32C_TABLE[(remainder ^ byte) & 0xFF]
    return remainder ^ 0xFFFFFFFF
