"""What both Maildir stores need: making the folders, and a message that is written first and seen later.

Knows files and ``fsync``; everything here blocks and runs in a thread, but for ``discard()``, which is one unlink.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, Protocol

from .content import PIECE

_counter = itertools.count(1)
_HOST: Final = socket.gethostname().replace("/", "\\057").replace(":", "\\072")


def make_maildir(path: Path) -> None:
    """*path* with its ``tmp``, ``new`` and ``cur``, for the owner alone; what is there already stays as it is."""
    if all((path / folder).is_dir() for folder in ("tmp", "new", "cur")):
        return
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for folder in (path, path / "tmp", path / "new", path / "cur"):
        folder.mkdir(mode=0o700, exist_ok=True)
    sync_folder(path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder survive a power cut, as ``fsync`` of a file does not."""
    number = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


class StagedFile:
    """A message in ``tmp``, moved to ``new`` by ``reveal()``; ``discard()`` removes it from wherever it is.

    ``discard()`` may come while ``write()`` still runs in its thread: whichever of the two ends last removes the file.
    """

    def __init__(self, maildir: Path) -> None:
        now = time.time()
        place = f"P{os.getpid()}Q{next(_counter)}R{secrets.token_hex(4)}.{_HOST}"
        self._unique = f"{int(now)}.M{int(now % 1 * 1e6):06}{place}"
        self._maildir = maildir
        self._path = maildir / "tmp" / self._unique
        self._discarded = False
        self._lock = threading.Lock()
        self._size = 0

    def write(self, pieces: Iterable[bytes]) -> None:
        """Write octets with CRLF line ends as a file with LF line ends, safe on disk.  Raises OSError."""
        make_maildir(self._maildir)
        number = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            with os.fdopen(number, "wb") as file:
                for piece in _with_lf(pieces):
                    file.write(piece)
                    self._size += len(piece) + piece.count(b"\n")
                file.flush()
                os.fsync(number)
        except BaseException:
            self.discard()
            raise
        with self._lock:
            if self._discarded:
                self._unlink()

    def reveal(self) -> None:
        """Make it visible under a name that also tells its size with CRLF line ends, as Courier and Dovecot do."""
        seen = self._maildir / "new" / f"{self._unique},W={self._size}"
        with self._lock:
            if self._discarded:
                return
            os.rename(self._path, seen)
            self._path = seen
        sync_folder(self._maildir / "new")

    def discard(self) -> None:
        """As though it had never been staged."""
        with self._lock:
            self._discarded = True
            self._unlink()

    def _unlink(self) -> None:
        with contextlib.suppress(OSError):  # what cannot be removed stays in tmp, unseen, until it is cleaned away
            os.unlink(self._path)


def _with_lf(pieces: Iterable[bytes]) -> Iterator[bytes]:
    held = b""
    for piece in pieces:
        piece = held + piece if held else piece
        held = b""
        if piece.endswith(b"\r"):
            piece, held = piece[:-1], b"\r"
        yield piece.replace(b"\r\n", b"\n")
    if held:
        yield held


class Readable(Protocol):
    """A file being read."""

    def read(self, size: int, /) -> bytes: ...
    def close(self) -> None: ...


def with_crlf(file: Readable) -> Iterator[bytes]:
    """A file's octets in pieces, each line ended by CRLF whatever ends it in the file; then the file is closed."""
    held = b""
    last = b"\r\n"
    try:
        while octets := file.read(PIECE):
            piece = held + octets
            held = b""
            if piece.endswith(b"\r"):
                piece, held = piece[:-1], b"\r"
            if piece:
                piece = piece.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
                last = piece[-2:]
                yield piece
        if held or not last.endswith(b"\n"):
            yield held + b"\r\n"
    finally:
        file.close()
