"""When a test sees what clients have done, and what ``wait_for_message()`` does not block."""

from __future__ import annotations

import contextlib
import poplib
import smtplib
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator

import anyio
import anyio.to_thread
import pytest

from mailauth import pop3, smtp
from mailauth_io.testing import DROP, MailServer, Message

COMMANDS = b"EHLO a\r\nMAIL FROM:<>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\nSubject: tea\r\n\r\n.\r\nQUIT\r\n"


@contextlib.contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        yield client


# The server has handled what a client has sent before the test sees it, even if the client awaits no reply.


def test_messages(mail_server: MailServer) -> None:
    with connected(mail_server.smtp_port) as client:
        client.sendall(COMMANDS)
        assert [message.subject for message in mail_server.messages] == ["tea"]


def test_secrets_in_clear(mail_server: MailServer) -> None:
    with connected(mail_server.pop3_port) as client:
        client.sendall(b"USER alice\r\nPASS alice-password\r\n")
        assert [secret.user for secret in mail_server.secrets_in_clear] == ["alice"]


def test_transcript(mail_server: MailServer) -> None:
    with connected(mail_server.smtp_port) as client:
        client.sendall(b"NOOP\r\n")
        assert mail_server.transcript.commands == ("NOOP",)


def test_transcript_of_a_connection_without_its_tls_handshake(mail_server: MailServer) -> None:
    with connected(mail_server.pop3s_port):
        [connection] = mail_server.transcript.connections
        assert (connection.service, connection.peer, connection.tls, connection.lines) == (
            "pop3s",
            "127.0.0.1",
            None,
            [],
        )


def test_maildrop(mail_server: MailServer) -> None:
    mail_server.deliver("alice", b"Subject: tea\r\n\r\n")
    with connected(mail_server.pop3_port) as client:
        client.sendall(b"USER alice\r\nPASS alice-password\r\nDELE 1\r\nQUIT\r\n")
        assert mail_server.maildrop("alice") == ()


def test_check(mail_server: MailServer) -> None:
    mail_server.on(smtp.Noop).reply(DROP)
    with connected(mail_server.smtp_port) as client:
        client.sendall(b"NOOP\r\n")
        mail_server.check()


@pytest.mark.parametrize("attempt", range(20))
def test_client_of_an_earlier_test(mail_server: MailServer, attempt: int) -> None:
    """A connection that the server has not accepted yet belongs to the test that ends."""
    with connected(mail_server.smtp_port):
        mail_server.reset()
        assert len(mail_server.transcript) == 0


def test_everything_can_be_read_after_the_end() -> None:
    server = MailServer()
    server.start()
    with connected(server.smtp_port) as client:
        client.sendall(COMMANDS)
        assert len(server.messages) == 1
    server.close()
    assert len(server.messages) == 1
    assert "QUIT" in str(server.transcript)
    assert server.secrets_in_clear == ()


# Functions of the test may call the server, even in the thread of the server.


def test_rule_asks_the_server(mail_server: MailServer) -> None:
    rule = mail_server.on(smtp.Noop, where=lambda noop: mail_server.transcript.commands == ("NOOP",)).reply(451)
    with connected(mail_server.smtp_port) as client:
        client.recv(100)
        client.sendall(b"NOOP\r\n")
        assert client.recv(100).startswith(b"451 ")
    assert rule.used == 1


@pytest.mark.parametrize(
    ("failing", "failure"),
    [
        (lambda server: server.grants, "RuntimeError: the function where() must not wait for the server"),
        (lambda server: server.reset(), "RuntimeError: the function where() must not wait for the server"),
        (lambda server: pytest.fail("no"), "Failed: no"),
        (lambda server: exit(1), "SystemExit: 1"),
    ],
)
def test_failure_in_a_rule_does_not_stop_the_server(failing: Callable[[MailServer], object], failure: str) -> None:
    server = MailServer()
    server.start()
    server.on(smtp.Noop, where=lambda noop: bool(failing(server))).reply(451).optional()
    with connected(server.smtp_port) as client:
        client.recv(100)
        client.sendall(b"NOOP\r\n")
        assert client.recv(100).startswith(b"250 ")
    with pytest.raises(AssertionError) as caught:
        server.check()
    assert f"where() failed: {failure}" in str(caught.value)
    server.close()


