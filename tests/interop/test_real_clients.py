"""Clients of other projects with ``mailauth serve --legacy`` on each loop: every login, with and without TLS.

Tests of a client that is not installed are skipped; an error with MAILAUTH_INTEROP=require.
"""

from __future__ import annotations

import email
import itertools
import poplib
import secrets
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import trustme

from tests.interop.client_config import HOST, NAME, PASSWORD, TOKEN, WAYS, ClientConfig, CommandRejected
from tests.interop.fetchers import fetchmail
from tests.interop.foreign import COLLECTORS, MODERN, SUBMITTERS, collections, submissions
from tests.interop.mailers import s_nail_exits
from tests.interop.senders import smtp_source
from tests.serving import LOOPS, Login, Served, messages, served

_addresses = itertools.count(2)
"""A grant belongs to an address, so a test that needs an address without a grant takes a new one in 127.1.0.0/16."""

MESSAGE = (
    b"From: bob@example.test\nTo: alice@example.test\nSubject: waiting\n"
    b"Date: Tue, 24 Nov 2026 08:00:00 +0000\nMessage-ID: <1@example.test>\n"
    b"\nA letter\n.\n..\n.dot\n\nBye\n"
)


@attrs.frozen(kw_only=True)
class OurServer:
    """A server with one message in each maildrop."""

    server: Served
    directory: Path
    readers: Iterator[str]
    """Names whose maildrops no other test uses."""

    def client_config(
        self, protocol: str, tls_mode: str, login: str, scratch: Path, *,
        source: str = HOST, name: str = NAME, password: str = PASSWORD, token: str = TOKEN, delete: bool = False,
        certificate: str = "alice.pem",
    ) -> ClientConfig:  # fmt: skip
        return ClientConfig(
            port=self.server.port(protocol + ("s" if tls_mode == "implicit" else "")), tls_mode=tls_mode, login=login,
            trusted=self.directory / "authority.pem", scratch=scratch, source=source,
            name=name, password=password, token=token, certificate=self.directory / certificate, delete=delete,
        )  # fmt: skip

    def sent_on(self, message: bytes, *, composed: bool = False) -> bool:
        """Whether the outbox contains *message* unchanged after the lines that the server added.

        If the client *composed* it, only the subject and the body are compared.
        """
        wanted = message.replace(b"\r\n", b"\n")
        outbox = messages(self.directory / "outbox")
        if composed:
            return any(_subject_and_body(found) == _subject_and_body(wanted) for found in outbox)
        return any(found.endswith(b"\n" + wanted) for found in outbox)

    def maildrop(self, name: str) -> list[bytes]:
        return messages(self.directory / "maildrops" / name)


def _subject_and_body(message: bytes) -> tuple[str, bytes]:
    return email.message_from_bytes(message)["Subject"], message.partition(b"\n\n")[2]


@pytest.fixture(scope="module", params=LOOPS)
def our_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OurServer]:
    directory = tmp_path_factory.mktemp("our_server")
    names = [NAME, *(f"reader{number}" for number in range(60))]
    for name in names:
        maildir = directory / "maildrops" / name
        for folder in ("tmp", "new", "cur"):
            (maildir / folder).mkdir(parents=True)
        (maildir / "new" / "1.letter").write_bytes(MESSAGE)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "clients.pem"))
    for name in ("alice", "stranger"):
        issued = authority.issue_cert(f"{name}@example.test")
        (directory / f"{name}.pem").touch(mode=0o600)
        issued.private_key_and_cert_chain_pem.write_to_path(str(directory / f"{name}.pem"))
    with served(
        directory,
        *("--token", f"{NAME}:{TOKEN}", "--client-ca", str(directory / "clients.pem")),
        *("--client-name", f"email:alice@example.test={NAME}"),
        *("--loop", request.param, "--legacy", *(word for name in names for word in ("--user", f"{name}:{PASSWORD}"))),
        *("--maildir", str(directory / "maildrops"), "--outbox", str(directory / "outbox")),
        *("--ca-out", str(directory / "authority.pem")),
    ) as server:
        yield OurServer(server=server, directory=directory, readers=iter(names[1:]))


def make_message() -> bytes:
    """A unique message with lines that must be dot-stuffed."""
    return (
        f"From: alice@example.test\r\nTo: friend@elsewhere.test\r\nSubject: {secrets.token_hex(8)}\r\n"
        f"Date: Tue, 24 Nov 2026 08:00:00 +0000\r\nMessage-ID: <{secrets.token_hex(8)}@client.test>\r\n"
        "\r\nHello\r\n.\r\n..\r\n.dot\r\n\r\nBye\r\n"
    ).encode()


def fresh_address() -> str:
    number = next(_addresses)
    return f"127.1.{number // 250}.{number % 250 + 1}"


@pytest.mark.parametrize(("client", "login", "tls_mode"), submissions())
def test_authenticated_client_submits_remote_mail(
    our_server: OurServer, client: str, login: str, tls_mode: str, tmp_path: Path
) -> None:
    """RFC 4954: an authenticated client may send remote mail, and it arrives unchanged."""
    message = make_message()
    submitter = SUBMITTERS[client]
    submitter.submit(our_server.client_config("smtp", tls_mode, login, tmp_path, source=fresh_address()), message)
    assert our_server.server.logins()[-1] == Login(NAME, login, tls_mode != "clear")
    assert our_server.sent_on(message, composed=submitter.composes)


