"""Message content as a client sends it, prepared for DATA or BDAT (RFC 5321 section 4.5.2, RFC 3030)."""

from __future__ import annotations

from .._dots import Stuffer
from .._lines import CRLF, LineEnds
from ..errors import LocalProtocolError


class Content:
    """The content of one message, passed in pieces of any size.

    *lf_to_crlf*: send a bare LF as CRLF.  *binary*: any bytes are valid content (BODY=BINARYMIME).
    """

    __slots__ = ("_binary", "_lf_to_crlf", "_line_ends", "_stuffer", "_tail")

    def __init__(self, *, lf_to_crlf: bool, binary: bool) -> None:
        self._binary = binary
        self._lf_to_crlf = lf_to_crlf and not binary
        self._line_ends = LineEnds()
        self._stuffer = Stuffer()
        self._tail = CRLF

    def take(self, data: bytes) -> bytes:
        """Return *data* as content.

        Raises LocalProtocolError for a bare CR, a bare LF or a NUL; *data* is then not part of the content.
        """
        if self._lf_to_crlf and b"\n" in data:
            head = b"\n" if data.startswith(b"\n") and self._tail.endswith(b"\r") else b""
            data = head + data[len(head) :].replace(CRLF, b"\n").replace(b"\n", CRLF)
        self._watch(data)
        self._tail = (self._tail + data[-2:])[-2:]
        return data

    def stuff(self, data: bytes) -> bytes:
        """Return *data* as content for DATA, dot-stuffed.  Raises LocalProtocolError as ``take()`` does."""
        return self._stuffer.stuff(self.take(data))

    def end(self) -> bytes:
        """Return the CRLF that the end of the content lacks, or nothing.

        Raises LocalProtocolError if the content ends with a CR.
        """
        if self._binary or self._tail == CRLF:
            return b""
        self._watch(CRLF)
        return CRLF

    def _watch(self, data: bytes) -> None:
        if not self._binary and not self._line_ends.watch(data):
            self._line_ends.begin(after_cr=self._tail.endswith(b"\r"))
            raise LocalProtocolError("message content contains a bare CR, a bare LF or a NUL; end each line with CRLF")
