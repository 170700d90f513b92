"""examples/smtp_server.py with smtplib and curl: what it accepts is in the Maildir, and nothing else."""

from __future__ import annotations

import asyncio
import os
import shutil
import smtplib
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from examples import smtp_server
from mailauth import smtp
from mailauth_io.on_asyncio import serve_smtp
from tests.examples import programs
from tests.io.tls import client_context

ALICE, BOB, CAROL = "alice@example.org", "bob@example.org", "carol@far.test"
MESSAGE = b"Subject: test\r\n\r\nDown the rabbit-hole.\r\n.\r\n..dots\r\n"
STORED = MESSAGE.replace(b"\r\n", b"\n")


@attrs.frozen
class Served:
    port: int
    maildir: Path

    def client(self) -> smtplib.SMTP:
        return smtplib.SMTP("127.0.0.1", self.port, timeout=programs.TIMEOUT)

    def log_in(self) -> smtplib.SMTP:
        client = self.client()
        client.login("alice", "secret")
        return client

    def messages(self) -> list[bytes]:
        assert not list(self.maildir.glob("tmp/*"))
        return sorted(path.read_bytes() for path in self.maildir.glob("new/*"))


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory = tmp_path_factory.mktemp("smtp")
    maildir = directory / "Maildir"
    with programs.listening(
        "smtp_server.py", "--user", "alice", "--domain", "example.org", maildir,
        errors=directory / "errors", MAIL_PASSWORD="secret",
    ) as port:  # fmt: skip
        yield Served(port, maildir)


@pytest.fixture
def served(process: Served) -> Served:
    """One server process for all tests, and an empty Maildir for each."""
    for path in process.maildir.glob("*/*"):
        path.unlink()
    return process


def envelope(sender: str, *recipients: str) -> bytes:
    return "".join([f"Return-Path: <{sender}>\n", *(f"Delivered-To: {each}\n" for each in recipients)]).encode()


def test_mail_for_the_local_domain_is_accepted_without_login(served: Served) -> None:
    with served.client() as client:
        assert client.sendmail("eve@far.test", [BOB, ALICE], MESSAGE) == {}
        assert served.messages() == [envelope("eve@far.test", BOB, ALICE) + STORED]
        client.sendmail("", ["postmaster"], MESSAGE)
    assert served.messages() == [envelope("", "postmaster") + STORED, envelope("eve@far.test", BOB, ALICE) + STORED]


def test_mail_for_remote_domains_is_accepted_after_a_login_only(served: Served) -> None:
    with served.client() as client:
        refused = client.sendmail(ALICE, [BOB, CAROL], MESSAGE)
        assert {name: code for name, (code, _) in refused.items()} == {CAROL: 550}
        assert served.messages() == [envelope(ALICE, BOB) + STORED]
        client.login("alice", "secret")
        client.sendmail(ALICE, [CAROL], MESSAGE)
    assert served.messages() == [envelope(ALICE, BOB) + STORED, envelope(ALICE, CAROL) + STORED]


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_correct_password_is_accepted_and_wrong_one_is_rejected(mechanism: str, served: Served) -> None:
    for password, code in (("secret", 235), ("wrong", 535)):
        with served.client() as client:
            client.ehlo()
            client.user, client.password = "alice", password
            method = getattr(client, "auth_" + mechanism.lower().replace("-", "_"))
            try:
                assert client.auth(mechanism, method)[0] == code
            except smtplib.SMTPAuthenticationError as error:
                if error.smtp_code != code:
                    raise


def test_several_messages_in_one_session_are_stored_separately(served: Served) -> None:
    with served.client() as client:
        client.sendmail(ALICE, [BOB], b"Subject: 1\r\n\r\nfirst\r\n")
        client.mail(ALICE)
        client.rcpt(ALICE)
        client.rset()
        with pytest.raises(smtplib.SMTPDataError):
            client.sendmail(ALICE, [BOB], b"Subject: 2\r\n\r\nNUL \0 here\r\n")
        client.sendmail("", [ALICE], b"Subject: 3\r\n\r\nthird\r\n")
    assert served.messages() == [
        envelope("", ALICE) + b"Subject: 3\n\nthird\n",
        envelope(ALICE, BOB) + b"Subject: 1\n\nfirst\n",
    ]


