"""Test a mail client with a real server, TLS and faults included: ``pytest examples/client_test.py``.

``send`` and ``fetch`` stand for the client under test; here they use the standard library.  See docs/testing.md.
"""

import contextlib
import poplib
import smtplib
import ssl
from typing import Any

import pytest

from mailauth import pop3, smtp
from mailauth_io.testing import DROP, MailServer

MESSAGE = b"From: alice@example.test\r\nSubject: tea\r\n\r\n.a dot\r\n..two dots\r\n\xc3\xa4\r\n\r\n"


def send(server: MailServer, *, recipient: str = "bob@far.test", password: str = "alice-password") -> None:
    with smtplib.SMTP(server.host, server.smtp_port, timeout=30) as client:
        client.starttls(context=server.ssl_context)
        client.login("alice", password)
        client.sendmail("alice@example.test", [recipient], MESSAGE)


def fetch(server: MailServer, *, apop: bool = False) -> list[bytes]:
    with contextlib.closing(poplib.POP3(server.host, server.pop3_port, timeout=30)) as client:
        if apop:
            client.apop("alice", server.password("alice"))
        else:
            client.stls(server.ssl_context)
            client.user("alice")
            client.pass_(server.password("alice"))
        messages = [b"\r\n".join(client.retr(number + 1)[1]) + b"\r\n" for number in range(client.stat()[0])]
        client.quit()
    return messages


def test_message_arrives_unchanged(mail_server: MailServer) -> None:
    send(mail_server)
    message = mail_server.wait_for_message(to="bob@far.test")
    assert message.raw == MESSAGE
    assert message.envelope.identity == "alice"
    assert mail_server.secrets_in_clear == ()


@pytest.mark.parametrize("step", [smtp.Mail, smtp.Rcpt, smtp.Data, smtp.MessageComplete])
def test_message_is_sent_again_after_a_temporary_failure(mail_server: MailServer, step: type[Any]) -> None:
    mail_server.on(step).reply(451)
    with pytest.raises((smtplib.SMTPResponseException, smtplib.SMTPRecipientsRefused)):
        send(mail_server)
    assert mail_server.messages == ()
    send(mail_server)
    assert len(mail_server.messages) == 1


@pytest.mark.parametrize("step", [smtp.Connected, smtp.Hello, smtp.Auth, smtp.MessageComplete])
def test_lost_connection_is_reported(mail_server: MailServer, step: type[Any]) -> None:
    mail_server.on(step).reply(DROP)
    with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionError)):
        send(mail_server)
    assert mail_server.messages == ()


def test_wrong_password_is_reported(mail_server: MailServer) -> None:
    with pytest.raises(smtplib.SMTPAuthenticationError) as caught:
        send(mail_server, password="looking-glass")
    assert caught.value.smtp_code == 535


@pytest.mark.parametrize("apop", [False, True])
def test_mail_is_fetched(mail_server: MailServer, apop: bool) -> None:
    mail_server.deliver("alice", MESSAGE)
    assert fetch(mail_server, apop=apop) == [MESSAGE]


def test_locked_maildrop_is_reported(mail_server: MailServer) -> None:
    mail_server.on(pop3.Pass).reply(pop3.Unavailable.IN_USE)
    with pytest.raises(poplib.error_proto, match="IN-USE"):
        fetch(mail_server)


def test_mail_for_an_account_is_in_its_maildrop(mail_server: MailServer) -> None:
    send(mail_server, recipient=mail_server.address("alice"))
    [message] = fetch(mail_server)
    assert message.endswith(MESSAGE)  # after the trace fields of the server


@pytest.mark.parametrize(
    "certificate",
    [
        pytest.param(kind, marks=pytest.mark.mail_server(certificate=kind))
        for kind in ("expired", "wrong_host", "untrusted")
    ],
)
def test_invalid_certificate_is_rejected(mail_server: MailServer, certificate: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        send(mail_server)
    assert mail_server.secrets_in_clear == ()
