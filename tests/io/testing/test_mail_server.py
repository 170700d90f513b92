"""The server of the test kit with real clients: what a test asks of it, and that it is cleared."""

from __future__ import annotations

import base64
import json
import os
import poplib
import re
import signal
import smtplib
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import anyio
import pytest

from mailauth import pop3, smtp
from mailauth_io.testing import DROP, MailServer, Options, mail_server as run_mail_server
from mailauth_io.testing.options import OptionArguments
from tests.waiting import wait_until

MESSAGE = b"From: alice@example.test\r\nSubject: tea\r\n\r\n.a dot\r\n..two dots\r\n\xc3\xa4\r\n"


@pytest.fixture(scope="module")
def kept() -> Iterator[MailServer]:
    server = MailServer()
    server.start()
    yield server
    server.close()


@pytest.fixture
def server(kept: MailServer) -> MailServer:
    kept.reset()
    return kept


def submit(server: MailServer, recipient: str = "bob@far.test", *, login: str | None = "alice") -> None:
    with smtplib.SMTP(server.host, server.smtp_port, timeout=30) as client:
        if login is not None:
            client.starttls(context=server.ssl_context)
            client.login(login, server.password(login))
        client.sendmail(server.address("alice"), [recipient], MESSAGE)


def test_message_and_its_envelope(server: MailServer) -> None:
    submit(server)
    message = server.wait_for_message(to="bob@far.test", subject="tea", sender="alice@example.test")
    assert message.raw == MESSAGE
    assert message.envelope.identity == "alice"
    assert message.envelope.mechanism == "CRAM-MD5"
    assert message.envelope.tls is not None
    assert message.envelope.grant is None
    assert server.messages == (message,)
    assert server.secrets_in_clear == ()
    server.check()


def test_mail_for_an_account_is_in_its_maildrop(server: MailServer) -> None:
    submit(server, "bob@example.test", login=None)
    [message] = server.maildrop("bob")
    assert message.raw.endswith(MESSAGE)
    assert server.maildrop("alice") == ()


@pytest.mark.parametrize("grant_lifetime", [0, 1800])
def test_open_relay_accepts_remote_mail_without_a_login(server: MailServer, grant_lifetime: float) -> None:
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        submit(server, login=None)
    server.reset(Options(open_relay=True, grant_lifetime=grant_lifetime))
    submit(server, login=None)
    envelope = server.wait_for_message(to="bob@far.test").envelope
    assert (envelope.identity, envelope.grant) == (None, None)
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        submit(server, "nobody@example.test", login=None)


def test_open_relay_shows_the_grant_of_a_client(server: MailServer) -> None:
    server.reset(Options(open_relay=True))
    client = poplib.POP3(server.host, server.pop3_port, timeout=30)
    client.apop("bob", server.password("bob"))
    client.quit()
    submit(server, login=None)
    assert server.wait_for_message().envelope.grant == "bob"


def test_local_mail_has_no_grant(server: MailServer) -> None:
    """An earlier message of the client was relayed by a grant, which has expired."""
    client = poplib.POP3(server.host, server.pop3_port, timeout=30)
    client.apop("bob", server.password("bob"))
    client.quit()
    submit(server, login=None)
    server.clock.advance(1800)
    submit(server, "alice@example.test", login=None)
    assert [message.envelope.grant for message in server.messages] == ["bob", None]


def test_grant_is_that_of_one_transaction_without_a_login(server: MailServer) -> None:
    client = poplib.POP3(server.host, server.pop3_port, timeout=30)
    client.apop("bob", server.password("bob"))
    client.quit()
    with smtplib.SMTP(server.host, server.smtp_port, timeout=30) as session:
        for to in ["carol@far.test", "alice@example.test"], ["alice@example.test"]:
            session.sendmail("bob@example.test", to, "Subject: tea\n\n")
        session.starttls(context=server.ssl_context)
        session.login("alice", server.password("alice"))
        session.sendmail("alice@example.test", ["carol@far.test"], "Subject: tea\n\n")
    assert [message.envelope.grant for message in server.messages] == ["bob", None, None]


