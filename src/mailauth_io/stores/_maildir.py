"""What both Maildir stores need: making and listing the folders, and a message that is written first and seen later.

Knows files and ``fsync``; everything here blocks and runs in a thread, but for ``discard()``, which is one unlink.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import secrets
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from .content import PIECE, with_lf

STALE_AFTER: Final = 36 * 3600
"""Seconds after which a file in ``tmp`` that nobody looks at is what a crash left there (maildir(5))."""

_counter = itertools.count(1)
_HOST: Final = socket.gethostname().replace("/", "\\057").replace(":", "\\072").replace(",", "\\054")
_OURS: Final = re.compile(
    r"[0-9]+\.M[0-9]{6}P[0-9]+Q[0-9]+R[0-9a-f]{8}\.[^,]*,S=([0-9]{1,18}),W=([0-9]{1,18})", re.DOTALL
)


def make_maildir(path: Path) -> None:
    """*path* with its ``tmp``, ``new`` and ``cur``, for the owner alone; what is there already stays as it is."""
    if all((path / folder).is_dir() for folder in ("tmp", "new", "cur")):
        return
    _make_folder(path)
    for folder in ("tmp", "new"):
        (path / folder).mkdir(mode=0o700, exist_ok=True)
    sync_folder(path)
    sync_folder(path.parent)
    (path / "cur").mkdir(mode=0o700, exist_ok=True)  # the last: whoever finds it knows that the others will last


def _make_folder(path: Path) -> None:
    """*path* and every folder above it that is missing; ``Path.mkdir`` would let all read those above."""
    if path.is_dir():
        return
    _make_folder(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder survive a power cut, as ``fsync`` of a file does not."""
    number = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def listing(maildir: Path) -> dict[str, Path]:
    """Where each message is, by its unique name: that of its file without the flags behind the colon.

    Whatever is no plain file is no message; a symbolic link could lead to a file that its maker may not read.
    ``mailbox.Maildir`` would follow it, and look each name up on disk once more.
    """
    found = {}
    for folder in ("new", "cur"):  # in the order in which messages move, so that none slips through
        with os.scandir(maildir / folder) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.is_file(follow_symlinks=False):
                    found[entry.name.partition(":")[0]] = Path(entry.path)
    return found


def sweep(maildir: Path) -> None:
    """Remove what crashes left in ``tmp``; what cannot be removed hinders nobody."""
    before = time.time() - STALE_AFTER
    with contextlib.suppress(OSError), os.scandir(maildir / "tmp") as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_atime < before:
                    os.unlink(entry.path)


def read_data(path: Path) -> Iterator[bytes]:
    """The file as it is, piece by piece; it is opened by this call and closed with the iterator.  Raises OSError."""
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb", buffering=0)

    def pieces() -> Iterator[bytes]:
        with file:
            while piece := file.read(PIECE):
                yield piece

    return pieces()


def size_from_name(unique_name: str, size: int) -> int | None:
    """The size with CRLF line ends, from the name of a file of *size* bytes; None unless this server gave the name.

    Others write ``W=`` too, and some count otherwise: they are not believed.
    """
    told = _OURS.fullmatch(unique_name)
    return int(told[2]) if told and int(told[1]) == size else None


class StagedFile:
    """A message in ``tmp``, moved to ``new`` by ``commit()``; ``discard()`` removes it from wherever it is.

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
        self._lines = 0

    def write(self, pieces: Iterable[bytes]) -> None:
        """Write *pieces* as a file with LF line ends, safe on disk.  Raises OSError, and leaves nothing then."""
        make_maildir(self._maildir)
        try:
            self._write(pieces)
        except BaseException:
            self.discard()
            raise
        with self._lock:
            if self._discarded:
                self._unlink()

    def _write(self, pieces: Iterable[bytes]) -> None:
        number = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
        try:
            for piece in with_lf(pieces):
                self._size += len(piece)
                self._lines += piece.count(b"\n")
                left = memoryview(piece)
                while left:
                    left = left[os.write(number, left) :]
            os.fsync(number)
        finally:
            os.close(number)

    def commit(self) -> None:
        """Make it visible under a name that also tells its sizes, with LF and CRLF line ends, as Dovecot's do."""
        seen = self._maildir / "new" / f"{self._unique},S={self._size},W={self._size + self._lines}"
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
