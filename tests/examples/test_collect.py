"""examples/collect.py deletes from the server only what it has stored, complete and durable."""

from __future__ import annotations

import mailbox
import os
from pathlib import Path

import attrs
import pytest

from examples import collect
from tests.examples import programs
from tests.examples.scripted import MESSAGES, End, Script, Server, pop3_server

ONE, TWO, THREE = (message.replace(b"\r\n", b"\n") for message in MESSAGES)


@attrs.frozen
class Outcome(programs.Result):
    server: Server
    stored: list[bytes]


@pytest.fixture(autouse=True)
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAIL_PASSWORD", "secret")


def stored(maildir: Path) -> list[bytes]:
    """Return the messages in a Maildir, sorted by content, because the order of names within a second is undefined."""
    assert not list(maildir.glob("tmp/*"))
    return sorted(path.read_bytes() for path in maildir.glob("new/*"))


def collect_from(script: Script, directory: Path, capsys: pytest.CaptureFixture[str], *options: str) -> Outcome:
    maildir = directory / "Maildir"
    with pop3_server(script) as server:
        status = collect.main(
            [*options, "--tls", "none", "--user", "alice", "127.0.0.1", str(server.port), str(maildir)]
        )
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return Outcome(status, out, err, server, stored(maildir))


def test_mail_is_stored_and_then_deleted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = collect_from({}, tmp_path, capsys)
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out == "Message 1: stored\nMessage 2: stored\nMessage 3: stored\n"
    assert outcome.stored == [ONE, THREE, TWO]
    assert outcome.server.deleted == [1, 2, 3]


def test_empty_maildrop_exits_with_status_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = collect_from({"LIST": b"+OK\r\n.\r\n"}, tmp_path, capsys)
    assert (outcome.status, outcome.out, outcome.stored) == (0, "", [])


