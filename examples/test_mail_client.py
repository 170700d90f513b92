"""A suite of 31 tests for a mail client: ``pytest examples/test_mail_client.py``.

``Mailer`` stands for the client under test; this one uses the standard library.  The server needs no set-up besides
the options in the markers.  See docs/testing.md.
"""

import functools
import poplib
import smtplib
import ssl

import pytest

from mailauth import pop3, smtp
from mailauth_io.testing import DROP, PASS, STALL, MailServer


class Mailer:
    """The client under test."""

    def __init__(self, host: str, smtp_port: int, pop3_port: int, *, tls: str, context: ssl.SSLContext) -> None:
        self.host, self.smtp_port, self.pop3_port = host, smtp_port, pop3_port
        self.tls, self.context, self.timeout = tls, context, 30.0

    def send(self, *to: str, login: str = "", secret: str = "", retries: int = 0) -> dict[str, tuple[int, bytes]]:
        """Send a message, after a login by the mechanism *login*, and return the refused recipients."""
        with self._smtp_client() as client:
            client.ehlo()
            client.user, client.password = "alice", secret
            if login == "XOAUTH2":
                client.auth(login, functools.partial(self._xoauth2, secret))
            elif login:
                client.auth(login, getattr(client, "auth_" + login.lower().replace("-", "_")))
            message = b"Subject: tea\r\n\r\nAt six: https://example.test/tea\r\n"
            while True:
                try:
                    return client.sendmail("alice@example.test", to, message)
                except smtplib.SMTPRecipientsRefused as error:
                    if not retries or any(code >= 500 for code, _ in error.recipients.values()):
                        raise
                    retries -= 1

    def _xoauth2(self, token: str, failure: bytes | None = None) -> str:
        return f"user=alice\1auth=Bearer {token}\1\1" if failure is None else ""

    def _smtp_client(self) -> smtplib.SMTP:
        if self.tls == "implicit":
            return smtplib.SMTP_SSL(self.host, self.smtp_port, timeout=self.timeout, context=self.context)
        client = smtplib.SMTP(self.host, self.smtp_port, timeout=self.timeout)
        try:
            if self.tls == "starttls":
                client.starttls(context=self.context)
        except BaseException:
            client.close()
            raise
        return client

    def collect(self, secret: str, *, apop: bool = False, delete: bool = False) -> list[bytes]:
        """Return the messages of the maildrop."""
        client = self._pop3_client()
        try:
            if apop:
                client.apop("alice", secret)
            else:
                client.user("alice")
                client.pass_(secret)
            messages: list[bytes] = []
            for number in range(1, client.stat()[0] + 1):
                messages.append(b"\r\n".join(client.retr(number)[1]) + b"\r\n")
                if delete:
                    client.dele(number)
            client.quit()
            return messages
        finally:
            client.close()

    def _pop3_client(self) -> poplib.POP3:
        if self.tls == "implicit":
            return poplib.POP3_SSL(self.host, self.pop3_port, timeout=self.timeout, context=self.context)
        client = poplib.POP3(self.host, self.pop3_port, timeout=self.timeout)
        if self.tls == "starttls":
            client.stls(self.context)
        return client


def mailer(server: MailServer, tls: str = "starttls") -> Mailer:
    """Return the client under test, configured for the server: this is all the set-up."""
    smtp_port = server.smtps_port if tls == "implicit" else server.smtp_port
    pop3_port = server.pop3s_port if tls == "implicit" else server.pop3_port
    return Mailer(server.host, smtp_port, pop3_port, tls=tls, context=server.ssl_context)


