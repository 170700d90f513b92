"""The examples with ``mailauth serve`` and TLS, and with one another."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from examples import collect, submit
from tests import serving
from tests.examples import programs

ALICE, BOB, DINAH = "alice@example.test", "bob@example.test", "dinah@far.test"
MESSAGE = b"Subject: test\n\nDown the rabbit-hole.\n.\n..dots\n"

CLIENT_MODES = pytest.mark.parametrize("mode", ["implicit", "starttls"])


@attrs.frozen
class Ready:
    """``mailauth serve`` with accounts for alice and bob."""

    server: serving.Served
    directory: Path
    ca: Path

    def messages(self, name: str) -> list[bytes]:
        return serving.messages(self.directory / "maildrops" / name)

    def outbox(self) -> list[bytes]:
        return serving.messages(self.directory / "outbox")

    def submit(self, mode: str, *recipients: str, ca: bool = True) -> int:
        letter = self.directory / "letter.eml"
        letter.write_bytes(MESSAGE)
        port = self.server.port("smtps" if mode == "implicit" else "smtp")
        trust = ["--ca", str(self.ca)] if ca else []
        arguments = [*trust, "--tls", mode, "--user", "alice", "127.0.0.1", str(port), str(letter), ALICE]
        return submit.main([*arguments, *recipients])

    def collect(self, mode: str, maildir: Path) -> int:
        port = self.server.port("pop3s" if mode == "implicit" else "pop3")
        arguments = ["--ca", str(self.ca), "--tls", mode, "--user", "bob", "127.0.0.1", str(port), str(maildir)]
        return collect.main(arguments)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ready]:
    directory = tmp_path_factory.mktemp("ready")
    ca = directory / "ca.pem"
    options = ["--user", "alice:secret", "--user", "bob:secret", "--ca-out", str(ca)]
    options += ["--maildir", str(directory / "maildrops"), "--outbox", str(directory / "outbox")]
    options += ["--no-grants-from", "127.0.0.0/8"]  # so that a POP3 login does not allow relaying here
    with serving.started(directory, *options) as server:
        yield Ready(server, directory, ca)


@pytest.fixture
def ready(process: Ready, monkeypatch: pytest.MonkeyPatch) -> Ready:
    """One server process for all tests, and no mail at the start of each."""
    monkeypatch.setenv("MAIL_PASSWORD", "secret")
    for path in [*process.directory.glob("maildrops/*/new/*"), *process.directory.glob("outbox/new/*")]:
        path.unlink()
    return process


@CLIENT_MODES
def test_message_is_submitted_to_mailauth_serve_and_collected(
    mode: str, ready: Ready, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ready.submit(mode, BOB, DINAH) == 0
    assert capsys.readouterr().out.endswith("Accepted for 2 of 2 recipients.\n")
    (kept,) = ready.messages("bob")
    assert kept.endswith(MESSAGE)
    assert [message.endswith(MESSAGE) for message in ready.outbox()] == [True]
    assert ready.collect(mode, tmp_path / "Maildir") == 0
    assert capsys.readouterr().out == "Message 1: stored\n"
    assert serving.messages(tmp_path / "Maildir") == [kept]
    assert ready.messages("bob") == []
    assert ready.collect(mode, tmp_path / "Maildir") == 0
    assert serving.messages(tmp_path / "Maildir") == [kept]


@CLIENT_MODES
def test_unknown_recipient_is_rejected_with_550(mode: str, ready: Ready, capsys: pytest.CaptureFixture[str]) -> None:
    assert ready.submit(mode, "nobody@example.test", BOB) == 1
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.startswith("nobody@example.test: rejected: 550 5.1.1 ")
    assert second.startswith(f"{BOB}: accepted: 250 2.0.0 ")
    assert third == "Accepted for 1 of 2 recipients."
    assert len(ready.messages("bob")) == 1


@CLIENT_MODES
def test_wrong_password_is_reported_by_submit_and_collect(
    mode: str, ready: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MAIL_PASSWORD", "wrong")
    assert ready.submit(mode, BOB) == 1
    assert capsys.readouterr().err.startswith("Not delivered: the server rejected the login of alice: 535 5.7.8 ")
    assert ready.collect(mode, tmp_path / "Maildir") == 1
    assert capsys.readouterr().err.startswith(
        "Stopped; no message was lost: the server rejected the login of bob: -ERR [AUTH] "
    )
    assert ready.messages("bob") == []


@CLIENT_MODES
def test_untrusted_server_certificate_is_rejected_before_login(
    mode: str, ready: Ready, capsys: pytest.CaptureFixture[str]
) -> None:
    before = len(ready.server.logins())
    assert ready.submit(mode, BOB, ca=False) == 1
    assert "the certificate is not valid" in capsys.readouterr().err
    assert ready.messages("bob") == []
    assert len(ready.server.logins()) == before


@CLIENT_MODES
def test_relay_forwards_mail_to_mailauth_serve(mode: str, ready: Ready, tmp_path: Path) -> None:
    hop = ready.server.port("smtps" if mode == "implicit" else "smtp")
    with (
        programs.listening(
            "relay.py", "--tls", mode, "--ca", ready.ca, "127.0.0.1", hop, errors=tmp_path / "errors"
        ) as port,
        smtplib.SMTP("127.0.0.1", port, timeout=programs.TIMEOUT) as client,
    ):
        refused = client.sendmail(ALICE, [BOB, DINAH, "nobody@example.test"], MESSAGE.replace(b"\n", b"\r\n"))
        assert {name: said[0] for name, said in refused.items()} == {DINAH: 550, "nobody@example.test": 550}
        assert refused["nobody@example.test"][1] == b"5.1.1 no such mailbox here"
        (kept,) = ready.messages("bob")
    assert kept.endswith(MESSAGE)
    assert kept.count(b"Received: ") == 2


def test_the_examples_work_together(tmp_path: Path) -> None:
    """submit.py sends by relay.py to smtp_server.py; maildrop_server.py serves its Maildir to collect.py."""
    letter, kept, collected = tmp_path / "letter.eml", tmp_path / "kept", tmp_path / "collected"
    letter.write_bytes(MESSAGE)
    secret = {"MAIL_PASSWORD": "secret"}
    usual = ["--user", "alice"]
    with (
        programs.listening(
            "smtp_server.py", *usual, "--domain", "example.test", kept, errors=tmp_path / "smtp", **secret
        ) as smtp,
        programs.listening("relay.py", "--tls", "none", "127.0.0.1", smtp, errors=tmp_path / "relay") as relay,
        programs.listening("maildrop_server.py", *usual, kept, errors=tmp_path / "maildrop", **secret) as pop3,
    ):
        sent = programs.run("submit.py", "--tls", "none", "127.0.0.1", relay, letter, ALICE, BOB, DINAH)
        got = programs.run("collect.py", "--tls", "none", *usual, "127.0.0.1", pop3, collected, **secret)
    assert (sent.status, sent.err) == (1, "")
    assert sent.out.splitlines()[0].startswith(f"{BOB}: accepted: 250 ")
    assert sent.out.splitlines()[1].startswith(f"{DINAH}: rejected: 550 ")
    assert (got.status, got.out, got.err) == (0, "Message 1: stored\n", "")
    (message,) = serving.messages(collected)
    assert message.endswith(MESSAGE)
    assert serving.messages(kept) == []
