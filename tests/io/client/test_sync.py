"""The clients without an event loop."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable
from typing import Any

import pytest
import trio

from mailauth import pop3, smtp
from mailauth_io import client
from mailauth_io.client import sync
from tests.io.client.peers import MAILS, End, Peer, pop3_server, smtp_server
from tests.io.client.test_logins import options
from tests.io.server_support import PASSWORD, TIMEOUT, Served, meet, run_on_asyncio

ALICE, BOB, CAROL = "alice@example.org", "bob@example.org", "carol@example.org"
MESSAGE = b"Subject: tea\r\n\r\nAt six.\r\n"


def to(peer: Peer) -> dict[str, Any]:
    return {"host": "127.0.0.1", "port": peer.port, "login": ("alice", "secret"), "tls": "none", "timeout": TIMEOUT}


@pytest.mark.parametrize("tls", ["implicit", "starttls"])
def test_message_is_sent_and_collected(tls: str) -> None:
    def use(served: Served) -> list[bytes]:
        login = ("alice", PASSWORD)
        sync.submit(MESSAGE, ALICE, [ALICE], **options(served.ports, "smtp", tls, login)).raise_for_rejected()
        with sync.collect(**options(served.ports, "pop3", tls, login), delete=True) as messages:
            return [message.raw for message in messages]

    (raw,) = meet(run_on_asyncio, use)
    assert raw.endswith(MESSAGE)


def test_several_messages() -> None:
    with smtp_server({f"RCPT {CAROL}": b"550 no\r\n"}) as peer, sync.smtp_client(**to(peer)) as session:
        assert session.send(MESSAGE, ALICE, [BOB, CAROL]).accepted == (BOB,)
        assert session.send(MESSAGE, ALICE, [BOB]).complete
        assert session.execute(smtp.Noop()).code == 250
        assert session.tls is None
        assert "PIPELINING" in session.extensions
    assert (len(peer.messages), peer.heard[-1]) == (2, "QUIT")


def test_single_messages() -> None:
    with pop3_server({}) as peer, sync.pop3_client(**to(peer)) as maildrop:
        assert [listed.number for listed in maildrop.listing()] == [1, 2, 3]
        assert maildrop.retrieve(1) == maildrop.top(1, 1) == MAILS[0]
        maildrop.delete(1)
        maildrop.undelete()
        maildrop.delete(2)
        assert maildrop.execute(pop3.Noop()).positive
        assert maildrop.tls is None
        assert "UIDL" in maildrop.capabilities
    assert peer.deleted == [2]


def test_errors_are_those_of_the_asynchronous_client() -> None:
    with smtp_server({"AUTH": b"535 no\r\n"}) as peer, pytest.raises(client.AuthenticationFailed):
        sync.submit(MESSAGE, ALICE, [BOB], **to(peer))
    with smtp_server({"MESSAGE": End()}) as peer, pytest.raises(client.DeliveryUnknown):
        sync.submit(MESSAGE, ALICE, [BOB], **to(peer))
    with pop3_server({"PASS": b"-ERR no\r\n"}) as peer, pytest.raises(client.AuthenticationFailed):
        collect(peer)
    with pop3_server({"RETR 2": End(b"+OK\r\nx")}) as peer, pytest.raises(client.ConnectionFailed):
        collect(peer)
    assert peer.deleted == []


def collect(peer: Peer, *, at_2: type[BaseException] | None = None, leave: bool = False) -> None:
    """Collect and delete the messages; at the second raise *at_2*, at the first *leave* the loop."""
    with sync.collect(**to(peer), delete=True) as messages:
        for message in messages:
            if leave:
                break
            if message.number == 2 and at_2 is not None:
                raise at_2


@pytest.mark.parametrize(("error", "deleted"), [(LookupError, [1]), (KeyboardInterrupt, []), (SystemExit, [])])
def test_exception_in_the_loop_keeps_the_deletions_before_it(error: type[BaseException], deleted: list[int]) -> None:
    """An interrupt counts as a cancellation."""
    with pop3_server({}) as peer, pytest.raises(error):
        collect(peer, at_2=error)
    assert (peer.deleted, "QUIT" in peer.heard) == (deleted, deleted != [])


def test_collecting_can_go_on_after_a_message_that_the_server_does_not_send() -> None:
    with pop3_server({"RETR 2": b"-ERR cannot read\r\n"}) as peer, sync.collect(**to(peer), delete=True) as messages:
        assert next(messages).number == 1
        with pytest.raises(client.ServerRejected, match="message 2"):
            next(messages)
        assert [message.number for message in messages] == [3]
    assert peer.deleted == [1, 3]


def test_message_at_which_the_loop_is_left_is_not_deleted() -> None:
    with pop3_server({}) as peer:
        collect(peer, leave=True)
    assert (peer.deleted, peer.heard[-1]) == ([], "QUIT")


def test_exception_in_the_loop_that_is_caught_in_the_context_keeps_the_message() -> None:
    with (
        pop3_server({}) as peer,
        sync.collect(**to(peer), delete=True) as messages,
        contextlib.suppress(KeyboardInterrupt),
    ):
        for message in messages:
            if message.number == 2:
                raise KeyboardInterrupt
    assert (peer.deleted, peer.heard[-1]) == ([1], "QUIT")


@pytest.mark.parametrize("run", [asyncio.run, lambda main: trio.run(lambda: main)], ids=["asyncio", "trio"])
def test_call_in_a_coroutine_is_refused(run: Callable[[Any], None]) -> None:
    async def main() -> None:
        text = "called in a coroutine; await the function of mailauth_io.client instead"
        with pytest.raises(RuntimeError, match=text):
            sync.submit(MESSAGE, ALICE, [BOB], host="127.0.0.1", port=1)
        for context in (sync.smtp_client, sync.pop3_client, sync.collect):
            with pytest.raises(RuntimeError, match=text), context(host="127.0.0.1", login=("alice", "secret")):
                pass

    run(main())


@pytest.mark.parametrize("name", ["submit", "smtp_client", "pop3_client", "collect", "SmtpClient", "Pop3Client"])
def test_each_name_has_the_parameters_of_the_asynchronous_one(name: str) -> None:
    blocking, other = getattr(sync, name), getattr(client, name)
    if isinstance(blocking, type):
        methods = [each for each in vars(blocking) if not each.startswith("_") and callable(getattr(blocking, each))]
        assert methods
        for method in methods:
            assert inspect.signature(getattr(blocking, method)) == inspect.signature(getattr(other, method))
    else:
        assert inspect.signature(blocking).parameters == inspect.signature(other).parameters
        assert not inspect.iscoroutinefunction(blocking)
