"""Clients that others wrote against ``mailauth serve --legacy`` on each loop: every login, in clear and in TLS.

A client that is not installed skips its tests; with MAILAUTH_INTEROP=require it fails them.
"""

from __future__ import annotations

import itertools
import secrets
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

from tests.interop.foreign import COLLECTORS, NAME, PASSWORD, SUBMITTERS, WAYS, Refused, Visit
from tests.serving import LOOPS, Served, messages, served

_addresses = itertools.count(2)
"""A grant is for an address, so a test that needs one without any takes a new one of 127.1.0.0/16."""


@attrs.frozen(kw_only=True)
class House:
    """A server with one letter in alice's maildrop."""

    server: Served
    directory: Path

    def visit(self, protocol: str, way: str, login: str, scratch: Path, source: str = "127.0.0.1") -> Visit:
        port = self.server.port(protocol + ("s" if way == "implicit" else ""))
        trusted = self.directory / "authority.pem"
        return Visit(port=port, way=way, login=login, trusted=trusted, scratch=scratch, source=source)

    def sent_on(self, message: bytes) -> bool:
        """Whether *message* waits in the outbox, whole below the lines that the server put on top."""
        return any(
            found.endswith(b"\n" + message.replace(b"\r\n", b"\n")) for found in messages(self.directory / "outbox")
        )


@pytest.fixture(scope="module", params=LOOPS)
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    directory = tmp_path_factory.mktemp("house")
    maildir = directory / "maildrops" / NAME
    for folder in ("tmp", "new", "cur"):
        (maildir / folder).mkdir(parents=True)
    (maildir / "new" / "1.letter").write_bytes(b"Subject: waiting\n\nA letter\n.\n..\n.dot\n")
    with served(
        directory,
        *("--loop", request.param, "--legacy", "--user", f"{NAME}:{PASSWORD}"),
        *("--maildir", str(directory / "maildrops"), "--outbox", str(directory / "outbox")),
        *("--ca-out", str(directory / "authority.pem")),
    ) as server:
        yield House(server=server, directory=directory)


def letter() -> bytes:
    """A message like no other, with lines that a client has to stuff."""
    return (
        f"From: alice@example.test\r\nTo: friend@elsewhere.test\r\nSubject: {secrets.token_hex(8)}\r\n"
        f"Date: Tue, 24 Nov 2026 08:00:00 +0000\r\nMessage-ID: <{secrets.token_hex(8)}@client.test>\r\n"
        "\r\nHello\r\n.\r\n..\r\n.dot\r\n\r\nBye\r\n"
    ).encode()


def fresh_address() -> str:
    number = next(_addresses)
    return f"127.1.{number // 250}.{number % 250 + 1}"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("login", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize("client", SUBMITTERS)
def test_submitted_with_auth(house: House, client: str, login: str, way: str, tmp_path: Path) -> None:
    """RFC 4954: whoever proved an identity may send mail elsewhere, and it arrives whole."""
    message = letter()
    SUBMITTERS[client](house.visit("smtp", way, login, tmp_path, fresh_address()), message)
    assert house.sent_on(message)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("client", "login"), [(client, login) for client, (_, logins) in COLLECTORS.items() for login in logins]
)
def test_collected(house: House, client: str, login: str, way: str, tmp_path: Path) -> None:
    """RFC 1939: every login opens the maildrop, and the message comes out as it is."""
    collect, _ = COLLECTORS[client]
    text = collect(house.visit("pop3", way, login, tmp_path)).replace(b"\r\n", b"\n")
    assert text == b"Subject: waiting\n\nA letter\n.\n..\n.dot\n"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("login", ["USER", "APOP"])
@pytest.mark.parametrize(
    ("reader", "sender"),
    [("mpop", "msmtp"), ("poplib", "smtplib"), ("poplib", "swaks"), ("mpop", "curl")],
)
def test_pop_before_smtp(house: House, reader: str, sender: str, login: str, way: str, tmp_path: Path) -> None:
    """A login by POP3 opens SMTP for its address and for no other."""
    collect, submit = COLLECTORS[reader][0], SUBMITTERS[sender]
    here, elsewhere = fresh_address(), fresh_address()
    message, refused = letter(), letter()
    with pytest.raises(Refused):
        submit(house.visit("smtp", way, "", tmp_path, here), refused)
    collect(house.visit("pop3", way, login, tmp_path, here))
    submit(house.visit("smtp", way, "", tmp_path, here), message)
    with pytest.raises(Refused):
        submit(house.visit("smtp", way, "", tmp_path, elsewhere), refused)
    assert house.sent_on(message)
    assert not house.sent_on(refused)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("client", ["curl", "mpop", "poplib"])
def test_a_wrong_password_opens_nothing(
    house: House, client: str, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A login that fails is no login: the client hears so, and its address stays closed."""
    collect, logins = COLLECTORS[client]
    monkeypatch.setattr("tests.interop.foreign.PASSWORD", "open poppy")
    with pytest.raises(Refused):
        collect(house.visit("pop3", way, logins[0], tmp_path))
