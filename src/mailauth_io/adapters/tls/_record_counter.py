"""Counts TLS records (RFC 8446 section 5.1, RFC 5246 section 6.2.1), which have a header of five bytes."""

from __future__ import annotations

from typing import Final

_HEADER: Final = 5


class RecordCounter:
    """Finds the records in the data of one direction of a connection, which may be split at any point."""

    __slots__ = ("_header", "_left", "number")

    def __init__(self) -> None:
        self._header = b""  # of the next record, if it is incomplete
        self._left = 0  # bytes of the current record that follow
        self.number = 0
        """The number of complete headers so far."""

    def count(self, data: bytes, most: int | None = None) -> int:
        """Count the records of *data*, at most *most*, and return the number of bytes up to the end of the last one."""
        end = None if most is None else self.number + most
        at = 0
        while True:
            skipped = min(self._left, len(data) - at)
            at += skipped
            self._left -= skipped
            if at == len(data) or self.number == end:
                return at
            part = data[at : at + _HEADER - len(self._header)]
            at += len(part)
            self._header += part
            if len(self._header) == _HEADER:
                self._left = int.from_bytes(self._header[3:], "big")
                self._header = b""
                self.number += 1
