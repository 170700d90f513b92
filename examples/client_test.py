"""Test a mail client with a real server, TLS and faults included: ``pytest examples/client_test.py``.

``send`` and ``fetch`` stand for the client under test; here they use the standard library.  See docs/testing.md.
"""

import poplib
import smtplib
import ssl
from collections.abc import Iterator
from typing import Any

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal

from mailauth import Question, pop3, smtp
from mailauth_io import server, stores
from mailauth_io.adapters.tls import certificates

MESSAGE = b"From: alice@example.test\r\nSubject: tea\r\n\r\n.a dot\r\n..two dots\r\n\xc3\xa4\r\n\r\n"
BOB = "bob@example.org"  # not in a domain of the server: mail for him is in the outbox


def send(port: int, context: ssl.SSLContext, *, recipient: str = BOB, password: str = "wonderland") -> None:
    with smtplib.SMTP("localhost", port, timeout=30) as client:
        client.starttls(context=context)
        client.login("alice", password)
        client.sendmail("alice@example.test", [recipient], MESSAGE)


def fetch(port: int, context: ssl.SSLContext, *, apop: bool = False) -> list[bytes]:
    client = poplib.POP3("localhost", port, timeout=30)
    try:
        if apop:
            client.apop("alice", "wonderland")
        else:
            client.stls(context)
            client.user("alice")
            client.pass_("wonderland")
        messages = [b"\r\n".join(client.retr(number + 1)[1]) + b"\r\n" for number in range(client.stat()[0])]
        client.quit()
    finally:
        client.close()
    return messages


class MailServer:
    """A running server, and what a test reads and changes."""

    ports: server.RunningServer

    def __init__(self, certificate: certificates.TemporaryCertificate) -> None:
        self.context = certificate.client()  # for the client: it trusts this server only
        self.outbox = stores.MemoryOutbox()
        self.maildrops = stores.MemoryMaildrops()
        self.faults: dict[type[Question[Any]], server.Decision] = {}  # each happens once
        self.errors: list[Exception] = []

    @property
    def smtp(self) -> int:
        assert self.ports.smtp is not None
        return self.ports.smtp

    @property
    def pop3(self) -> int:
        assert self.ports.pop3 is not None
        return self.ports.pop3

    def fail_once(self, view: server.SessionView, question: Question[Any]) -> server.Decision:
        """Decide about each question of each session: an interceptor (docs/interceptors.md)."""
        return self.faults.pop(type(question), server.PASS)


@pytest.fixture(scope="session")
def portal() -> Iterator[BlockingPortal]:
    """The thread of the servers."""
    with start_blocking_portal() as portal:
        yield portal


@pytest.fixture(scope="session")
def certificate() -> certificates.TemporaryCertificate:
    return certificates.temporary_certificate()  # for localhost, 127.0.0.1 and ::1


@pytest.fixture
def mail(portal: BlockingPortal, certificate: certificates.TemporaryCertificate) -> Iterator[MailServer]:
    mail = MailServer(certificate)
    config = server.Config(
        smtp=0,  # a free port
        pop3=0,
        ssl_context=certificate.server,
        legacy=True,  # also accept logins without TLS, and APOP
        failure_delay=0.0,
        max_failed_logins=10,
        grace=0.1,
    )
    kept = server.Stores(
        accounts=stores.MemoryAccounts({"alice": b"wonderland"}), maildrops=mail.maildrops, outbox=mail.outbox
    )
    serving = server.serve(
        config, kept, interceptors=[mail.fail_once], on_error=lambda error, peer: mail.errors.append(error)
    )
    with portal.wrap_async_context_manager(serving) as mail.ports:
        yield mail
    assert mail.errors == []


def test_message_arrives_unchanged(mail: MailServer) -> None:
    send(mail.smtp, mail.context)
    [message] = mail.outbox.messages
    assert message.envelope.reverse_path == "alice@example.test"
    assert message.envelope.recipients == (BOB,)
    assert message.data == message.head + MESSAGE  # the head is the Received: line of the server


def test_wrong_password_is_reported(mail: MailServer) -> None:
    with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
        send(mail.smtp, mail.context, password="looking-glass")
    assert caught.value.smtp_code == 535
    assert mail.outbox.messages == ()


@pytest.mark.parametrize("step", [smtp.Mail, smtp.Rcpt, smtp.Data, smtp.MessageComplete])
def test_message_is_sent_again_after_a_temporary_failure(mail: MailServer, step: type[Question[Any]]) -> None:
    mail.faults[step] = smtp.Reply(451, text="try again")
    with pytest.raises((smtplib.SMTPResponseException, smtplib.SMTPRecipientsRefused)):
        send(mail.smtp, mail.context)
    assert mail.outbox.messages == ()
    send(mail.smtp, mail.context)
    assert len(mail.outbox.messages) == 1


@pytest.mark.parametrize("step", [smtp.Connected, smtp.Mail, smtp.MessageComplete])
def test_lost_connection_is_reported(mail: MailServer, step: type[Question[Any]]) -> None:
    mail.faults[step] = server.DROP
    with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionError)):
        send(mail.smtp, mail.context)
    assert mail.outbox.messages == ()


@pytest.mark.parametrize("apop", [False, True])
def test_mail_is_fetched(mail: MailServer, apop: bool) -> None:
    mail.maildrops.add("alice", MESSAGE)
    assert fetch(mail.pop3, mail.context, apop=apop) == [MESSAGE]


def test_locked_maildrop_is_reported(mail: MailServer) -> None:
    mail.faults[pop3.OpenMaildrop] = pop3.Unavailable.IN_USE
    with pytest.raises(poplib.error_proto, match="IN-USE"):
        fetch(mail.pop3, mail.context)


def test_mail_for_an_account_is_in_its_maildrop(mail: MailServer) -> None:
    send(mail.smtp, mail.context, recipient="alice@example.test")
    [message] = mail.maildrops.messages("alice")
    assert message.data == message.head + MESSAGE
    assert fetch(mail.pop3, mail.context) == [message.data]


def test_unknown_authority_is_rejected(mail: MailServer) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        send(mail.smtp, ssl.create_default_context())