def test_grant_lifetime(server: MailServer) -> None:
    server.reset(Options(grant_lifetime=60))
    client = poplib.POP3(server.host, server.pop3_port, timeout=30)
    client.apop("bob", server.password("bob"))
    client.quit()
    assert [grant.remaining for grant in server.grants] == [60.0]
    server.clock.advance(60)
    assert server.grants == ()


@pytest.mark.parametrize("as_email", [False, True])
def test_delivered_message_is_fetched(server: MailServer, as_email: bool) -> None:
    email = EmailMessage()
    email["Subject"] = "tea"
    email.set_content("hello\n")
    server.deliver("bob", email if as_email else b"Subject: tea\n\nhello\n")
    client = poplib.POP3_SSL("127.0.0.1", server.pop3s_port, timeout=30, context=server.ssl_context)
    client.user("bob")
    client.pass_(server.password("bob"))
    assert b"Subject: tea" in client.retr(1)[1]
    client.dele(1)
    client.quit()
    assert server.maildrop("bob") == ()


@pytest.mark.parametrize("method", ["user", "apop"])
def test_grant_permits_relaying_until_it_expires(server: MailServer, method: str) -> None:
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        submit(server, login=None)
    client = poplib.POP3(server.host, server.pop3_port, timeout=30)
    if method == "apop":
        client.apop("alice", server.password("alice"))
    else:
        client.user("alice")
        client.pass_(server.password("alice"))
    client.quit()
    [grant] = server.grants
    assert (str(grant.address), grant.identity, grant.remaining) == ("127.0.0.1", "alice", 1800.0)
    submit(server, login=None)
    [message] = server.messages
    assert (message.envelope.grant, message.envelope.identity) == ("alice", None)
    server.clock.advance(1800)
    assert server.grants == ()
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        submit(server, login=None)


def test_no_grants(server: MailServer) -> None:
    server.reset(Options(grant_lifetime=0))
    client = poplib.POP3(server.host, server.pop3_port, timeout=30)
    client.apop("alice", server.password("alice"))
    client.quit()
    assert server.grants == ()
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        submit(server, login=None)


@pytest.mark.parametrize("mechanism", ["XOAUTH2", "OAUTHBEARER"])
def test_token_and_its_expiry(server: MailServer, mechanism: str) -> None:
    token = server.issue_token("alice", lifetime=60)
    errors: list[bytes] = []

    def respond(challenge: bytes | None = None) -> str:
        if challenge:
            errors.append(challenge)
            return "" if mechanism == "XOAUTH2" else "\1"
        if mechanism == "XOAUTH2":
            return f"user=alice\1auth=Bearer {token}\1\1"
        return f"n,a=alice,\1auth=Bearer {token}\1\1"

    with smtplib.SMTP_SSL(server.host, server.smtps_port, timeout=30, context=server.ssl_context) as client:
        client.ehlo()
        assert client.auth(mechanism, respond)[0] == 235
    server.clock.advance(60)
    with smtplib.SMTP_SSL(server.host, server.smtps_port, timeout=30, context=server.ssl_context) as client:
        client.ehlo()
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.auth(mechanism, respond)
    [error] = errors
    assert json.loads(error)["status"] in ("invalid_token", "401")


@pytest.mark.parametrize(
    ("command", "secret"),
    [
        (b"AUTH PLAIN " + base64.b64encode(b"\0alice\0alice-password"), "alice-password"),
        (b"AUTH PLAIN " + base64.b64encode(b"bob\0alice\0alice-password"), "alice-password"),
        (b"AUTH PLAIN " + base64.b64encode(b"\0alice\0alice-password").rstrip(b"="), "alice-password"),
        (b"auth plain " + base64.b64encode(b"\0alice\0wrong"), None),
        (b"MAIL FROM:<alice-password@example.test>", None),
        (b"NOOP alice-password", None),
    ],
)
@pytest.mark.parametrize("legacy", [False, True])
def test_secret_in_clear(server: MailServer, command: bytes, secret: str | None, legacy: bool) -> None:
    """A password is reported even if the login was refused."""
    server.reset(Options(legacy=legacy))
    with smtplib.SMTP(server.host, server.smtp_port, timeout=30) as client:
        client.ehlo()
        client.docmd(command.decode())
    assert [(found.user, found.secret, found.command) for found in server.secrets_in_clear] == (
        [] if secret is None else [("alice", secret, command.decode())]
    )