@pytest.mark.parametrize("login", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize("tls", ["none", "starttls", "implicit"])
def test_smtp_login(mail_server: MailServer, tls: str, login: str) -> None:
    mailer(mail_server, tls).send("carol@far.test", login=login, secret=mail_server.password("alice"))
    envelope = mail_server.wait_for_message(to="carol@far.test").envelope
    assert (envelope.identity, envelope.mechanism) == ("alice", login)
    assert (envelope.tls is not None) == (tls != "none")


@pytest.mark.parametrize("apop", [False, True], ids=["USER", "APOP"])
@pytest.mark.parametrize("tls", ["none", "starttls", "implicit"])
def test_pop3_login(mail_server: MailServer, tls: str, apop: bool) -> None:
    mail_server.deliver("alice", b"Subject: one\r\n\r\n.\r\n")
    assert mailer(mail_server, tls).collect(mail_server.password("alice"), apop=apop) == [b"Subject: one\r\n\r\n.\r\n"]
    assert bool(mail_server.secrets_in_clear) == (tls == "none" and not apop)


def test_pop3_login_permits_relaying(mail_server: MailServer) -> None:
    client = mailer(mail_server)
    client.collect(mail_server.password("alice"))
    client.send("carol@far.test")
    assert mail_server.wait_for_message().envelope.grant == "alice"


def test_grant_expires(mail_server: MailServer) -> None:
    client = mailer(mail_server)
    client.collect(mail_server.password("alice"))
    mail_server.clock.advance(1800)
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        client.send("carol@far.test")
    assert mail_server.grants == ()


def test_token_is_accepted(mail_server: MailServer) -> None:
    mailer(mail_server).send("carol@far.test", login="XOAUTH2", secret=mail_server.issue_token("alice"))
    assert mail_server.wait_for_message().envelope.mechanism == "XOAUTH2"


def test_token_expires(mail_server: MailServer) -> None:
    token = mail_server.issue_token("alice", lifetime=60)
    mail_server.clock.advance(60)
    with pytest.raises(smtplib.SMTPAuthenticationError):
        mailer(mail_server).send("carol@far.test", login="XOAUTH2", secret=token)


def test_wrong_password_is_reported(mail_server: MailServer) -> None:
    with pytest.raises(smtplib.SMTPAuthenticationError):
        mailer(mail_server).send("carol@far.test", login="PLAIN", secret="guess")


def test_temporary_failure_is_retried(mail_server: MailServer) -> None:
    mail_server.on(smtp.Rcpt).reply(451, PASS)
    mailer(mail_server).send("alice@example.test", retries=1)
    mail_server.wait_for_message(to="alice@example.test")


def test_permanent_failure_is_not_retried(mail_server: MailServer) -> None:
    mail_server.on(smtp.Rcpt).reply(550)
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        mailer(mail_server).send("alice@example.test", retries=1)


def test_other_recipients_get_the_message(mail_server: MailServer) -> None:
    mail_server.on(smtp.Rcpt, to="bob@example.test").reply(smtp.Reply(550, "5.1.1", "no such user"))
    refused = mailer(mail_server).send("alice@example.test", "bob@example.test")
    assert refused == {"bob@example.test": (550, b"5.1.1 no such user")}
    message = mail_server.wait_for_message()
    assert message.links == ("https://example.test/tea",)
    assert message.envelope.recipients == ("alice@example.test",)


def test_lost_connection_is_an_error(mail_server: MailServer) -> None:
    mail_server.on(smtp.MessageComplete).reply(DROP)
    with pytest.raises(smtplib.SMTPServerDisconnected):
        mailer(mail_server).send("alice@example.test")
    assert mail_server.messages == ()


def test_client_gives_up_on_a_server_that_does_not_reply(mail_server: MailServer) -> None:
    mail_server.on(smtp.Data).reply(STALL)
    client = mailer(mail_server)
    client.timeout = 1.0
    with pytest.raises(smtplib.SMTPServerDisconnected, match="timed out"):
        client.send("alice@example.test")


@pytest.mark.mail_server(certificate="expired")
def test_expired_certificate_is_refused(mail_server: MailServer) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate has expired"):
        mailer(mail_server).send("alice@example.test")


@pytest.mark.mail_server(certificate="wrong_host")
def test_certificate_of_another_host_is_refused(mail_server: MailServer) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        mailer(mail_server, "implicit").send("alice@example.test")


@pytest.mark.mail_server(certificate="untrusted")
def test_certificate_of_unknown_ca_is_refused(mail_server: MailServer) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer certificate"):
        mailer(mail_server).collect(mail_server.password("alice"))
    assert mail_server.secrets_in_clear == ()


@pytest.mark.mail_server(starttls="stripped")
def test_nothing_is_sent_without_starttls(mail_server: MailServer) -> None:
    with pytest.raises(smtplib.SMTPNotSupportedError):
        mailer(mail_server).send("carol@far.test", login="PLAIN", secret=mail_server.password("alice"))
    assert mail_server.secrets_in_clear == ()


@pytest.mark.mail_server(starttls="injected")
def test_reply_before_tls_is_discarded(mail_server: MailServer) -> None:
    mailer(mail_server).send("carol@far.test", login="PLAIN", secret=mail_server.password("alice"))
    mail_server.wait_for_message(to="carol@far.test", subject="tea")


def test_mail_is_kept_if_it_was_not_collected(mail_server: MailServer) -> None:
    mail_server.deliver("alice", b"Subject: one\r\n\r\n")
    mail_server.deliver("alice", b"Subject: two\r\n\r\n")
    mail_server.on(pop3.Retrieve, number=2).reply(pop3.Unavailable.TEMPORARY)
    with pytest.raises(poplib.error_proto):
        mailer(mail_server).collect(mail_server.password("alice"), delete=True)
    assert [message.subject for message in mail_server.maildrop("alice")] == ["one", "two"]
