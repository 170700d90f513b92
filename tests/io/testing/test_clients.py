"""Clients of other projects with the fixture of the test kit: what a user would test about each.

Tests of a client that is not installed are skipped; they fail with MAILAUTH_INTEROP=require, as in CI.
"""

from __future__ import annotations

import asyncio
import contextlib
import poplib
import re
import smtplib
import ssl
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Final

import aiosmtplib
import attrs
import django.conf
import pytest
from django.core.mail import EmailMessage as DjangoMessage
from django.core.mail.backends.smtp import EmailBackend

from mailauth import pop3, smtp
from mailauth_io.testing import DROP, PASS, MailServer
from tests.interop.client_config import BY_TOKEN, FRIEND, HOST, SENDER, WAYS, ClientConfig, CommandRejected
from tests.interop.foreign import (
    PASSWORDS,
    SCRAM,
    curl_collect,
    curl_submit,
    mpop_collect,
    msmtp_submit,
    poplib_collect,
    smtplib_submit,
)

MESSAGE: Final = (
    b"From: alice@example.test\r\nTo: friend@elsewhere.test\r\nSubject: tea\r\n"
    b"Date: Tue, 24 Nov 2026 08:00:00 +0000\r\nMessage-ID: <1@example.test>\r\n\r\n.\r\n..\r\nAt six.\r\n"
)

FAILED: Final = (
    CommandRejected,
    OSError,
    EOFError,
    smtplib.SMTPException,
    aiosmtplib.SMTPException,
    poplib.error_proto,
)
"""What a client raises that has not sent or collected a message."""

IN_CLEAR: Final = ("PLAIN", "LOGIN", "USER")
"""The logins that send the password as it is."""


def aiosmtplib_submit(config: ClientConfig, message: bytes) -> None:
    async def main() -> None:
        client = aiosmtplib.SMTP(
            hostname=HOST,
            port=config.port,
            timeout=30,
            use_tls=config.tls_mode == "implicit",
            start_tls=config.tls_mode == "upgrade",
            tls_context=ssl.create_default_context(cafile=str(config.trusted)),
        )
        transport: asyncio.BaseTransport | None = None
        try:
            async with client:
                transport = client.transport
                await client.ehlo()  # auth_plain() and the others do not send it
                match config.login:
                    case "PLAIN":
                        await client.auth_plain(config.name, config.password)
                    case "LOGIN":
                        await client.auth_login(config.name, config.password)
                    case "CRAM-MD5":
                        await client.auth_crammd5(config.name, config.password)
                    case other:
                        raise ValueError(other)
                await client.sendmail(SENDER, [FRIEND], message)
        finally:
            if isinstance(transport, asyncio.Transport):
                transport.abort()  # aiosmtplib does not wait until it is closed
            for _ in range(10):
                await asyncio.sleep(0)

    asyncio.run(main())


def django_submit(config: ClientConfig, message: bytes) -> None:
    """smtplib takes a login that the server offers.  SSL_CERT_FILE names the trusted CA.

    Without send_mail(), since Django 6.1 deprecates its argument *connection*, and Django 5.2 has no other way.
    """
    opened: list[smtplib.SMTP] = []

    class Backend(EmailBackend):  # type: ignore[misc]  # Django has no types
        @property
        def connection_class(self) -> Callable[..., smtplib.SMTP]:
            def connect(*arguments: Any, **options: Any) -> smtplib.SMTP:
                opened.append(EmailBackend.connection_class.fget(self)(*arguments, **options))
                return opened[-1]

            return connect

    backend = Backend(
        alias="test",  # Django 6.1 needs it; Django 5.2 ignores it
        host="localhost",
        port=config.port,
        username=config.name if config.login else "",
        password=config.password if config.login else "",
        use_tls=config.tls_mode == "upgrade",
        use_ssl=config.tls_mode == "implicit",
        timeout=30,
    )
    try:
        backend.send_messages([DjangoMessage("tea", "At six.", SENDER, [FRIEND])])
    finally:
        for connection in opened:  # after an error, Django leaves it open
            connection.close()


@attrs.frozen
class Submitter:
    submit: Callable[[ClientConfig, bytes], None]
    logins: tuple[str, ...] = PASSWORDS
    sends_bytes: bool = True
    """It sends the message as it is."""


