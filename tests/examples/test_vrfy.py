"""examples/vrfy.py with smtplib: each reply to VRFY has its own code on the wire."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator

import pytest

from examples import vrfy
from mailauth import LocalProtocolError, Malformed, smtp
from tests.examples import programs
from tests.smtp.drive import greeted

ENTRIES = (
    "alice=alice@example.org", "bob=bob@far.test", "smith=j.smith@example.org", "smith=smith@example.org",
    'odd="a b"@example.org',
)  # fmt: skip


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[smtplib.SMTP]:
    errors = tmp_path_factory.mktemp("vrfy") / "errors"
    with (
        programs.listening("vrfy.py", "--domain", "example.org", *ENTRIES, errors=errors) as port,
        smtplib.SMTP("127.0.0.1", port, timeout=programs.TIMEOUT) as client,
    ):
        client.ehlo()
        yield client


@pytest.mark.parametrize(
    ("name", "code", "text"),
    [
        ("Alice", 250, b"2.1.5 <alice@example.org>"),
        ("<alice@example.org>", 250, b"2.1.5 <alice@example.org>"),
        ("odd", 250, b'2.1.5 <"a b"@example.org>'),
        ("bob", 251, b"2.1.5 not local, will forward to <bob@far.test>"),
        ("carol@other.test", 252, b"2.5.2 not local, cannot verify"),
        ("carol", 550, b"5.1.1 no such mailbox"),
        ("carol@EXAMPLE.org", 550, b"5.1.1 no such mailbox"),
        ("smith", 553, b"5.1.4 ambiguous: <j.smith@example.org>, <smith@example.org>"),
        ("smith@example.org", 250, b"2.1.5 <smith@example.org>"),
    ],
)
def test_vrfy_returns_the_reply_for_each_name(client: smtplib.SMTP, name: str, code: int, text: bytes) -> None:
    """RFC 5321 section 3.5."""
    assert client.docmd("VRFY", name) == (code, text)


def test_vrfy_is_announced_and_requires_a_parameter(client: smtplib.SMTP) -> None:
    """RFC 5321 section 3.5.2."""
    assert client.has_extn("vrfy")
    assert client.docmd("VRFY")[0] == 501


def test_mail_command_is_rejected_with_451(client: smtplib.SMTP) -> None:
    assert client.mail("a@b.test")[0] == 451


def test_verify_command_serializes_and_parses() -> None:
    command = vrfy.Verify("<alice@example.org>")
    assert command.to_wire() == b"VRFY <alice@example.org>\r\n"
    assert vrfy.Verify.parse("<alice@example.org>") == command
    assert command.unavailable.code == 252
    with pytest.raises(Malformed):
        vrfy.Verify.parse("é")


def test_client_sends_vrfy_only_if_the_server_offers_it() -> None:
    settings = smtp.ClientSettings(verbs=(vrfy.VRFY,))
    with pytest.raises(LocalProtocolError, match="does not offer VRFY"):
        greeted(settings=settings).send(vrfy.Verify("alice"))
    session = greeted("VRFY", settings=settings).send(vrfy.Verify("alice")).receive(b"251 2.1.5 elsewhere\r\n")
    (event,) = session.events
    assert event.reply == smtp.Reply(251, "2.1.5", "elsewhere")


@pytest.mark.parametrize("wrong", ["alice", "=a@b.test", "alice=a", "é=a@b.test"])
def test_invalid_entry_is_rejected(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        vrfy.main(["--domain", "example.org", wrong])
    assert caught.value.code == 2
    assert "NAME=ADDRESS" in capsys.readouterr().err


def test_a_port_in_use_is_reported(free_port: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert vrfy.main(["--domain", "example.org", "--port", str(free_port), "alice=a@example.org"]) == 1
    assert capsys.readouterr().err.startswith("Cannot serve: ")