def test_secrets_in_clear_of_other_commands(server: MailServer) -> None:
    token = server.issue_token("bob")
    with smtplib.SMTP(server.host, server.smtp_port, timeout=30) as client:
        client.ehlo()
        client.user, client.password = "alice", server.password("alice")
        client.auth("LOGIN", client.auth_login, initial_response_ok=False)
        bearer = base64.b64encode(f"user=bob\1auth=Bearer {token}\1\1".encode()).decode()
        client.docmd(f"AUTH XOAUTH2 {bearer}")
        client.docmd("AUTH LOGIN", base64.b64encode(b"bob-password").decode())  # in place of the name
        client.docmd("*")
    fetcher = poplib.POP3(server.host, server.pop3_port, timeout=30)
    fetcher.user("alice")
    fetcher.pass_(server.password("alice"))
    fetcher.quit()
    with socket.create_connection(("127.0.0.1", server.pop3_port), timeout=30) as connection:
        connection.sendall(b"user bob\r\npass bob-password\r\nquit\r\n")
        while connection.recv(4096):
            pass
    assert [(found.user, found.protocol) for found in server.secrets_in_clear] == [
        ("alice", "SMTP"), ("bob", "SMTP"), ("bob", "SMTP"), ("alice", "POP3"), ("bob", "POP3"),
    ]  # fmt: skip
    assert "alice-password" not in repr(server.secrets_in_clear[0])


@pytest.mark.parametrize(
    ("certificate", "reason"),
    [
        ("expired", "expired"),
        ("wrong_host", "doesn't match|mismatch|not valid for"),
        ("untrusted", "unable to get|self.signed"),
    ],
)
@pytest.mark.parametrize("implicit", [False, True])
def test_certificate_that_a_client_must_refuse(
    server: MailServer, certificate: Any, reason: str, implicit: bool
) -> None:
    server.reset(Options(certificate=certificate))
    with pytest.raises(ssl.SSLCertVerificationError, match=reason):
        begin_tls(server, server.ssl_context, implicit=implicit)
    server.reset()
    begin_tls(server, server.ssl_context, implicit=implicit)


def begin_tls(server: MailServer, context: ssl.SSLContext, *, implicit: bool) -> None:
    if implicit:
        smtplib.SMTP_SSL("localhost", server.smtps_port, timeout=30, context=context).close()
    else:
        with smtplib.SMTP("localhost", server.smtp_port, timeout=30) as client:
            client.starttls(context=context)


@pytest.mark.parametrize("implicit", [False, True])
def test_failed_handshake_is_in_the_transcript(server: MailServer, implicit: bool) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        begin_tls(server, ssl.create_default_context(), implicit=implicit)
    wait_until(lambda: "*: TLS handshake failed: tlsv1 alert unknown ca" in str(server.transcript))
    with pytest.raises(AssertionError, match="the client does not trust the CA of the server; use "):
        server.wait_for_message(timeout=0)
    assert len(server.transcript) == 1


def test_starttls_can_be_missing(server: MailServer) -> None:
    server.reset(Options(starttls="stripped"))
    with smtplib.SMTP(server.host, server.smtp_port, timeout=30) as client:
        client.ehlo()
        assert not client.has_extn("starttls")
        assert client.docmd("STARTTLS")[0] in (500, 502)
    fetcher = poplib.POP3(server.host, server.pop3_port, timeout=30)
    assert "STLS" not in fetcher.capa()
    with pytest.raises(poplib.error_proto):
        fetcher.stls(server.ssl_context)
    fetcher.quit()


