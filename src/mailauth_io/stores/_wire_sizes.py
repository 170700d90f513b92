"""The sizes that POP3 tells of the files in a Maildir: octets with CRLF line ends, counted once and remembered.

Knows the file ``mailauth.sizes`` beside the folders; whoever uses it has the maildrop to himself.
"""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import Final

from ._maildir import read_data, size_from_name
from .content import with_crlf

_HEAD: Final = b"mailauth sizes 1\n"  # another number when another way of counting comes
_LINE: Final = re.compile(rb"^([0-9a-f]{32}) ([0-9]+ -?[0-9]+) ([0-9]+)$", re.MULTILINE)


class WireSizes:
    """What is remembered of one maildrop.  A message counts as the same while its file's size and time are."""

    def __init__(self, maildir: Path) -> None:
        self._path = maildir / "mailauth.sizes"
        self._read: dict[bytes, tuple[bytes, int]] = {}
        self._asked: dict[bytes, tuple[bytes, int]] = {}
        with contextlib.suppress(OSError):
            data = self._path.read_bytes()
            if data.startswith(_HEAD):
                self._read = {line[1]: (line[2], int(line[3])) for line in _LINE.finditer(data)}

    def of(self, unique_name: str, unique_id: str, path: Path) -> int:
        """The size of the message at *path*; its content is read only if nothing tells it.  Raises OSError."""
        status = os.lstat(path)
        told = size_from_name(unique_name, status.st_size)
        if told is not None:
            return told
        key, stamp = unique_id.encode(), b"%d %d" % (status.st_size, status.st_mtime_ns)
        known = self._read.get(key)
        if known is None or known[0] != stamp:
            known = (stamp, sum(map(len, with_crlf(read_data(path)))))
        self._asked[key] = known
        return known[1]

    def save(self) -> None:
        """Remember the sizes that were asked for, and no others.  Where that fails they are counted again next time."""
        if self._asked == self._read:
            return
        lines = [b"%s %s %d\n" % (key, stamp, size) for key, (stamp, size) in self._asked.items()]
        written = self._path.with_name("mailauth.sizes.new")
        try:
            number = os.open(written, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
            with os.fdopen(number, "wb") as file:
                file.write(b"".join((_HEAD, *lines)))
                file.flush()
                os.fsync(number)  # a number cut in two would be another number
            os.rename(written, self._path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(written)
