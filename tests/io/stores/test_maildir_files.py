"""Files that other programs leave in a Maildir: unreadable ones, several of one unique name, other flag separators."""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import os
import poplib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from mailauth_io import _maildir, logs, server
from mailauth_io._files import Folder
from mailauth_io.stores import MaildirMaildrops, MemoryOutbox, OpenedMaildrop, _maildir_messages, _wire_sizes
from tests.io import file_calls
from tests.io.server_support import Run, Served, accounts, meet, on_both_loops
from tests.io.stores.test_maildirs import foreign
from tests.io.stores.test_maildrops import opened, put, whole


def plain_id(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:32]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def texts(maildrop: OpenedMaildrop) -> dict[str, bytes]:
    """Return the content of each message by its unique-id; each has the size that LIST reports."""
    found = {}
    for number, message in enumerate(maildrop.messages, 1):
        data = await whole(maildrop, number)
        assert len(data) == message.size
        found[message.unique_id] = data
    assert len(found) == len(maildrop.messages)
    return found


async def content_of(directory: Path) -> dict[str, bytes]:
    """Return what a new session gets."""
    maildrop = await opened(MaildirMaildrops(directory), "alice")
    try:
        return await texts(maildrop)
    finally:
        maildrop.close()


async def delete(directory: Path, *unique_ids: str) -> None:
    maildrop = await opened(MaildirMaildrops(directory), "alice")
    numbers = [number for number, each in enumerate(maildrop.messages, 1) if each.unique_id in unique_ids]
    assert len(numbers) == len(unique_ids)
    await maildrop.update(frozenset(numbers))
    maildrop.close()


def files(directory: Path) -> set[str]:
    maildir = directory / "alice"
    return {f"{path.parent.name}/{path.name}" for folder in ("new", "cur") for path in (maildir / folder).iterdir()}


# Names


@pytest.mark.parametrize(
    ("file_name", "unique_name"),
    [
        ("1.x.host", "1.x.host"),
        *(("1.x.host" + flags, "1.x.host") for flags in (":2,", ":2,S", "!2,S", ";2,RS", ":1,a", ":", "!2,")),
        *(("1.x.host" + flags, "1.x.host") for flags in (";2,S:2,R", ":2,S!2,R", "!2,S;2,R", ":2,S:2,R", "!2,!2,")),
        *(("1.x.host" + sizes, "1.x.host") for sizes in (",S=12", ",W=13", ",S=1,W=2", ",W=2,S=1", ",S=1,S=2")),
        *(("1.x.host" + both, "1.x.host") for both in (",S=1:2,S", ",S=1,W=2!2,S", ";2,S,S=1", ":2,S,S=1,W=2")),
        ("1.x,S=1,foo=bar:2,S", "1.x,foo=bar"),
        ("1_2.3.host,U=13209,FMD5=7e33:2,:::2:2::2,S", "1_2.3.host,FMD5=7e33"),  # seen with mu and OfflineIMAP
        ("1.x,foo=bar,W=1", "1.x,foo=bar"),
        *((name, name) for name in ("1.x!2", "1.x;2", "1.x!y", "1.x;y;z", "1.x!1,S", "1.x!22,S", "1.x,2,S", "12,x")),
        *((name, name) for name in ("1.x,S=", "1.x,S=1a", "1.x,s=1", "1.xS=1", "1.x,T=1", "1.x,S=-1")),
    ],
)  # fmt: skip
def test_unique_name_has_neither_flags_nor_sizes(file_name: str, unique_name: str) -> None:
    """The first separator ends the name: ``:``, or ``!2,`` or ``;2,`` where a name may not contain a colon."""
    assert _maildir.unique_name(file_name) == unique_name


