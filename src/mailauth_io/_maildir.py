"""Maildir functions for stores and ``mailauth fetch``: create and list the folders, write and deliver a message.

Everything here blocks and must run in a thread, except ``discard()``, which only removes one file.
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
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final, TypeAlias

import attrs

from ._calls import check_abandoned
from ._files import Folder, too_large
from ._line_ends import PIECE, with_lf

STALE_AFTER: Final = 36 * 3600
"""Seconds since the last access after which a file in ``tmp`` is considered abandoned (maildir(5))."""

MAX_MESSAGE: Final = 1024 * 1024 * 1024
"""Bytes of the file of a message: a larger one is neither written nor read.

No mail service accepts larger messages, and those that this server accepts are in memory until they are stored.  A
sparse file may have any size, and takes no space on the disk: any user who can write to it can make one.
"""

MAX_LISTED: Final = 100_000
"""Files of messages in one listing: the newest, by their unique names, which begin with the time of the delivery.

A session needs up to 1 KB of memory for each message.
"""

MAX_SWEPT: Final = 10_000
"""Files in ``tmp`` that are examined at one login."""

_counter = itertools.count(1)
_HOST: Final = socket.gethostname().replace("/", "\\057").replace(":", "\\072").replace(",", "\\054")
_OURS: Final = re.compile(
    r"[0-9]+\.M[0-9]{6}P[0-9]+Q[0-9]+R[0-9a-f]{8}\.[^,:]*,S=([0-9]{1,18}),W=([0-9]{1,18})(?:[:;!].*)?", re.DOTALL
)
_FLAGS: Final = re.compile(r"[!;]2,.*", re.DOTALL)
_SIZES: Final = re.compile(r",[SUW]=[0-9]+(?![^,])")


File: TypeAlias = tuple[str, str]
"""A file of a message: its folder, ``new`` or ``cur``, and its name."""


@attrs.frozen
class MaildirPath:
    """The Maildir *name* in *directory*, or *directory* itself if *name* is empty.

    The operator names *directory*, which may be a symbolic link.  Nothing below it may be one.  Each method opens the
    folders again, and so notices that they were moved or removed.
    """

    directory: Path
    name: str = ""

    def open(self) -> Folder:
        """Open the Maildir.  Raises OSError."""
        directory = Folder.open(self.directory)
        if not self.name:
            return directory
        with directory:
            return directory.folder(self.name)

    def make(self) -> Folder:
        """Open the Maildir.  Create it if it is missing, or ``tmp``, ``new`` or ``cur`` in it, with mode 0700."""
        if not self.name:
            return _complete(_open_or_make(self.directory), lambda: _sync(self.directory.parent))
        with _open_or_make(self.directory) as directory:
            try:
                maildir = directory.folder(self.name)
            except FileNotFoundError:
                directory.make_folder(self.name)
                maildir = directory.folder(self.name)
            return _complete(maildir, directory.sync)


def _complete(maildir: Folder, sync_parent: Callable[[], object]) -> Folder:
    """Create the folders that are missing in *maildir*, and return it.  It is closed if that fails."""
    try:
        if not all(map(maildir.has_folder, ("tmp", "new", "cur"))):
            for name in ("tmp", "new"):
                maildir.make_folder(name)
            maildir.sync()
            sync_parent()
            maildir.make_folder("cur")  # last: if it exists, the other folders are already on disk
    except BaseException:
        maildir.__exit__(None, None, None)
        raise
    return maildir


def _open_or_make(path: Path) -> Folder:
    try:
        return Folder.open(path)
    except FileNotFoundError:
        _make_folder(path)
        return Folder.open(path)


def _make_folder(path: Path) -> None:
    """Create *path* and its missing parents, mode 0700; ``Path.mkdir`` gives parents the default mode."""
    if path.is_dir():
        return
    _make_folder(path.parent)
    path.mkdir(mode=0o700, exist_ok=True)
    _sync(path.parent)


def _sync(path: Path) -> None:
    with Folder.open(path) as folder:
        folder.sync()


@contextlib.contextmanager
def message_folders(maildir: Folder) -> Generator[Mapping[str, Folder]]:
    """Open ``new`` and ``cur``, in the order in which messages move, so that a listing misses none.  Raises OSError."""
    with maildir.folder("new") as new, maildir.folder("cur") as cur:
        yield {"new": new, "cur": cur}


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


@attrs.frozen
class Listing:
    """The files of messages in a Maildir."""

    files: dict[str, list[File]]
    """By unique name, in the order of the names.  A list has one file, unless several have the same unique name."""
    left_out: int
    """The number of files that are left out, since there are more than MAX_LISTED."""


def list_messages(folders: Mapping[str, Folder]) -> Listing:
    """List the files in *folders*.  Raises OSError, and CallAbandoned (see ``check_abandoned()``).

    A file that another program moves meanwhile may be listed in both places.

    Only regular files count: a symbolic link could point to a file that its creator must not read.
    ``mailbox.Maildir`` follows links, and needs one more system call per message.
    """
    found: list[tuple[str, str, str]] = []  # unique name, place, name
    left_out = 0
    for place, folder in folders.items():
        with os.scandir(folder.number) as entries:
            for entry in entries:
                check_abandoned()
                name = entry.name
                if name.startswith(".") or not entry.is_file(follow_symlinks=False):
                    continue
                found.append((unique_name(name), place, name))
                if len(found) >= 2 * MAX_LISTED:
                    left_out += _keep_newest(found)
    left_out += _keep_newest(found)
    files: dict[str, list[File]] = {}
    for unique, place, name in found:
        files.setdefault(unique, []).append((place, name))
    return Listing(files, left_out)


def _keep_newest(files: list[tuple[str, str, str]]) -> int:
    """Sort *files*, remove all but the last MAX_LISTED, and return the number of those that were removed."""
    files.sort()
    too_many = max(0, len(files) - MAX_LISTED)
    del files[:too_many]
    return too_many


def sweep(maildir: Folder) -> None:
    """Remove abandoned files from ``tmp``, of the first MAX_SWEPT that are there.

    Errors are ignored, since a file that remains is not visible.
    """
    before = time.time() - STALE_AFTER
    with contextlib.suppress(OSError), maildir.folder("tmp") as tmp, os.scandir(tmp.number) as entries:
        for entry in itertools.islice(entries, MAX_SWEPT):
            check_abandoned()
            with contextlib.suppress(OSError):
                if entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_atime < before:
                    tmp.remove(entry.name)


def read_data(folder: Folder, name: str) -> Iterator[bytes]:
    """Open the file now, and return an iterator over its data, which closes it at the end.

    Raises OSError, also if it is no longer a regular file, or has more than MAX_MESSAGE bytes; opening a pipe does not
    block.  The iterator raises OSError if the file has grown beyond that, and CallAbandoned.
    """
    path = f"{folder.path}/{name}"
    file = folder.read(name)
    try:
        check_size(os.fstat(file.fileno()), path)
    except BaseException:
        file.close()
        raise

    def pieces() -> Iterator[bytes]:
        left = MAX_MESSAGE
        with file:
            while piece := file.read(PIECE):
                check_abandoned()
                left -= len(piece)
                if left < 0:
                    raise too_large(MAX_MESSAGE, path)
                yield piece

    return pieces()


def check_size(status: os.stat_result, path: str) -> None:
    """Raise OSError if the file with this *status* is larger than a message may be."""
    if status.st_size > MAX_MESSAGE:
        raise too_large(MAX_MESSAGE, path)


def size_from_name(file_name: str, size: int) -> int | None:
    """Return the size with CRLF line ends, as written in the name of a file of *size* bytes.

    Returns None if the name was not made by this server, or the size cannot be right.  Other programs also write
    ``W=``, and some count differently.
    """
    found = _OURS.fullmatch(file_name)
    if found is None or int(found[1]) != size:
        return None
    return int(found[2]) if is_possible_size(int(found[2]), size) else None


def is_possible_size(wire_size: int, size: int) -> bool:
    """Return whether a file of *size* bytes can have *wire_size* bytes with CRLF line ends.

    Each byte may be a line end, which becomes two bytes, and the last line may have none.
    """
    return size <= wire_size <= 2 * size + 2


class StagedFile:
    """A message in ``tmp``.  ``commit()`` moves it to ``new``; ``discard()`` removes it from either folder.

    ``discard()`` may be called while ``write()`` is running in a thread.  The file is removed when both have ended.
    """

    def __init__(self, maildir: MaildirPath) -> None:
        now = time.time()
        origin = f"P{os.getpid()}Q{next(_counter)}R{secrets.token_hex(4)}.{_HOST}"
        self._unique = f"{int(now)}.M{int(now % 1 * 1e6):06}{origin}"
        self._maildir = maildir
        self._file: File = ("tmp", self._unique)
        self._discarded = False
        self._lock = threading.Lock()
        self._size = 0
        self._lines = 0

    def write(self, pieces: Iterable[bytes]) -> None:
        """Write *pieces* with LF line ends, and flush the file to disk.

        Raises OSError, also if it would have more than MAX_MESSAGE bytes, and CallAbandoned; the file is then removed.
        """
        with self._maildir.make() as maildir, maildir.folder("tmp") as tmp:
            try:
                self._write(tmp, pieces)
            except BaseException:
                self.discard()
                raise
        with self._lock:
            if self._discarded:
                self._unlink()

    def _write(self, tmp: Folder, pieces: Iterable[bytes]) -> None:
        number = tmp.create(self._unique)
        try:
            for piece in with_lf(pieces):
                check_abandoned()
                self._size += len(piece)
                if self._size > MAX_MESSAGE:
                    raise too_large(MAX_MESSAGE, f"{tmp.path}/{self._unique}")
                self._lines += piece.count(b"\n")
                left = memoryview(piece)
                while left:
                    left = left[os.write(number, left) :]
            os.fsync(number)
        finally:
            os.close(number)

    def commit(self) -> None:
        """Move the message to ``new``.  Its name contains its size with LF (S=) and with CRLF (W=), as in Dovecot.

        Raises OSError, also if the Maildir was removed or replaced since the message was written.
        """
        name = f"{self._unique},S={self._size},W={self._size + self._lines}"
        with self._maildir.open() as maildir, maildir.folder("tmp") as tmp, maildir.folder("new") as new:
            with self._lock:
                if self._discarded:
                    return
                tmp.move(self._unique, new, name)
                self._file = ("new", name)
            new.sync()

    def discard(self) -> None:
        """Remove the message, whether it was committed or not."""
        with self._lock:
            self._discarded = True
            self._unlink()

    def _unlink(self) -> None:
        place, name = self._file
        # An error is ignored: a file that remains in tmp is not visible, and sweep() removes it later.
        with contextlib.suppress(OSError), self._maildir.open() as maildir, maildir.folder(place) as folder:
            folder.remove(name)