SUBMITTERS: Final = {
    "smtplib": Submitter(smtplib_submit),
    "aiosmtplib": Submitter(aiosmtplib_submit),
    "django": Submitter(django_submit, sends_bytes=False),
    "curl": Submitter(curl_submit, (*PASSWORDS, "OAUTHBEARER")),
    "msmtp": Submitter(msmtp_submit, (*PASSWORDS, *SCRAM, *BY_TOKEN)),
}

COLLECTORS: Final[dict[str, tuple[Callable[[ClientConfig], bytes], tuple[str, ...]]]] = {
    "poplib": (poplib_collect, ("USER", "APOP")),
    "curl": (curl_collect, ("APOP", *PASSWORDS, "OAUTHBEARER")),
    "mpop": (mpop_collect, ("USER", "APOP", *PASSWORDS, *SCRAM, *BY_TOKEN)),
}


@pytest.fixture(scope="module", autouse=True)
def _django_settings() -> None:
    if not django.conf.settings.configured:
        django.conf.settings.configure(USE_TZ=True)


@pytest.fixture
def configure(mail_server: MailServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ClientConfig]:
    """Return the function that makes the configuration of a client: of its protocol, TLS mode and login."""
    monkeypatch.setenv("SSL_CERT_FILE", mail_server.ca_file)

    def config(protocol: str, tls_mode: str, login: str, **options: Any) -> ClientConfig:
        ports = {"smtp": mail_server.smtp_port, "smtps": mail_server.smtps_port}
        ports |= {"pop3": mail_server.pop3_port, "pop3s": mail_server.pop3s_port}
        scratch = tmp_path / f"{protocol}-{len(list(tmp_path.iterdir()))}"
        scratch.mkdir()
        return ClientConfig(
            port=ports[protocol + ("s" if tls_mode == "implicit" else "")],
            tls_mode=tls_mode,
            login=login,
            trusted=Path(mail_server.ca_file),
            scratch=scratch,
            password=mail_server.password("alice"),
            token=mail_server.issue_token("alice"),
            **options,
        )

    return config


def logins(clients: dict[str, tuple[str, ...]]) -> list[Any]:
    """Return each client with each login and TLS mode, as parameters of a test."""
    found: list[Any] = []
    for client, names in clients.items():
        for login in names:
            marks = pytest.mark.mail_server(mechanisms=[login]) if client == "django" else ()
            for tls_mode in WAYS:
                if not (login in BY_TOKEN and tls_mode == "clear"):
                    name = f"{client}-{login}-{tls_mode}"
                    found.append(pytest.param(client, login, tls_mode, marks=marks, id=name))
    return found


BAD_CERTIFICATES: Final = [
    pytest.param(tls_mode, marks=pytest.mark.mail_server(certificate=kind), id=f"{kind}-{tls_mode}")
    for kind in ("expired", "wrong_host", "untrusted")
    for tls_mode in ("upgrade", "implicit")
]


@pytest.mark.parametrize(
    ("client", "login", "tls_mode"), logins({name: client.logins for name, client in SUBMITTERS.items()})
)
def test_submission(
    mail_server: MailServer, configure: Callable[..., ClientConfig], client: str, login: str, tls_mode: str
) -> None:
    submitter = SUBMITTERS[client]
    submitter.submit(configure("smtp", tls_mode, login), MESSAGE)
    message = mail_server.wait_for_message(to=FRIEND, sender=SENDER, subject="tea")
    assert (message.envelope.identity, message.envelope.mechanism) == ("alice", login)
    assert (message.envelope.tls is not None) == (tls_mode != "clear")
    if submitter.sends_bytes:
        assert message.raw == MESSAGE
    assert bool(mail_server.secrets_in_clear) == (tls_mode == "clear" and login in IN_CLEAR)


@pytest.mark.parametrize("tls_mode", BAD_CERTIFICATES)
@pytest.mark.parametrize("client", SUBMITTERS)
def test_submission_with_a_certificate_that_is_not_valid(
    mail_server: MailServer, configure: Callable[..., ClientConfig], client: str, tls_mode: str
) -> None:
    with pytest.raises(FAILED):
        SUBMITTERS[client].submit(configure("smtp", tls_mode, "PLAIN"), MESSAGE)
    assert mail_server.transcript.commands[-1:] in ((), ("STARTTLS",))
    with pytest.raises(AssertionError) as caught:
        mail_server.wait_for_message(timeout=0)
    assert re.search("the certificate|trust the CA", str(caught.value).splitlines()[0])