def test_reply_injected_before_tls(server: MailServer) -> None:
    server.reset(Options(starttls="injected"))
    for port, command, injected in (
        (server.smtp_port, b"STARTTLS\r\n", b"250 injected"), (server.pop3_port, b"STLS\r\n", b"+OK injected"),
    ):  # fmt: skip
        with socket.create_connection(("127.0.0.1", port), timeout=30) as client, client.makefile("rb") as lines:
            lines.readline()
            if port == server.smtp_port:
                client.sendall(b"EHLO c.test\r\n")
                while not lines.readline().startswith(b"250 "):
                    pass
            client.sendall(command)
            lines.readline()
            assert lines.readline().startswith(injected)


def test_login_needs_tls_without_legacy(server: MailServer) -> None:
    server.reset(Options(legacy=False, mechanisms=["PLAIN"], users={"carol": "wonder land"}, domain="other.test"))
    assert (server.users, server.address("carol"), server.password("carol")) == (
        ("carol",), "carol@other.test", "wonder land",
    )  # fmt: skip
    with smtplib.SMTP(server.host, server.smtp_port, timeout=30) as client:
        with pytest.raises(smtplib.SMTPNotSupportedError):
            client.login("carol", "wonder land")
        client.starttls(context=server.ssl_context)
        client.login("carol", "wonder land")
        assert client.esmtp_features["auth"].split() == ["PLAIN"]


def test_size_limit(server: MailServer) -> None:
    server.reset(Options(max_message_size=70_000))
    with smtplib.SMTP(server.host, server.smtp_port, timeout=30) as client:
        client.ehlo()
        assert client.esmtp_features["size"] == "70000"


def test_reset_clears_everything_but_the_ports(server: MailServer) -> None:
    ports = (server.smtp_port, server.smtps_port, server.pop3_port, server.pop3s_port)
    server.on(smtp.Noop).reply(451)
    submit(server, "bob@example.test")
    fetcher = poplib.POP3(server.host, server.pop3_port, timeout=30)
    fetcher.apop("alice", server.password("alice"))
    fetcher.quit()
    server.clock.advance(5)
    token = server.issue_token("alice")
    server.network.limit_data(10)
    time = server.clock()
    server.reset()
    assert (server.smtp_port, server.smtps_port, server.pop3_port, server.pop3s_port) == ports
    assert (server.messages, server.maildrop("bob"), server.grants, server.secrets_in_clear) == ((), (), (), ())
    assert len(server.transcript) == 0
    assert server.clock() < time
    server.check()
    with smtplib.SMTP_SSL(server.host, server.smtps_port, timeout=30, context=server.ssl_context) as client:
        client.ehlo()
        with pytest.raises(smtplib.SMTPAuthenticationError):
            client.auth("XOAUTH2", lambda challenge=None: "" if challenge else f"user=alice\1auth=Bearer {token}\1\1")


def test_reset_closes_open_connections(server: MailServer) -> None:
    clients = [socket.create_connection(("127.0.0.1", port), timeout=30)
               for port in (server.smtp_port, server.smtps_port, server.pop3_port, server.pop3s_port)]  # fmt: skip
    clients[0].recv(100)
    server.reset()
    for client in clients:
        with client:
            while data := received(client):
                assert data.startswith((b"220 ", b"+OK "))
    assert len(server.transcript) == 0


def received(client: socket.socket) -> bytes:
    try:
        return client.recv(1000)
    except ConnectionResetError:
        return b""


def test_check_reports_unused_rules(server: MailServer) -> None:
    server.on(pop3.Retrieve, number=2).reply(DROP)
    with pytest.raises(AssertionError, match=r"on\(pop3.Retrieve, number=2\).reply\(DROP\) was never used"):
        server.check()
    server.reset(Options(unused_rules="ignore"))
    server.on(pop3.Retrieve, number=2).reply(DROP)
    server.check()


def test_unused_network_fault_can_be_ignored(server: MailServer) -> None:
    server.reset(Options(unused_rules="ignore"))
    server.network.limit_data(1_000_000)
    server.check()


