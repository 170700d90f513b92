"""The line ends of message content: LF in a Maildir, CRLF in POP3."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import Final

PIECE: Final = 65536
"""Bytes in one piece of content for a POP3 session: as much as one ``Send`` carries."""


def with_lf(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield *pieces* with each line end (CRLF, bare CR or bare LF) replaced by LF.

    A last line without a line end gets one.  The input may be split anywhere; no output piece is empty.
    """
    lines = io.IncrementalNewlineDecoder(None, translate=True)  # on Latin-1 text: far faster than a regex on bytes
    ended = True
    for piece in pieces:
        if text := lines.decode(piece.decode("latin-1")):
            ended = text.endswith("\n")
            yield text.encode("latin-1")
    if lines.decode("", final=True) or not ended:
        yield b"\n"


def with_crlf(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Like ``with_lf``, but with CRLF: the form that POP3 sends and that LIST counts (RFC 1939 section 11)."""
    for piece in with_lf(pieces):
        yield piece.replace(b"\n", b"\r\n")


class Growth:
    """Counts the bytes that ``with_crlf`` adds to pieces, without converting them."""

    def __init__(self) -> None:
        self._added = 0
        self._last = b""

    def count(self, piece: bytes) -> None:
        if not piece:
            return
        self._added += piece.count(b"\r") + piece.count(b"\n") - 2 * piece.count(b"\r\n")
        if self._last == b"\r" and piece.startswith(b"\n"):  # one line end, whose halves were counted as two
            self._added -= 2
        self._last = piece[-1:]

    @property
    def total(self) -> int:
        """The bytes added to all pieces so far, if no more follows."""
        return self._added if self._last in (b"", b"\r", b"\n") else self._added + 2


def crlf_growth(*pieces: bytes) -> int:
    """Return the number of bytes that ``with_crlf`` adds to *pieces*."""
    growth = Growth()
    for piece in pieces:
        growth.count(piece)
    return growth.total