@pytest.mark.parametrize("content", [b"", b"Subject: half\r\n", b"Subject: half\r\n\r\nbody\r\n.", b"x" * 100_000])
def test_incomplete_message_is_not_stored(content: bytes, served: Served) -> None:
    with (
        socket.create_connection(("127.0.0.1", served.port), timeout=programs.TIMEOUT) as connection,
        connection.makefile("rb") as reader,
    ):
        connection.sendall(b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<bob@example.org>\r\nDATA\r\n" + content)
        connection.shutdown(socket.SHUT_WR)
        assert b"\r\n354 " in reader.read()
    assert served.messages() == []


def test_storage_failure_returns_451(served: Served) -> None:
    hidden = served.maildir.with_name("hidden")
    with served.client() as client:
        served.maildir.rename(hidden)
        try:
            served.maildir.write_bytes(b"a file in its place")
            with pytest.raises(smtplib.SMTPDataError) as caught:
                client.sendmail(ALICE, [BOB], MESSAGE)
        finally:
            served.maildir.unlink()
            hidden.rename(served.maildir)
        assert caught.value.smtp_code == 451
        assert served.messages() == []
        client.sendmail(ALICE, [BOB], MESSAGE)
    assert len(served.messages()) == 1


@pytest.mark.parametrize(("fails", "code", "done"), [("", 250, ["tmp", "new"]), ("new", 451, ["tmp"])])
def test_message_is_accepted_only_after_its_file_and_folder_are_synchronized(
    fails: str, code: int, done: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First the file in tmp, then the folder new.  The reply to a failure is 451."""
    synchronized: list[str] = []

    def fsync(file: int) -> None:
        folder = Path(os.readlink(f"/proc/self/fd/{file}")).relative_to(tmp_path).parts[1]
        if folder == fails:
            raise OSError("planted")
        synchronized.append(folder)

    def submit(port: int) -> tuple[int, list[str]]:
        with smtplib.SMTP("127.0.0.1", port, timeout=programs.TIMEOUT) as client:
            client.ehlo()
            client.mail(ALICE)
            client.rcpt(BOB)
            return client.data(MESSAGE)[0], synchronized.copy()

    async def main() -> tuple[int, list[str]]:
        server = smtp_server.MailServer(tmp_path / "Maildir", "alice", b"secret", "example.org")
        async with serve_smtp(server.session, smtp.ServerSettings()) as listener:
            return await asyncio.to_thread(submit, listener.port)

    monkeypatch.setattr(os, "fsync", fsync)
    assert asyncio.run(main()) == (code, done)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_submits_a_message(served: Served, tmp_path: Path) -> None:
    letter = tmp_path / "letter"
    letter.write_bytes(MESSAGE)
    command = ["curl", "--silent", "--show-error", "--user", "alice:secret", "--mail-from", ALICE, "--mail-rcpt", CAROL]
    command += ["--upload-file", str(letter), f"smtp://127.0.0.1:{served.port}"]
    subprocess.run(command, timeout=programs.TIMEOUT, check=True)
    assert served.messages() == [envelope(ALICE, CAROL) + STORED]


def test_login_requires_tls_if_a_certificate_is_set(tmp_path: Path, tls_files: programs.CertificateFiles) -> None:
    with programs.listening(
        "smtp_server.py", "--user", "alice", "--domain", "example.org", "--certificate", tls_files.certificate,
        tmp_path / "Maildir", errors=tmp_path / "errors", MAIL_PASSWORD="secret",
    ) as port, smtplib.SMTP("127.0.0.1", port, timeout=programs.TIMEOUT) as client:  # fmt: skip
        client.ehlo()
        assert not client.has_extn("auth")
        client.starttls(context=client_context())
        client.login("alice", "secret")
        client.sendmail(ALICE, [CAROL], MESSAGE)
        assert Served(port, tmp_path / "Maildir").messages() == [envelope(ALICE, CAROL) + STORED]


def test_startup_errors_are_reported_in_one_line(
    tmp_path: Path, free_port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAIL_PASSWORD", "secret")
    usual = ["--user", "alice", "--domain", "example.org", str(tmp_path / "Maildir")]
    for options in (
        [*usual, "--port", str(free_port)],  # already in use
        [*usual, "--certificate", "missing.pem"],
        [*usual, "--domain", "not a domain"],
        [*usual[:-1], str(tmp_path / "missing" / "Maildir")],
    ):
        assert smtp_server.main(options) == 1
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert err.startswith("Cannot serve: ")


def test_the_maildir_is_checked_at_the_start(
    tmp_path: Path, free_port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAIL_PASSWORD", "secret")
    usual = [
        "--user",
        "alice",
        "--domain",
        "example.org",
        "--port",
        str(free_port),
    ]  # so that a start fails after the check
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter").write_bytes(b"")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "new").write_bytes(b"")
    for wrong in ("file", "other", "broken"):
        assert smtp_server.main([*usual, str(tmp_path / wrong)]) == 1
        err = capsys.readouterr().err
        assert err.startswith("Cannot serve: ")
        assert str(tmp_path / wrong) in err
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["letter"]
    (tmp_path / "empty").mkdir()
    for right in ("missing", "empty", "empty"):
        assert smtp_server.main([*usual, str(tmp_path / right)]) == 1
        assert str(free_port) in capsys.readouterr().err
        assert sorted(path.name for path in (tmp_path / right).iterdir()) == ["cur", "new", "tmp"]


def test_missing_certificate_is_named_and_key_requires_certificate(
    tmp_path: Path, free_port: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAIL_PASSWORD", "secret")
    usual = ["--port", str(free_port), "--user", "alice", "--domain", "example.org", str(tmp_path / "Maildir")]
    assert smtp_server.main([*usual, "--certificate", "missing.pem"]) == 1
    assert capsys.readouterr().err.startswith("Cannot serve: missing.pem: ")
    with pytest.raises(SystemExit) as caught:
        smtp_server.main([*usual, "--key", "key.pem"])
    assert caught.value.code == 2


def test_keyboard_interrupt_at_password_prompt_exits_with_status_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MAIL_PASSWORD", raising=False)

    def interrupted() -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr("getpass.getpass", interrupted)
    with pytest.raises(SystemExit) as caught:
        smtp_server.main(["--user", "alice", "--domain", "example.org", str(tmp_path / "Maildir")])
    assert caught.value.code == 130
