"""The sizes of Maildir messages as POP3 reports them: bytes with CRLF line ends, counted once and cached.

The cache is the file ``mailauth.sizes`` in the Maildir.  Only the session that holds the maildrop lock may use it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
from typing import Final

from .._files import Folder
from .._line_ends import with_crlf
from .._maildir import is_possible_size, read_data, size_from_name

_NAME: Final = "mailauth.sizes"
_HEAD: Final = b"mailauth sizes 1\n"  # the number changes if sizes are counted differently
_LINE: Final = re.compile(
    rb"^([0-9a-f]{32}(?:-[0-9a-f]{8,37})?) ([0-9]{1,19} -?[0-9]{1,19}) ([0-9]{1,19})$", re.MULTILINE
)
_MAX_LINE: Final = 132
"""Bytes of the longest line."""

_SPARE: Final = 1024 * 1024
"""Bytes for messages that another program has deleted since the file was written."""


class WireSizes:
    """The cached sizes of one maildrop.  An entry is valid while the size and the mtime of its file are unchanged.

    *listed* is the number of files in the maildrop.  A cache that is much larger than they need is ignored and written
    anew: it is not from this server, and reading it would take memory.
    """

    def __init__(self, maildir: Folder, listed: int) -> None:
        self._maildir = maildir
        self._too_large = False
        self._read: dict[bytes, tuple[bytes, int]] = {}
        self._asked: dict[bytes, tuple[bytes, int]] = {}
        self.suffixed: dict[str, list[str]] = {}
        """The saved unique-ids that end with ``-`` and a hash, by the part before it (see ``_maildir_messages``)."""
        try:
            data = maildir.content(_NAME, _SPARE + listed * _MAX_LINE)
        except OSError as error:
            self._too_large = error.errno == errno.EFBIG
        else:
            if data.startswith(_HEAD):
                self._read = {line[1]: (line[2], int(line[3])) for line in _LINE.finditer(data)}
                if b"-" in data:
                    for key in sorted(self._read):
                        unique_id, dash, _ = key.decode().partition("-")
                        if dash:
                            self.suffixed.setdefault(unique_id, []).append(key.decode())

    def of(self, folder: Folder, name: str, unique_id: str, status: os.stat_result) -> int:
        """Return the size of the message in the file *name*: from the name, from the cache, or else by reading it.

        *status* is that of the file.  Raises OSError.
        """
        named = size_from_name(name, status.st_size)
        if named is not None and "-" not in unique_id:  # a unique-id with a hash is saved in any case
            return named
        key, stamp = unique_id.encode(), _stamp(status)
        known = self._read.get(key)
        if known is None or known[0] != stamp or not is_possible_size(known[1], status.st_size):
            known = (stamp, sum(map(len, with_crlf(read_data(folder, name)))))
        self._asked[key] = known
        return known[1]

    def is_known(self, unique_id: str, status: os.stat_result) -> bool:
        """Return whether a file with this *status* was saved with this unique-id."""
        known = self._read.get(unique_id.encode())
        return known is not None and known[0] == _stamp(status)

    def save(self, *, complete: bool) -> None:
        """Save the sizes that were requested, and with *complete* no others.

        Errors are ignored: the sizes are then counted again.
        """
        sizes = self._asked if complete else self._read | self._asked
        if sizes == self._read and not self._too_large:
            return
        lines = [b"%s %s %d\n" % (key, stamp, size) for key, (stamp, size) in sizes.items()]
        data = b"".join((_HEAD, *lines))
        with contextlib.suppress(OSError):
            # Synchronized, since a truncated number would be a wrong size.
            self._maildir.replace(_NAME, data, temporary=f"{_NAME}.new", sync=True)


def _stamp(status: os.stat_result) -> bytes:
    return b"%d %d" % (status.st_size, status.st_mtime_ns)
