"""Tests that fail, each for a reason that tests of mail clients often have; test_failures.py reads what they print."""

from __future__ import annotations

import asyncio
import poplib
import smtplib
import socket
import ssl

import anyio
import pytest

from mailauth import pop3, smtp
from mailauth_io.testing import DROP, PASS, STALL, MailServer, Message

MESSAGE = b"Subject: tea\r\n\r\nAt six.\r\n"


def send(
    server: MailServer,
    *,
    to: str = "carol@far.test",
    user: str = "alice",
    password: str = "alice-password",
    context: ssl.SSLContext | None = None,
    tls: bool = True,
    message: bytes = MESSAGE,
) -> None:
    """An application that prints its errors, and goes on."""
    try:
        with smtplib.SMTP(server.host, server.smtp_port, timeout=30) as client:
            if tls:
                client.starttls(context=context or server.ssl_context)
            if user:
                client.login(user, password)
            client.sendmail("alice@example.test", [to], message)
    except (OSError, smtplib.SMTPException) as error:
        print("the application reports:", error)


def wait(server: MailServer, *, to: str | None = "carol@far.test", subject: str | None = None) -> Message:
    """Wait for no time: the application is done."""
    return server.wait_for_message(to=to, subject=subject, timeout=0)


def test_wrong_password(mail_server: MailServer) -> None:
    send(mail_server, password="guess")
    wait(mail_server)


def test_expired_token(mail_server: MailServer) -> None:
    token = mail_server.issue_token("alice", lifetime=60)
    mail_server.clock.advance(60)
    with smtplib.SMTP_SSL(
        mail_server.host, mail_server.smtps_port, timeout=30, context=mail_server.ssl_context
    ) as client:
        client.ehlo()
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.auth("XOAUTH2", lambda challenge=None: "" if challenge else f"user=alice\1auth=Bearer {token}\1\1")
    wait(mail_server)


def test_untrusted_ca(mail_server: MailServer) -> None:
    send(mail_server, context=ssl.create_default_context())
    wait(mail_server)


@pytest.mark.mail_server(certificate="expired")
def test_expired_certificate(mail_server: MailServer) -> None:
    send(mail_server)
    wait(mail_server)


@pytest.mark.mail_server(certificate="wrong_host")
def test_certificate_of_another_host(mail_server: MailServer) -> None:
    send(mail_server)
    wait(mail_server)


def test_other_recipient(mail_server: MailServer) -> None:
    send(mail_server, to="bob@far.test")
    wait(mail_server)


def test_other_subject(mail_server: MailServer) -> None:
    send(mail_server)
    wait(mail_server, subject="Tea")


def test_returned_before(mail_server: MailServer) -> None:
    send(mail_server)
    wait(mail_server)
    wait(mail_server)


def test_no_connection(mail_server: MailServer) -> None:
    wait(mail_server)


def test_smtps_without_tls(mail_server: MailServer) -> None:
    with socket.create_connection((mail_server.host, mail_server.smtps_port), timeout=30):
        wait(mail_server)


def test_client_that_closes_without_an_alert(mail_server: MailServer) -> None:
    async def main() -> None:
        with pytest.raises(ssl.SSLError):
            await asyncio.open_connection(mail_server.host, mail_server.smtps_port, ssl=ssl.create_default_context())

    asyncio.run(main())
    wait(mail_server)


def test_ehlo_to_smtps(mail_server: MailServer) -> None:
    with socket.create_connection((mail_server.host, mail_server.smtps_port), timeout=30) as client:
        client.sendall(b"EHLO client.test\r\n")
        while client.recv(1000):
            pass
        wait(mail_server)


def test_tls_to_smtp(mail_server: MailServer) -> None:
    with pytest.raises(ssl.SSLError):
        smtplib.SMTP_SSL(mail_server.host, mail_server.smtp_port, timeout=30, context=mail_server.ssl_context)
    wait(mail_server)


def test_smtp_to_pop3(mail_server: MailServer) -> None:
    with pytest.raises(smtplib.SMTPConnectError):
        smtplib.SMTP(mail_server.host, mail_server.pop3_port, timeout=30)
    wait(mail_server)


def test_relaying_without_login(mail_server: MailServer) -> None:
    send(mail_server, user="")
    wait(mail_server)


def test_unknown_recipient(mail_server: MailServer) -> None:
    send(mail_server, to="nobody@example.test")
    wait(mail_server, to="nobody@example.test")


def test_starttls_and_no_ehlo(mail_server: MailServer) -> None:
    with smtplib.SMTP(mail_server.host, mail_server.smtp_port, timeout=30) as client:
        client.starttls(context=mail_server.ssl_context)
    wait(mail_server)


def test_login_is_not_complete(mail_server: MailServer) -> None:
    client = smtplib.SMTP(mail_server.host, mail_server.smtp_port, timeout=30)
    client.ehlo()
    client.docmd("AUTH CRAM-MD5")
    client.close()
    wait(mail_server)


def test_login_and_no_mail(mail_server: MailServer) -> None:
    with smtplib.SMTP(mail_server.host, mail_server.smtp_port, timeout=30) as client:
        client.login("alice", mail_server.password("alice"))
    wait(mail_server)