@given(st.text("1.x,:;!2SW=a\n", min_size=1, max_size=12))
def test_flags_never_change_the_unique_name(name: str) -> None:
    """For any name, and it is never longer than the part before the colon."""
    unique_name = _maildir.unique_name(name)
    assert _maildir.unique_name(unique_name) == unique_name
    for flags in (":2,", ":2,RS", ":2,S,x=1"):
        assert _maildir.unique_name(name.partition(":")[0] + flags) == unique_name
    for flags in ("!2,", ";2,S"):
        assert _maildir.unique_name(name.partition(":")[0] + flags) == unique_name


@on_both_loops
@pytest.mark.parametrize("separator", [":", "!", ";"])
@pytest.mark.parametrize("sizes", ["", ",S=2", ",S=2,W=3"])
def test_unique_id_stays_when_flags_and_sizes_change(run: Run, separator: str, sizes: str, tmp_path: Path) -> None:
    """FAT and NTFS do not allow a colon, so programs use ``!`` or ``;`` there."""
    file = foreign(tmp_path / "alice", "1.x.host", b"a\n")

    async def main() -> None:
        nonlocal file
        for name in (
            "1.x.host",
            f"1.x.host{sizes}",
            f"1.x.host{sizes}{separator}2,",
            f"1.x.host{sizes}{separator}2,RS",
        ):
            file = file.rename(tmp_path / "alice" / "cur" / name)
            assert await content_of(tmp_path) == {plain_id("1.x.host"): b"a\r\n"}
        maildrop = await opened(MaildirMaildrops(tmp_path), "alice")
        file.rename(file.with_name(f"1.x.host{separator}2,T"))
        assert await whole(maildrop, 1) == b"a\r\n"
        await maildrop.update(frozenset({1}))

    run(main)
    assert files(tmp_path) == set()


