"""examples/maildrop_server.py with poplib, curl and raw sockets."""

from __future__ import annotations

import mailbox
import poplib
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from examples import maildrop_server
from tests.examples import programs
from tests.io.tls import client_context

FILES = {
    "new/1.a.host": b"Subject: one\n\nfirst\n.\n..dots\nlast line without an end",
    "cur/2.b.host:2,S": b"Subject: two\r\n\r\nsecond\r\nthird\r\n",
    "new/3.c.host": b"Subject: header only\n",
    "new/4.d.host": b"Subject: long\n\n" + b"y" * 70 + b"\n" + (b"z" * 1_000 + b"\n") * 200,
}
MESSAGES = [
    b"Subject: one\r\n\r\nfirst\r\n.\r\n..dots\r\nlast line without an end\r\n",
    b"Subject: two\r\n\r\nsecond\r\nthird\r\n",
    b"Subject: header only\r\n",
    b"Subject: long\r\n\r\n" + b"y" * 70 + b"\r\n" + (b"z" * 1_000 + b"\r\n") * 200,
]


@attrs.frozen
class Served:
    port: int
    maildir: Path

    def log_in(self, password: str = "secret") -> poplib.POP3:
        client = poplib.POP3("127.0.0.1", self.port, timeout=programs.TIMEOUT)
        try:
            client.user("alice")
            client.pass_(password)
        except poplib.error_proto:
            client.close()
            raise
        return client

    def log_in_when_free(self) -> poplib.POP3:
        """The server needs a moment to notice that a client has disconnected."""
        for _ in range(1_000):
            try:
                return self.log_in()
            except poplib.error_proto as error:
                if b"IN-USE" not in error.args[0]:
                    raise
        raise AssertionError("the maildrop stays locked")

    def files(self) -> set[str]:
        return {f"{path.parent.name}/{path.name}" for path in self.maildir.glob("*/*")}


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("maildrop")
    maildir = directory / "Maildir"
    with programs.listening(
        "maildrop_server.py", "--user", "alice", maildir, errors=directory / "errors", MAIL_PASSWORD="secret"
    ) as port:
        yield Served(port, maildir)


@pytest.fixture
def served(process: Served) -> Served:
    """One server process for all tests, and new messages for each."""
    for path in process.maildir.glob("*/*"):
        path.unlink()
    for name, content in FILES.items():
        (process.maildir / name).write_bytes(content)
    process.log_in_when_free().quit()
    return process


def retrieved(client: poplib.POP3, number: int) -> bytes:
    return b"".join(line + b"\r\n" for line in client.retr(number)[1])


def test_stat_and_list_sizes_match_the_messages(served: Served) -> None:
    client = served.log_in()
    assert client.stat() == (len(MESSAGES), sum(map(len, MESSAGES)))
    assert client.list()[1] == [b"%d %d" % (n, len(message)) for n, message in enumerate(MESSAGES, start=1)]
    assert [retrieved(client, n) for n in (1, 2, 3, 4)] == MESSAGES
    client.quit()
    assert served.files() == set(FILES)


@pytest.mark.parametrize("lines", [0, 1, 2, 1_000])
@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_retr_after_top_returns_the_complete_message(number: int, lines: int, served: Served) -> None:
    client = served.log_in()
    header, blank, body = MESSAGES[number - 1].partition(b"\r\n\r\n")
    top = header + blank + b"".join(body.splitlines(keepends=True)[:lines])
    for _ in range(2):
        assert client.top(number, lines)[1] == top.splitlines()
        assert retrieved(client, number) == MESSAGES[number - 1]
    client.quit()


def test_pipelined_commands_are_processed(served: Served) -> None:
    commands = [
        b"TOP 1 0",
        b"RETR 1",
        b"TOP 4 1",
        b"RETR 4",
        b"RETR 1",
        b"DELE 1",
        b"RETR 1",
        b"RSET",
        b"RETR 1",
        b"QUIT",
    ]
    login = b"USER alice\r\nPASS secret\r\n"
    together = by_hand(served, login + b"".join(command + b"\r\n" for command in commands))
    stuffed = MESSAGES[0].replace(b"\r\n.", b"\r\n..")
    assert together.count(stuffed + b".\r\n") == 3
    assert together.count(MESSAGES[3] + b".\r\n") == 1
    assert served.files() == set(FILES)


def by_hand(served: Served, data: bytes) -> bytes:
    """Return everything that the server sends for *data*, which ends with QUIT."""
    with (
        socket.create_connection(("127.0.0.1", served.port), timeout=programs.TIMEOUT) as connection,
        connection.makefile("rb") as reader,
    ):
        connection.sendall(data)
        return reader.read()


def test_quit_deletes_only_marked_messages(served: Served) -> None:
    client = served.log_in()
    client.dele(2)
    client.dele(3)
    assert served.files() == set(FILES)
    client.rset()
    client.dele(1)
    client.dele(2)
    client.quit()
    assert served.files() == {"new/3.c.host", "new/4.d.host"}


def test_without_quit_nothing_is_deleted(served: Served) -> None:
    client = served.log_in()
    client.dele(1)
    client.close()
    again = served.log_in_when_free()
    assert again.stat()[0] == len(FILES)
    again.quit()
    assert served.files() == set(FILES)


def test_messages_unmarked_by_rset_are_not_deleted(served: Served) -> None:
    client = served.log_in()
    client.dele(1)
    client.rset()
    client.quit()
    assert served.files() == set(FILES)


def test_quit_returns_err_if_a_message_cannot_be_deleted(served: Served) -> None:
    client = served.log_in()
    client.dele(1)
    (served.maildir / "new/1.a.host").unlink()
    with pytest.raises(poplib.error_proto, match="-ERR"):
        client.quit()
    client.close()