@pytest.mark.mail_server(starttls="stripped")
@pytest.mark.parametrize("client", SUBMITTERS)
def test_submission_without_starttls(
    mail_server: MailServer, configure: Callable[..., ClientConfig], client: str
) -> None:
    with pytest.raises(FAILED):
        SUBMITTERS[client].submit(configure("smtp", "upgrade", "PLAIN"), MESSAGE)
    assert mail_server.messages == ()
    assert mail_server.secrets_in_clear == ()


@pytest.mark.mail_server(starttls="injected")
@pytest.mark.parametrize(
    ("client", "discards"),
    [("smtplib", True), ("aiosmtplib", True), ("django", True), ("curl", False), ("msmtp", False)],
)
def test_reply_before_tls(
    mail_server: MailServer, configure: Callable[..., ClientConfig], client: str, discards: bool
) -> None:
    """A client must discard it, or end the session (RFC 3207 section 4.2)."""
    with contextlib.nullcontext() if discards else pytest.raises(FAILED):
        SUBMITTERS[client].submit(configure("smtp", "upgrade", "PLAIN"), MESSAGE)
    assert len(mail_server.messages) == discards
    assert mail_server.secrets_in_clear == ()


@pytest.mark.parametrize("client", SUBMITTERS)
def test_submission_with_a_wrong_password(
    mail_server: MailServer, configure: Callable[..., ClientConfig], client: str
) -> None:
    with pytest.raises(FAILED):
        SUBMITTERS[client].submit(attrs.evolve(configure("smtp", "upgrade", "PLAIN"), password="guess"), MESSAGE)
    with pytest.raises(AssertionError, match="the password is wrong"):
        mail_server.wait_for_message(timeout=0)


@pytest.mark.parametrize("client", SUBMITTERS)
def test_temporary_failure_and_a_second_attempt(
    mail_server: MailServer, configure: Callable[..., ClientConfig], client: str
) -> None:
    mail_server.on(smtp.Rcpt, to=FRIEND).reply(451, PASS)
    with pytest.raises(FAILED):
        SUBMITTERS[client].submit(configure("smtp", "upgrade", "PLAIN"), MESSAGE)
    assert mail_server.messages == ()
    SUBMITTERS[client].submit(configure("smtp", "upgrade", "PLAIN"), MESSAGE)
    mail_server.wait_for_message(to=FRIEND)


