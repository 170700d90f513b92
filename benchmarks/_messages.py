"""The messages, maildrops and passwords used in the recordings and by every measured server."""

from __future__ import annotations

from typing import Final

PASSWORD: Final = b"wonderland"

_HEADER: Final = (
    b"From: Alice <alice@example.test>\r\nTo: Bob <bob@example.test>\r\nSubject: a message\r\n"
    b"Date: Tue, 24 Nov 2026 08:00:00 +0000\r\nMessage-ID: <1@client.example.test>\r\n\r\n"
)
_LINE: Final = b"A line of text with sixty-two characters and no dot before it\r\n"
_DOTTED: Final = b".A line of text with sixty-two characters and a dot before it\r\n"


def message(size: int, *, dots: bool = False) -> bytes:
    """Return a stored message of *size* bytes; with *dots*, every tenth line of the body begins with a dot."""
    body = (_LINE * 9 + _DOTTED if dots else _LINE * 10) * (size // (10 * len(_LINE)) + 1)
    return (_HEADER + body)[: size - 2] + b"\r\n"


def stuffed(text: bytes) -> bytes:
    """Return *text* as sent after DATA: dot-stuffed, with the final dot (RFC 5321 section 4.5.2)."""
    return text.replace(b"\r\n.", b"\r\n..") + b".\r\n"


KILOBYTE: Final = message(1_024)
HUNDRED_KILOBYTES: Final = message(102_400)
MEGABYTE: Final = message(1_048_576)
DOTTED_MEGABYTE: Final = message(1_048_576, dots=True)
TEN_MEGABYTES: Final = message(10_485_760)

MAILDROPS: Final[dict[str, tuple[bytes, ...]]] = {
    "alice": (KILOBYTE,),
    "bob": (),
    "carol": (KILOBYTE,) * 10,
    "dave": (KILOBYTE,) * 1_000,
    "erin": (TEN_MEGABYTES,),
}
"""The messages of each user.  Deletions are not committed, so every session finds the same messages."""
