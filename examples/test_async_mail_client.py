"""The 31 tests of test_mail_client.py for an asynchronous client, with each pytest plugin that runs coroutines.

The configuration of pytest selects the plugin: ``asyncio_mode = "auto"`` (pytest-asyncio), ``trio_mode = true``
(pytest-trio), or ``anyio_mode = "auto"`` (anyio's plugin, which runs each test on asyncio and on trio).

``Mailer`` stands for the client under test.  See docs/testing.md.
"""

import ssl

import pytest

from mailauth import pop3, smtp
from mailauth_io import client
from mailauth_io.client import ConnectionFailed, Login, TlsMode
from mailauth_io.testing import DROP, PASS, STALL, MailServer


class Mailer:
    """The client under test."""

    def __init__(
        self, host: str, smtp_port: int, pop3_port: int, *, tls: TlsMode, context: ssl.SSLContext | None
    ) -> None:
        self.host, self.smtp_port, self.pop3_port = host, smtp_port, pop3_port
        self.tls: TlsMode = tls
        self.context, self.timeout = context, 30.0

    async def send(self, *to: str, login: Login | None = None, retries: int = 0) -> dict[str, smtp.Reply]:
        """Send a message and return the refused recipients."""
        message = b"Subject: tea\r\n\r\nAt six: https://example.test/tea\r\n"
        async with client.smtp_client(
            host=self.host,
            port=self.smtp_port,
            tls=self.tls,
            ssl_context=self.context,
            login=login,
            timeout=self.timeout,
        ) as session:
            while True:
                result = await session.send(message, "alice@example.test", to)
                if not retries or not result.rejected or any(reply.code >= 500 for reply in result.rejected.values()):
                    break
                retries -= 1
        if not result.accepted:
            result.raise_for_rejected()
        return dict(result.rejected)

    async def collect(self, login: Login, *, delete: bool = False) -> list[bytes]:
        """Return the messages of the maildrop."""
        async with client.pop3_client(
            host=self.host,
            port=self.pop3_port,
            tls=self.tls,
            ssl_context=self.context,
            login=login,
            timeout=self.timeout,
        ) as session:
            messages: list[bytes] = []
            for listed in await session.listing():
                messages.append(await session.retrieve(listed.number))
                if delete:
                    await session.delete(listed.number)
            return messages


def mailer(server: MailServer, tls: TlsMode = "starttls") -> Mailer:
    """Return the client under test, configured for the server: this is all the set-up."""
    smtp_port = server.smtps_port if tls == "implicit" else server.smtp_port
    pop3_port = server.pop3s_port if tls == "implicit" else server.pop3_port
    return Mailer(server.host, smtp_port, pop3_port, tls=tls, context=None if tls == "none" else server.ssl_context)


def login(server: MailServer, *mechanisms: str) -> Login:
    return Login("alice", server.password("alice"), mechanisms=mechanisms)


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize("tls", ["none", "starttls", "implicit"])
async def test_smtp_login(mail_server: MailServer, tls: TlsMode, mechanism: str) -> None:
    await mailer(mail_server, tls).send("carol@far.test", login=login(mail_server, mechanism))
    envelope = (await mail_server.wait_for_message_async(to="carol@far.test")).envelope
    assert (envelope.identity, envelope.mechanism) == ("alice", mechanism)
    assert (envelope.tls is not None) == (tls != "none")


@pytest.mark.parametrize("mechanism", ["USER", "APOP"])
@pytest.mark.parametrize("tls", ["none", "starttls", "implicit"])
async def test_pop3_login(mail_server: MailServer, tls: TlsMode, mechanism: str) -> None:
    mail_server.deliver("alice", b"Subject: one\r\n\r\n.\r\n")
    assert await mailer(mail_server, tls).collect(login(mail_server, mechanism)) == [b"Subject: one\r\n\r\n.\r\n"]
    assert bool(mail_server.secrets_in_clear) == (tls == "none" and mechanism == "USER")


async def test_pop3_login_permits_relaying(mail_server: MailServer) -> None:
    await mailer(mail_server).collect(login(mail_server))
    await mailer(mail_server).send("carol@far.test")
    message = await mail_server.wait_for_message_async()
    assert message.envelope.grant == "alice"


async def test_grant_expires(mail_server: MailServer) -> None:
    await mailer(mail_server).collect(login(mail_server))
    mail_server.clock.advance(1800)
    with pytest.raises(client.MessageRejected):
        await mailer(mail_server).send("carol@far.test")
    assert mail_server.grants == ()