def test_keep_option_leaves_messages_on_the_server(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = collect_from({}, tmp_path, capsys, "--keep")
    assert (outcome.status, outcome.stored, outcome.server.deleted) == (0, [ONE, THREE, TWO], [])


@pytest.mark.parametrize("step", ["GREETING", "USER", "PASS", "LIST"])
@pytest.mark.parametrize(
    "said",
    [
        b"-ERR [SYS/TEMP] not now\r\n",
        End(),
        End(b"-ERR closing\r\n"),
        End(b"+O"),
        End(b"+OK\r\n1 1"),
        b"220 an SMTP server\r\n",
        b"\xff\xfe\x00\r\n",
        End(b"+OK\r\n-ERR\r\n+OK\r\n"),
    ],
    ids=repr,
)
def test_failure_before_retrieval_deletes_nothing(
    step: str, said: bytes | End, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = collect_from({step: said}, tmp_path, capsys)
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err.startswith("Stopped; no message was lost: ")
    assert (outcome.stored, outcome.server.deleted) == ([], [])
    assert not any(line.startswith("DELE") for line in outcome.server.heard)


@pytest.mark.parametrize("said", [b"-ERR what?\r\n", b"+OK\r\n.\r\n"], ids=repr)
def test_server_without_capabilities_is_accepted(
    said: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert collect_from({"CAPA": said}, tmp_path, capsys).status == 0


@pytest.mark.parametrize(
    "listing", [b"one 23\r\n", b"1\r\n", b"1 x\r\n", b"0 5\r\n", b"-1 5\r\n", b"9" * 30 + b" 5\r\n"], ids=repr
)
def test_invalid_scan_listing_stores_and_deletes_nothing(
    listing: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = collect_from({"LIST": b"+OK\r\n" + listing + b".\r\n"}, tmp_path, capsys)
    assert outcome.status == 1
    assert (outcome.stored, outcome.server.deleted) == ([], [])


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (b"-ERR [SYS/TEMP] disk error\r\n", "-ERR [SYS/TEMP] disk error"),
        (b"+OK\r\nSubject: two\r\n\r\n.\r\n", "only 16 of 24 bytes arrived"),
        (b"+OK\r\n.\r\n", "only 0 of 24 bytes arrived"),
    ],
    ids=["refused", "short", "empty"],
)
def test_message_that_is_not_fully_retrieved_is_left_on_the_server(
    said: bytes, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = collect_from({"RETR 2": said}, tmp_path, capsys)
    assert outcome.status == 1
    assert outcome.out == f"Message 1: stored\nMessage 2: not stored, left on the server: {reason}\nMessage 3: stored\n"
    assert (outcome.stored, outcome.server.deleted) == ([ONE, THREE], [1, 3])


@pytest.mark.parametrize(
    "said",
    [
        End(),
        End(b"+OK\r\nSubject: two\r\n\r\nsec"),
        End(b"+OK\r\n" + MESSAGES[1]),
        End(b"+OK\r\n" + MESSAGES[1] + b"."),
        End(b"+OK\r\n" + MESSAGES[1] + b".\r"),
        b"Subject: two\r\n",
        b"+OK\r\n" + MESSAGES[1] + b".\r\n+OK\r\nnot a reply\r\n",
    ],
    ids=repr,
)
def test_failure_during_retrieval_deletes_nothing(
    said: bytes | End, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = collect_from({"RETR 2": said}, tmp_path, capsys)
    assert outcome.status == 1
    assert outcome.err.startswith("Stopped; no message was lost: ")
    assert outcome.server.deleted == []
    assert ONE in outcome.stored
    assert [message for message in outcome.stored if message not in (ONE, TWO)] == []


def test_connection_closed_after_retrieval_stores_but_does_not_delete(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = collect_from({"RETR 2": End(b"+OK\r\n" + MESSAGES[1] + b".\r\n")}, tmp_path, capsys)
    assert (outcome.status, outcome.stored, outcome.server.deleted) == (1, [ONE, TWO], [])


def test_rejected_dele_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = collect_from({"DELE 2": b"-ERR locked\r\n"}, tmp_path, capsys)
    assert outcome.status == 1
    assert "Message 2: stored, but left on the server: -ERR locked\n" in outcome.out
    assert (outcome.stored, outcome.server.deleted) == ([ONE, THREE, TWO], [1, 3])


@pytest.mark.parametrize("said", [b"-ERR some messages not deleted\r\n", End(), End(b"+O"), b"bye\r\n"], ids=repr)
def test_unconfirmed_quit_exits_with_status_1(
    said: bytes | End, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = collect_from({"QUIT": said}, tmp_path, capsys)
    assert outcome.status == 1
    assert outcome.stored == [ONE, THREE, TWO]


def test_message_that_cannot_be_stored_is_not_deleted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: mailbox.Maildir, message: bytes) -> str:
        raise OSError("planted")

    monkeypatch.setattr(mailbox.Maildir, "add", full)
    outcome = collect_from({}, tmp_path, capsys)
    assert (outcome.status, outcome.stored, outcome.server.deleted) == (1, [], [])
    assert outcome.err.startswith("Stopped; no message was lost: ")


def test_message_is_deleted_only_after_file_and_folder_are_synced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file and its folder are synchronized before DELE; here the folder of the second message fails."""
    synchronized: list[str] = []
    really = os.fsync

    def fsync(file: int) -> None:
        name = os.readlink(f"/proc/self/fd/{file}").removeprefix(f"{tmp_path}/Maildir")
        if name in synchronized:
            raise OSError("planted")
        synchronized.append(name)
        really(file)

    monkeypatch.setattr(os, "fsync", fsync)
    outcome = collect_from({}, tmp_path, capsys)
    assert (outcome.status, outcome.err) == (1, "Stopped; no message was lost: planted\n")
    assert synchronized[0].startswith("/tmp/")
    assert synchronized[1] == "/new"
    assert outcome.server.deleted == []
    assert [line for line in outcome.server.heard if line.startswith("DELE")] == ["DELE 1"]


def test_password_is_not_sent_when_tls_is_not_established(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for mode in ("starttls", "implicit"):
        with pop3_server({"STLS": b"-ERR not now\r\n"}) as server:
            status = collect.main(
                ["--tls", mode, "--user", "alice", "127.0.0.1", str(server.port), str(tmp_path / "m")]
            )
        assert status == 1
        assert not any(line.startswith(("USER", "PASS")) for line in server.heard)
        err = capsys.readouterr().err
        assert err.startswith("Stopped; no message was lost: ")
        assert mode == "implicit" or err.endswith("STLS: -ERR not now\n")


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["--help"], 0, "usage: "),
        ([], 2, "usage: "),
        (["--user", "alice", "127.0.0.1", "0", "m"], 2, "invalid port value: '0'"),
        (["--user", "alice", "127.0.0.1", "CLOSED", "m"], 1, "Stopped; no message was lost: "),
        (["--user", "alice", "name..test", "995", "m"], 1, "Stopped; no message was lost: "),
        (["--user", "alice", "--ca", "missing.pem", "127.0.0.1", "995", "m"], 1, "was lost: missing.pem: "),
    ],
)
def test_command_line_errors_are_reported_in_one_line(
    arguments: list[str],
    status: int,
    words: str,
    free_port: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        result = collect.main([str(free_port) if argument == "CLOSED" else argument for argument in arguments])
    except SystemExit as error:  # argparse
        result = int(error.code or 0)
    out, err = capsys.readouterr()
    assert result == status
    assert words in out + err
    if status == 1:
        assert (out, err.count("\n")) == ("", 1)
    elif status == 2:  # argparse prints the usage before the error
        assert out == ""
        assert ": error: " in err.splitlines()[-1]


def test_program_runs_as_a_subprocess(tmp_path: Path) -> None:
    maildir = tmp_path / "Maildir"
    with pop3_server({"RETR 2": b"-ERR disk error\r\n"}) as server:
        arguments = ["--tls", "none", "--user", "alice", "127.0.0.1", server.port, maildir]
        result = programs.run("collect.py", *arguments, MAIL_PASSWORD="secret")
    assert (result.status, result.err) == (1, "")
    assert result.out.splitlines()[1] == "Message 2: not stored, left on the server: -ERR disk error"
    assert (stored(maildir), server.deleted) == ([ONE, THREE], [1, 3])


def test_the_maildir_is_checked_before_anything_is_retrieved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    maildir = tmp_path / "Maildir"
    maildir.write_bytes(b"")
    with pop3_server({}) as server:
        arguments = ["--tls", "none", "--user", "alice", "127.0.0.1", str(server.port), str(maildir)]
        assert collect.main(arguments) == 1
        assert str(maildir) in capsys.readouterr().err
        assert server.heard == []
        maildir.unlink()
        maildir.mkdir()
        (maildir / "letter").write_bytes(b"")
        assert collect.main(arguments) == 1
        assert capsys.readouterr().err.endswith(f"{maildir} is neither a Maildir nor empty\n")
        (maildir / "letter").unlink()
        assert collect.main(arguments) == 0
    assert stored(maildir) == [ONE, THREE, TWO]


def test_keyboard_interrupt_at_password_prompt_exits_with_status_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAIL_PASSWORD")

    def interrupted() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("getpass.getpass", interrupted)
    assert collect.main(["--user", "alice", "127.0.0.1", "995", str(tmp_path / "Maildir")]) == 130
