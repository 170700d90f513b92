"""Maildrops as Maildirs: ``DIRECTORY/alice`` is what any other mail program can read too.

Knows folders and canonical names; every access runs in a thread.  One session at a time has a maildrop, by a lock that
the kernel keeps, so that it holds between processes and ends with them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mailbox
import os
import re
import threading
from pathlib import Path
from typing import Final

from mailauth import pop3

from .. import _loops
from ._maildir import StagedFile, make_maildir, sync_folder, with_crlf
from .content import ContentReader, MessageContent
from .names import mailbox_name

_WIRE_SIZE: Final = re.compile(r",W=([0-9]{1,18})(?=,|$)")  # the octets with CRLF line ends, told by a file's name


class MaildirMaildrops:
    """A Maildir for every name under *directory*, made when it is first needed; folders 0700, files 0600."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def _path(self, name: str) -> Path:
        if mailbox_name(name, frozenset()) != name:
            # Another name could lead out of the directory.
            raise ValueError("a maildrop is named by a canonical name only")
        return self._directory / name

    async def stage(self, name: str, head: bytes, content: MessageContent) -> MaildirStaged:
        return await stage_in(self._path(name), (head, *content.chunks))

    async def open(self, name: str) -> _Opened | pop3.Unavailable:
        opening = _Opening(self._path(name))
        try:
            return await _loops.current().in_thread(opening.run)
        except BaseException:
            opening.abandon()
            raise


async def stage_in(maildir: Path, pieces: tuple[bytes, ...]) -> MaildirStaged:
    """Write *pieces* as one message that nobody sees yet.  Raises OSError."""
    file = StagedFile(maildir)
    try:
        await _loops.current().in_thread(file.write, pieces)
    except BaseException:
        file.discard()
        raise
    return MaildirStaged(file)


class MaildirStaged:
    """A message in a Maildir's ``tmp``."""

    def __init__(self, file: StagedFile) -> None:
        self._file = file

    async def reveal(self) -> None:
        await _loops.current().in_thread(self._file.reveal)

    def discard(self) -> None:
        self._file.discard()


class _Opening:
    """Taking a maildrop in a thread, which goes on when the task that waits for it is cancelled."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._abandoned = False
        self._opened: _Opened | None = None
        self._lock = threading.Lock()

    def run(self) -> _Opened | pop3.Unavailable:
        make_maildir(self._path)
        lock = os.open(self._path / "mailauth.lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            opened = _Opened(self._path, lock)
        except BaseException as error:
            os.close(lock)
            if isinstance(error, BlockingIOError):
                return pop3.Unavailable.IN_USE
            raise
        with self._lock:
            self._opened = opened
            if self._abandoned:
                opened.close()
        return opened

    def abandon(self) -> None:
        """Nobody will use it: whichever of the two ends last gives it back."""
        with self._lock:
            self._abandoned = True
            if self._opened is not None:
                self._opened.close()


class _Opened:
    def __init__(self, path: Path, lock: int) -> None:
        self._path = path
        self._lock: int | None = lock
        self._maildir = mailbox.Maildir(path, create=False)
        with contextlib.suppress(FileNotFoundError):  # a delivery going on may move its file away meanwhile
            self._maildir.clean()  # what a crash left in tmp, once it is 36 hours old
        self._keys = sorted(key for key in self._maildir.iterkeys() if not key.startswith("."))
        self._reader = ContentReader(iter(()))
        self.messages = tuple(self._message(key) for key in self._keys)

    def _message(self, key: str) -> pop3.Message:
        told = _WIRE_SIZE.search(key)
        size = int(told[1]) if told else sum(map(len, with_crlf(self._maildir.get_file(key))))
        return pop3.Message(size=size, unique_id=hashlib.sha256(os.fsencode(key)).hexdigest()[:32])

    async def read(self, number: int, offset: int = 0) -> pop3.Content:
        return await _loops.current().in_thread(self._read, self._keys[number - 1], offset)

    def _read(self, key: str, offset: int) -> pop3.Content:
        if offset == 0:
            self._reader = ContentReader(with_crlf(self._maildir.get_file(key)))
        return self._reader.read()

    async def update(self, deleted: frozenset[int]) -> None:
        await _loops.current().in_thread(self._update, [self._keys[number - 1] for number in sorted(deleted)])

    def _update(self, keys: list[str]) -> None:
        for key in keys:
            self._maildir.discard(key)
        for folder in ("new", "cur"):
            sync_folder(self._path / folder)

    def close(self) -> None:
        self._reader = ContentReader(iter(()))
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