def test_wait_asks_the_server(mail_server: MailServer) -> None:
    """The message arrives while ``where`` waits for the server."""
    asked = threading.Event()

    def where(message: Message) -> bool:
        asked.set()
        second.wait(30)
        return len(mail_server.messages) == 2 and message.subject == "tea"

    second = threading.Event()
    found: list[Message] = []
    waiting = threading.Thread(target=lambda: found.append(mail_server.wait_for_message(where=where, timeout=30)))
    with smtplib.SMTP(mail_server.host, mail_server.smtp_port, timeout=30) as client:
        client.sendmail("", ["alice@example.test"], b"Subject: tea\r\n\r\n")
        waiting.start()
        asked.wait(30)
        client.sendmail("", ["alice@example.test"], b"Subject: cake\r\n\r\n")
        second.set()
        waiting.join(30)
    assert [message.subject for message in found] == ["tea"]


def test_concurrent_waits_get_different_messages(mail_server: MailServer) -> None:
    found: list[Message] = []
    waiting = [
        threading.Thread(target=lambda: found.append(mail_server.wait_for_message(timeout=30))) for _ in range(4)
    ]
    for thread in waiting:
        thread.start()
    with smtplib.SMTP(mail_server.host, mail_server.smtp_port, timeout=30) as client:
        for number in range(4):
            client.sendmail("", ["alice@example.test"], b"Subject: %d\r\n\r\n" % number)
    for thread in waiting:
        thread.join(30)
    assert sorted(message.subject for message in found) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_traceback_of_an_async_wait_ends_in_the_test(mail_server: MailServer, backend: str) -> None:
    async def main() -> None:
        await mail_server.wait_for_message_async(timeout=0)

    with pytest.raises(AssertionError) as caught:
        anyio.run(main, backend=backend)
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[-2:] == ["main", "wait_for_message_async"]


def test_poplib_and_a_rule_for_the_end(mail_server: MailServer) -> None:
    """A client that does not wait for the reply to QUIT."""
    mail_server.on(pop3.Quit).reply(DROP)
    client = poplib.POP3(mail_server.host, mail_server.pop3_port, timeout=30)
    client.sock.sendall(b"QUIT\r\n")
    client.close()
    mail_server.check()


def test_long_transcripts_are_cut(mail_server: MailServer) -> None:
    with connected(mail_server.smtp_port) as client:
        client.sendall(b"RSET\r\n" * 150)
        shown = str(mail_server.transcript).splitlines()
    assert shown[-1] == "  S: 250 2.0.0 reset"
    assert len(shown) == 201
    assert shown[40] == "  (102 lines are not shown)"


def test_only_the_last_connections_are_shown(mail_server: MailServer) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(25):
            stack.enter_context(connected(mail_server.smtp_port))
        shown = str(mail_server.transcript)
    assert shown.startswith("(The first 5 connections are not shown.)\nSMTP connection 6 from 127.0.0.1")
    assert shown.count("SMTP connection") == 20


# freezegun stops time.monotonic() in all threads


@pytest.mark.parametrize("now", [0.0, 1.6e9])
def test_time_of_the_test_does_not_matter(mail_server: MailServer, monkeypatch: pytest.MonkeyPatch, now: float) -> None:
    """That of a clock that stands still, in the past or in the future, neither stops the server nor a wait."""
    with smtplib.SMTP(mail_server.host, mail_server.smtp_port, timeout=10) as before:
        monkeypatch.setattr(time, "monotonic", lambda: now)
        mail_server.network.latency(0.01)
        with smtplib.SMTP(mail_server.host, mail_server.smtp_port, timeout=10) as client:
            client.sendmail("", mail_server.address("alice"), "Subject: tea\n\n")
        assert mail_server.wait_for_message().subject == "tea"
        assert before.noop()[0] == 250
    waits: list[AssertionError] = []

    def wait() -> None:
        try:
            mail_server.wait_for_message(timeout=0.01)
        except AssertionError as error:
            waits.append(error)

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    waiting.join(10)
    assert not waiting.is_alive()
    assert len(waits) == 1


