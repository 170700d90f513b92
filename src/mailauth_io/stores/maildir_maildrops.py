"""Maildrops as Maildirs, such as ``DIRECTORY/alice``, which other mail programs can read too.

Every access runs in a thread.  A session locks the maildrop with ``flock()``.  The kernel enforces the lock between
processes, and releases it when a process ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import ClassVar, Final

from mailauth import pop3

from .._checks import check_type
from .._files import Folder
from .._line_ends import with_crlf
from .._maildir import File, MaildirPath, StagedFile, message_folders, read_data, sweep
from .._workers import CLEANUP, FILES, UNLOCKING, run_in_thread
from ._maildir_messages import MaildirMessages, MessageFiles
from .content import ContentReader, MessageContent
from .names import mailbox_name
from .protocols import OpenedMaildrop, Staged

_LOCK: Final = "mailauth.lock"
_ATTEMPTS: Final = 10
"""Attempts to lock a file that is replaced meanwhile."""

_SESSION: Final = "session"
"""What the calls of a session are called among those for its maildrop.  Many deliveries at a time, which anybody can
cause, do not delay its owner."""

_CLOSE_TIMEOUT: Final = 1.0
"""Seconds to wait for a lock that a session has left, and whose file is being closed."""


class MaildirMaildrops:
    """One Maildir per account under *directory*, created on first use.  Folders have mode 0700, files 0600.

    For example:

        maildrops = stores.MaildirMaildrops(Path("/var/mail/maildirs"))
        opened = await maildrops.open("alice")  # /var/mail/maildirs/alice
    """

    def __init__(self, directory: Path) -> None:
        check_type("directory", directory, Path)
        self._directory = directory

    def _path(self, name: str) -> MaildirPath:
        if mailbox_name(name, frozenset()) != name:
            # Any other name could be a path outside the directory.
            raise ValueError("name must be a canonical name; use the result of mailbox_name()")
        return MaildirPath(self._directory, name)

    async def stage(self, name: str, head: bytes, content: MessageContent) -> Staged:
        """Write a message to ``tmp`` of the Maildir.  Raises OSError, and ValueError if *name* is not canonical."""
        return await stage_in(self._path(name), (head, *content.chunks))

    async def open(self, name: str) -> OpenedMaildrop | pop3.Unavailable:
        """Open and lock the Maildir, or return IN_USE.  Raises OSError, and ValueError if *name* is not canonical."""
        opening = _Opening(self._path(name))
        try:
            return await FILES.run(opening.run, key=opening.path, source=_SESSION)
        except BaseException:
            opening.abandon()
            raise


async def stage_in(maildir: MaildirPath, pieces: tuple[bytes, ...]) -> MaildirStaged:
    """Write *pieces* as one message that is not visible yet.  Raises OSError."""
    file = StagedFile(maildir)
    try:
        await FILES.run(file.write, pieces, key=maildir)
    except BaseException:
        CLEANUP.add(file.discard)
        raise
    return MaildirStaged(maildir, file)


class MaildirStaged:
    """A message in a Maildir's ``tmp``."""

    def __init__(self, maildir: MaildirPath, file: StagedFile) -> None:
        self._maildir = maildir
        self._file = file

    async def commit(self) -> None:
        await FILES.run(self._file.commit, key=self._maildir)

    def discard(self) -> None:
        """Remove the message soon, in a thread: the disk may not respond."""
        CLEANUP.add(self._file.discard)


class _Opening:
    """Opens a maildrop in a thread, which continues when the task that waits for it is cancelled."""

    def __init__(self, path: MaildirPath) -> None:
        self.path = path
        self._abandoned = False
        self._opened: _Opened | None = None
        self._lock = threading.Lock()

    def run(self) -> _Opened | pop3.Unavailable:
        with self.path.make() as maildir:
            lock = _Lock.take(maildir)
            if lock is None:
                return pop3.Unavailable.IN_USE
            try:
                opened = _Opened(self.path, maildir, lock)
            except BaseException:
                lock.close()
                raise
        with self._lock:
            self._opened = opened
            if self._abandoned:
                opened.close()
        return opened

    def abandon(self) -> None:
        """Release the maildrop, now or when ``run()`` has opened it."""
        with self._lock:
            self._abandoned = True
            if self._opened is not None:
                self._opened.close()


