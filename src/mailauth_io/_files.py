"""Files and folders whose names another user or program can replace while they are used.

A path that the operator names may be a symbolic link or pass through one.  A name below it may not: ``Folder`` opens
each name relative to the descriptor of its folder, without following a link or waiting for the other end of a pipe.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import secrets
import select
import stat
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import Final, Self

MAX_FILE: Final = 64 * 1024 * 1024
"""Bytes of a file that the operator names and that is read as a whole: accounts, settings, keys and certificates.

A larger one is rejected, since a device such as /dev/zero has no end."""

PIPE_TIMEOUT: Final = 10.0
"""Seconds to wait for a program that writes to a pipe."""


class Folder:
    """An open folder, and a context manager that closes it.

    Methods that open, remove or rename a file raise OSError with the whole path, for the log.
    """

    __slots__ = ("_status", "number", "path")

    def __init__(self, number: int, path: str) -> None:
        self.number = number
        self.path = path
        self._status: os.stat_result | None = None

    @classmethod
    def open(cls, path: Path) -> Folder:
        """Open the folder at *path*, which may be a link or pass through one."""
        return cls(os.open(path, os.O_RDONLY | os.O_DIRECTORY), str(path))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self.number)

    def folder(self, name: str) -> Folder:
        """Open the folder *name* in this folder."""
        try:
            number = self._open(name, os.O_RDONLY | os.O_DIRECTORY)
        except NotADirectoryError as error:
            error.strerror = f"{name} is a symbolic link or not a folder"
            raise
        try:
            self.check(name, os.fstat(number))
        except BaseException:
            os.close(number)
            raise
        return Folder(number, f"{self.path}/{name}")

    def open_file(self, name: str, flags: int) -> int:
        """Open the regular file *name*, with mode 0600 if it is created, and return the descriptor."""
        number = self._open(name, flags)
        try:
            status = os.fstat(number)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, f"{name} is not a regular file", f"{self.path}/{name}")
            self.check(name, status)
        except BaseException:
            os.close(number)
            raise
        return number

    def read(self, name: str) -> io.FileIO:
        """Open the regular file *name* for reading."""
        return io.FileIO(self.open_file(name, os.O_RDONLY))

    def content(self, name: str, most: int) -> bytes:
        """Return the content of the regular file *name*, of at most *most* bytes."""
        with self.read(name) as file:
            return _read_all(file.fileno(), f"{self.path}/{name}", most)

    def create(self, name: str) -> int:
        """Create *name* for writing, mode 0600, and return the descriptor.  Raises FileExistsError if there is one."""
        return self._open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)

    def replace(self, name: str, data: bytes, *, temporary: str, mode: int = 0o600, sync: bool = False) -> None:
        """Write *data* to the file *temporary* and rename it to *name*: no reader sees a part of it.

        *mode* is the mode of the file, whatever the umask is.
        A link with one of the names is replaced, and its target is unchanged.
        """
        with contextlib.suppress(FileNotFoundError):
            self.remove(temporary)  # left by a process that was killed
        number = self.create(temporary)
        try:
            with open(number, "wb") as file:
                os.fchmod(number, mode)
                file.write(data)
                file.flush()
                if sync:
                    os.fsync(number)
            self.move(temporary, self, name)
        except BaseException:
            with contextlib.suppress(OSError):
                self.remove(temporary)
            raise

    def make_folder(self, name: str) -> None:
        """Create the folder *name* with mode 0700 if it is missing."""
        try:
            os.mkdir(name, 0o700, dir_fd=self.number)
        except FileExistsError:
            if not self.has_folder(name):
                text = f"{name} is a symbolic link or not a folder"
                raise NotADirectoryError(errno.ENOTDIR, text, f"{self.path}/{name}") from None

    def has_folder(self, name: str) -> bool:
        """Return whether *name* is a folder; a link to one is not."""
        try:
            return stat.S_ISDIR(self.status(name).st_mode)
        except FileNotFoundError:
            return False

    def status(self, name: str) -> os.stat_result:
        """Return the status of *name*, as ``os.lstat`` does."""
        return os.stat(name, dir_fd=self.number, follow_symlinks=False)

    def remove(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self.number)
        except OSError as error:
            raise self._complete(error, name) from None

    def move(self, name: str, folder: Folder, new_name: str) -> None:
        """Rename the file *name* to *new_name* in *folder*."""
        try:
            os.rename(name, new_name, src_dir_fd=self.number, dst_dir_fd=folder.number)
        except OSError as error:
            raise self._complete(error, name) from None

    def sync(self) -> None:
        """Flush the entries of the folder to disk.  ``fsync`` of a file does not flush its name."""
        os.fsync(self.number)

    def check(self, name: str, status: os.stat_result) -> None:
        """Check that no other user has put *name* here, whose status is *status*.  Raises PermissionError.

        The owner of a folder may put there what is theirs.  Hard links are rejected if their owner is another: a user
        could link a file of somebody else, which this process may read or write and they may not.  If all users can
        write to the folder, as in /tmp, its entries must belong to this user, to root or to the owner of the folder.

        The members of the group of a folder are trusted, as its owner is: other mail programs write to a Maildir as
        members of its group, and Dovecot copies messages by hard links.
        """
        regular = stat.S_ISREG(status.st_mode)
        if status.st_uid == os.geteuid() and (status.st_nlink == 1 or not regular):
            return
        if self._status is None:
            self._status = os.fstat(self.number)
        owner, open_to_all = self._status.st_uid, self._status.st_mode & stat.S_IWOTH
        if status.st_uid == owner and not open_to_all:
            return
        path = f"{self.path}/{name}"
        if regular and status.st_nlink > 1:
            raise PermissionError(errno.EPERM, f"{name} is a hard link to a file of another user", path)
        if open_to_all and status.st_uid not in (os.geteuid(), owner, 0):
            raise PermissionError(
                errno.EPERM, f"{name} is another user's, in a folder that all users can write to", path
            )

    def _open(self, name: str, flags: int) -> int:
        try:
            return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600, dir_fd=self.number)
        except OSError as error:
            raise self._complete(error, name) from None

    def _complete(self, error: OSError, name: str) -> OSError:
        """Return *error* with the whole path: a call relative to a descriptor reports only the name."""
        error.filename = f"{self.path}/{name}"
        if error.errno == errno.ELOOP:
            error.strerror = f"{name} is a symbolic link, which is not followed"
        elif error.errno == errno.ENXIO:  # a socket, or a pipe opened for writing
            error.strerror = f"{name} is not a regular file"
        return error


def _check_regular(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))


def read_file(path: Path) -> tuple[bytes, os.stat_result]:
    """Return the content and the status of the regular file *path*, which may be a link.  Never waits.

    Raises OSError, also if it is not a regular file, or has more than MAX_FILE bytes.
    """
    with _opened(path) as (number, status):
        _check_regular(status, path)
        return _read_all(number, str(path), MAX_FILE), status


def read_input(path: Path) -> tuple[bytes, os.stat_result]:
    """Return the content and the status of *path*, a file that is read only once: it may also be a pipe or a device.

    A shell passes a pipe for ``<(command)``.  Raises OSError as ``read_file`` does, and TimeoutError if no program
    writes to the pipe.
    """
    with _opened(path) as (number, status):
        if stat.S_ISFIFO(status.st_mode):
            waiting = select.poll()
            waiting.register(number, select.POLLIN)
            if not waiting.poll(PIPE_TIMEOUT * 1000):
                raise TimeoutError(errno.ETIMEDOUT, "it is a pipe that no program writes to", str(path))
        os.set_blocking(number, True)
        return _read_all(number, str(path), MAX_FILE), status


@contextlib.contextmanager
def _opened(path: Path) -> Generator[tuple[int, os.stat_result]]:
    try:
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:
            error.strerror = "it is a socket"
        raise
    try:
        yield number, os.fstat(number)
    finally:
        os.close(number)


def _read_all(number: int, path: str, most: int) -> bytes:
    """Return the rest of the open file *number*, whose size may change, and which may have no end."""
    if os.fstat(number).st_size > most:
        raise too_large(most, path)
    pieces: list[bytes] = []
    left = most
    while piece := os.read(number, 65_536):
        pieces.append(piece)
        left -= len(piece)
        if left < 0:
            raise too_large(most, path)
    return b"".join(pieces)


def too_large(most: int, path: str) -> OSError:
    """Return the error for a file of more than *most* bytes."""
    return OSError(errno.EFBIG, f"it is larger than {most} bytes", path)


def replace_file(path: Path, data: bytes) -> None:
    """Write *path* atomically, with the mode of the file that it replaces or 0600.  Its folder must exist.

    Raises OSError, also if *path* is a link or another thing than a regular file.
    """
    with Folder.open(path.parent) as folder:
        mode = 0o600
        with contextlib.suppress(FileNotFoundError):
            status = folder.status(path.name)
            _check_regular(status, path)
            mode = stat.S_IMODE(status.st_mode)
        folder.replace(path.name, data, temporary=f".{path.name}.{secrets.token_hex(8)}", mode=mode)


def exposure(path: Path) -> str | None:
    """Return why other users can replace *path*, as a clause; None if they cannot.

    The folders above *path* are examined, those above the target of a link too, and *path* itself if it is a folder.
    The members of the group of a folder are trusted.
    """
    trusted = (os.geteuid(), 0)
    for place in dict.fromkeys((Path(os.path.abspath(path)), Path(os.path.realpath(path)))):
        for folder in (*reversed(place.parents), place):
            try:
                found = folder.stat()
                if not stat.S_ISDIR(found.st_mode):
                    break
                if found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
                    return f"all users can write to {folder}"
                if found.st_mode & stat.S_IWOTH and folder != place:
                    entry = folder / place.relative_to(folder).parts[0]
                    if entry.lstat().st_uid not in trusted:
                        return f"{entry} belongs to another user, and all users can write to {folder}"
            except OSError:
                break  # it does not exist yet, or cannot be examined
    return None
