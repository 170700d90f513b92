"""Clients that half-close, reset or vanish at every point of a session: a message is stored only if 250 was sent."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest

from mailauth import pop3, smtp
from mailauth_io import server, stores
from mailauth_io.adapters.connection import AsyncServerConnection
from mailauth_io.adapters.stream import Peer
from mailauth_io.adapters.tls import layer
from mailauth_io.server.pop3_session import Pop3Session
from mailauth_io.server.smtp_session import SmtpSession
from mailauth_io.server.state import ServerState
from tests.io.gone_clients import POP3, SMTP, TEXT, Moment, at_every_moment, come, ends_of_sessions, reset
from tests.io.line_echo import read_all
from tests.io.server_support import TIMEOUT, Run, Served, accounts, meet, on_both_loops
from tests.io.time_machine import SlowClient
from tests.io.tls import server_context

PEER_CLOSED = Peer("192.0.2.1", 1)
HANDSHAKE = 30.0


def bear(run: Run, moment: Moment, client: Callable[[Served], None], stored: set[int]) -> None:
    """Run *client* against a server, and check, after its session, that the number of messages is in *stored*.

    The next session is served, the maildrop is unlocked, and the memory is released.
    """
    budget = stores.Budget()
    kept = server.Stores(
        accounts=accounts(), maildrops=stores.MemoryMaildrops(), outbox=stores.MemoryOutbox(), budget=budget
    )

    def whole(served: Served) -> None:
        if moment.protocol == "pop3":
            with served.smtp() as smtp:
                smtp.sendmail("far@far.test", ["alice@example.test"], TEXT)
        with ends_of_sessions(moment.protocol) as ends:
            client(served)
            assert ends.acquire(timeout=TIMEOUT)
        session = served.log_in()
        count = session.stat()[0]
        assert count in stored
        for number in range(count):
            session.dele(number + 1)
        session.quit()
        assert budget.free == budget.size

    meet(run, whole, kept=kept, legacy=True)


@on_both_loops
@at_every_moment(smtp=SMTP, pop3=POP3)
def test_half_closed_client_gets_replies_to_complete_commands(run: Run, moment: Moment) -> None:
    """Complete lines are processed, an incomplete line is not (RFC 5321 section 4.1.1.10, RFC 1939 section 3)."""

    def client(served: Served) -> None:
        with come(served, moment) as connection:
            connection.shutdown(socket.SHUT_WR)
            heard = read_all(connection)
        replies = heard.splitlines(keepends=True) if moment.protocol == "smtp" else said_by_pop3(heard)
        assert [reply[: len(begins)] for reply, begins in zip(replies, moment.hears, strict=True)] == [*moment.hears]

    bear(run, moment, client, {moment.stored})


def said_by_pop3(heard: bytes) -> list[bytes]:
    """Return the replies, and check that each message in them is complete."""
    replies = []
    while heard:
        reply, _, heard = heard.partition(b"\r\n")
        replies.append(reply)
        if reply == b"+OK message follows":
            text, dot, heard = heard.partition(b"\r\n.\r\n")
            whole = dot != b"" and text.endswith(TEXT.replace(b"\r\n..", b"\r\n...")[:-2])
            assert whole
    return replies


@on_both_loops
@pytest.mark.parametrize("tls", [False, True], ids=["clear", "TLS"])
@pytest.mark.parametrize("tls_mode", [socket.socket.close, reset])
@at_every_moment(smtp=SMTP, pop3=POP3)
def test_disconnected_client_leaves_only_completed_transactions(
    run: Run, moment: Moment, tls_mode: Callable[[socket.socket], None], tls: bool
) -> None:
    """A completed command may be lost by a reset, since the client received no reply."""

    def client(served: Served) -> None:
        tls_mode(come(served, moment, tls=tls))

    bear(run, moment, client, {moment.stored, 1 if moment.protocol == "pop3" else 0})


@on_both_loops
@at_every_moment(smtp=SMTP, pop3=POP3)
def test_vanished_client_is_disconnected_after_the_timeout(run: Run, moment: Moment) -> None:
    """No FIN arrives, as from a proxy that has stopped forwarding (RFC 5321 section 4.5.3.2.7, RFC 1939 section 3).
    Completed commands keep their effect, and without QUIT nothing is deleted.
    """
    budget = stores.Budget()
    maildrops = stores.MemoryMaildrops()
    kept = server.Stores(accounts=accounts(), maildrops=maildrops, outbox=stores.MemoryOutbox(), budget=budget)
    server_state = ServerState.of(server.Config(legacy=True, ssl_context=server_context()), kept, lambda: 0.0)
    client = SlowClient(*((0.0, line + b"\r\n") for line in moment.asked), (0.0, moment.last or b"\r"))
    tls_options = layer.TlsOptions(context=server_context(), timeout=HANDSHAKE)

    async def main() -> int:
        if moment.protocol == "smtp":
            machine = smtp.ServerConnection(server_state.smtp_settings(), entropy=bytes(32))
            await SmtpSession.serve(
                server_state, AsyncServerConnection(machine, client, PEER_CLOSED, tls_options, None)
            )
        else:
            content = stores.MessageContent.of(TEXT, budget)
            await (await maildrops.stage("alice", b"", content)).commit()
            content.release()
            reader = pop3.ServerConnection(server_state.pop3_settings(), entropy=bytes(32))
            await Pop3Session.serve(server_state, AsyncServerConnection(reader, client, PEER_CLOSED, tls_options, None))
        opened = await maildrops.open("alice")
        assert not isinstance(opened, pop3.Unavailable)
        await opened.update(frozenset(range(1, len(opened.messages) + 1)))
        return len(opened.messages)

    assert run(main) == moment.stored
    assert budget.free == budget.size
    if moment.last in (b"STARTTLS\r\n", b"STLS\r\n"):
        assert client.seconds == HANDSHAKE
    elif not moment.last.endswith(b"QUIT\r\n"):
        assert client.seconds == (300.0 if moment.protocol == "smtp" else 600.0)
        assert (b"\r\n421 4.4.2 " in client.heard) == (moment.protocol == "smtp")
