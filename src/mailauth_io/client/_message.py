"""The envelope and the content of a message that is submitted."""

from __future__ import annotations

import copy
import email.errors
import email.generator
import email.message
import email.policy
import io
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO, Final, TypeAlias, cast

import attrs

from mailauth import smtp

from .errors import NotSupported

MessageLike: TypeAlias = "email.message.Message | bytes | BinaryIO"
"""A message of the ``email`` package, its bytes, or a binary file, which is read from its current position."""

_BARE_CR: Final = re.compile(rb"\r(?!\n|\Z)")

PIECE: Final = 65_536
"""Bytes of content that are sent at a time."""


@attrs.frozen
class Content:
    """Message content that can be read once."""

    pieces: Iterable[bytes]
    size: int
    """Bytes with CRLF line ends."""
    eight_bit: bool
    """Whether it has bytes above 127."""


def mailbox(address: object, role: str) -> smtp.Mailbox:
    """Return *address* as a Mailbox.  Raises ValueError, which names the *role* of an address that is invalid."""
    if isinstance(address, smtp.Mailbox):
        return address
    if not isinstance(address, str):
        raise TypeError(
            f"{role} must be a string such as 'alice@example.org' or a Mailbox, not {type(address).__name__}"
        )
    try:
        return smtp.Mailbox.parse(address)
    except ValueError as error:
        raise ValueError(f"{role} {address!r} is not an address such as alice@example.org: {error}") from None


def envelope(
    message: MessageLike,
    sender: str | smtp.Mailbox | None,
    recipients: Iterable[str | smtp.Mailbox] | None,
) -> tuple[smtp.Mailbox | None, tuple[smtp.Mailbox, ...]]:
    """Return sender and recipients; those that are None are taken from the header of the message.

    The sender is Sender or From, the recipients are To, Cc and Bcc; if the message was resent, the fields with these
    names after Resent- (RFC 5322 section 3.6.6).  A sender ``""`` is the null reverse-path, which is returned as None.

        sender, recipients = client.envelope(message, None, None)

    Raises ValueError or TypeError for an invalid address, and if there is no sender or no recipient.
    """
    if isinstance(recipients, str | smtp.Mailbox):
        raise TypeError(f"recipients must be a list of addresses, such as [{str(recipients)!r}], not one address")
    if sender is None or recipients is None:
        if not isinstance(message, email.message.Message):
            raise ValueError("pass sender and recipients; they are only read from the header of an EmailMessage")
        resent = len(message.get_all("Resent-Date", []))
        if resent > 1:
            raise ValueError("the message was resent more than once; pass sender and recipients")
        prefix = "Resent-" if resent else ""
        if sender is None:
            found = _addresses(message, prefix, ("Sender",)) or _addresses(message, prefix, ("From",))
            if not found:
                raise ValueError("the message has no From; add one, or pass sender")
            sender = found[0]
        if recipients is None:
            recipients = _addresses(message, prefix, ("To", "Cc", "Bcc"))
    named = tuple(dict.fromkeys(mailbox(each, "recipient") for each in recipients))
    if not named:
        raise ValueError("there are no recipients; pass at least one")
    return (None if sender == "" else mailbox(sender, "sender")), named


def _addresses(message: email.message.Message, prefix: str, names: Iterable[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        for field in message.get_all(prefix + name, []):
            text = " ".join(str(field).split())
            header: Any = email.policy.default.header_factory(name, text)
            specs = [address.addr_spec for address in header.addresses]
            if any(isinstance(defect, email.errors.InvalidHeaderDefect) for defect in header.defects) or any(
                "\ufffd" in spec
                for spec in specs  # in place of a byte that is not UTF-8
            ):
                argument = "sender" if name in ("Sender", "From") else "recipients"
                raise ValueError(f"{prefix}{name} of the message is not a list of addresses: {text}; pass {argument}")
            found += specs
    return found


def content(message: MessageLike, *, utf8: bool, eight_bit: bool) -> Content:
    """Return the content of *message*, an EmailMessage without its Bcc fields.

    With *utf8* its header is UTF-8 (RFC 6532), otherwise ASCII, whatever its policy is.  Without *eight_bit* its body
    is encoded for 7 bits where necessary; bytes and files are not changed.

    Raises NotSupported if it cannot be encoded for 7 bits, and ValueError if it cannot be encoded at all.
    """
    if isinstance(message, email.message.Message):
        message = _serialized(message, utf8=utf8, eight_bit=eight_bit)
    if isinstance(message, bytes):
        message = io.BytesIO(message)
    if not hasattr(message, "read"):
        raise TypeError(f"message must be an EmailMessage, bytes or a binary file, not {type(message).__name__}")
    if not message.seekable():
        message = io.BytesIO(b"".join(_read(message)))  # it is examined before anything is sent, so it is read twice
    start = message.tell()

    def again() -> Iterator[bytes]:
        message.seek(start)
        return _read(message)

    return _scanned(_read(message), again)


def _scanned(pieces: Iterable[bytes], again: Callable[[], Iterator[bytes]]) -> Content:
    """Return the content that *again* reads after *pieces* were examined.  Raises ValueError for a bare CR or a NUL."""
    size, ascii_only, after_cr, end = 0, True, False, b"\n"
    for piece in pieces:
        joined = b"\r" + piece if after_cr else piece
        after_cr = piece.endswith(b"\r")
        if b"\0" in piece or _BARE_CR.search(joined):
            raise ValueError("the message has a NUL or a bare CR; end lines with CRLF or LF, and encode binary data")
        end = piece[-1:]
        size += len(piece) + joined.count(b"\n") - joined.count(b"\r\n")
        ascii_only = ascii_only and piece.isascii()
    if after_cr:
        raise ValueError("the message ends with a bare CR; lines end with CRLF or LF")
    size += 0 if end == b"\n" else 2  # the line end that is added
    return Content(again() if size else (b"",), size, not ascii_only)


def _serialized(message: email.message.Message, *, utf8: bool, eight_bit: bool) -> bytes:
    message = copy.copy(message)
    for name in ("Bcc", "Resent-Bcc"):
        del message[name]
    policy: Any = message.policy
    policy = policy.clone(cte_type="8bit" if eight_bit else "7bit", linesep="\r\n")
    if hasattr(policy, "utf8"):
        policy = policy.clone(utf8=utf8)
    out = io.BytesIO()
    try:
        email.generator.BytesGenerator(out, mangle_from_=False, policy=policy).flatten(message)
    except (LookupError, UnicodeError) as error:
        # The body has 8-bit data with no charset, or with one that is unknown or does not match.
        reason = " ".join(str(error).split())
        if eight_bit:
            raise ValueError(f"the message cannot be encoded: {reason}; pass it as bytes") from error
        raise NotSupported(
            f"the message cannot be encoded for a server that does not offer 8BITMIME: {reason}"
        ) from error
    return out.getvalue()


def _read(file: BinaryIO) -> Iterator[bytes]:
    while piece := cast(object, file.read(PIECE)):
        if not isinstance(piece, bytes):
            raise TypeError("the file of a message must be opened in binary mode: open(path, 'rb')")
        yield piece
