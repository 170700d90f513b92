"""The limit on incoming content for one address, over all its sessions."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import pytest
from hypothesis import given, strategies as st

from mailauth import Question, smtp
from mailauth_io import server, stores
from mailauth_io.adapters.connection import AsyncServerConnection
from mailauth_io.adapters.stream import Peer
from mailauth_io.limits import ConnectionLimiter
from mailauth_io.server._inbound_quota import InboundQuota
from mailauth_io.server.smtp_session import SmtpSession
from mailauth_io.server.state import ServerState
from mailauth_io.stores import BudgetExceeded, MessageContent
from tests.io.server_support import accounts
from tests.io.time_machine import SlowClient, run_in_no_time

BUDGET = 40_000_000
on_each_loop = pytest.mark.parametrize("name", ["asyncio", "trio"])
ADDRESSES = ("192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")


def test_quota_limits_content_per_address() -> None:
    """architecture.md, invariant 4.  A rejected chunk is not counted; a /64 counts as one address in any spelling."""
    inbound_quota = InboundQuota(100, ConnectionLimiter().keys)
    inbound_quota.share_of("192.0.2.1").take(60)
    with pytest.raises(BudgetExceeded):
        inbound_quota.share_of("::ffff:192.0.2.1").take(41)
    inbound_quota.share_of("192.0.2.1").take(40)
    inbound_quota.share_of("2001:db8::1").take(100)
    with pytest.raises(BudgetExceeded):
        inbound_quota.share_of("2001:db8::2").take(1)
    inbound_quota.share_of("2001:db8:0:1::1").take(1)


def test_quota_limits_content_per_network() -> None:
    """The owner of a /48 has 65,536 addresses, which could use up the memory for all messages together."""
    inbound_quota = InboundQuota(100, ConnectionLimiter().keys)
    inbound_quota.share_of("2001:db8:0:1::1").take(100)
    inbound_quota.share_of("2001:db8:0:2::1").take(90)
    with pytest.raises(BudgetExceeded):
        inbound_quota.share_of("2001:db8:0:3::1").take(11)
    inbound_quota.share_of("2001:db8:0:3::1").take(10)
    inbound_quota.share_of("2001:db8:1::1").take(100)
    inbound_quota.share_of("2001:db8:0:2::1").release(90)
    inbound_quota.share_of("2001:db8:0:4::1").take(90)


@given(st.lists(st.tuples(st.sampled_from(ADDRESSES), st.integers(0, 60))))
def test_quota_table_is_empty_after_all_content_is_released(messages: list[tuple[str, int]]) -> None:
    """The table has one entry for each address with incoming content."""
    inbound_quota = InboundQuota(100, ConnectionLimiter().keys)
    taken = []
    for address, data in messages:
        try:
            inbound_quota.share_of(address).take(data)
        except BudgetExceeded:
            continue
        taken.append((address, data))
    for address, data in taken:
        inbound_quota.share_of(address).release(data)
    assert len(inbound_quota) == 0


def served(
    name: str,
    client: SlowClient,
    connections: list[AsyncServerConnection[smtp.ServerEvent]] | None = None,
    budget: stores.Budget | None = None,
    *,
    max_message_size: int = 26_214_400,
    interceptors: Sequence[server.InterceptorFunction] = (),
) -> ServerState:
    """Serve *client*, which has a grant, on the loop *name* until it is done; return the state of the server.

    The connection is added to *connections*.
    """
    grants = stores.MemoryGrants(clock=client.now)
    kept = server.Stores(
        accounts=accounts(),
        maildrops=stores.MemoryMaildrops(),
        outbox=stores.MemoryOutbox(),
        grants=grants,
        budget=budget or stores.Budget(BUDGET),
    )
    config = server.Config(smtp=0, domains=("example.test",), max_message_size=max_message_size)
    server_state = ServerState.of(config, kept, client.now, interceptors=interceptors)

    async def main() -> None:
        await grants.grant("192.0.2.1", "alice")
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
            if self.seconds and budget.free > BUDGET - 1_000:  # the recipient is kept until the end
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


LONG = "a" * 56 + "%04d@" + ".".join(("b" * 60, "c" * 60, "d" * 55)) + ".test"
TRANSACTION = b"EHLO c\r\nMAIL FROM:<a@b.test>\r\n"


def recipients(count: int, name: str = LONG) -> bytes:
    return b"".join(b"RCPT TO:<%s>\r\n" % (name % number).encode() for number in range(count))


class Watching(SlowClient):
    """Notes how much of *budget* is free whenever it waits."""

    def __init__(self, budget: stores.Budget, *says: tuple[float, bytes]) -> None:
        super().__init__(*says)
        self._budget = budget
        self.free: list[int] = []

    async def wait_readable(self, due: float) -> None:
        self.free.append(self._budget.free)
        await super().wait_readable(due)


@on_each_loop
def test_recipients_over_the_budget_get_452(name: str) -> None:
    """With long addresses, the recipients of 5,000 connections would use 2.5 GB."""
    budget = stores.Budget(100_000)
    client = Watching(
        budget,
        (0.0, TRANSACTION + recipients(900)),
        (1.0, b"RSET\r\n" + TRANSACTION + recipients(1)),
        (1.0, b"QUIT\r\n"),
    )
    server_state = served(name, client, budget=budget)
    refused = client.heard.count(b"\r\n452 4.3.1 insufficient storage")
    assert 700 < refused < 750
    assert client.heard.count(b"\r\n250 2.1.5 ") == 901 - refused
    assert client.free[1] < 700
    assert client.free[2] > 99_000
    assert budget.free == 100_000
    assert len(server_state.inbound_quota) == 0


@on_each_loop
def test_recipients_of_one_address_leave_memory_for_others(name: str) -> None:
    budget = stores.Budget(400_000)
    client = Watching(budget, (0.0, TRANSACTION + recipients(900)), (1.0, b"QUIT\r\n"))
    server_state = served(name, client, budget=budget, max_message_size=65_536)
    assert 300_000 <= client.free[1] < 301_000
    assert budget.free == 400_000
    assert len(server_state.inbound_quota) == 0


@on_each_loop
@pytest.mark.parametrize(
    "after",
    [
        b"RSET\r\n", b"EHLO c\r\n", b"BDAT 1\r\nxRSET\r\n", b"DATA\r\na\rb\r\n.\r\nRSET\r\n",
        b"DATA\r\n" + PIECE + b".\r\n", b"DATA\r\nx\r\n.\r\n",
    ],
    ids=["RSET", "EHLO", "chunk", "fault", "no room", "stored"],
)  # fmt: skip
def test_recipients_are_released_at_the_end_of_the_transaction(name: str, after: bytes) -> None:
    """An accepted message stays in the outbox, with the text of its recipients."""
    budget = stores.Budget(90_000)
    client = Watching(budget, (0.0, TRANSACTION + recipients(10)), (1.0, after), (1.0, b"QUIT\r\n"))
    served(name, client, budget=budget)
    assert budget.size - 10_000 < client.free[1] < budget.size - 5_000
    assert client.free[-1] > budget.size - 4_000


@on_each_loop
def test_refused_recipients_use_no_memory(name: str) -> None:
    budget = stores.Budget(BUDGET)
    client = Watching(budget, (0.0, TRANSACTION + recipients(9, "nobody%d@example.test")), (1.0, b"QUIT\r\n"))
    served(name, client, budget=budget)
    assert client.heard.count(b"\r\n550 5.1.1 ") == 9
    assert client.free[1] == BUDGET


@on_each_loop
def test_commands_that_interceptors_see_are_counted_as_a_whole(name: str) -> None:
    async def passing(view: server.SessionView, question: Question[object]) -> server.Pass:
        return server.PASS

    budget = stores.Budget(BUDGET)
    command = b"RCPT TO:<@" + b"x" * 60 + b".test,@" + b"y" * 60 + b".test:dinah@far.test>\r\n"
    client = Watching(budget, (0.0, TRANSACTION + command), (1.0, b"QUIT\r\n"))
    served(name, client, budget=budget, interceptors=[passing])
    assert b"\r\n250 2.1.5 " in client.heard
    assert BUDGET - client.free[1] > 800


@on_each_loop
def test_recipients_are_counted_while_refused_content_is_read(name: str) -> None:
    budget = stores.Budget(BUDGET)
    fault, end = (1.0, b"DATA\r\na\rb\r\n"), (1.0, b"x\r\n.\r\nQUIT\r\n")
    client = Watching(budget, (0.0, TRANSACTION + recipients(10)), fault, end)
    served(name, client, budget=budget)
    assert client.free[2] == client.free[1] < BUDGET - 5_000
    assert budget.free == BUDGET