def test_unused_limit_is_reported_with_the_most_bytes_of_a_connection(server: MailServer) -> None:
    server.network.limit_data(1000)
    server.network.latency(1.0, protocol="POP3")
    for command in (b"", b"NOOP\r\n"):
        with socket.create_connection(("127.0.0.1", server.smtp_port), timeout=30) as client:
            received = len(client.recv(1000))
            if command:
                client.sendall(command)
                received += len(client.recv(1000))
    assert server.network.problems == [
        f"network.limit_data(1000) has affected no connection: only {received} bytes have passed",
        'network.latency(1.0, protocol="POP3") has affected no connection',
    ]


def test_check_reports_a_failure_in_the_server(server: MailServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: object, mail: object) -> None:
        raise RuntimeError("a mistake in the server")

    monkeypatch.setattr("mailauth_io.server.smtp_session.SmtpSession._begin", fail)
    with pytest.raises(smtplib.SMTPServerDisconnected):
        submit(server)
    with pytest.raises(AssertionError, match="RuntimeError: a mistake in the server"):
        server.check()


def test_wait_returns_each_message_once_and_blocks_until_the_next(server: MailServer) -> None:
    submit(server)
    first = server.wait_for_message(subject="tea")
    thread = threading.Timer(0.1, submit, args=(server,))
    thread.start()
    begun = time.monotonic()
    second = server.wait_for_message(subject="tea", timeout=30)
    assert time.monotonic() - begun < 25
    thread.join()
    assert server.messages == (first, second)
    with pytest.raises(AssertionError, match="each message is returned once"):
        server.wait_for_message(timeout=0)


async def in_thread(server: MailServer) -> None:
    await anyio.to_thread.run_sync(submit, server)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_async_wait(server: MailServer, backend: str) -> None:
    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(in_thread, server)
            message = await server.wait_for_message_async(to="bob@far.test", timeout=30)
        assert message.subject == "tea"
        with pytest.raises(AssertionError, match="no message"):
            await server.wait_for_message_async(timeout=0)
        with anyio.move_on_after(0.01) as scope:
            await server.wait_for_message_async(to="bob@far.test", timeout=3600)
        assert scope.cancelled_caught

    anyio.run(main, backend=backend)
    submit(server)  # the cancelled wait does not get it
    assert server.wait_for_message(timeout=0).subject == "tea"


def test_without_pytest() -> None:
    with run_mail_server(users=["carol"]) as server:
        with smtplib.SMTP(server.host, server.smtp_port, timeout=30) as client:
            client.login("carol", server.password("carol"))
        port = server.smtp_port
    with pytest.raises(OSError, match=r"refused|reset"):
        socket.create_connection(("127.0.0.1", port), timeout=30)
    with pytest.raises(AssertionError, match="was never used"), run_mail_server() as server:
        server.on(smtp.Rcpt).reply(451)
    with pytest.raises(KeyError), run_mail_server() as server:  # not hidden by the unused rule
        {"": 1}[str(server.on(smtp.Rcpt).reply(451))]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"certificate": "bad"}, "certificate must be one of 'valid', 'expired', 'wrong_host', 'untrusted', not 'bad'"),
        ({"starttls": True}, "starttls must be one of 'offered', 'stripped', 'injected', not True"),
        ({"unused_rules": "warn"}, "unused_rules must be one of 'fail', 'ignore', not 'warn'"),
        ({"users": "alice"}, "users must be names or a dict of passwords"),
        ({"users": ["Alice"]}, "users: 'Alice' is not the name of an account"),
        ({"users": ["alice@example.test"]}, "is not the name of an account"),
        ({"users": {"alice": ""}}, "the password of 'alice' must be a str that is not empty"),
        ({"mechanisms": "PLAIN"}, "use names such as ('PLAIN', 'LOGIN')"),
        ({"mechanisms": 5}, "mechanisms must be a collection, not int"),
        ({"users": {"alice": "\ud800"}}, "the password of 'alice' must not contain"),
        ({"users": {"alice": "a\r\nb"}}, "the password of 'alice' must not contain"),
        ({"domain": None}, "domain must be a str"),
        ({"mechanisms": ["NTLM"]}, "unknown mechanism 'NTLM'"),
        ({"legacy": "no"}, "legacy must be a bool"),
        ({"domain": "exa mple"}, "invalid domain"),
        ({"max_message_size": 10}, "max_message_size must be"),
        ({"grant_lifetime": -1}, "lifetime"),
    ],
)  # fmt: skip
def test_wrong_option(options: Any, error: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        Options(**options)
    assert error in str(caught.value)


def test_option_arguments_are_those_of_options() -> None:
    """``mail_server()`` passes the former to the latter."""
    assert set(OptionArguments.__annotations__) == {field.name for field in Options.__attrs_attrs__}


@pytest.mark.parametrize("call", ["password", "address", "issue_token", "maildrop"])
def test_unknown_account(server: MailServer, call: str) -> None:
    with pytest.raises(ValueError, match="unknown account 'dinah'; use one of 'alice', 'bob'"):
        getattr(server, call)("dinah")


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"to": ["bob@far.test"]}, "to must be a str or None, not list; use one address, such as 'bob@far.test'"),
        ({"sender": b"bob@far.test"}, "sender must be a str or None, not bytes; use one address"),
        ({"subject": b"tea"}, "subject must be a str or a pattern of str, not bytes"),
        ({"subject": re.compile(b"tea")}, "subject must be a str or a pattern of str, not Pattern"),
        ({"where": "tea"}, "where must be a function, not str"),
    ],
)
def test_wait_for_what_no_message_can_match(server: MailServer, wanted: Any, says: str) -> None:
    with pytest.raises(TypeError, match=re.escape(says)):
        server.wait_for_message(**wanted)