class _Lock:
    """The ``flock()`` lock on a maildrop.  A session holds it until ``close()``, and its threads in a ``with`` block.

    A thread continues when the task that waits for it is cancelled, so the last holder releases the lock.
    """

    _closing: ClassVar[dict[tuple[int, int], threading.Event]] = {}
    """For each lock whose file is being closed, by device and inode: set when that is done."""
    _closing_guard: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, number: int, inode: tuple[int, int]) -> None:
        self._number = number
        self._inode = inode
        self._holders = 1
        self._closed = False
        self._guard = threading.Lock()
        self.released: threading.Event | None = None
        """The event that is set when the lock is released; None before ``close()``, and if a thread held it then."""

    @classmethod
    def take(cls, maildir: Folder) -> _Lock | None:
        """Lock *maildir*.  Returns None if another session, in this or another process, has the lock.

        Raises OSError if the file cannot be opened, or is not a regular file.
        """
        for _ in range(_ATTEMPTS):
            number = maildir.open_file(_LOCK, os.O_CREAT | os.O_RDWR)
            closing = None
            try:
                status = os.fstat(number)
                inode = status.st_dev, status.st_ino
                with cls._closing_guard:
                    closing = cls._closing.get(inode)
                fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if _is_named(number, maildir):
                    return cls(number, inode)
            except BaseException as error:
                os.close(number)
                if not isinstance(error, BlockingIOError):
                    raise
                if closing is None or not closing.wait(_CLOSE_TIMEOUT):
                    return None
                continue
            os.close(number)  # removed or replaced since it was opened: another session may lock the new file
        return None

    def check(self, maildir: Folder) -> None:
        """Raise OSError if the file was removed or replaced, alone or with the Maildir: another session may be open."""
        if not _is_named(self._number, maildir):
            raise OSError(
                errno.ESTALE, "the Maildir or its lock was removed or replaced during the session", maildir.path
            )

    def __enter__(self) -> None:
        with self._guard:
            if self._closed:
                raise ValueError("the maildrop is closed")
            self._holders += 1

    def __exit__(self, *_: object) -> None:
        if self._drop():
            os.close(self._number)

    def close(self) -> None:
        """Release the lock, in a thread: closing a file may block if the disk does not respond."""
        with self._guard:
            if self._closed:
                return
            self._closed = True
        if self._drop():
            self.released = closed = threading.Event()
            with self._closing_guard:
                self._closing[self._inode] = closed
            UNLOCKING.add(partial(self._close, closed))

    def _drop(self) -> bool:
        """Return whether this was the last holder."""
        with self._guard:
            self._holders -= 1
            return self._holders == 0

    def _close(self, closed: threading.Event) -> None:
        os.close(self._number)
        with self._closing_guard:
            if self._closing.get(self._inode) is closed:  # the next session may be over already
                del self._closing[self._inode]
        closed.set()


def _is_named(number: int, maildir: Folder) -> bool:
    """Return whether the open file *number* still is the lock of *maildir*."""
    try:
        return os.path.samestat(os.fstat(number), maildir.status(_LOCK))
    except FileNotFoundError:
        return False


class _Opened:
    def __init__(self, path: MaildirPath, maildir: Folder, lock: _Lock) -> None:
        self._path = path
        self._lock = lock
        sweep(maildir)
        self._found = MaildirMessages(maildir)
        self._reader = ContentReader(iter(()))
        self.messages = self._found.messages
        self.unreadable = tuple(self._found.unreadable.items())

    @contextlib.contextmanager
    def _folders(self) -> Generator[Mapping[str, Folder]]:
        """Open ``new`` and ``cur``.  A session keeps only the lock open, since many may be open at once."""
        with self._path.open() as maildir:
            self._lock.check(maildir)
            with message_folders(maildir) as folders:
                yield folders

    async def read(self, number: int, offset: int = 0) -> pop3.Content:
        return await FILES.run(self._read, self._found.files[number - 1], offset, key=self._path, source=_SESSION)

    def _read(self, files: MessageFiles, offset: int) -> pop3.Content:
        with self._lock:
            if offset == 0:
                with self._folders() as folders:
                    self._reader = ContentReader(with_crlf(self._read_data(files, folders)))
            return self._reader.read()

    def _read_data(self, files: MessageFiles, folders: Mapping[str, Folder]) -> Iterator[bytes]:
        """Open a file of a message, which another program may have moved.  Raises OSError."""
        data = _open_first(files.files, folders) or _open_first(self._found.moved(files, folders), folders)
        if data is None:
            self._found.relist(folders)
            data = _open_first(self._found.moved(files, folders), folders)
        if data is None:
            raise FileNotFoundError(errno.ENOENT, "another program has deleted the message")
        return data

    async def update(self, deleted: frozenset[int]) -> None:
        files = [self._found.files[number - 1] for number in sorted(deleted)]
        await FILES.run(self._update, files, key=self._path, source=_SESSION)

    def _update(self, deleted: list[MessageFiles]) -> None:
        """Delete messages.  If one cannot be deleted, the others still are, and then OSError is raised."""
        failures: list[OSError] = []
        with self._lock, self._folders() as folders:
            moved = [files for files in deleted if not _unlink(files.files, folders, failures)]
            if moved:
                self._found.relist(folders)
                for files in moved:
                    _unlink(self._found.moved(files, folders), folders, failures)
            for folder in folders.values():
                folder.sync()
        if failures:
            raise failures[-1]

    def close(self) -> None:
        readers = [self._reader]
        self._reader = ContentReader(iter(()))
        UNLOCKING.add(readers.clear)  # closes the file of a message
        self._lock.close()

    async def wait_closed(self) -> None:
        """Wait until another process can open the maildrop, at most a second."""
        released = self._lock.released
        if released is not None and not released.is_set():
            await run_in_thread(lambda _: None, released.wait, _CLOSE_TIMEOUT, abandon_on_cancel=True)


def _open_first(files: Iterable[File], folders: Mapping[str, Folder]) -> Iterator[bytes] | None:
    """Open the first of *files* that exists.  Return None if all have gone.  Raises OSError for other errors."""
    for place, name in files:
        with contextlib.suppress(FileNotFoundError):
            return read_data(folders[place], name)
    return None


def _unlink(files: Iterable[File], folders: Mapping[str, Folder], failures: list[OSError]) -> bool:
    """Delete *files*, and add other errors to *failures*.  Return False if one of them does not exist any more."""
    complete = True
    for place, name in files:
        try:
            folders[place].remove(name)
        except FileNotFoundError:
            complete = False
        except OSError as error:
            failures.append(error)
    return complete