@pytest.mark.parametrize(
    ("step", "reply"),
    [(smtp.Connected, 554), (smtp.Mail, 550), (smtp.Rcpt, 550), (smtp.Data, 554), (smtp.MessageComplete, 552)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
@pytest.mark.parametrize("client", SUBMITTERS)
def test_refusal(
    mail_server: MailServer, configure: Callable[..., ClientConfig], client: str, step: type[Any], reply: int
) -> None:
    mail_server.on(step).reply(reply)
    with pytest.raises(FAILED):
        SUBMITTERS[client].submit(configure("smtp", "upgrade", "PLAIN"), MESSAGE)
    assert mail_server.messages == ()


@pytest.mark.parametrize(
    "step", [smtp.Connected, smtp.StartTls, smtp.Rcpt, smtp.MessageComplete], ids=lambda step: step.__name__
)
@pytest.mark.parametrize("client", SUBMITTERS)
def test_lost_connection(
    mail_server: MailServer, configure: Callable[..., ClientConfig], client: str, step: type[Any]
) -> None:
    mail_server.on(step).reply(DROP)
    with pytest.raises(FAILED):
        SUBMITTERS[client].submit(configure("smtp", "upgrade", "PLAIN"), MESSAGE)
    assert mail_server.messages == ()


@pytest.mark.parametrize(("client", "login", "tls_mode"), logins({name: each[1] for name, each in COLLECTORS.items()}))
def test_collection(
    mail_server: MailServer, configure: Callable[..., ClientConfig], client: str, login: str, tls_mode: str
) -> None:
    mail_server.deliver("alice", MESSAGE)
    collect, _ = COLLECTORS[client]
    assert collect(configure("pop3", tls_mode, login)).replace(b"\r\n", b"\n") == MESSAGE.replace(b"\r\n", b"\n")
    assert [message.raw for message in mail_server.maildrop("alice")] == [MESSAGE]
    assert bool(mail_server.secrets_in_clear) == (tls_mode == "clear" and login in IN_CLEAR)


@pytest.mark.parametrize("tls_mode", BAD_CERTIFICATES)
@pytest.mark.parametrize("client", COLLECTORS)
def test_collection_with_a_certificate_that_is_not_valid(
    mail_server: MailServer, configure: Callable[..., ClientConfig], client: str, tls_mode: str
) -> None:
    mail_server.deliver("alice", MESSAGE)
    with pytest.raises(FAILED):
        COLLECTORS[client][0](configure("pop3", tls_mode, "PLAIN" if client == "curl" else "USER"))
    assert mail_server.transcript.commands[-1:] in ((), ("STLS",))


@pytest.mark.mail_server(starttls="stripped")
@pytest.mark.parametrize("client", COLLECTORS)
def test_collection_without_stls(mail_server: MailServer, configure: Callable[..., ClientConfig], client: str) -> None:
    with pytest.raises(FAILED):
        COLLECTORS[client][0](configure("pop3", "upgrade", "PLAIN" if client == "curl" else "USER"))
    assert mail_server.secrets_in_clear == ()


@pytest.mark.mail_server(starttls="injected")
@pytest.mark.parametrize(("client", "discards"), [("poplib", True), ("curl", False), ("mpop", False)])
def test_reply_before_stls(
    mail_server: MailServer, configure: Callable[..., ClientConfig], client: str, discards: bool
) -> None:
    mail_server.deliver("alice", MESSAGE)
    with contextlib.nullcontext() if discards else pytest.raises(FAILED):
        COLLECTORS[client][0](configure("pop3", "upgrade", "PLAIN" if client == "curl" else "USER"))
    assert ("RETR 1" in mail_server.transcript.commands) == discards
    assert mail_server.secrets_in_clear == ()


@pytest.mark.parametrize(
    ("client", "answer"),
    [("poplib", pop3.Unavailable.TEMPORARY), ("mpop", pop3.Unavailable.TEMPORARY), ("mpop", DROP)],
    ids=["poplib-refused", "mpop-refused", "mpop-lost connection"],
)
def test_message_that_was_not_collected_is_kept(
    mail_server: MailServer, configure: Callable[..., ClientConfig], client: str, answer: Any
) -> None:
    mail_server.deliver("alice", MESSAGE)
    mail_server.on(pop3.Retrieve).reply(answer)
    with pytest.raises(FAILED):
        COLLECTORS[client][0](configure("pop3", "upgrade", "USER", delete=True))
    assert [message.raw for message in mail_server.maildrop("alice")] == [MESSAGE]


@pytest.mark.parametrize("client", ["poplib", "mpop"])
def test_collected_message_is_deleted(
    mail_server: MailServer, configure: Callable[..., ClientConfig], client: str
) -> None:
    message = EmailMessage()
    message["Subject"] = "tea"
    message.set_content("At six.\n")
    mail_server.deliver("alice", message)
    assert b"At six." in COLLECTORS[client][0](configure("pop3", "upgrade", "USER", delete=True))
    assert mail_server.maildrop("alice") == ()


@pytest.mark.parametrize(("collector", "submitter"), [("poplib", "smtplib"), ("curl", "curl"), ("mpop", "msmtp")])
def test_pop_before_smtp(
    mail_server: MailServer, configure: Callable[..., ClientConfig], collector: str, submitter: str
) -> None:
    mail_server.deliver("alice", MESSAGE)
    with pytest.raises(FAILED):
        SUBMITTERS[submitter].submit(configure("smtp", "upgrade", ""), MESSAGE)
    COLLECTORS[collector][0](configure("pop3", "upgrade", "APOP"))
    SUBMITTERS[submitter].submit(configure("smtp", "upgrade", ""), MESSAGE)
    envelope = mail_server.wait_for_message(to=FRIEND).envelope
    assert (envelope.identity, envelope.grant) == (None, "alice")
    mail_server.clock.advance(1800)
    with pytest.raises(FAILED):
        SUBMITTERS[submitter].submit(configure("smtp", "upgrade", ""), MESSAGE)