@pytest.mark.mail_server(legacy=False)
def test_no_login_without_tls(mail_server: MailServer) -> None:
    send(mail_server, tls=False)
    wait(mail_server)


@pytest.mark.mail_server(max_message_size=65_536)
def test_message_too_large(mail_server: MailServer) -> None:
    send(mail_server, message=MESSAGE + b"x" * 70 * 1000)
    wait(mail_server)


def test_no_retry(mail_server: MailServer) -> None:
    mail_server.on(smtp.Rcpt).reply(451, PASS)
    send(mail_server)
    wait(mail_server)


def test_drop(mail_server: MailServer) -> None:
    mail_server.on(smtp.Data).reply(DROP)
    send(mail_server)
    wait(mail_server)


def test_stall(mail_server: MailServer) -> None:
    mail_server.on(smtp.Mail).reply(STALL)
    client = smtplib.SMTP(mail_server.host, mail_server.smtp_port, timeout=30)
    client.ehlo()
    client.putcmd("MAIL FROM:<alice@example.test>")
    client.close()
    wait(mail_server)


def test_refused_greeting(mail_server: MailServer) -> None:
    mail_server.on(smtp.Connected).reply(554)
    send(mail_server)
    wait(mail_server)


def test_network_fault(mail_server: MailServer) -> None:
    mail_server.network.reset_peer()
    send(mail_server)
    wait(mail_server)


def test_second_message_fails(mail_server: MailServer) -> None:
    send(mail_server, to="bob@far.test")
    send(mail_server, password="guess")
    wait(mail_server)


def test_message_is_not_complete(mail_server: MailServer) -> None:
    client = smtplib.SMTP(mail_server.host, mail_server.smtp_port, timeout=30)
    client.ehlo()
    client.mail("alice@example.test")
    client.rcpt("bob@example.test")
    client.docmd("DATA")
    client.send(MESSAGE)
    client.close()
    wait(mail_server)


def test_control_characters(mail_server: MailServer) -> None:
    with socket.create_connection((mail_server.host, mail_server.smtp_port), timeout=30) as client:
        client.sendall(b"MAIL FROM:<\x1b[31m@far.test>\r\n")
        wait(mail_server)


def test_wait_in_coroutine(mail_server: MailServer) -> None:
    async def main() -> None:
        await anyio.to_thread.run_sync(lambda: send(mail_server, password="guess"))
        await mail_server.wait_for_message_async(to="carol@far.test", timeout=0)

    anyio.run(main)


# Rules


def test_unused_rule(mail_server: MailServer) -> None:
    mail_server.on(smtp.Rcpt, to="bob@far.test").reply(451)
    send(mail_server)


def test_unused_network_fault(mail_server: MailServer) -> None:
    mail_server.network.limit_data(1_000_000)
    send(mail_server)


def test_rule_that_is_not_reached(mail_server: MailServer) -> None:
    mail_server.on(pop3.Retrieve, number=2).reply(pop3.Unavailable.TEMPORARY)
    send(mail_server)


def test_rule_after_another(mail_server: MailServer) -> None:
    mail_server.on(smtp.Rcpt).reply(PASS).always()
    mail_server.on(smtp.Rcpt, to="carol@far.test").reply(451)
    send(mail_server)


def test_retry_is_missing(mail_server: MailServer) -> None:
    mail_server.on(smtp.Rcpt, to="carol@far.test").reply(451, 451, PASS)
    send(mail_server)


# What the test asserts by itself


@pytest.mark.mail_server(starttls="stripped", mechanisms=["PLAIN"])
def test_goes_on_in_clear_text(mail_server: MailServer) -> None:
    send(mail_server, tls=False)
    assert mail_server.secrets_in_clear == ()


def test_mail_is_deleted(mail_server: MailServer) -> None:
    mail_server.deliver("alice", b"Subject: one\r\n\r\n")
    client = poplib.POP3(mail_server.host, mail_server.pop3_port, timeout=30)
    client.user("alice")
    client.pass_(mail_server.password("alice"))
    client.retr(1)
    client.dele(1)
    client.quit()
    assert [message.subject for message in mail_server.maildrop("alice")] == ["one"]


def test_error_of_the_client(mail_server: MailServer) -> None:
    with smtplib.SMTP(mail_server.host, mail_server.smtp_port, timeout=30) as client:
        client.login("alice", "guess")


@pytest.fixture
def registered(mail_server: MailServer) -> Message:
    send(mail_server, to="bob@far.test")
    return wait(mail_server)


def test_set_up_fails(registered: Message) -> None:
    raise AssertionError("not reached")


# The marker


@pytest.mark.mail_server(certificat="expired")
def test_misspelled_option(mail_server: MailServer) -> None:
    raise AssertionError("not reached")


@pytest.mark.mail_server(colour="red")
def test_unknown_option(mail_server: MailServer) -> None:
    raise AssertionError("not reached")


@pytest.mark.mail_server("expired")
def test_option_without_name(mail_server: MailServer) -> None:
    raise AssertionError("not reached")


@pytest.mark.mail_server(users="alice")
def test_wrong_value(mail_server: MailServer) -> None:
    raise AssertionError("not reached")
