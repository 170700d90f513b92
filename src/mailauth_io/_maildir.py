"""Maildir functions for stores and ``mailauth fetch``: create and list the folders, write and deliver a message.

Everything here blocks and must run in a thread, except ``discard()``, which is a single unlink.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import secrets
import socket
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from ._line_ends import PIECE, with_lf

STALE_AFTER: Final = 36 * 3600
"""Seconds since the last access after which a file in ``tmp`` is considered abandoned (maildir(5))."""

_counter = itertools.count(1)
_HOST: Final = socket.gethostname().replace("/", "\\057").replace(":", "\\072").replace(",", "\\054")
_OURS: Final = re.compile(
    r"[0-9]+\.M[0-9]{6}P[0-9]+Q[0-9]+R[0-9a-f]{8}\.[^,:]*,S=([0-9]{1,18}),W=([0-9]{1,18})(?:[:;!].*)?", re.DOTALL
)
_FLAGS: Final = re.compile(r"[!;]2,.*", re.DOTALL)
_SIZES: Final = re.compile(r",[SUW]=[0-9]+(?![^,])")


def make_maildir(path: Path) -> None:
    """Create the Maildir at *path* with ``tmp``, ``new`` and ``cur``, mode 0700.  Existing folders are unchanged."""
    if all((path / folder).is_dir() for folder in ("tmp", "new", "cur")):
        return
    _make_folder(path)
    for folder in ("tmp", "new"):
        (path / folder).mkdir(mode=0o700, exist_ok=True)
    sync_folder(path)
    sync_folder(path.parent)
    (path / "cur").mkdir(mode=0o700, exist_ok=True)  # last: if it exists, the other folders are already on disk


def _make_folder(path: Path) -> None:
    """Create *path* and its missing parents, mode 0700; ``Path.mkdir`` gives parents the default mode."""
    if path.is_dir():
        return
    _make_folder(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Flush the entries of a folder to disk.  ``fsync`` of a file does not flush its name."""
    number = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def unique_name(file_name: str) -> str:
    """Return the part of *file_name* that stays the same when a mail program changes flags or adds sizes.

    Flags follow ``:`` or, on file systems where a name may not contain it, ``!2,`` or ``;2,``.  The first of these ends
    the name.  ``,S=`` and ``,W=`` are the sizes of Maildir++ and Dovecot, which may correct or remove them, and ``,U=``
    is the number that mbsync and OfflineIMAP add.
    """
    base, _, _ = file_name.partition(":")
    if "2," in base:
        base = _FLAGS.sub("", base)
    return _SIZES.sub("", base) or base if "=" in base else base


def listing(maildir: Path) -> dict[str, list[Path]]:
    """Return the paths of the files with each unique name: one, unless several files have the same unique name.

    A file that another program moves meanwhile may be listed in both places.

    Only regular files count: a symbolic link could point to a file that its creator must not read.
    ``mailbox.Maildir`` follows links, and needs one more system call per message.
    """
    found: dict[str, list[Path]] = {}
    for folder in ("new", "cur"):  # in the order in which messages move, so that none is missed
        with os.scandir(maildir / folder) as entries:
            for entry in entries:
                if not entry.name.startswith(".") and entry.is_file(follow_symlinks=False):
                    found.setdefault(unique_name(entry.name), []).append(Path(entry.path))
    return found


def sweep(maildir: Path) -> None:
    """Remove abandoned files from ``tmp``.  Errors are ignored, since a file that remains is not visible."""
    before = time.time() - STALE_AFTER
    with contextlib.suppress(OSError), os.scandir(maildir / "tmp") as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_atime < before:
                    os.unlink(entry.path)


def read_data(path: Path) -> Iterator[bytes]:
    """Open the file now, and return an iterator over its data, which closes it at the end.

    Raises OSError, also if it is no longer a regular file; opening a pipe does not block.
    """
    number = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    file = os.fdopen(number, "rb", buffering=0)

    def pieces() -> Iterator[bytes]:
        with file:
            while piece := file.read(PIECE):
                yield piece

    return pieces()


def size_from_name(file_name: str, size: int) -> int | None:
    """Return the size with CRLF line ends, as written in the name of a file of *size* bytes.

    Returns None if the name was not made by this server.  Other programs also write ``W=``, and some count differently.
    """
    found = _OURS.fullmatch(file_name)
    return int(found[2]) if found and int(found[1]) == size else None


class StagedFile:
    """A message in ``tmp``.  ``commit()`` moves it to ``new``; ``discard()`` removes it from either folder.

    ``discard()`` may be called while ``write()`` is running in a thread.  The file is removed when both have ended.
    """

    def __init__(self, maildir: Path) -> None:
        now = time.time()
        origin = f"P{os.getpid()}Q{next(_counter)}R{secrets.token_hex(4)}.{_HOST}"
        self._unique = f"{int(now)}.M{int(now % 1 * 1e6):06}{origin}"
        self._maildir = maildir
        self._path = maildir / "tmp" / self._unique
        self._discarded = False
        self._lock = threading.Lock()
        self._size = 0
        self._lines = 0

    def write(self, pieces: Iterable[bytes]) -> None:
        """Write *pieces* with LF line ends, and flush the file to disk.

        Raises OSError; the file is then removed.
        """
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
        """Move the message to ``new``.  Its name contains its size with LF (S=) and with CRLF (W=), as in Dovecot."""
        delivered = self._maildir / "new" / f"{self._unique},S={self._size},W={self._size + self._lines}"
        with self._lock:
            if self._discarded:
                return
            os.rename(self._path, delivered)
            self._path = delivered
        sync_folder(self._maildir / "new")

    def discard(self) -> None:
        """Remove the message, whether it was committed or not."""
        with self._lock:
            self._discarded = True
            self._unlink()

    def _unlink(self) -> None:
        with contextlib.suppress(OSError):  # a file that remains in tmp is not visible, and sweep() removes it later
            os.unlink(self._path)