@pytest.mark.parametrize(("client", "login", "tls_mode"), collections())
def test_client_retrieves_a_message(
    our_server: OurServer, client: str, login: str, tls_mode: str, tmp_path: Path
) -> None:
    """RFC 1939: every login opens the maildrop; the message is returned unchanged and is not deleted."""
    text = (
        COLLECTORS[client].collect(our_server.client_config("pop3", tls_mode, login, tmp_path)).replace(b"\r\n", b"\n")
    )
    assert our_server.server.logins()[-1] == Login(NAME, login, tls_mode != "clear")
    assert text == MESSAGE
    assert our_server.maildrop(NAME) == [MESSAGE]


@pytest.mark.parametrize(
    ("client", "login", "tls_mode"),
    [
        (client, login, tls_mode)
        for client, login, tls_mode in collections()
        if COLLECTORS[client].deletes and login == COLLECTORS[client].logins[0]
    ],
)
def test_client_retrieves_and_deletes_a_message(
    our_server: OurServer, client: str, login: str, tls_mode: str, tmp_path: Path
) -> None:
    """RFC 1939 section 6: marked messages are removed after QUIT."""
    name = next(our_server.readers)
    client_config = our_server.client_config("pop3", tls_mode, login, tmp_path, name=name, delete=True)
    assert COLLECTORS[client].collect(client_config).replace(b"\r\n", b"\n") == MESSAGE
    assert our_server.maildrop(name) == []


@pytest.mark.parametrize("tls_mode", WAYS)
def test_fetchmail_with_keep_uses_top_instead_of_retr(our_server: OurServer, tls_mode: str, tmp_path: Path) -> None:
    """The client asks for more lines than any message has, and never sends RETR."""
    said = fetchmail(our_server.client_config("pop3", tls_mode, "USER", tmp_path))
    assert b"POP3> TOP 1 99999999" in said
    assert b"POP3> RETR" not in said
    assert (tmp_path / "message").read_bytes() == MESSAGE


@pytest.mark.parametrize("tls_mode", WAYS)
def test_s_nail_exit_without_quit_deletes_nothing(our_server: OurServer, tls_mode: str, tmp_path: Path) -> None:
    """RFC 1939 section 6: a connection that ends without QUIT must not remove messages."""
    name = next(our_server.readers)
    s_nail_exits(our_server.client_config("pop3", tls_mode, "USER", tmp_path, name=name))
    assert our_server.server.logins()[-1] == Login(name, "USER", tls_mode != "clear")
    assert len(_messages_once_free(our_server, name)) == 1
    assert our_server.maildrop(name) == [MESSAGE]


def _messages_once_free(our_server: OurServer, name: str) -> list[bytes]:
    """Return the listing of a maildrop, as soon as the last session has released it."""
    for _ in range(1000):
        client = poplib.POP3(HOST, our_server.server.port("pop3"), timeout=30)
        try:
            client.user(name)
            client.pass_(PASSWORD)
            return client.list()[1]
        except poplib.error_proto as error:
            if "[IN-USE]" not in str(error):
                raise
        finally:
            client.quit()
    raise AssertionError("the maildrop stays in use")


def test_smtp_source_delivers_all_messages_in_concurrent_sessions(our_server: OurServer, tmp_path: Path) -> None:
    """``smtp-source``, a load generator of Postfix: every acknowledged message is stored."""
    name = next(our_server.readers)
    smtp_source(
        our_server.client_config("smtp", "clear", "", tmp_path), f"{name}@example.test", sessions=10, messages=200
    )
    assert len(our_server.maildrop(name)) == 201


@pytest.mark.parametrize("tls_mode", WAYS)
@pytest.mark.parametrize("login", ["USER", "APOP"])
@pytest.mark.parametrize(
    ("reader", "sender"),
    [("mpop", "msmtp"), ("poplib", "smtplib"), ("poplib", "swaks"), ("mpop", "curl")],
)
def test_pop_before_smtp_allows_relaying_from_the_same_address_only(
    our_server: OurServer, reader: str, sender: str, login: str, tls_mode: str, tmp_path: Path
) -> None:
    """A POP3 login allows SMTP relaying for its address only."""
    collect, submit = COLLECTORS[reader].collect, SUBMITTERS[sender].submit
    here, elsewhere = fresh_address(), fresh_address()
    message, refused = make_message(), make_message()
    with pytest.raises(CommandRejected):
        submit(our_server.client_config("smtp", tls_mode, "", tmp_path, source=here), refused)
    collect(our_server.client_config("pop3", tls_mode, login, tmp_path, source=here))
    submit(our_server.client_config("smtp", tls_mode, "", tmp_path, source=here), message)
    with pytest.raises(CommandRejected):
        submit(our_server.client_config("smtp", tls_mode, "", tmp_path, source=elsewhere), refused)
    assert our_server.sent_on(message)
    assert not our_server.sent_on(refused)


@pytest.mark.parametrize(
    ("client", "login", "tls_mode"),
    [
        (client, login, tls_mode)
        for client, login, tls_mode in collections()
        if login == COLLECTORS[client].logins[0] or (login in MODERN and tls_mode == "implicit")
    ],
)
def test_wrong_credentials_are_rejected(
    our_server: OurServer, client: str, login: str, tls_mode: str, tmp_path: Path
) -> None:
    """A failed login is reported to the client, also for a token and a certificate."""
    with pytest.raises(CommandRejected):
        COLLECTORS[client].collect(
            our_server.client_config(
                "pop3", tls_mode, login, tmp_path, password="open poppy", token="wr0ng", certificate="stranger.pem"
            )
        )
    assert not our_server.server.logins()[-1].accepted
