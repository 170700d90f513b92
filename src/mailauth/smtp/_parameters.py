"""The parameters of MAIL and RCPT as one table: an extension that brings a parameter adds a row (RFC 5321 section
4.1.2).

Codecs only; whether a parameter was advertised is the server's question.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import attrs

from .._errors import LocalProtocolError, Malformed
from .._events import Command
from ._grammar import decode_xtext, encode_xtext

_PARAMETER: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([!-<>-~]+))?")


class Body(enum.Enum):
    """The kinds of content a client may announce (RFC 6152, RFC 3030)."""

    SEVEN_BIT = "7BIT"
    EIGHT_BIT_MIME = "8BITMIME"
    BINARY_MIME = "BINARYMIME"
    """Any octets, bare CR, LF and NUL too; by BDAT alone."""


@attrs.frozen
class Parameter:
    """One parameter of MAIL or RCPT: keyword, the field that holds it, the extension that brings it, codec."""

    keyword: str
    field: str
    extension: str
    decode: Callable[[str], object]
    encode: Callable[[Any], str]


def _decode_size(value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 20):  # RFC 1870 section 4
        raise Malformed("SIZE takes up to 20 digits")
    return int(value)


def _encode_size(size: int) -> str:
    if not 0 <= size < 10**20:
        raise Malformed("SIZE takes up to 20 digits")
    return f"{size:d}"


def _decode_body(value: str) -> Body:
    try:
        return Body(value.upper())
    except ValueError:
        raise Malformed("BODY takes 7BIT, 8BITMIME or BINARYMIME") from None


MAIL_PARAMETERS: Final = (
    Parameter("SIZE", "size", "SIZE", _decode_size, _encode_size),
    Parameter("BODY", "body", "8BITMIME", _decode_body, lambda body: str(body.value)),
    Parameter("AUTH", "auth", "AUTH", decode_xtext, encode_xtext),
)
NO_PARAMETERS: Final[Mapping[str, str | None]] = MappingProxyType({})
RCPT_PARAMETERS: Final[tuple[Parameter, ...]] = ()


def decode_parameters(text: str, table: tuple[Parameter, ...]) -> dict[str, Any]:
    """The fields that ``KEYWORD=value KEYWORD`` fill; those of no row go into *parameters*, as written."""
    fields: dict[str, Any] = {}
    unknown: dict[str, str | None] = {}
    for word in text.split(" ") if text else ():
        found = _PARAMETER.fullmatch(word)
        if found is None:
            raise Malformed("a parameter has the form KEYWORD or KEYWORD=value")
        keyword, value = found[1].upper(), found[2]
        row = next((row for row in table if row.keyword == keyword), None)
        if (keyword if row is None else row.field) in (unknown if row is None else fields):
            raise Malformed(f"{keyword} is given twice")
        if row is None:
            unknown[keyword] = value
        elif value is None:
            raise Malformed(f"{keyword} needs a value")
        else:
            fields[row.field] = row.decode(value)
    return {**fields, "parameters": unknown or NO_PARAMETERS}


def encode_parameters(command: Command, table: tuple[Parameter, ...], unknown: Mapping[str, str | None]) -> str:
    """`` KEYWORD=value KEYWORD``, with the leading blank.  Raises LocalProtocolError for what no parameter can hold."""
    try:
        words = [
            f"{row.keyword}={row.encode(value)}" for row in table if (value := getattr(command, row.field)) is not None
        ]
    except Malformed as error:
        raise LocalProtocolError(str(error)) from None
    words += [keyword if value is None else f"{keyword}={value}" for keyword, value in unknown.items()]
    for word in words:
        if not _PARAMETER.fullmatch(word):
            raise LocalProtocolError(f"{word!r} cannot be a parameter")
    return "".join(f" {word}" for word in words)
