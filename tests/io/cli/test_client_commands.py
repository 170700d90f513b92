"""``mailauth send`` and ``mailauth fetch``: output, exit status, and one sentence for each error."""

from __future__ import annotations

import getpass
import io
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme

from mailauth_io.cli import main as cli
from tests import serving
from tests.io.client.peers import MAILS, SILENT, End, Script, pop3_server, smtp_server
from tests.io.config_errors import config_error

ALICE, BOB, CAROL, DAVE = (f"{name}@example.org" for name in ("alice", "bob", "carol", "dave"))
MESSAGE = f"From: Alice <{ALICE}>\nTo: {BOB}\nBcc: {CAROL},\n {DAVE}\nSubject: tea\n\nBcc: not a field\n".encode()
ON_THE_WIRE = f"From: Alice <{ALICE}>\nTo: {BOB}\nSubject: tea\n\nBcc: not a field\n".replace("\n", "\r\n").encode()
SECRET = "wonderland"
PAGE = Path(__file__).parents[3] / "docs" / "commands.md"


@pytest.fixture(autouse=True)
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAILAUTH_PASSWORD", SECRET)


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "message.eml"
    path.write_bytes(MESSAGE)
    return str(path)


class Result:
    def __init__(self, status: int, said: tuple[str, str], heard: Any) -> None:
        self.status = status
        self.out, self.err = said
        self.peer = heard
        assert "Traceback" not in self.err
        assert SECRET not in self.out + self.err


def command(capfd: pytest.CaptureFixture[str], verb: str, script: Script, *arguments: str) -> Result:
    """Run the command against a server in clear text that follows *script*, with a login."""
    with (smtp_server if verb == "send" else pop3_server)(script) as peer:
        words = (verb, "--host", "127.0.0.1", "--port", str(peer.port), "--tls", "none", "--user", "alice", *arguments)
        status = cli.main(words)
    return Result(status, capfd.readouterr(), peer)


def send(capfd: pytest.CaptureFixture[str], script: Script, *arguments: str) -> Result:
    return command(capfd, "send", script, *arguments)


def fetch(capfd: pytest.CaptureFixture[str], script: Script, *arguments: str) -> Result:
    return command(capfd, "fetch", script, *arguments)


def stored(maildir: Path) -> list[bytes]:
    return sorted(path.read_bytes() for path in (maildir / "new").iterdir())


LF_MAILS = sorted(mail.replace(b"\r\n", b"\n") for mail in MAILS)


def test_message_is_sent_to_the_recipients_in_its_header(capfd: pytest.CaptureFixture[str], file: str) -> None:
    result = send(capfd, {}, file)
    assert (result.status, result.err) == (0, "")
    assert result.out == "".join(f"{each}: accepted: 250 2.0.0 queued\n" for each in (BOB, CAROL, DAVE))
    assert f"MAIL FROM:<{ALICE}>" in result.peer.heard
    assert result.peer.messages == [ON_THE_WIRE]


