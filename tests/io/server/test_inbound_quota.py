"""The limit on incoming content for one address, over all its sessions."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given, strategies as st

from mailauth import smtp
from mailauth_io import server, stores
from mailauth_io.adapters.connection import AsyncServerConnection
from mailauth_io.adapters.stream import Peer
from mailauth_io.server._inbound_quota import InboundQuota
from mailauth_io.server._state import ServerState
from mailauth_io.server.smtp_session import SmtpSession
from mailauth_io.stores import BudgetExceeded, MessageContent
from tests.io.server_support import accounts
from tests.io.time_machine import SlowClient, run_in_no_time

BUDGET = 40_000_000
on_each_loop = pytest.mark.parametrize("name", ["asyncio", "trio"])
ADDRESSES = ("192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")


def test_quota_limits_content_per_address() -> None:
    """architecture.md, invariant 4.  A rejected chunk is not counted; a /64 counts as one address in any spelling."""
    inbound_quota = InboundQuota(100)
    inbound_quota.take("192.0.2.1", 60)
    with pytest.raises(BudgetExceeded):
        inbound_quota.take("::ffff:192.0.2.1", 41)
    inbound_quota.take("192.0.2.1", 40)
    inbound_quota.take("2001:db8::1", 100)
    with pytest.raises(BudgetExceeded):
        inbound_quota.take("2001:db8::2", 1)
    inbound_quota.take("2001:db8:0:1::1", 1)


def test_quota_limits_content_per_network() -> None:
    """The owner of a /48 has 65,536 addresses, which could use up the memory for all messages together."""
    inbound_quota = InboundQuota(100)
    inbound_quota.take("2001:db8:0:1::1", 100)
    inbound_quota.take("2001:db8:0:2::1", 90)
    with pytest.raises(BudgetExceeded):
        inbound_quota.take("2001:db8:0:3::1", 11)
    inbound_quota.take("2001:db8:0:3::1", 10)
    inbound_quota.take("2001:db8:1::1", 100)
    inbound_quota.release("2001:db8:0:2::1", 90)
    inbound_quota.take("2001:db8:0:4::1", 90)


@given(st.lists(st.tuples(st.sampled_from(ADDRESSES), st.integers(0, 60))))
def test_quota_table_is_empty_after_all_content_is_released(messages: list[tuple[str, int]]) -> None:
    """The table has one entry for each address with incoming content."""
    inbound_quota = InboundQuota(100)
    taken = []
    for address, data in messages:
        try:
            inbound_quota.take(address, data)
        except BudgetExceeded:
            continue
        taken.append((address, data))
    for address, data in taken:
        inbound_quota.release(address, data)
    assert len(inbound_quota) == 0


def served(
    name: str,
    client: SlowClient,
    connections: list[AsyncServerConnection[smtp.ServerEvent]] | None = None,
    budget: stores.Budget | None = None,
) -> ServerState:
    """Serve *client* on the loop *name* until it is done; return the state of the server.

    The connection is added to *connections*.
    """
    kept = server.Stores(
        accounts=accounts(),
        maildrops=stores.MemoryMaildrops(),
        outbox=stores.MemoryOutbox(),
        budget=budget or stores.Budget(BUDGET),
    )
    server_state = ServerState.of(server.Config(smtp=0, domains=("example.test",)), kept, client.now)

    async def main() -> None:
        machine = smtp.ServerConnection(server_state.smtp_settings(), entropy=bytes(32))
        connection = AsyncServerConnection(machine, client, Peer("192.0.2.1", 1), None, None)
        if connections is not None:
            connections.append(connection)
        await SmtpSession.serve(server_state, connection)

    run_in_no_time(name, main)
    return server_state


@on_each_loop
@pytest.mark.parametrize("says", [(299.0, b"BDAT 0\r\n"), (100.0, b"NOOP\r\n"), (50.0, b"BDAT 1\r\nx")])
def test_stalled_message_times_out_and_releases_its_memory(name: str, says: tuple[float, bytes]) -> None:
    """Commands between two chunks do not extend the time for which the server holds the 20 MB of a message."""
    chunk = b"x" * 1_000_000
    client = SlowClient(
        (0.0, b"EHLO c\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<alice@example.test>\r\n"),
        *[(0.0, b"BDAT 1000000\r\n" + chunk)] * 20,
        *[says] * 999,
    )
    server_state = served(name, client)
    assert client.heard.endswith(b"421 4.4.2 timeout exceeded, closing connection\r\n")
    assert client.seconds == pytest.approx(300.0, abs=1.0)
    assert client.heard.count(b"1000000 bytes received") == 20
    assert server_state.stores.budget.free == BUDGET
    assert len(server_state.inbound_quota) == 0


PIECE = (b"x" * 998 + b"\r\n") * 100


def in_chunk(data: bytes) -> bytes:
    return b"BDAT %d\r\n" % len(data) + data


@on_each_loop
@pytest.mark.parametrize("chunks", [False, True], ids=["DATA", "BDAT"])
@pytest.mark.parametrize(
    ("kept", "fault", "reply"),
    [(262, PIECE, b"552 5.3.4 "), (200, b"a\nb" * 100, b"554 5.6.0 "), (200, b"\0" * 100, b"554 5.6.0 ")],
    ids=["size", "bare LF", "NUL"],
)
def test_content_that_must_be_refused_is_released_before_the_rest_is_read(
    name: str, chunks: bool, kept: int, fault: bytes, reply: bytes
) -> None:
    """The client takes 1,000 seconds to send the rest."""
    budget = stores.Budget(BUDGET)
    released: list[float] = []

    class Client(SlowClient):
        async def wait_readable(self, due: float) -> None:
            await super().wait_readable(due)
            if self.seconds and budget.free == BUDGET:
                released.append(self.seconds)

    part = in_chunk if chunks else bytes
    client = Client(
        (0.0, b"EHLO c\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<alice@example.test>\r\n"),
        *([] if chunks else [(0.0, b"DATA\r\n")]),
        *[(0.0, part(PIECE))] * kept,
        (0.0, part(fault)),
        *[(100.0, part(PIECE))] * 10,
        (0.0, b"BDAT 0 LAST\r\nQUIT\r\n" if chunks else b".\r\nQUIT\r\n"),
    )
    server_state = served(name, client, budget=budget)
    assert released[0] == 100.0
    assert b"\r\n" + reply in client.heard
    assert server_state.stores.budget.free == BUDGET
    assert len(server_state.inbound_quota) == 0


@on_each_loop
def test_shutdown_between_content_and_its_fault_releases_the_memory(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The shutdown comes after the content before a bare CR was returned, and before the message is aborted for it."""
    caplog.set_level(logging.INFO)
    append = MessageContent.append

    def shut_down_afterwards(content: MessageContent, data: bytes) -> None:
        append(content, data)
        connections.pop().shut_down()

    monkeypatch.setattr(MessageContent, "append", shut_down_afterwards)
    client = SlowClient((0.0, b"EHLO c\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\na\rb"))
    connections: list[AsyncServerConnection[smtp.ServerEvent]] = []
    server_state = served(name, client, connections)
    assert client.heard.endswith(b"421 4.3.2 service shutting down, closing connection\r\n")
    assert "message aborted" in caplog.text
    assert server_state.stores.budget.free == BUDGET
    assert len(server_state.inbound_quota) == 0
