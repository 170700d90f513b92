"""The messages of a Maildir and their files.

A message is usually one file.  Several files with one unique name, which a mail program leaves when it is interrupted
or restores a backup, are one message if they have the same content, and several messages otherwise.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from mailauth import pop3

from .._calls import CallAbandoned, check_abandoned
from .._files import Folder
from .._maildir import File, check_size, list_messages, message_folders, read_data
from ._wire_sizes import WireSizes

_FAULT_OF_PROCESS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
"""The errors that would affect every file."""

_SUFFIX: Final = 8  # hexadecimal digits
_LONGEST_SUFFIX: Final = 37  # a unique-id has up to 70 characters (RFC 1939 section 7)


class MessageFiles:
    """The files of one message, which all have its content."""

    __slots__ = ("files", "inodes", "name")

    def __init__(self, name: str, files: Sequence[File], inodes: tuple[int, ...]) -> None:
        self.name = name
        self.files = files
        self.inodes = inodes


class _Content:
    """The files with one content among those of one unique name."""

    def __init__(self, digest: str) -> None:
        self.digest = digest
        self.files: list[tuple[File, os.stat_result]] = []

    @property
    def oldest(self) -> tuple[File, os.stat_result]:
        return min(self.files, key=lambda file: (file[1].st_mtime_ns, file[0]))


class MaildirMessages:
    """The messages of a Maildir at login, in the order of their unique names.

    Raises OSError if a folder cannot be read, and CallAbandoned.
    """

    def __init__(self, maildir: Folder) -> None:
        self._user = os.geteuid()
        self.files: list[MessageFiles] = []
        self.unreadable: dict[Path, str] = {}
        """The files that are left out because they cannot be read, each with the reason."""
        self._folders: Mapping[str, Folder] = {}  # only while the messages are examined
        self._listed: Mapping[str, list[File]] = {}
        with message_folders(maildir) as folders:
            self._folders = folders
            listing = list_messages(folders)
            self._listed = listing.files
            count = sum(map(len, listing.files.values()))
            if listing.left_out:
                reason = f"too many files: the newest {count} are listed, and {listing.left_out} are not"
                self.unreadable[Path(maildir.path)] = reason
            sizes = WireSizes(maildir, count)
            try:
                self.messages = tuple(self._snapshot(sizes))
            except CallAbandoned:
                sizes.save(complete=False)  # otherwise a large maildrop on a slow disk could never be opened
                raise
            sizes.save(complete=True)
        self._folders = {}
        self._listed = {}  # needed again only if a file is moved

    def _snapshot(self, sizes: WireSizes) -> list[pop3.Message]:
        messages: list[pop3.Message] = []
        for name in tuple(self._listed):
            check_abandoned()
            try:
                found = self._examine(name, sizes)
            except FileNotFoundError:  # another program has moved or deleted a file since it was listed
                self._listed = list_messages(self._folders).files
                try:
                    found = self._examine(name, sizes)
                except FileNotFoundError:
                    continue
            for files, message in found:
                self.files.append(files)
                messages.append(message)
        return messages

    def _examine(self, name: str, sizes: WireSizes) -> list[tuple[MessageFiles, pop3.Message]]:
        """Return the messages with this unique name.  Raises FileNotFoundError if one of the files has gone."""
        unique_id = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
        listed = self._listed.get(name, [])
        if len(listed) == 1 and unique_id not in sizes.suffixed:
            status = self._status(listed[0])
            size = self._size(listed[0], status, unique_id, sizes)
            if size is None:
                return []
            return [(MessageFiles(name, listed, (status.st_ino,)), pop3.Message(size=size, unique_id=unique_id))]
        examined: list[tuple[MessageFiles, pop3.Message]] = []
        for message_id, same in self._by_content(unique_id, [(file, self._status(file)) for file in listed], sizes):
            size = self._size(*same[0], message_id, sizes)
            if size is not None:
                files = MessageFiles(name, [file for file, _ in same], tuple([status.st_ino for _, status in same]))
                examined.append((files, pop3.Message(size=size, unique_id=message_id)))
        return examined

    def _status(self, file: File) -> os.stat_result:
        return self._folders[file[0]].status(file[1])

    def _size(self, file: File, status: os.stat_result, message_id: str, sizes: WireSizes) -> int | None:
        """Return the size of a message, or None if its file is left out."""
        folder, name = self._folders[file[0]], file[1]
        try:
            check_size(status, f"{folder.path}/{name}")
            size = sizes.of(folder, name, message_id, status)
            # In the usual case, no system call.
            if status.st_uid != self._user or status.st_nlink > 1 or not status.st_mode & stat.S_IRUSR:
                _check_access(folder, name, status)
        except OSError as error:
            self._leave_out(file, error)
            return None
        return size

    def _leave_out(self, file: File, error: OSError) -> None:
        if isinstance(error, FileNotFoundError) or error.errno in _FAULT_OF_PROCESS:
            raise error
        place, name = file
        self.unreadable[Path(self._folders[place].path, name)] = error.strerror or type(error).__name__

    # Several files with one unique name

    def _by_content(
        self, unique_id: str, files: list[tuple[File, os.stat_result]], sizes: WireSizes
    ) -> Iterator[tuple[str, list[tuple[File, os.stat_result]]]]:
        """Yield a unique-id and the files of each content.  Only here is the hash of a message computed."""
        given = sizes.suffixed.get(unique_id, [])
        if not given and len({(status.st_dev, status.st_ino) for _, status in files}) == 1:
            yield unique_id, files  # hard links: a program was interrupted while it moved the file
            return
        contents = self._contents(files)
        ids: dict[str, str] = {}
        for content in contents:
            matching = [
                known
                for known in given
                if content.digest.startswith(known[len(unique_id) + 1 :]) and known not in ids.values()
            ]
            if matching:  # more than one if hashes begin alike
                status = content.oldest[1]
                ids[content.digest] = next((known for known in matching if sizes.is_known(known, status)), matching[0])
        # One that was listed before keeps its unique-id: a client would take another message for it.
        contents.sort(key=lambda content: self._precedence(content, unique_id, sizes))
        for content in contents:
            if content.digest in ids:
                continue
            if unique_id not in ids.values():
                ids[content.digest] = unique_id
                continue
            suffixes = (content.digest[:length] for length in range(_SUFFIX, _LONGEST_SUFFIX + 1))
            ids[content.digest] = next(
                found for suffix in suffixes if (found := f"{unique_id}-{suffix}") not in ids.values()
            )
        for content in sorted(contents, key=lambda content: ids[content.digest]):
            oldest = content.oldest
            yield ids[content.digest], [oldest, *(file for file in content.files if file is not oldest)]

    @staticmethod
    def _precedence(content: _Content, unique_id: str, sizes: WireSizes) -> tuple[bool, int, str]:
        status = content.oldest[1]
        return not sizes.is_known(unique_id, status), status.st_mtime_ns, content.digest

    def _contents(self, files: list[tuple[File, os.stat_result]]) -> list[_Content]:
        found: dict[str, _Content] = {}
        by_inode: dict[tuple[int, int], str] = {}
        for file, status in files:
            inode = (status.st_dev, status.st_ino)
            try:
                digest = by_inode[inode] if inode in by_inode else content_digest(self._folders[file[0]], file[1])
            except OSError as error:
                self._leave_out(file, error)
                continue
            by_inode[inode] = digest
            found.setdefault(digest, _Content(digest)).files.append((file, status))
        return list(found.values())

    # Files that another program has moved

    def relist(self, folders: Mapping[str, Folder]) -> None:
        """List the folders again.  Raises OSError, and CallAbandoned."""
        self._listed = list_messages(folders).files

    def moved(self, files: MessageFiles, folders: Mapping[str, Folder]) -> list[File]:
        """Return where *files* were at the last listing: another program renames them to set flags."""
        found: list[File] = []
        for place, name in self._listed.get(files.name, ()):
            try:
                if folders[place].status(name).st_ino in files.inodes:
                    found.append((place, name))
            except FileNotFoundError:
                pass  # it has been moved again
        return found


def _check_access(folder: Folder, name: str, status: os.stat_result) -> None:
    """Raise PermissionError if the file must not or cannot be read, although its size is known."""
    folder.check(name, status)
    if not os.access(name, os.R_OK, dir_fd=folder.number):
        folder.status(name)  # raises FileNotFoundError if it has gone
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), f"{folder.path}/{name}")


def content_digest(folder: Folder, name: str) -> str:
    digest = hashlib.sha256()
    for piece in read_data(folder, name):
        digest.update(piece)
    return digest.hexdigest()
