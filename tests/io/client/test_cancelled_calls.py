"""A call that is cancelled closes the connection: otherwise its reply would be taken as that of the next command."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest
from anyio import to_thread

from mailauth import pop3, sasl, smtp
from mailauth_io import client
from mailauth_io.client import sync
from tests.io.client.peers import MAILS, SILENT, Peer, ehlo, pop3_server, smtp_server
from tests.io.server_support import TIMEOUT, Run, on_both_loops

ALICE, BOB = "alice@example.org", "bob@example.org"
MESSAGE = b"Subject: tea\r\n\r\nAt six.\r\n"
LOGIN = ("alice", "wonderland")


def to(peer: Peer, **options: Any) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": peer.port, "tls": "none", "timeout": TIMEOUT, **options}


async def cancel_when_silent(peer: Peer, scope: anyio.CancelScope) -> None:
    await to_thread.run_sync(peer.silent.wait, TIMEOUT)
    scope.cancel()


@on_both_loops
@pytest.mark.parametrize("verb", ["listing", "retrieve", "top", "delete", "undelete"])
def test_cancelled_pop3_call_closes_the_connection(run: Run, verb: str) -> None:
    steps = {"listing": "LIST", "retrieve": "RETR", "top": "TOP", "delete": "DELE", "undelete": "RSET"}
    arguments = () if verb in ("listing", "undelete") else (1,)

    async def main() -> None:
        async with client.pop3_client(**to(peer), login=LOGIN) as maildrop:
            async with anyio.create_task_group() as group:
                group.start_soon(cancel_when_silent, peer, group.cancel_scope)
                await getattr(maildrop, verb)(*arguments)
            with pytest.raises(client.ConnectionFailed, match="the session has ended; open another"):
                await maildrop.execute(pop3.Noop())

    with pop3_server({steps[verb]: SILENT}) as peer:
        run(main)
        assert peer.ended.wait(TIMEOUT)
    assert "QUIT" not in peer.heard


@on_both_loops
@pytest.mark.parametrize("verb", ["NOOP", "EHLO 2", "AUTH", "DATA", "MESSAGE"])
def test_cancelled_smtp_call_closes_the_connection(run: Run, verb: str) -> None:
    async def message(session: client.SmtpClient) -> None:
        for command in (smtp.Mail(reverse_path=None), smtp.Rcpt(forward_path=smtp.Mailbox.parse(BOB)), smtp.Data()):
            await session.execute(command)
        await session.write(MESSAGE)
        await session.execute(smtp.MessageComplete())

    plain = sasl.PlainClient(authentication_identity="alice", password=b"wonderland")
    calls: dict[str, Callable[[client.SmtpClient], Awaitable[object]]] = {
        "NOOP": lambda session: session.execute(smtp.Noop()),
        "EHLO 2": lambda session: session.hello("client.test"),
        "AUTH": lambda session: session.authenticate(plain),
        "DATA": message,
        "MESSAGE": message,
    }

    async def main() -> None:
        async with client.smtp_client(**to(peer)) as session:
            async with anyio.create_task_group() as group:
                group.start_soon(cancel_when_silent, peer, group.cancel_scope)
                await calls[verb](session)
            with pytest.raises(client.ConnectionFailed, match="the session has ended; open another"):
                await session.send(MESSAGE, ALICE, [BOB])
            with pytest.raises(client.ConnectionFailed, match="the session has ended; open another"):
                await session.authenticate(plain)

    with smtp_server({verb: SILENT, "EHLO": ehlo("AUTH PLAIN")}) as peer:
        run(main)
        assert peer.ended.wait(TIMEOUT)
    assert "QUIT" not in peer.heard


@on_both_loops
def test_message_after_a_cancelled_retrieval_is_not_lost(run: Run) -> None:
    """A deadline for one message: message 1 stalls, and goes on after the caller has given it up."""
    stored: list[bytes] = []

    async def main() -> None:
        async with client.collect(**to(peer), login=LOGIN, delete=True) as messages:
            async with anyio.create_task_group() as group:
                group.start_soon(cancel_when_silent, peer, group.cancel_scope)
                await anext(messages)
            peer.ended.set()
            with contextlib.suppress(client.ConnectionFailed):
                async for message in messages:
                    stored.append(message.raw)

    with stalling_pop3_server() as peer:
        run(main)
    assert (stored, peer.deleted) == ([], [])


@contextlib.contextmanager
def stalling_pop3_server() -> Iterator[Peer]:
    """Serve one connection; message 1 stops after 10 bytes, until ``Peer.ended`` is set."""
    peer = Peer()

    def serve() -> None:
        connection = listener.accept()[0]
        connection.settimeout(TIMEOUT)
        marked: list[int] = []
        sizes = b"".join(b"%d %d\r\n" % (number, 5) for number in (1, 2, 3))
        replies = {b"LIST": b"+OK\r\n" + sizes + b".\r\n", b"CAPA": b"+OK\r\nUSER\r\n.\r\n", b"UIDL": b"-ERR\r\n"}
        with connection, connection.makefile("rb") as lines, contextlib.suppress(OSError):
            connection.sendall(b"+OK\r\n")
            for line in lines:
                verb, *arguments = line.split()
                if verb == b"RETR":
                    mail = b"+OK\r\n" + MAILS[int(arguments[0]) - 1].replace(b"\r\n.", b"\r\n..") + b".\r\n"
                    if arguments == [b"1"]:
                        connection.sendall(mail[:15])
                        peer.silent.set()
                        peer.ended.wait(TIMEOUT)
                        mail = mail[15:]
                    connection.sendall(mail)
                    continue
                connection.sendall(replies.get(verb, b"+OK\r\n"))
                if verb == b"DELE":
                    marked.append(int(arguments[0]))
                if verb == b"QUIT":
                    peer.deleted += marked
                    return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer.port = listener.getsockname()[1]
        thread = threading.Thread(target=serve)
        thread.start()
        yield peer
        thread.join()


@contextlib.contextmanager
def interrupted_when_silent(peer: Peer) -> Iterator[None]:
    """A signal handler raises KeyboardInterrupt when the server is silent."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    def send_signal() -> None:
        if peer.silent.wait(TIMEOUT):
            os.kill(os.getpid(), signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    thread = threading.Thread(target=send_signal)
    thread.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)


def test_blocking_call_that_a_signal_handler_interrupts_closes_the_connection() -> None:
    with pop3_server({"RETR": SILENT}) as peer, sync.pop3_client(**to(peer), login=LOGIN) as maildrop:
        with interrupted_when_silent(peer):
            maildrop.retrieve(1)
        with pytest.raises(client.ConnectionFailed, match="the session has ended; open another"):
            maildrop.delete(1)
    assert (peer.deleted, "QUIT" in peer.heard) == ([], False)


def test_blocking_smtp_command_that_a_signal_handler_interrupts_closes_the_connection() -> None:
    with smtp_server({"NOOP": SILENT}) as peer, sync.smtp_client(**to(peer)) as session:
        with interrupted_when_silent(peer):
            session.execute(smtp.Noop())
        with pytest.raises(client.ConnectionFailed, match="the session has ended; open another"):
            session.send(MESSAGE, ALICE, [BOB])
    assert "QUIT" not in peer.heard