def test_address_is_compared_as_rules_compare_it(mail_server: MailServer) -> None:
    with smtplib.SMTP(mail_server.host, mail_server.smtp_port, timeout=30) as client:
        client.sendmail("Shop@far.test", ["alice@example.test"], b"Subject: tea\r\n\r\n")
    mail_server.wait_for_message(to="<Alice@Example.test>", sender='"shop"@far.test', timeout=0)


def test_wait_of_any_length(mail_server: MailServer) -> None:
    found: list[Message] = []
    waiting = threading.Thread(target=lambda: found.append(mail_server.wait_for_message(timeout=1e15)), daemon=True)
    waiting.start()
    with smtplib.SMTP(mail_server.host, mail_server.smtp_port, timeout=30) as client:
        client.sendmail("", ["alice@example.test"], b"Subject: tea\r\n\r\n")
    waiting.join(30)
    assert len(found) == 1


def test_async_waits_leave_the_threads_to_the_application(mail_server: MailServer) -> None:
    """anyio runs 40 functions in threads at the same time."""

    def send() -> None:
        with smtplib.SMTP(mail_server.host, mail_server.smtp_port, timeout=30) as client:
            for _ in range(45):
                client.sendmail("", ["alice@example.test"], b"Subject: tea\r\n\r\n")

    async def run() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(45):
                tasks.start_soon(mail_server.wait_for_message_async)
            await anyio.sleep(0.1)
            await anyio.to_thread.run_sync(send)

    anyio.run(run)


def test_message_that_replaces_a_deleted_one_is_found(mail_server: MailServer) -> None:
    """Meanwhile ``where`` has looked at the deleted one."""

    def where(message: Message) -> bool:
        if message.subject == "old" and not replaced.is_set():
            mail_server.delete(message)
            client.sendmail("", ["alice@example.test"], b"Subject: new\r\n\r\n")
            replaced.set()
        return message.subject == "new"

    replaced = threading.Event()
    with smtplib.SMTP(mail_server.host, mail_server.smtp_port, timeout=30) as client:
        client.sendmail("", ["alice@example.test"], b"Subject: old\r\n\r\n")
        assert mail_server.wait_for_message(where=where, timeout=5).subject == "new"


def test_reply_of_a_rule_that_was_not_sent_is_not_the_cause(mail_server: MailServer) -> None:
    mail_server.on(smtp.Rcpt).reply(250)
    client = smtplib.SMTP(mail_server.host, mail_server.smtp_port, timeout=30)
    with client, pytest.raises(smtplib.SMTPRecipientsRefused):
        client.sendmail("", ["bob@far.test"], b"Subject: tea\r\n\r\n")
    with pytest.raises(AssertionError, match=r"^no message: the server replied '550 "):
        mail_server.wait_for_message(to="bob@far.test", timeout=0)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_cancelled_wait_takes_no_message(mail_server: MailServer, backend: str) -> None:
    begun, cancelled = threading.Event(), threading.Event()

    def where(message: Message) -> bool:
        begun.set()
        return cancelled.wait(30)

    async def cancel_wait() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: mail_server.wait_for_message_async(where=where))
            await anyio.to_thread.run_sync(begun.wait, 30)
            tasks.cancel_scope.cancel()
        cancelled.set()

    with smtplib.SMTP(mail_server.host, mail_server.smtp_port, timeout=30) as client:
        client.sendmail("", ["alice@example.test"], b"Subject: tea\r\n\r\n")
    anyio.run(cancel_wait, backend=backend)
    time.sleep(0.05)  # the thread of the wait goes on
    assert mail_server.wait_for_message(timeout=0).subject == "tea"