async def test_token_is_accepted(mail_server: MailServer) -> None:
    token = mail_server.issue_token("alice")
    await mailer(mail_server).send("carol@far.test", login=Login("alice", token=token, mechanisms=("XOAUTH2",)))
    message = await mail_server.wait_for_message_async()
    assert message.envelope.mechanism == "XOAUTH2"


async def test_token_expires(mail_server: MailServer) -> None:
    token = mail_server.issue_token("alice", lifetime=60)
    mail_server.clock.advance(60)
    with pytest.raises(client.AuthenticationFailed):
        await mailer(mail_server).send("carol@far.test", login=Login("alice", token=token))


async def test_wrong_password_is_reported(mail_server: MailServer) -> None:
    with pytest.raises(client.AuthenticationFailed):
        await mailer(mail_server).send("carol@far.test", login=Login("alice", "guess"))


async def test_temporary_failure_is_retried(mail_server: MailServer) -> None:
    mail_server.on(smtp.Rcpt).reply(451, PASS)
    await mailer(mail_server).send("alice@example.test", retries=1)
    await mail_server.wait_for_message_async(to="alice@example.test")


async def test_permanent_failure_is_not_retried(mail_server: MailServer) -> None:
    mail_server.on(smtp.Rcpt).reply(550)
    with pytest.raises(client.MessageRejected):
        await mailer(mail_server).send("alice@example.test", retries=1)


async def test_other_recipients_get_the_message(mail_server: MailServer) -> None:
    unknown = smtp.Reply(550, "5.1.1", "no such user")
    mail_server.on(smtp.Rcpt, to="bob@example.test").reply(unknown)
    refused = await mailer(mail_server).send("alice@example.test", "bob@example.test")
    assert refused == {"bob@example.test": unknown}
    message = await mail_server.wait_for_message_async()
    assert message.links == ("https://example.test/tea",)
    assert message.envelope.recipients == ("alice@example.test",)


async def test_lost_connection_is_an_error(mail_server: MailServer) -> None:
    mail_server.on(smtp.MessageComplete).reply(DROP)
    with pytest.raises(client.DeliveryUnknown):
        await mailer(mail_server).send("alice@example.test")
    assert mail_server.messages == ()


async def test_client_gives_up_on_a_server_that_does_not_reply(mail_server: MailServer) -> None:
    mail_server.on(smtp.Rcpt).reply(STALL)
    under_test = mailer(mail_server)
    under_test.timeout = 1.0
    with pytest.raises(ConnectionFailed):
        await under_test.send("alice@example.test")


@pytest.mark.mail_server(certificate="expired")
async def test_expired_certificate_is_refused(mail_server: MailServer) -> None:
    with pytest.raises(ConnectionFailed, match="expired"):
        await mailer(mail_server).send("alice@example.test")


@pytest.mark.mail_server(certificate="wrong_host")
async def test_certificate_of_another_host_is_refused(mail_server: MailServer) -> None:
    with pytest.raises(ConnectionFailed, match="not valid for 'localhost'"):
        await mailer(mail_server, "implicit").send("alice@example.test")


@pytest.mark.mail_server(certificate="untrusted")
async def test_certificate_of_unknown_ca_is_refused(mail_server: MailServer) -> None:
    with pytest.raises(ConnectionFailed, match="unable to get local issuer certificate"):
        await mailer(mail_server).collect(login(mail_server))
    assert mail_server.secrets_in_clear == ()


@pytest.mark.mail_server(starttls="stripped")
async def test_nothing_is_sent_without_starttls(mail_server: MailServer) -> None:
    with pytest.raises(client.NotSupported):
        await mailer(mail_server).send("carol@far.test", login=login(mail_server, "PLAIN"))
    assert mail_server.secrets_in_clear == ()


@pytest.mark.mail_server(starttls="injected")
async def test_reply_before_tls_is_refused(mail_server: MailServer) -> None:
    with pytest.raises(ConnectionFailed, match="before the handshake"):
        await mailer(mail_server).send("carol@far.test", login=login(mail_server, "PLAIN"))


async def test_mail_is_kept_if_it_was_not_collected(mail_server: MailServer) -> None:
    mail_server.deliver("alice", b"Subject: one\r\n\r\n")
    mail_server.deliver("alice", b"Subject: two\r\n\r\n")
    mail_server.on(pop3.Retrieve, number=2).reply(pop3.Unavailable.TEMPORARY)
    with pytest.raises(client.ServerRejected):
        await mailer(mail_server).collect(login(mail_server), delete=True)
    assert [message.subject for message in mail_server.maildrop("alice")] == ["one", "two"]
