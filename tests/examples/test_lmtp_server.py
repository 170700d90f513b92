"""examples/lmtp_server.py with smtplib: each recipient has a copy and a reply."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from examples import lmtp_server
from mailauth import smtp
from mailauth_io import stores
from tests.examples import programs

MESSAGE = b"Subject: test\r\n\r\nDown the rabbit-hole.\r\n.\r\n..dots\r\n"
STORED = MESSAGE.replace(b"\r\n", b"\n")
ALICE, BOB, CAROL = (f"{name}@example.org" for name in ("alice", "bob", "carol"))


@attrs.frozen
class Served:
    port: int
    directory: Path
    errors: Path

    def client(self) -> smtplib.LMTP:
        return smtplib.LMTP("127.0.0.1", self.port, "client.test", timeout=programs.TIMEOUT)

    def messages(self, name: str) -> list[bytes]:
        assert not list(self.directory.glob(f"{name}/tmp/*"))
        return sorted(path.read_bytes() for path in self.directory.glob(f"{name}/new/*"))


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    directory, errors = tmp_path / "maildirs", tmp_path / "errors"
    with programs.listening("lmtp_server.py", "--user", "alice", "--user", "bob", directory, errors=errors) as port:
        yield Served(port, directory, errors)


def deliver(client: smtplib.LMTP, *recipients: str) -> list[int]:
    """Return the replies to RCPT, and those after the message."""
    client.ehlo_or_helo_if_needed()
    assert client.mail("eve@far.test")[0] == 250
    codes = [client.rcpt(recipient)[0] for recipient in recipients]
    code = client.docmd("DATA")[0]
    if code != 354:
        return [*codes, code]
    client.send(MESSAGE.replace(b"\r\n.", b"\r\n..") + b".\r\n")
    return [*codes, *(client.getreply()[0] for code in codes if code == 250)]


def envelope(recipient: str) -> bytes:
    return f"Return-Path: <eve@far.test>\nDelivered-To: {recipient}\n".encode()


def test_each_recipient_has_a_copy_and_a_reply(served: Served) -> None:
    with served.client() as client:
        assert deliver(client, ALICE, CAROL, "Bob@example.org") == [250, 550, 250, 250, 250]
        assert deliver(client, CAROL) == [550, 503]
        client.rset()
        assert deliver(client, ALICE) == [250, 250]
    assert served.messages("alice") == [envelope(ALICE) + STORED] * 2
    assert served.messages("bob") == [envelope("Bob@example.org") + STORED]
    assert sorted(path.name for path in served.directory.iterdir()) == ["alice", "bob"]


def test_recipient_whose_copy_cannot_be_stored_gets_451_and_the_other_250(served: Served) -> None:
    served.directory.mkdir()
    (served.directory / "alice").write_text("a file in place of the Maildir")
    with served.client() as client:
        assert deliver(client, ALICE, BOB) == [250, 250, 451, 250]
        (served.directory / "alice").unlink()
        assert deliver(client, ALICE) == [250, 250]
    assert served.messages("bob") == [envelope(BOB) + STORED]
    assert served.messages("alice") == [envelope(ALICE) + STORED]
    assert "The copy for alice@example.org could not be stored" in served.errors.read_text()


def test_message_over_the_budget_gets_451(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    server = lmtp_server.LmtpServer(stores.MaildirMaildrops(tmp_path), ["alice"])
    server.budget = stores.Budget(10)
    with pytest.raises(StopIteration) as verdict:
        server.store(None, smtp.Mailbox.parse(ALICE), MESSAGE).send(None)
    assert verdict.value.value is lmtp_server.TRY_AGAIN
    assert "BudgetExceeded" in capsys.readouterr().err
    assert server.budget.free == 10


@pytest.mark.parametrize("name", ["Alice", "alice@example.org", "../alice", ""])
def test_user_that_is_no_canonical_name_is_an_error(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        lmtp_server.main(["maildirs", "--user", name])
    assert f"invalid user {name!r}" in capsys.readouterr().err