def test_deliver_takes_bytes_and_email_messages(server: MailServer) -> None:
    message: Any = "Subject: tea\n\n"
    with pytest.raises(TypeError, match="message must be bytes, not str; use an EmailMessage, or"):
        server.deliver("alice", message)


def test_closed_server_keeps_what_has_happened() -> None:
    with run_mail_server() as server:
        submit(server, "alice@example.test", login=None)
    assert [message.subject for message in server.messages] == ["tea"]
    assert len(server.maildrop("alice")) == len(server.transcript) == 1
    for ask in (server.reset, lambda: server.grants):
        with pytest.raises(RuntimeError, match="the server is not running: it was closed"):
            ask()


def test_server_that_was_not_started() -> None:
    server = MailServer()
    for name in ("smtp_port", "users", "messages", "transcript", "clock"):
        with pytest.raises(RuntimeError, match=re.escape("the server was not started; call start()")):
            getattr(server, name)
    with pytest.raises(RuntimeError, match=re.escape("start() was not called")):
        server.reset()
    server.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_forked_child_can_use_only_the_ports(server: MailServer) -> None:
    """Without a check, a child waits for ever for the thread, which only the parent has."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.alarm(30)
            submit(server)
            said: list[str] = []
            asks: list[Callable[[], object]] = [lambda: server.messages, server.reset, server.wait_for_message]
            for ask in asks:
                try:
                    ask()
                except RuntimeError as error:
                    said.append(str(error))
            server.close()
            os.write(write, json.dumps(said).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with open(read, "rb") as pipe:
        said = json.loads(pipe.read())
    assert len(said) == 3
    assert all(error.startswith("the server runs in the parent process") for error in said)
    assert server.wait_for_message().subject == "tea"
    assert Path(server.ca_file).exists()
    submit(server)


def test_transcript_says_how_to_read_it(server: MailServer) -> None:
    submit(server)
    assert repr(server.transcript) == "<Transcript of 1 connections; print() shows it>"


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf"), "60", None])
def test_clock_cannot_go_back(server: MailServer, seconds: Any) -> None:
    before = server.clock()
    with pytest.raises((TypeError, ValueError), match="seconds must be"):
        server.clock.advance(seconds)
    assert server.clock() == before


def test_delete_removes_only_the_given_messages(server: MailServer) -> None:
    for _ in range(3):
        submit(server, "bob@example.test")
    first, second, third = server.messages
    assert server.wait_for_message() is first
    server.delete(first, second)
    server.delete(second)
    assert server.messages == (third,)
    assert server.wait_for_message() is third
    assert len(server.maildrop("bob")) == 3
    server.delete()
    assert server.messages == (third,)


def test_address_and_ports_are_chosen() -> None:
    """No other program uses the address, so ports that another server has on 127.0.0.1 are free there."""
    with run_mail_server() as other:
        ports = {"smtp": other.smtp_port, "pop3s": other.pop3s_port}
        server = MailServer(address="127.5.4.3", ports=ports)
        server.start()
        try:
            assert (server.smtp_port, server.pop3s_port) == (other.smtp_port, other.pop3s_port)
            with smtplib.SMTP(server.host, other.smtp_port, local_hostname="c.test", timeout=30) as client:
                assert client.noop()[0] == 250
            assert [connection.commands for connection in server.transcript] == [("noop", "QUIT")]
        finally:
            server.close()


@pytest.mark.parametrize(
    ("address", "host"),
    [
        ("127.0.0.1", "localhost"),
        ("0.0.0.0", "localhost"),
        ("::", "localhost"),
        ("::1", "::1"),
        ("192.0.2.1", "192.0.2.1"),
    ],
)
def test_host_reaches_the_address(address: str, host: str) -> None:
    server = MailServer(address=address)
    assert server.host == host
    server.close()
    assert not Path(server.ca_file).exists()


def test_server_without_an_event_loop_can_be_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise OSError("too many open files")

    monkeypatch.setattr(sys.modules[MailServer.__module__], "_EventLoop", fail)  # "testing.mail_server" is a function
    server = MailServer()
    with pytest.raises(OSError, match="too many open files"):
        server.start()
    server.close()
    assert not Path(server.ca_file).exists()


def test_port_in_use_is_an_error_after_which_the_server_can_be_closed() -> None:
    with run_mail_server() as other:
        server = MailServer(ports={"smtps": other.smtps_port})
        with pytest.raises(OSError, match="in use"):
            server.start()
        server.close()
        assert not Path(server.ca_file).exists()


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"address": "localhost"}, ValueError, "address must be an IP address such as '127.0.0.1', not a name"),
        ({"address": 1}, TypeError, "address must be"),
        ({"ports": {"imap": 143}}, ValueError, "each key of ports must be one of"),
        ({"ports": {"smtp": 65536}}, ValueError, r"ports\['smtp'\] must be 0 to 65535"),
        ({"ports": {"smtp": "25"}}, TypeError, r"ports\['smtp'\] must be an int"),
    ],
)
def test_wrong_address_or_port_is_refused(arguments: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        MailServer(**arguments)


def test_secret_of_two_accounts_is_that_of_the_one_that_logs_in(server: MailServer) -> None:
    server.reset(Options(users={"alice": "same", "bob": "same", "carol": "same"}))
    with smtplib.SMTP(server.host, server.smtp_port, timeout=30) as client:
        client.ehlo()
        for command in ("AUTH LOGIN", "Ym9i", "c2FtZQ==", "AUTH PLAIN AGNhcm9sAHNhbWU=", "AUTH PLAIN AGFsaWNlAHNhbWU="):
            client.docmd(command)
    fetcher = poplib.POP3(server.host, server.pop3_port, timeout=30)
    fetcher.user("bob")
    fetcher.pass_("same")
    fetcher.quit()
    assert [found.user for found in server.secrets_in_clear] == ["bob", "carol", "alice", "bob"]


def test_name_of_a_login_is_not_its_password(server: MailServer) -> None:
    """Of several parts of a response that are passwords, the last one is that of the login."""
    names = [f"user{number}" for number in range(20)]
    server.reset(
        Options(
            users={**{name: f"{name}-secret" for name in names}, "mallory": "-", **{f"x{name}": name for name in names}}
        )
    )
    with smtplib.SMTP(server.host, server.smtp_port, timeout=30) as client:
        client.ehlo()
        for name in names:
            client.docmd("AUTH PLAIN", base64.b64encode(f"\0{name}\0{name}-secret".encode()).decode())
            client.rset()
    assert [found.secret for found in server.secrets_in_clear] == [f"{name}-secret" for name in names]


@pytest.mark.parametrize("commands", [["AUTH LOGIN", "Ym9i"], ["AUTH LOGIN Ym9i"]])
def test_name_is_not_a_secret_if_it_is_the_password(server: MailServer, commands: list[str]) -> None:
    server.reset(Options(users={"bob": "bob"}))
    for last, found in ("*", 0), ("Ym9i", 1):
        with smtplib.SMTP(server.host, server.smtp_port, timeout=30) as client:
            client.ehlo()
            for command in [*commands, last]:
                client.docmd(command)
        assert len(server.secrets_in_clear) == found


def test_two_connections_from_one_port_have_their_own_transcripts(server: MailServer) -> None:
    with socket.socket() as first, socket.socket() as second:
        for client in (first, second):
            client.settimeout(30)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        first.bind(("127.0.0.1", 0))
        second.bind(first.getsockname())
        first.connect(("127.0.0.1", server.smtps_port))
        second.connect(("127.0.0.1", server.pop3s_port))
        wait_until(lambda: len(server.transcript) == 2)
        for client in (first, second):
            with server.ssl_context.wrap_socket(client, server_hostname=server.host) as wrapped:
                wrapped.recv(1)
    assert [connection.replies[0][:3] for connection in server.transcript] == ["220", "+OK"]
    server.check()


def test_reset_closes_a_connection_that_begins_meanwhile(server: MailServer, monkeypatch: pytest.MonkeyPatch) -> None:
    clients: list[socket.socket] = []
    abort = server._abort_connections

    def connect_and_abort() -> None:
        abort()
        if len(clients) < 2:
            clients.append(socket.create_connection(("127.0.0.1", server.smtp_port), timeout=30))

    monkeypatch.setattr(server, "_abort_connections", connect_and_abort)
    clients.append(socket.create_connection(("127.0.0.1", server.smtp_port), timeout=30))
    resetting = threading.Thread(target=server.reset, daemon=True)
    resetting.start()
    resetting.join(30)
    ended = not resetting.is_alive()
    for client in clients:
        client.close()
    assert ended


def test_server_is_started_once() -> None:
    server = MailServer()
    server.start()
    with pytest.raises(RuntimeError, match=r"start\(\) was called before; create another MailServer"):
        server.start()
    server.close()
    with pytest.raises(RuntimeError, match="create another"):
        server.start()


@pytest.mark.filterwarnings("error")
def test_nothing_is_left_of_a_server_that_was_not_started() -> None:
    server = MailServer()
    assert Path(server.ca_file).exists()
    server.close()
    assert not Path(server.ca_file).exists()
    wrong: Any = {"certificate": "bad"}
    with pytest.raises(ValueError, match="certificate"), run_mail_server(**wrong):
        pass


@pytest.mark.filterwarnings("error")
def test_what_needs_the_thread_is_an_error_after_the_end() -> None:
    with run_mail_server() as server:
        pass
    with pytest.raises(RuntimeError, match="the server is not running"):
        server.reset()
    with pytest.raises(RuntimeError, match="the server is not running"):
        _ = server.grants


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of a fork with threads
def test_fork_of_the_process_has_no_server() -> None:
    reading, writing = os.pipe()
    with run_mail_server() as server:
        child = os.fork()
        if child == 0:
            try:
                server._remove_directory()
                _ = server.messages
            except RuntimeError as error:
                os.write(writing, str(error).encode())
            finally:
                os._exit(0)
        os.close(writing)
        os.waitpid(child, 0)
        assert b"the server runs in the parent process" in os.read(reading, 1_000)
        os.close(reading)
        assert Path(server.ca_file).exists()


@pytest.mark.parametrize("message", ["text", None, bytearray(b"data")])
def test_wrong_message_is_not_delivered(server: MailServer, message: Any) -> None:
    with pytest.raises(TypeError, match=r"message must be bytes, not .*; use an EmailMessage"):
        server.deliver("alice", message)