@on_both_loops
def test_size_in_our_own_name_is_used_with_every_separator(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def uncounted(folder: Folder, name: str) -> Iterator[bytes]:
        raise AssertionError("the message was read to count it")

    async def main() -> None:
        await put(MaildirMaildrops(tmp_path), "alice", b"mine\r\n")
        (file,) = (tmp_path / "alice" / "new").iterdir()
        (unique_id,) = await content_of(tmp_path)
        monkeypatch.setattr(_wire_sizes, "read_data", uncounted)
        for flags in (":2,S", "!2,S", ";2,S"):
            file = file.rename(tmp_path / "alice" / "cur" / (_base(file.name) + flags))
            assert await content_of(tmp_path) == {unique_id: b"mine\r\n"}

    run(main)


def _base(name: str) -> str:
    return name.partition(":")[0].partition("!")[0].partition(";")[0]


# Several files of one unique name


@on_both_loops
def test_files_with_the_same_content_are_one_message(run: Run, tmp_path: Path) -> None:
    """A client that copies and deletes instead of moving leaves them.  DELE removes all of them."""
    for name, folder in (("1.x:2,S", "cur"), ("1.x:2,RS", "cur"), ("1.x", "new")):
        foreign(tmp_path / "alice", name, b"a\n", folder)
    foreign(tmp_path / "alice", "2.x", b"a\n")

    async def main() -> None:
        assert await content_of(tmp_path) == {plain_id("1.x"): b"a\r\n", plain_id("2.x"): b"a\r\n"}
        await delete(tmp_path, plain_id("1.x"))

    run(main)
    assert files(tmp_path) == {"new/2.x"}


@on_both_loops
def test_hard_links_are_one_message_and_are_not_read(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some programs move a file with link() and unlink(), and may be interrupted in between."""
    file = foreign(tmp_path / "alice", "1.x", b"a\n")
    os.link(file, tmp_path / "alice" / "cur" / "1.x:2,S")

    def unhashed(folder: Folder, name: str) -> str:
        raise AssertionError("the message was hashed")

    monkeypatch.setattr(_maildir_messages, "content_digest", unhashed)

    async def main() -> None:
        assert await content_of(tmp_path) == {plain_id("1.x"): b"a\r\n"}
        await delete(tmp_path, plain_id("1.x"))

    run(main)
    assert files(tmp_path) == set()


@on_both_loops
def test_hard_links_with_different_unique_names_are_two_messages(run: Run, tmp_path: Path) -> None:
    """Dovecot copies a message in this way."""
    os.link(foreign(tmp_path / "alice", "1.x", b"a\n"), tmp_path / "alice" / "new" / "2.x")

    async def main() -> None:
        assert set(await content_of(tmp_path)) == {plain_id("1.x"), plain_id("2.x")}
        await delete(tmp_path, plain_id("1.x"))

    run(main)
    assert files(tmp_path) == {"new/2.x"}


def aged(path: Path, seconds: int) -> Path:
    os.utime(path, (seconds, seconds))
    return path


FIRST, SECOND, THIRD = b"a\n", b"b\n", b"longer\n"


@on_both_loops
def test_files_with_different_content_are_messages_of_their_own(run: Run, tmp_path: Path) -> None:
    """The oldest has the usual unique-id, and the others have one that ends with ``-`` and a part of their hash."""
    aged(foreign(tmp_path / "alice", "1.x", SECOND), 2)
    aged(foreign(tmp_path / "alice", "1.x:2,S", FIRST, "cur"), 1)
    aged(foreign(tmp_path / "alice", "1.x:2,RS", THIRD, "cur"), 3)
    aged(foreign(tmp_path / "alice", "1.x:2,T", SECOND, "cur"), 4)
    base = plain_id("1.x")
    expected = {
        base: b"a\r\n",
        f"{base}-{digest(SECOND)[:8]}": b"b\r\n",
        f"{base}-{digest(THIRD)[:8]}": b"longer\r\n",
    }

    async def main() -> None:
        assert await content_of(tmp_path) == expected
        await delete(tmp_path, f"{base}-{digest(SECOND)[:8]}")
        assert files(tmp_path) == {"cur/1.x:2,S", "cur/1.x:2,RS"}

    run(main)


@on_both_loops
@pytest.mark.parametrize("own_name", [False, True])
def test_a_unique_id_is_not_passed_to_another_message(run: Run, own_name: bool, tmp_path: Path) -> None:
    """RFC 1939 section 7.  Otherwise a client that keeps mail on the server would never get the other message."""
    name = "1.M000001P1Q1R00000000.host" if own_name else "1.x"
    sizes = ",S=2,W=3" if own_name else ""
    base = plain_id(name)
    second = f"{base}-{digest(SECOND)[:8]}"
    aged(foreign(tmp_path / "alice", f"{name}{sizes}:2,S", FIRST, "cur"), 1)
    file = aged(foreign(tmp_path / "alice", f"{name}{sizes}", SECOND), 2)

    async def main() -> None:
        nonlocal file
        assert await content_of(tmp_path) == {base: b"a\r\n", second: b"b\r\n"}
        await delete(tmp_path, base)
        for _ in range(2):
            assert await content_of(tmp_path) == {second: b"b\r\n"}
            file = file.rename(tmp_path / "alice" / "cur" / f"{name}{sizes}:2,F")
            os.utime(file, (9, 9))
        aged(foreign(tmp_path / "alice", name, THIRD), 1)
        assert await content_of(tmp_path) == {base: b"longer\r\n", second: b"b\r\n"}
        await delete(tmp_path, second)
        assert await content_of(tmp_path) == {base: b"longer\r\n"}

    run(main)


@on_both_loops
def test_message_known_before_keeps_its_unique_id_when_an_older_file_appears(run: Run, tmp_path: Path) -> None:
    """For example, when a backup is restored."""
    aged(foreign(tmp_path / "alice", "1.x", FIRST), 5)

    async def main() -> None:
        assert await content_of(tmp_path) == {plain_id("1.x"): b"a\r\n"}
        aged(foreign(tmp_path / "alice", "1.x:2,S", SECOND, "cur"), 1)
        second = f"{plain_id('1.x')}-{digest(SECOND)[:8]}"
        assert await content_of(tmp_path) == {plain_id("1.x"): b"a\r\n", second: b"b\r\n"}

    run(main)


@on_both_loops
def test_hashes_that_begin_alike_get_longer_unique_ids(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashes = {FIRST: "0" * 64, SECOND: "ab" * 32, THIRD: "ab" * 31 + "00"}

    def of(folder: Folder, name: str) -> str:
        return hashes[Path(folder.path, name).read_bytes()]

    monkeypatch.setattr(_maildir_messages, "content_digest", of)
    for seconds, data in enumerate((FIRST, SECOND, THIRD), 1):
        aged(foreign(tmp_path / "alice", f"1.x:2,{'ST'[: seconds - 1]}", data, "cur"), seconds)
    base = plain_id("1.x")

    async def main() -> None:
        found = await content_of(tmp_path)
        assert found == {base: b"a\r\n", f"{base}-abababab": b"b\r\n", f"{base}-ababababa": b"longer\r\n"}
        assert await content_of(tmp_path) == found

    run(main)


contents = st.lists(st.tuples(st.sampled_from([FIRST, SECOND, THIRD, b""]), st.integers(1, 3)), min_size=1, max_size=6)


@given(contents, st.data())
def test_no_content_is_hidden_and_no_unique_id_is_given_twice(
    tmp_path_factory: pytest.TempPathFactory, written: list[tuple[bytes, int]], data: st.DataObject
) -> None:
    """For any files of one unique name: each content is one message, and a unique-id never changes its content."""
    directory = tmp_path_factory.mktemp("maildir")
    for number, (text, seconds) in enumerate(written):
        aged(foreign(directory, f"1.x:2,{'ABCDEF'[number]}", text, "cur"), seconds)
    seen: dict[str, bytes] = {}
    while True:
        with Folder.open(directory) as maildir:
            found = _maildir_messages.MaildirMessages(maildir)
        texts_found = {
            message.unique_id: directory.joinpath(*each.files[0]).read_bytes()
            for message, each in zip(found.messages, found.files, strict=True)
        }
        present = {path.read_bytes() for path in (directory / "cur").iterdir()}
        assert len(texts_found) == len(found.messages)
        assert sorted(texts_found.values()) == sorted(present)
        assert {directory.joinpath(*file) for each in found.files for file in each.files} == set(
            (directory / "cur").iterdir()
        )
        for unique_id, text in texts_found.items():
            assert seen.setdefault(unique_id, text) == text
        if not found.files:
            break
        for file in data.draw(st.sampled_from(found.files)).files:
            directory.joinpath(*file).unlink()


# Races


@on_both_loops
def test_deletion_removes_all_files_if_one_has_gone_and_one_has_moved(run: Run, tmp_path: Path) -> None:
    gone = foreign(tmp_path / "alice", "1.x", b"a\n")
    moved = foreign(tmp_path / "alice", "1.x:2,S", b"a\n", "cur")
    foreign(tmp_path / "alice", "1.x:2,T", b"a\n", "cur")

    async def main() -> None:
        maildrop = await opened(MaildirMaildrops(tmp_path), "alice")
        assert len(maildrop.messages) == 1
        gone.unlink()
        moved.rename(moved.with_name("1.x:2,RS"))
        await maildrop.update(frozenset({1}))

    run(main)
    assert files(tmp_path) == set()


@on_both_loops
def test_deletion_does_not_remove_a_message_that_was_not_listed(run: Run, tmp_path: Path) -> None:
    """A file with the same unique name, delivered during the session, was never shown to the client."""
    file = foreign(tmp_path / "alice", "1.x", b"a\n")

    async def main() -> None:
        maildrop = await opened(MaildirMaildrops(tmp_path), "alice")
        file.rename(tmp_path / "alice" / "cur" / "1.x:2,S")
        foreign(tmp_path / "alice", "1.x:2,T", b"b\n", "cur")
        assert await whole(maildrop, 1) == b"a\r\n"
        await maildrop.update(frozenset({1}))

    run(main)
    assert files(tmp_path) == {"cur/1.x:2,T"}


@on_both_loops
def test_message_moved_while_the_folders_are_listed_is_one_message(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is listed in both folders, and one of the two paths does not exist any more."""
    file = foreign(tmp_path / "alice", "1.x", b"a\n")

    def late(folder: Path) -> None:
        if folder.name == "cur" and file.exists():
            file.rename(folder / "1.x:2,S")

    file_calls.before(monkeypatch, "scandir", late)

    async def main() -> None:
        assert await content_of(tmp_path) == {plain_id("1.x"): b"a\r\n"}

    run(main)


@on_both_loops
@pytest.mark.parametrize("kind", ["read", "hashed"])
def test_file_that_vanishes_before_it_is_read_is_omitted(
    run: Run, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = foreign(tmp_path / "alice", "1.x", b"a\n")
    if kind == "hashed":
        foreign(tmp_path / "alice", "1.x:2,S", b"b\n", "cur")
    foreign(tmp_path / "alice", "2.x", b"c\n")
    read_data = _maildir.read_data

    def late(folder: Folder, name: str) -> Iterator[bytes]:
        file.unlink(missing_ok=True)
        return read_data(folder, name)

    monkeypatch.setattr(_maildir_messages if kind == "hashed" else _wire_sizes, "read_data", late)

    async def main() -> None:
        expected = {plain_id("2.x"): b"c\r\n"} | ({plain_id("1.x"): b"b\r\n"} if kind == "hashed" else {})
        assert await content_of(tmp_path) == expected

    run(main)


@on_both_loops
def test_failed_deletion_of_one_file_of_several_raises(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 1939 section 6: the message was not removed, so the client must be told."""
    stuck = foreign(tmp_path / "alice", "1.x", b"a\n")
    foreign(tmp_path / "alice", "1.x:2,S", b"a\n", "cur")

    def failing(path: Path) -> None:
        if path == stuck:
            raise PermissionError(errno.EACCES, "Permission denied")

    file_calls.before(monkeypatch, "unlink", failing)

    async def main() -> None:
        maildrop = await opened(MaildirMaildrops(tmp_path), "alice")
        with pytest.raises(PermissionError):
            await maildrop.update(frozenset({1}))
        maildrop.close()
        assert list(await content_of(tmp_path)) == [plain_id("1.x")]

    run(main)
    assert files(tmp_path) == {"new/1.x"}


# Files that cannot be read


def refuse(monkeypatch: pytest.MonkeyPatch, path: Path, code: int = errno.EACCES) -> None:
    """Make ``open()`` of one file fail, as for a file of another owner; the tests may run as root."""

    def failing(name: Path) -> None:
        if name == path:
            raise OSError(code, os.strerror(code), str(name))

    file_calls.before(monkeypatch, "open", failing)


@on_both_loops
@pytest.mark.parametrize("code", [errno.EACCES, errno.EPERM, errno.EIO, errno.ELOOP, errno.ESTALE])
@pytest.mark.parametrize("same_name", [False, True])
def test_unreadable_file_is_left_out_and_the_others_are_served(
    run: Run, code: int, same_name: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = foreign(tmp_path / "alice", "2.x:2,S", b"b\n", "cur")
    foreign(tmp_path / "alice", "1.x", b"a\n")
    foreign(tmp_path / "alice", "3.x", b"c\n")
    if same_name:
        foreign(tmp_path / "alice", "2.x", b"c\n")
    refuse(monkeypatch, file, code)

    async def main() -> None:
        assert sorted((await content_of(tmp_path)).values()) == [b"a\r\n", *[b"c\r\n"] * (2 if same_name else 1)]
        monkeypatch.undo()
        assert len(await content_of(tmp_path)) == 3 + same_name

    run(main)


@on_both_loops
def test_file_of_known_size_that_cannot_be_read_is_left_out(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without this, LIST would have it, and RETR would fail each time."""

    def refused(path: str, mode: int, *, dir_fd: int) -> bool:
        return False

    foreign(tmp_path / "alice", "1.x", b"a\n")

    async def main() -> None:
        await put(MaildirMaildrops(tmp_path), "alice", b"mine\r\n")
        assert len(await content_of(tmp_path)) == 2
        for file in (*(tmp_path / "alice" / "new").iterdir(),):
            file.chmod(0)
        monkeypatch.setattr(os, "access", refused)
        assert await content_of(tmp_path) == {}

    run(main)


@on_both_loops
@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM])
def test_fault_of_the_process_fails_the_login(
    run: Run, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would affect any file, so the client is told to try again, and does not get a part of the maildrop."""
    foreign(tmp_path / "alice", "1.x", b"a\n")
    refuse(monkeypatch, foreign(tmp_path / "alice", "2.x", b"b\n"), code)

    async def main() -> None:
        with pytest.raises(OSError, match=r"\[Errno"):
            await opened(MaildirMaildrops(tmp_path), "alice")

    run(main)


@on_both_loops
@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_file_replaced_after_it_was_listed_is_left_out(
    run: Run, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe must not block, and a link must not be followed."""
    file = foreign(tmp_path / "alice", "1.x", b"a\n")
    foreign(tmp_path / "alice", "2.x", b"b\n")
    (tmp_path / "secret").write_bytes(b"root:x\n")

    def late(path: Path) -> None:
        if path == file and file.is_file():
            file.unlink()
            if kind == "folder":
                file.mkdir()
            elif kind == "pipe":
                os.mkfifo(file)
            else:
                file.symlink_to(tmp_path / "secret")

    file_calls.after(monkeypatch, "stat", late)

    async def main() -> None:
        assert await content_of(tmp_path) == {plain_id("2.x"): b"b\r\n"}

    run(main)


@on_both_loops
def test_log_names_the_files_that_cannot_be_read(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the login and at RETR.  The client gets the other messages."""
    refuse(monkeypatch, foreign(tmp_path / "alice", "2.x y:2,S", b"b\n", "cur"))
    foreign(tmp_path / "alice", "1.x", b"a\n")
    foreign(tmp_path / "alice", "3.x", b"c\n")
    kept = server.Stores(accounts=accounts(), maildrops=MaildirMaildrops(tmp_path), outbox=MemoryOutbox())
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(logs.TextFormatter())
    server.LOGGER.addHandler(handler)

    def client(served: Served) -> None:
        session = served.log_in()
        assert session.stat() == (2, 6)
        refuse(monkeypatch, tmp_path / "alice" / "new" / "1.x")
        with pytest.raises(poplib.error_proto, match="-ERR"):
            session.retr(1)
        assert session.retr(2)[1] == [b"c"]
        session.quit()

    try:
        meet(run, client, kept=kept)
    finally:
        server.LOGGER.removeHandler(handler)
    lines = [line for line in written.getvalue().splitlines() if " message not readable " in line]
    assert len(lines) == 2
    assert lines[0].endswith(' identity=alice file=cur/2.x\\x20y:2,S reason="Permission denied"')
    assert lines[1].endswith(' identity=alice file=new/1.x reason="Permission denied"')
    assert all(" WARNING " in line for line in lines)


# Cost


@on_both_loops
def test_nothing_is_hashed_unless_files_share_a_unique_name(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    real = _maildir_messages.content_digest

    def noted(folder: Folder, name: str) -> str:
        hashed.append(name)
        return real(folder, name)

    monkeypatch.setattr(_maildir_messages, "content_digest", noted)
    for number in range(5):
        foreign(tmp_path / "alice", f"{number}.x:2,S", b"the same\n", "cur")

    async def main() -> None:
        await content_of(tmp_path)
        assert hashed == []
        foreign(tmp_path / "alice", "3.x", b"other\n")
        await content_of(tmp_path)
        assert sorted(hashed) == ["3.x", "3.x:2,S"]

    run(main)