def test_retr_of_a_removed_message_is_rejected_and_others_are_returned(served: Served) -> None:
    client = served.log_in()
    (served.maildir / "new/1.a.host").unlink()
    with pytest.raises(poplib.error_proto, match="SYS/TEMP"):
        client.retr(1)
    assert retrieved(client, 2) == MESSAGES[1]
    client.quit()


def test_login_can_be_retried_after_a_maildir_error(served: Served) -> None:
    unreadable = served.maildir / "new" / "0.broken"
    unreadable.mkdir()
    client = poplib.POP3("127.0.0.1", served.port, timeout=programs.TIMEOUT)
    try:
        client.user("alice")
        with pytest.raises(poplib.error_proto, match="SYS/TEMP"):
            client.pass_("secret")
    finally:
        unreadable.rmdir()
    served.log_in().quit()  # another session may open it while this connection is open
    client.user("alice")
    client.pass_("secret")
    assert client.stat()[0] == len(FILES)
    client.quit()


def test_new_mail_appears_only_in_the_next_session(served: Served) -> None:
    client = served.log_in()
    mailbox.Maildir(served.maildir).add(b"Subject: new\n\nmail\n")
    assert client.stat()[0] == len(FILES)
    client.quit()
    again = served.log_in()
    assert again.stat()[0] == len(FILES) + 1
    again.quit()


def test_unique_id_is_unchanged_after_a_flag_change(served: Served) -> None:
    client = served.log_in()
    before = client.uidl()[1]
    client.quit()
    (served.maildir / "new/1.a.host").rename(served.maildir / "cur/1.a.host:2,RS")
    again = served.log_in()
    assert again.uidl()[1] == before
    again.quit()


def test_second_concurrent_session_is_rejected_with_in_use(served: Served) -> None:
    first = served.log_in()
    with pytest.raises(poplib.error_proto, match="IN-USE"):
        served.log_in()
    assert retrieved(first, 2) == MESSAGES[1]
    first.quit()
    served.log_in().quit()


def test_wrong_password_is_rejected_and_apop_is_accepted(served: Served) -> None:
    with pytest.raises(poplib.error_proto):
        served.log_in("wrong")
    client = poplib.POP3("127.0.0.1", served.port, timeout=programs.TIMEOUT)
    client.apop("alice", "secret")
    assert client.stat()[0] == len(FILES)
    client.quit()


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_retrieves_a_message(served: Served) -> None:
    command = ["curl", "--silent", "--show-error", "--user", "alice:secret", f"pop3://127.0.0.1:{served.port}/1"]
    result = subprocess.run(command, capture_output=True, timeout=programs.TIMEOUT, check=True)
    assert result.stdout == MESSAGES[0]


def test_login_requires_tls_if_a_certificate_is_set(tmp_path: Path, tls_files: programs.CertificateFiles) -> None:
    with programs.listening(
        "maildrop_server.py", "--user", "alice", "--certificate", tls_files.certificate, tmp_path / "Maildir",
        errors=tmp_path / "errors", MAIL_PASSWORD="secret",
    ) as port:  # fmt: skip
        client = poplib.POP3("127.0.0.1", port, timeout=programs.TIMEOUT)
        with pytest.raises(poplib.error_proto):
            client.user("alice")
        client.stls(context=client_context())
        client.user("alice")
        client.pass_("secret")
        assert client.stat() == (0, 0)
        client.quit()


def test_startup_errors_are_reported_in_one_line(
    tmp_path: Path, free_port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAIL_PASSWORD", "secret")
    usual = ["--user", "alice"]
    for options in (
        [*usual, "--port", str(free_port), str(tmp_path / "Maildir")],  # already in use
        [*usual, "--certificate", "missing.pem", str(tmp_path / "Maildir")],
        [*usual, str(tmp_path / "missing" / "Maildir")],
    ):
        assert maildrop_server.main(options) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith("Cannot serve: ")


def test_the_maildir_is_checked_at_the_start(
    tmp_path: Path, free_port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAIL_PASSWORD", "secret")
    usual = ["--user", "alice", "--port", str(free_port)]  # so that the start fails after the check
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter").write_bytes(b"")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "new").write_bytes(b"")
    for wrong in ("file", "other", "broken"):
        assert maildrop_server.main([*usual, str(tmp_path / wrong)]) == 1
        err = capsys.readouterr().err
        assert err.startswith("Cannot serve: ")
        assert str(tmp_path / wrong) in err
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["letter"]
    (tmp_path / "empty").mkdir()
    for right in ("missing", "empty", "empty"):
        assert maildrop_server.main([*usual, str(tmp_path / right)]) == 1
        assert str(free_port) in capsys.readouterr().err
        assert sorted(path.name for path in (tmp_path / right).iterdir()) == ["cur", "new", "tmp"]


def test_missing_certificate_is_named_and_key_requires_certificate(
    tmp_path: Path, free_port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAIL_PASSWORD", "secret")
    usual = ["--port", str(free_port), "--user", "alice", str(tmp_path / "Maildir")]
    assert maildrop_server.main([*usual, "--certificate", "missing.pem"]) == 1
    assert capsys.readouterr().err.startswith("Cannot serve: missing.pem: ")
    with pytest.raises(SystemExit) as caught:
        maildrop_server.main([*usual, "--key", "key.pem"])
    assert caught.value.code == 2


def test_keyboard_interrupt_at_password_prompt_exits_with_status_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAIL_PASSWORD", raising=False)

    def interrupted() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("getpass.getpass", interrupted)
    with pytest.raises(SystemExit) as caught:
        maildrop_server.main(["--user", "alice", str(tmp_path / "Maildir")])
    assert caught.value.code == 130