def test_message_is_read_from_standard_input(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\nx\n")))
    result = send(capfd, {}, "--from", "", "--to", BOB, "--to", CAROL)
    assert result.out == f"{BOB}: accepted: 250 2.0.0 queued\n{CAROL}: accepted: 250 2.0.0 queued\n"
    assert "MAIL FROM:<>" in result.peer.heard
    assert result.peer.messages == [b"\r\nx\r\n"]


def test_options_override_the_header(capfd: pytest.CaptureFixture[str], file: str) -> None:
    result = send(capfd, {}, file, "--from", DAVE, "--to", CAROL)
    assert (result.out, f"MAIL FROM:<{DAVE}>" in result.peer.heard) == (f"{CAROL}: accepted: 250 2.0.0 queued\n", True)
    assert result.peer.messages == [ON_THE_WIRE]


def test_international_address_in_the_header(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "message.eml"
    path.write_text(f"From: {ALICE}\nTo: j\u00f6rg@example.org\n\nx\n", encoding="utf-8")
    script = {"EHLO": b"250-script.test\r\n250-AUTH PLAIN\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n"}
    assert "RCPT TO:<j\u00f6rg@example.org>" in send(capfd, script, str(path)).peer.heard
    assert send(capfd, {}, str(path)).status == 1  # SMTPUTF8 is not offered
    path.write_bytes(b"From: alice@example.org\nTo: j\xf6rg@example.org\n\nx\n")
    assert config_error(capfd, "send", str(path), "--host", "127.0.0.1").startswith("mailauth send: ")


def test_blank_before_the_colon_of_a_field_does_not_end_the_header(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """RFC 5322 section 4.5.8.  The fields are sent unchanged, without Bcc."""
    path = tmp_path / "message.eml"
    rest = f"X-Mailer : old\nCc\t: {CAROL}\nContent-Type: multipart/mixed; boundary=x\n\nBcc : body\n"
    path.write_text(f"From: {ALICE}\nTo: {BOB}\nBcc : {DAVE}\n{rest}")
    result = send(capfd, {}, str(path))
    assert (result.status, result.err) == (0, "")
    assert [line for line in result.peer.heard if line.startswith("RCPT")] == [
        f"RCPT TO:<{each}>" for each in (BOB, CAROL, DAVE)
    ]
    assert result.peer.messages == [f"From: {ALICE}\nTo: {BOB}\n{rest}".replace("\n", "\r\n").encode()]


@pytest.mark.parametrize(
    "line",
    [
        b"garbage",
        b"R\xe9sum\xe9: x",
        b"=?x",
        b"R\xe9sum\xe9 \xc3\xa9",
        b"Content-Type: text/plain; charset=none\n\xc3\xa9 \xff",
    ],
)
def test_line_of_the_header_that_is_not_a_field_is_an_error(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, line: bytes
) -> None:
    """The recipients after it would get nothing."""
    path = tmp_path / "message.eml"
    path.write_bytes(f"From: {ALICE}\nTo: {BOB}\n".encode() + line + f"\nCc: {CAROL}\n\nx\n".encode())
    with smtp_server({}) as peer:
        said = config_error(capfd, "send", "--host", "127.0.0.1", "--port", str(peer.port), "--tls", "none", str(path))
    assert said.startswith("mailauth send: a line of the header is not a field: ")
    assert peer.heard == []


def test_first_line_of_a_message_in_mbox_format_is_not_sent(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "message.mbox"
    path.write_bytes(b"From alice Mon Nov 30 03:00:00 2026\n" + MESSAGE)
    assert send(capfd, {}, str(path)).peer.messages == [ON_THE_WIRE]


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ({f"RCPT {CAROL}": b"550 5.1.1 unknown\r\n"}, 1),
        ({f"RCPT {CAROL}": b"450 4.2.1 greylisted\r\n"}, 75),
        ({f"RCPT {CAROL}": b"450 4.2.1 greylisted\r\n", f"RCPT {DAVE}": b"550 5.1.1 unknown\r\n"}, 1),
        ({"MESSAGE": b"554 5.6.0 spam\r\n"}, 1),
        ({"MESSAGE": b"451 4.3.0 later\r\n"}, 75),
        ({"MAIL": End(b"421 4.3.2 going down\r\n")}, 75),
        ({"DATA": b"354 go ahead\r\n421 4.3.2 going down\r\n"}, 75),
    ],
)
def test_rejected_recipient(capfd: pytest.CaptureFixture[str], file: str, script: Script, status: int) -> None:
    result = send(capfd, script, file)
    assert (result.status, result.err) == (status, "")
    assert result.out.count("\n") == 3
    assert f"{CAROL}: rejected: " in result.out


FAILURES = [
    ({"GREETING": b"554 5.7.1 go away\r\n"}, 1, "the server rejected the connection: 554 5.7.1 go away"),
    ({"GREETING": b"421 4.3.2 busy\r\n"}, 75, "the server rejected the connection: 421 4.3.2 busy"),
    ({"AUTH": b"535 5.7.8 no\r\n"}, 77, "the server rejected the login of alice: 535 5.7.8 no"),
    ({"AUTH": b"454 4.7.0 later\r\n"}, 75, "the server rejected the login of alice: 454 4.7.0 later"),
    ({"GREETING": SILENT}, 75, "the connection failed: timed out"),
    ({"GREETING": b"what?\r\n"}, 75, "the connection failed: not a reply: b'what?'"),
    ({"DATA": b"354 go ahead\r\n250 queued\r\n"}, 75, "the connection failed: reply without a command: 250"),
    ({"MESSAGE": End()}, 75, "the message may have been accepted: the connection failed: "),
    ({"EHLO": b"250 script.test\r\n"}, 1, "cannot log in: the server does not offer "),
]


@pytest.mark.parametrize(("script", "status", "text"), FAILURES, ids=range(len(FAILURES)))
def test_failure_of_send_is_one_sentence(
    capfd: pytest.CaptureFixture[str], file: str, script: Script, status: int, text: str
) -> None:
    timeout = "0.5" if SILENT in script.values() else "20"
    result = send(capfd, script, file, "--timeout", timeout)
    assert (result.status, result.out) == (status, "")
    assert result.err.startswith(f"mailauth send: {text}")
    assert result.err.count("\n") == 1


def test_connection_that_fails_is_temporary(capfd: pytest.CaptureFixture[str], file: str) -> None:
    with smtp_server({}) as peer:
        pass
    assert cli.main(("send", file, "--host", "127.0.0.1", "--port", str(peer.port))) == 75
    assert capfd.readouterr().err.startswith(f"mailauth send: cannot connect to 127.0.0.1 port {peer.port}: ")


def test_send_prints_json(capfd: pytest.CaptureFixture[str], file: str) -> None:
    result = send(capfd, {f"RCPT {CAROL}": b"550 5.1.1 unknown\r\n"}, file, "--json", "--to", BOB, "--to", CAROL)
    assert (result.status, result.err) == (1, "")
    assert json.loads(result.out) == {
        "status": 1,
        "error": None,
        "recipients": [
            {"recipient": BOB, "accepted": True, "code": 250, "enhanced_status_code": "2.0.0", "text": "queued"},
            {"recipient": CAROL, "accepted": False, "code": 550, "enhanced_status_code": "5.1.1", "text": "unknown"},
        ],
    }
    result = send(capfd, {"AUTH": b"535 5.7.8 no\r\n"}, file, "--json")
    text = "the server rejected the login of alice: 535 5.7.8 no"
    assert (result.status, result.err) == (77, f"mailauth send: {text}\n")
    assert json.loads(result.out) == {"status": 77, "error": text, "recipients": []}


def test_reports_are_requested(capfd: pytest.CaptureFixture[str], file: str) -> None:
    script = {"EHLO": b"250-script.test\r\n250-AUTH PLAIN\r\n250 DSN\r\n"}
    heard = send(capfd, script, file, "--to", BOB, "--dsn-notify", "failure", "--dsn-notify", "delay").peer.heard
    (recipient,) = [line for line in heard if line.startswith("RCPT")]
    assert sorted(recipient.partition("NOTIFY=")[2].split(",")) == ["DELAY", "FAILURE"]


def test_progress_is_shown_on_a_terminal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, file: str, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    result = send(capfd, {}, file)
    size = len(ON_THE_WIRE.replace(b"\r\n", b"\n"))
    assert f"\r{size} of {size} bytes" in result.err
    assert result.err.endswith(" \r")
    assert "accepted" not in result.err
    result = fetch(capfd, {}, "--maildir", str(tmp_path / "mail"))
    assert "\r3 messages" in result.err
    assert result.err.endswith(" \r")


def test_messages_are_stored_in_a_maildir(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    result = fetch(capfd, {}, "--maildir", str(tmp_path / "mail"))
    assert (result.status, result.err) == (0, "")
    sizes = [len(mail) for mail in MAILS]
    assert result.out == "".join(f"message {n} (id-{n}): {size} bytes stored\n" for n, size in enumerate(sizes, 1))
    assert stored(tmp_path / "mail") == LF_MAILS
    assert result.peer.deleted == []


def test_stored_messages_are_deleted_on_request(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    result = fetch(capfd, {"RETR 2": b"+OK\r\nx\r\n.\r\n"}, "--maildir", str(tmp_path), "--delete")
    assert result.status == 0
    assert "message 2 (id-2): 3 bytes stored, shorter than announced, so it is never deleted\n" in result.out
    assert result.peer.deleted == [1, 3]


def test_messages_are_printed_in_mbox_format(capfd: pytest.CaptureFixture[str]) -> None:
    result = fetch(capfd, {"RETR 2": b"+OK\r\nSubject: two\r\n\r\nFrom me\r\n>From you\r\n.\r\n"})
    assert (result.status, result.err) == (0, "")
    assert result.out.startswith("From MAILER-DAEMON ")
    lines = [line for line in result.out.splitlines() if not line.startswith("From MAILER-DAEMON ")]
    assert lines[4:8] == ["Subject: two", "", ">From me", ">>From you"]
    assert result.out.count("\nFrom MAILER-DAEMON ") == 2


def test_message_that_the_server_does_not_send_does_not_stop_the_others(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    result = fetch(capfd, {"RETR 2": b"-ERR gone\r\n"}, "--maildir", str(tmp_path), "--delete")
    assert (result.status, len(stored(tmp_path)), result.peer.deleted) == (1, 2, [1, 3])
    assert result.err == "mailauth fetch: the server did not send message 2 (unique-id id-2): -ERR gone\n"
    result = fetch(capfd, {"RETR 2": b"-ERR [SYS/TEMP] busy\r\n"}, "--maildir", str(tmp_path), "--json")
    assert result.status == 75
    found = json.loads(result.out)
    assert (found["status"], [row["number"] for row in found["messages"]]) == (75, [1, 3])
    assert found["errors"] == ["the server did not send message 2 (unique-id id-2): -ERR [SYS/TEMP] busy"]
    assert found["messages"][0] == {"number": 1, "unique_id": "id-1", "size": len(MAILS[0]), "complete": True}


@pytest.mark.parametrize(
    ("script", "status", "text"),
    [
        ({"PASS": b"-ERR [AUTH] no\r\n"}, 77, "the server rejected the login of alice: -ERR [AUTH] no"),
        ({"PASS": b"-ERR [IN-USE] locked\r\n"}, 75, "the server rejected the login of alice: -ERR [IN-USE] locked"),
        ({"GREETING": b"-ERR no\r\n"}, 1, "the server ended the session: -ERR no"),
        ({"LIST": b"-ERR no\r\n"}, 1, "the server rejected LIST: -ERR no"),
        ({"RETR 1": End(b"+OK\r\nSubj")}, 75, "the connection failed: "),
        ({"QUIT": b"-ERR [SYS/PERM] not removed\r\n"}, 1, "the server rejected QUIT: -ERR [SYS/PERM] not removed"),
    ],
)
def test_failure_of_fetch_is_one_sentence(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, script: Script, status: int, text: str
) -> None:
    result = fetch(capfd, script, "--maildir", str(tmp_path / "mail"), "--delete")
    assert result.status == status
    assert result.err.startswith(f"mailauth fetch: {text}")
    assert result.err.count("\n") == 1


def test_message_that_cannot_be_stored_is_not_deleted(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    result = fetch(capfd, {}, "--maildir", str(tmp_path / "file"), "--delete")
    assert (result.status, result.peer.deleted) == (75, [])
    assert result.err.startswith(f"mailauth fetch: cannot store a message in {tmp_path / 'file'}: ")


@pytest.mark.parametrize("verb", ["send", "fetch"])
def test_page_and_help_have_the_same_options_and_exit_statuses(verb: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main((verb, "--help"))
    shown = capfd.readouterr().out
    page = PAGE.read_text(encoding="utf-8")
    options = set(re.findall(r"--[a-z-]+", shown)) - {"--help"}
    assert options <= set(re.findall(r"--[a-z-]+", page))
    for status in re.findall(r"^\| (\d+) \|", page, re.MULTILINE):
        assert status == "130" or f" {status} " in shown


HOST = ("--host", "127.0.0.1")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("send",), "--host"),
        (("send", *HOST, "--to"), "--to"),
        (("send", *HOST, "--port", "0"), "invalid port: '0'; use 1 to 65535"),
        (("send", *HOST, "--tls", "always"), "invalid choice: 'always'"),
        (("send", *HOST, "--timeout", "0", "FILE"), "timeout must be a positive number of seconds"),
        (("send", *HOST, "--timeout", "x"), "invalid number of seconds"),
        (("send", *HOST, "--dsn-notify", "never", "--dsn-notify", "delay", "FILE"), "only NEVER"),
        (("send", *HOST, "--from", "alice", "FILE"), "sender 'alice' is not an address such as alice@example.org"),
        (("send", *HOST, "--to", "bob", "FILE"), "recipient 'bob' is not an address"),
        (("send", *HOST, "EMPTY"), "the message has no From; add one, or use --from"),
        (("send", *HOST, "--from", ALICE, "EMPTY"), "there are no recipients; use --to"),
        (("send", *HOST, "RESENT"), "resent more than once; use --from and --to"),
        (("send", *HOST, "--to", BOB, "UNCLEAR"), "From of the message is not a list of addresses: alice; use --from"),
        (("send", *HOST, "--from", BOB, "UNCLEAR"), "To of the message is not a list of addresses: bob; use --to"),
        (("send", *HOST, "missing.eml"), "missing.eml cannot be read: No such file or directory"),
        (("send", "--host", "a b", "FILE"), "host must be the name or the IP address of a server"),
        (("send", *HOST, "--password-file", "x"), "--password-file needs --user"),
        (("send", *HOST, "--token-file", "x"), "--token-file needs --user"),
        (("send", *HOST, "--user", "a", "--token-file", "x", "--password-file", "x"), "not allowed with"),
        (("send", *HOST, "--user", "a", "--password-file", "missing"), "--password-file: missing cannot be read"),
        (("send", *HOST, "--user", "a", "--token-file", "EMPTY"), "EMPTY is empty; write the password to it"),
        (("send", *HOST, "--user", "a\n", "FILE"), "the login cannot be sent: "),
        (("send", *HOST, "--tls", "none", "--ca", "x"), "--ca needs TLS; use --tls implicit or --tls starttls"),
        (("send", *HOST, "--ca", "missing"), "--ca: missing cannot be read: No such file or directory"),
        (("send", *HOST, "--ca", "FILE"), "has no certificate in PEM format"),
        (("fetch", *HOST), "--user"),
        (("fetch", *HOST, "--user", "a", "--json"), "--json needs --maildir; without it the messages are printed"),
        (("fetch", *HOST, "--user", "a", "--maildir", ""), "invalid path"),
    ],
)
def test_invalid_arguments(
    capfd: pytest.CaptureFixture[str], file: str, tmp_path: Path, arguments: tuple[str, ...], text: str
) -> None:
    empty = tmp_path / "EMPTY"
    empty.touch(mode=0o600)
    (resent := tmp_path / "RESENT").write_text("Resent-Date: x\nResent-Date: y\n\n")
    (unclear := tmp_path / "UNCLEAR").write_text("From: alice\nTo: bob\n\n")
    files = {"FILE": file, "EMPTY": str(empty), "RESENT": str(resent), "UNCLEAR": str(unclear)}
    replaced = [files.get(word, word) for word in arguments]
    assert text in config_error(capfd, *replaced)


def private(path: Path, text: str) -> str:
    path.touch(mode=0o600)
    path.write_text(text)
    return str(path)


def test_password_is_asked_for_at_a_terminal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    monkeypatch.delenv("MAILAUTH_PASSWORD")
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(getpass, "getpass", lambda prompt: SECRET)
    assert any(line.startswith("AUTH PLAIN ") for line in send(capfd, {}, file).peer.heard)


def test_password_is_needed(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    monkeypatch.delenv("MAILAUTH_PASSWORD")
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    text = config_error(capfd, "send", *HOST, "--user", "alice", file)
    assert text == "mailauth send: no password; use --password-file, or the environment variable MAILAUTH_PASSWORD\n"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[serving.Served, str]]:
    """A server of ``mailauth serve`` and its CA file."""
    directory = tmp_path_factory.mktemp("served")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(directory / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(directory / "cert.pem")
    (directory / "key.pem").chmod(0o600)
    options = ("--cert", str(directory / "cert.pem"), "--key", str(directory / "key.pem"), "--domain", "example.org")
    with serving.served(directory, *options, "--user", f"alice:{SECRET}", "--token", "alice:t0ken") as server:
        yield server, str(directory / "ca.pem")


@pytest.mark.parametrize(("tls", "secret"), [("implicit", "password-file"), ("starttls", "token-file")])
def test_commands_with_the_server(
    served: tuple[serving.Served, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls: str, secret: str
) -> None:
    """The commands as processes: a message is sent to its own account, and fetched."""
    server, ca = served
    monkeypatch.delenv("MAILAUTH_PASSWORD")
    path = private(tmp_path / "secret", f"{'t0ken' if secret == 'token-file' else SECRET}\n")
    login = ("--user", "alice", f"--{secret}", path, "--ca", ca, "--tls", tls, *HOST)
    port = {name: str(server.port(name if tls == "starttls" else f"{name}s")) for name in ("smtp", "pop3")}
    sent = subprocess.run(
        serving.command("send", *login, "--port", port["smtp"], "--from", ALICE, "--to", ALICE),
        input=b"Subject: tea\n\nAt six.\n", env=serving.environment(), capture_output=True, timeout=60, check=False,
    )  # fmt: skip
    assert (sent.returncode, sent.stderr) == (0, b"")
    fetched = serving.run("fetch", *login, "--port", port["pop3"], "--maildir", str(tmp_path / "mail"), "--delete")
    assert (fetched.returncode, fetched.stderr) == (0, "")
    (message,) = stored(tmp_path / "mail")
    assert message.endswith(b"Subject: tea\n\nAt six.\n")
    again = serving.run("fetch", *login, "--port", port["pop3"])
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


def test_untrusted_certificate_is_named(served: tuple[serving.Served, str]) -> None:
    server, _ = served
    result = serving.run("fetch", *HOST, "--port", str(server.port("pop3s")), "--user", "alice")
    assert result.returncode == 75
    assert result.stderr.endswith(
        ": the certificate is not valid: unable to get local issuer certificate; use --ca FILE to trust its CA\n"
    )
    assert result.stderr.count("\n") == 1


def test_recipient_that_the_terminal_cannot_show_is_escaped() -> None:
    script = {"EHLO": b"250-script.test\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n"}
    with smtp_server(script) as peer:
        arguments = ("--port", str(peer.port), "--tls", "none", "--from", ALICE, "--to", "j\u00f6rg@example.org")
        result = subprocess.run(
            serving.command("send", *HOST, *arguments), input=b"\nx\n", capture_output=True,
            env={**serving.environment(), "PYTHONIOENCODING": "ascii"}, timeout=60, check=False,
        )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout == b"j\\xf6rg@example.org: accepted: 250 2.0.0 queued\n"


@pytest.mark.parametrize(
    "words", [("--to", "\udcff@example.org"), ("--from", "\udcff@example.org"), ("--user", "\udcff")]
)
def test_argument_that_is_not_text_is_an_error(
    capfd: pytest.CaptureFixture[str], file: str, words: tuple[str, str]
) -> None:
    assert config_error(capfd, "send", *HOST, file, *words)


def test_output_that_nobody_reads_deletes_nothing() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with pop3_server({}) as peer:
        arguments = ("--port", str(peer.port), "--tls", "none", "--user", "alice", "--delete")
        result = subprocess.run(
            serving.command("fetch", *HOST, *arguments), stdout=writing, stderr=subprocess.PIPE,
            env=serving.environment(), timeout=60, check=False,
        )  # fmt: skip
    os.close(writing)
    assert (result.returncode, result.stderr, peer.deleted) == (2, b"", [])


def run_with_full_disk(
    tmp_path: Path, verb: str, *arguments: str, unbuffered: str
) -> subprocess.CompletedProcess[bytes]:
    """Run the command with standard output in a file that can grow to 30 bytes."""
    limit: Callable[[], None] = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (30, 30))  # noqa: E731
    with open(tmp_path / "output", "wb") as output:
        return subprocess.run(
            serving.command(verb, *HOST, "--tls", "none", "--user", "alice", *arguments),
            env={**serving.environment(), "PYTHONUNBUFFERED": unbuffered},
            stdout=output,
            stderr=subprocess.PIPE,
            preexec_fn=limit,
            timeout=60,
            check=False,
        )


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_message_that_cannot_be_printed_completely_is_not_deleted(tmp_path: Path, unbuffered: str) -> None:
    """With PYTHONUNBUFFERED=1, as in many containers, a write may be incomplete without an error."""
    with pop3_server({}) as peer:
        result = run_with_full_disk(tmp_path, "fetch", "--port", str(peer.port), "--delete", unbuffered=unbuffered)
    assert (result.returncode, peer.deleted) == (75, [])
    assert result.stderr == b"mailauth fetch: cannot write to standard output: File too large\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("json", [(), ("--json",)])
def test_send_says_that_the_message_was_sent_if_the_result_cannot_be_printed(
    file: str, tmp_path: Path, json: tuple[str, ...], unbuffered: str
) -> None:
    with smtp_server({}) as peer:
        result = run_with_full_disk(tmp_path, "send", "--port", str(peer.port), *json, file, unbuffered=unbuffered)
    assert (result.returncode, len(peer.messages)) == (0, 1)
    text = b"mailauth send: the message was sent, but the result cannot be printed: File too large\n"
    assert result.stderr == text


def test_send_and_fetch_need_no_extra(file: str, tmp_path: Path) -> None:
    """``pip install mailauth`` installs only attrs."""
    secret = tmp_path / "password"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    login = ("--host", "127.0.0.1", "--tls", "none", "--user", "alice", "--password-file", str(secret))
    with smtp_server({}) as peer:
        sent = serving.run_without_anyio("send", file, *login, "--port", str(peer.port))
    assert (sent.returncode, sent.stderr) == (0, "")
    assert peer.messages == [ON_THE_WIRE]
    with pop3_server({}) as peer:
        fetched = serving.run_without_anyio(
            "fetch", *login, "--port", str(peer.port), "--maildir", str(tmp_path / "mail")
        )
    assert (fetched.returncode, fetched.stderr) == (0, "")
    assert sorted(stored(tmp_path / "mail")) == LF_MAILS
