"""The parameters of MAIL and RCPT, as tables with a row for each parameter (RFC 5321 section 4.1.2).

This module only parses and serializes.  The settings check whether a parameter is supported.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import Any, Final, TypeVar

import attrs

from .._patterns import LazyPattern, TextPattern
from .._validators import value_of
from .._values import shared_methods
from ..errors import LocalProtocolError, Malformed
from ..events import Command
from ._grammar import NON_ASCII, decode_unitext, decode_xtext, encode_unitext, encode_xtext

W = TypeVar("W", bound=enum.Enum)

_ADDRESS_TYPE: Final = LazyPattern(r"[A-Za-z0-9!#$%&'*/?^_`{|}~-]+")
_KEYWORD: Final = LazyPattern(r"[A-Z0-9][A-Z0-9-]*")
_CHARACTERS: Final = rf"[!-<>-~{NON_ASCII}]+"
_VALUE: Final = TextPattern(_CHARACTERS, NON_ASCII)
_PARAMETER: Final = TextPattern(rf"([A-Za-z0-9][A-Za-z0-9-]*)(?:=({_CHARACTERS}))?", NON_ASCII)
_UTF_8: Final = "utf-8"  # the address type of RFC 6533


class Body(enum.Enum):
    """The content types that a client may declare (RFC 6152, RFC 3030).

    For example:

        bounce = smtp.Mail(reverse_path=None, body=smtp.Body.EIGHT_BIT_MIME)
        client.send(bounce)  # MAIL FROM:<> BODY=8BITMIME
    """

    SEVEN_BIT = "7BIT"
    EIGHT_BIT_MIME = "8BITMIME"
    BINARY_MIME = "BINARYMIME"
    """Any bytes, including bare CR, bare LF and NUL; sent by BDAT only."""


class Ret(enum.Enum):
    """How much of the message a failure report returns (RFC 3461 section 4.3).

    For example:

        mail = smtp.Mail(reverse_path=smtp.Mailbox("alice", "example.org"), ret=smtp.Ret.HEADERS)
        client.send(mail)  # MAIL FROM:<alice@example.org> RET=HDRS
    """

    FULL = "FULL"
    HEADERS = "HDRS"


class Notify(enum.Enum):
    """The reports that a sender requests about a recipient (RFC 3461 section 4.1).

    For example:

        reports = frozenset({smtp.Notify.FAILURE, smtp.Notify.DELAY})
        rcpt = smtp.Rcpt(forward_path=smtp.Mailbox("dinah", "example.org"), notify=reports)
        client.send(rcpt)  # RCPT TO:<dinah@example.org> NOTIFY=FAILURE,DELAY
    """

    NEVER = "NEVER"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    DELAY = "DELAY"


@shared_methods
@attrs.frozen(eq=False, repr=False)
class OriginalRecipient:
    """The recipient as the sender first specified it (RFC 3461 section 4.2).

    Raises LocalProtocolError if it cannot be sent.

        sales = smtp.OriginalRecipient("rfc822", "sales@example.net")
        rcpt = smtp.Rcpt(forward_path=smtp.Mailbox("dinah", "example.org"), original_recipient=sales)
        client.send(rcpt)  # RCPT TO:<dinah@example.org> ORCPT=rfc822;sales@example.net
    """

    address_type: str = attrs.field(validator=value_of(str))
    """``rfc822`` for an Internet mail address, ``utf-8`` for a non-ASCII one (RFC 6533); an atom."""
    address: str = attrs.field(validator=value_of(str))
    """The decoded address; only one of type ``utf-8`` may be non-ASCII.  It is always sent in ASCII."""

    def __attrs_post_init__(self) -> None:
        try:
            _encode_orcpt(self)
        except Malformed as error:
            raise LocalProtocolError(f"address_type and address cannot be sent: {error}") from None


@shared_methods
@attrs.frozen(eq=False, repr=False)
class Parameter:
    """One parameter of MAIL or RCPT: its keyword, the field that holds it, its extension and its codec.

    A parameter without a codec takes no value: its field is True or False.  *non_ascii* is True if the value may be
    non-ASCII (RFC 6531).
    """

    keyword: str
    field: str
    extension: str
    decode: Callable[[str], object] | None = None
    encode: Callable[[Any], str] | None = None
    non_ascii: bool = False

    def is_in(self, command: Command) -> bool:
        """Return whether *command* has this parameter."""
        value: object = getattr(command, self.field)
        return value is not None and value is not False


def _decode_size(value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) <= 20):  # RFC 1870 section 4
        raise Malformed("SIZE must be a number of up to 20 digits")
    return int(value)


def encode_size(size: int) -> str:
    if not 0 <= size < 10**20:
        raise Malformed("SIZE must be a number of up to 20 digits")
    return f"{size:d}"


def _decode_word(kind: type[W], value: str) -> W:
    try:
        return kind(value.upper())
    except ValueError:
        raise Malformed(f"the value must be one of {', '.join(word.value for word in kind)}") from None


def _encode_word(word: enum.Enum) -> str:
    return str(word.value)


def _decode_envid(value: str) -> str:
    if not 0 < len(value) <= 100:  # RFC 3461 section 4.4
        raise Malformed("ENVID must have 1 to 100 characters")
    return decode_xtext(value)


def encode_auth(mailbox: str) -> str:
    if not mailbox:
        raise Malformed("AUTH must be a mailbox or <>")
    return encode_xtext(mailbox)


def encode_envid(envelope_id: str) -> str:
    value = encode_xtext(envelope_id)
    _decode_envid(value)
    return value


def _decode_notify(value: str) -> frozenset[Notify]:
    words = value.upper().split(",")
    try:
        notify = frozenset(Notify(word) for word in words)
    except ValueError:
        raise Malformed("NOTIFY must be NEVER, or some of SUCCESS,FAILURE,DELAY") from None
    encode_notify(notify)
    return notify


def encode_notify(notify: frozenset[Notify]) -> str:
    if not notify or not notify <= frozenset(Notify) or (Notify.NEVER in notify and len(notify) > 1):
        raise Malformed("NOTIFY must be NEVER, or some of SUCCESS,FAILURE,DELAY")
    return ",".join(word.value for word in Notify if word in notify)


def _decode_orcpt(value: str) -> OriginalRecipient:
    address_type, semicolon, address = value.partition(";")
    if not semicolon:
        raise Malformed("ORCPT must have the form type;address")
    decode = decode_unitext if address_type.lower() == _UTF_8 else decode_xtext
    try:
        return OriginalRecipient(address_type, decode(address))
    except LocalProtocolError as error:
        raise Malformed(str(error)) from None


def _encode_orcpt(recipient: OriginalRecipient) -> str:
    if not _ADDRESS_TYPE.fullmatch(recipient.address_type) or not recipient.address:
        raise Malformed("ORCPT must have an atom as its type, and an address")
    encode = encode_unitext if recipient.address_type.lower() == _UTF_8 else encode_xtext
    value = f"{recipient.address_type};{encode(recipient.address)}"
    if len(value) > 500:  # RFC 3461 section 4.2
        raise Malformed("ORCPT is longer than 500 characters")
    return value


MAIL_PARAMETERS: Final = (
    Parameter("SIZE", "size", "SIZE", _decode_size, encode_size),
    Parameter("BODY", "body", "8BITMIME", partial(_decode_word, Body), _encode_word),
    Parameter("AUTH", "auth", "AUTH", decode_xtext, encode_auth),
    Parameter("RET", "ret", "DSN", partial(_decode_word, Ret), _encode_word),
    Parameter("ENVID", "envelope_id", "DSN", _decode_envid, encode_envid),
    Parameter("REQUIRETLS", "require_tls", "REQUIRETLS"),
    Parameter("SMTPUTF8", "smtputf8", "SMTPUTF8"),
)
NO_PARAMETERS: Final[Mapping[str, str | None]] = MappingProxyType({})
RCPT_PARAMETERS: Final = (
    Parameter("NOTIFY", "notify", "DSN", _decode_notify, encode_notify),
    Parameter("ORCPT", "original_recipient", "DSN", _decode_orcpt, _encode_orcpt, non_ascii=True),
)
PARAMETERS: Final[Mapping[str, tuple[Parameter, ...]]] = {"MAIL": MAIL_PARAMETERS, "RCPT": RCPT_PARAMETERS}


def check_unknown(table: tuple[Parameter, ...], parameters: Mapping[object, object]) -> None:
    """Raise Malformed unless each of *parameters* can be sent and is not a row of *table*."""
    for keyword, value in parameters.items():
        if not isinstance(keyword, str) or not _KEYWORD.fullmatch(keyword):
            raise Malformed("a keyword must be a str of A-Z, 0-9 and -")
        if value is not None and not (isinstance(value, str) and _VALUE.fullmatch(value)):
            raise Malformed("a value must be None, or a str without spaces, control characters and =")
        row = next((row for row in table if row.keyword == keyword), None)
        if row is not None:
            raise Malformed(f"{keyword} has its own field; use {row.field}=")


def decode_parameters(text: str, table: tuple[Parameter, ...]) -> dict[str, Any]:
    """Parse ``KEYWORD=value KEYWORD``.  Return the fields of the command by name.

    Parameters without a row in *table* are in the field *parameters*, as written.

    Raises Malformed for an invalid or a duplicate parameter.
    """
    fields: dict[str, Any] = {}
    unknown: dict[str, str | None] = {}
    for word in text.split(" ") if text else ():
        found = _PARAMETER.fullmatch(word)
        if found is None:
            raise Malformed("a parameter must have the form KEYWORD or KEYWORD=value")
        keyword, value = found[1].upper(), found[2]
        row = next((row for row in table if row.keyword == keyword), None)
        if (keyword if row is None else row.field) in (unknown if row is None else fields):
            raise Malformed(f"duplicate parameter {keyword[:40]}")
        if row is None:
            unknown[keyword] = value
        elif (value is None) != (row.decode is None):
            raise Malformed(f"{keyword} {'takes no' if row.decode is None else 'requires a'} value")
        elif row.decode is None or value is None:
            fields[row.field] = True
        elif value.isascii() or row.non_ascii:
            fields[row.field] = row.decode(value)
        else:
            raise Malformed(f"{keyword} must be ASCII")
    return {**fields, "parameters": unknown or NO_PARAMETERS}


def encode_parameters(command: Command, table: tuple[Parameter, ...], unknown: Mapping[str, str | None]) -> str:
    """Return `` KEYWORD=value KEYWORD``, with the leading space; empty if there are no parameters.

    Raises LocalProtocolError for a value that cannot be sent.
    """
    try:
        words = [
            row.keyword if row.encode is None else f"{row.keyword}={row.encode(getattr(command, row.field))}"
            for row in table
            if row.is_in(command)
        ]
    except Malformed as error:
        raise LocalProtocolError(str(error)) from None
    words += [keyword if value is None else f"{keyword}={value}" for keyword, value in unknown.items()]
    for word in words:
        if not _PARAMETER.fullmatch(word):
            raise LocalProtocolError(f"invalid parameter {word!r}; use KEYWORD or KEYWORD=value")
    return "".join(f" {word}" for word in words)
