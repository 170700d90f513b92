"""The turns of an event loop: a network with many busy connections delays others by a few events."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from itertools import pairwise
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings, strategies as st

from mailauth import ACCEPT, Question, smtp
from mailauth_io import on_asyncio, on_trio
from mailauth_io.adapters import AsyncServerConnection, Peer
from mailauth_io.adapters.tls._record_counter import RecordCounter
from mailauth_io.adapters.tls.layer import TlsLayer, TlsOptions, start_tls
from mailauth_io.adapters.turns import EVENTS_PER_TURN, HANDSHAKE, Share, Turns
from mailauth_io.limits import Limits
from tests.io import loops
from tests.io.interruptions import Interruption, at_every_suspension
from tests.io.key_updates import KeyUpdates
from tests.io.line_echo import on_both_loops
from tests.io.time_machine import MemoryStream, connected, together
from tests.io.tls import authority, client_context, layers, server_context

LOOPS = [loops.named("asyncio"), loops.named("trio")]


async def checkpoint() -> None:
    await loops.current().sleep(0)


def turns_of(loop: loops.Loop) -> Turns:
    """Return the turns of the running loop, as its listeners use them."""
    return on_trio._current_turns() if loop.name == "trio" else on_asyncio._turns_of(asyncio.get_running_loop())


class Work:
    """Connections that cause events, and the order of the events."""

    def __init__(self) -> None:
        self.turns = Turns(anyio.Event)
        self.order: list[str] = []

    async def cause(self, name: str, network: str, address: str, events: int) -> None:
        share = self.turns.share(network)
        for _ in range(events):
            if share.left <= 0:
                await share.wait(address, checkpoint)
            share.left -= 1
            self.order.append(name)

    def connection(self, name: str, network: str, address: str, events: int) -> Callable[[], Awaitable[None]]:
        return lambda: self.cause(name, network, address, events)

    async def cause_in_lock_step(self, name: str, network: str, address: str, events: int) -> None:
        """Cause three events after each wait, as a client does that waits for each reply."""
        share = self.turns.share(network)
        for number in range(events):
            if not number % 3:
                await checkpoint()
            if share.left <= 0 and not share.renew():
                await share.wait(address, checkpoint)
            share.left -= 1
            self.order.append(name)

    def lock_step(self, name: str, network: str, address: str, events: int) -> Callable[[], Awaitable[None]]:
        return lambda: self.cause_in_lock_step(name, network, address, events)


def longest_run(order: Sequence[str], name: str) -> int:
    """Return the largest number of events in a row that are called *name*."""
    longest = run = 0
    for each in order:
        run = run + 1 if each == name else 0
        longest = max(longest, run)
    return longest


@on_both_loops
async def test_another_network_waits_for_one_turn_at_most(loop: loops.Loop) -> None:
    """A hundred busy connections of one network, and a client that sends one command after the other."""
    work = Work()

    async def client() -> None:
        for _ in range(50):
            await checkpoint()
            await work.cause("client", "other network", "other address", 1)

    attack = [work.connection("attacker", "network", "address", 500) for _ in range(100)]
    await together(*attack, client)
    # On trio, either task may run first in a turn of the loop, so there may be two turns between the events.
    assert longest_run(work.order[: work.order.index("client", 200)], "attacker") <= 2 * EVENTS_PER_TURN
    assert Counter(work.order) == {"attacker": 50_000, "client": 50}


@on_both_loops
async def test_networks_get_turns_whatever_their_number_of_connections(loop: loops.Loop) -> None:
    work = Work()
    busy = [
        work.connection(network, network, f"{network}/{number}", 200_000 // connections)
        for network, connections in (("one", 1), ("ten", 10), ("hundred", 100))
        for number in range(connections)
    ]
    await together(*busy)
    counted = Counter(work.order[:60_000])
    assert 2 * min(counted.values()) > max(counted.values())


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.name)
@pytest.mark.parametrize("networks", [1, 3, 30])
@pytest.mark.parametrize("connections", [1, 10, 40])
def test_at_most_one_turn_begins_in_an_iteration(loop: loops.Loop, networks: int, connections: int) -> None:
    """Clients in lock step begin turns without waiting for them, but no more of them."""
    begun: list[int] = []

    async def main() -> None:
        work = Work()
        work.turns = turns_of(loop)

        async def watch() -> None:
            while len(work.order) < len(clients) * 90:
                begun.append(work.turns.begun)
                await checkpoint()

        clients = [
            work.lock_step("client", f"network {number % networks}", f"address {number}", 90)
            for number in range(networks * connections)
        ]
        await together(watch, *clients)

    loop.run(main)
    most = max(after - before for before, after in pairwise(begun))
    assert most <= (1 if loop.name == "asyncio" else 2)  # on trio, either task may run first in an iteration


@on_both_loops
async def test_clients_in_lock_step_do_not_wait_for_turns(loop: loops.Loop) -> None:
    """Unless they cause more events than those of a turn in one iteration of the loop."""
    waits = 0

    class Watched(Share):
        async def wait(self, key: object, checkpoint: Callable[[], Awaitable[None]]) -> None:
            nonlocal waits
            waits += 1
            await super().wait(key, checkpoint)

    work = Work()
    work.turns = turns_of(loop)
    share = work.turns._shares["network"] = Watched(work.turns)
    await together(*[work.lock_step("client", "network", "address", 3_000) for _ in range(EVENTS_PER_TURN // 4)])
    assert share.left >= 0
    assert work.turns.begun >= 3_000 // 4 - 1
    assert waits <= 1 + EVENTS_PER_TURN // 4  # for the first turn


@on_both_loops
async def test_turn_does_not_begin_at_once_if_another_network_waits(loop: loops.Loop) -> None:
    turns = turns_of(loop)
    turns.fresh = True
    share, other = turns.share("network"), turns.share("other network")
    other.left = 0

    async def look() -> None:
        assert not share.renew()
        await checkpoint()

    await other.wait("address", look)
    await checkpoint()
    await checkpoint()
    share.left = 0
    assert share.renew()
    assert share.left == EVENTS_PER_TURN
    assert not share.renew()
    await checkpoint()
    await checkpoint()
    assert share.renew()


def test_turn_that_begins_in_the_next_iteration_before_the_loop_tells() -> None:
    turns = Turns(anyio.Event)
    for network in ("one", "two"):
        turns.begin(turns.share(network))
    turns.refresh(1)
    assert not turns.fresh
    turns.refresh(2)
    assert turns.fresh


def test_loop_that_does_not_tell_its_iterations() -> None:
    assert not Share().renew()
    assert not Turns(anyio.Event).share("network").renew()


@on_both_loops
async def test_addresses_of_a_network_are_served_in_turn(loop: loops.Loop) -> None:
    work = Work()
    busy = [work.connection("many", "network", "address", 2_000) for _ in range(100)]
    await together(*busy, work.connection("one", "network", "other address", 2_000))
    last = len(work.order) - 1 - work.order[::-1].index("one")
    assert last < 3 * 2_000


@pytest.mark.parametrize("loop", LOOPS, ids=lambda loop: loop.name)
@settings(max_examples=40, deadline=None)
@given(
    connections=st.lists(
        st.tuples(st.integers(0, 3), st.integers(0, 2), st.integers(0, 300), st.booleans()), min_size=1, max_size=40
    ),
    seed=st.integers(0, 1_000),
)
def test_all_connections_end_although_some_are_cancelled(
    loop: loops.Loop, connections: list[tuple[int, int, int, bool]], seed: int
) -> None:
    chance = random.Random(seed)
    work = Work()

    async def main() -> None:
        async with anyio.create_task_group() as group:

            async def one(number: int, network: int, address: int, events: int, cancelled: bool) -> None:
                with anyio.CancelScope() as scope:
                    if cancelled:
                        group.start_soon(cancel_later, scope)
                    await work.cause(str(number), str(network), str(address), events)

            async def cancel_later(scope: anyio.CancelScope) -> None:
                for _ in range(chance.randrange(20)):
                    await checkpoint()
                scope.cancel()

            for number, (network, address, events, cancelled) in enumerate(connections):
                group.start_soon(one, number, network, address, events, cancelled)

    loop.run(main)
    counted = Counter(work.order)
    assert [counted[str(number)] for number, each in enumerate(connections) if not each[3]] == [
        each[2] for each in connections if not each[3]
    ]
    assert not work.turns._waiting


@on_both_loops
async def test_cancellation_at_every_suspension_lets_the_others_continue(loop: loops.Loop) -> None:
    async def scenario(interruption: Interruption) -> None:
        work = Work()

        async def interrupted() -> None:
            await interruption.run(work.connection("interrupted", "network", "address", 500))

        others = [
            work.connection(f"other {number}", f"network{number % 2 or ''}", f"address {number % 3}", 500)
            for number in range(6)
        ]
        await together(interrupted, *others)
        counted = Counter(work.order)
        assert [counted[f"other {number}"] for number in range(6)] == [500] * 6
        assert not work.turns._waiting

    assert await at_every_suspension(scenario) >= 3


def test_share_of_a_network_is_kept_while_it_is_used() -> None:
    turns = Turns(anyio.Event)
    share = turns.share("network")
    share.left = 1
    assert turns.share("network") is share
    assert turns.share("other network") is not share
    del share
    assert turns.share("network").left == EVENTS_PER_TURN


@on_both_loops
async def test_connections_of_a_network_to_any_listener_share_their_turns(loop: loops.Loop) -> None:
    shares: list[tuple[Share, object]] = []

    async def session(connection: AsyncServerConnection[smtp.ServerEvent]) -> None:
        shares.append((connection._stream.share, connection._stream.limit_key))

    settings = smtp.ServerSettings()
    async with (
        loop.adapter.serve_smtp(session, settings) as one,
        loop.adapter.serve_smtp(session, settings) as other,
    ):
        for port, address in ((one.port, "127.0.0.1"), (other.port, "127.0.0.2"), (other.port, "127.0.1.1")):
            machine = smtp.ClientConnection()
            async with await loop.adapter.connect(machine, "127.0.0.1", port, local_address=address) as client:
                await anext(client)
    (first, _), (second, _), (third, _) = shares
    assert first is second is not third
    assert [str(address) for _, address in shares] == ["127.0.0.1", "127.0.0.2", "127.0.1.1"]
    assert one.turns is not None
    assert first is one.turns.share("127.0.0.0/24")


@on_both_loops
async def test_handshake_counts_as_a_turn(loop: loops.Loop) -> None:
    """Its expensive step is the one after the ClientHello, so a client that only connects has not used its turn."""
    stream, client = await connected(loop.name, Limits())
    hello = TlsLayer(client_context(), server_side=False, server_hostname="localhost")
    hello.step_handshake()
    stream.share.left = -1
    with client:
        client.send(hello.take())
        client.shutdown(socket.SHUT_WR)
        with pytest.raises(ConnectionResetError):
            await start_tls(stream, TlsOptions(context=server_context(), timeout=60.0), server_side=True)
    assert stream.share.left == EVENTS_PER_TURN - HANDSHAKE - 1  # its record counts too
    stream.abort()


class AllAtOnce(MemoryStream):
    """A client that sends *data* at once."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.now = lambda: 0.0
        self.unread = data

    def take(self) -> bytes:
        data, self.unread = self.unread, b""
        return data

    def put_back(self, data: bytes) -> None:
        self.unread = data

    async def wait_readable(self, due: float) -> None: ...


@on_both_loops
async def test_each_tls_record_counts_as_an_event(loop: loops.Loop) -> None:
    """Key updates cause no event of the machine, and each takes as long as one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    with tempfile.TemporaryDirectory() as directory:
        context.keylog_filename = f"{directory}/keys"
        server, _ = layers(client_side=context)
        updates = KeyUpdates(Path(context.keylog_filename))
    stream = AllAtOnce(b"".join(updates.next(requested=False) for _ in range(10 * EVENTS_PER_TURN)))
    connection = AsyncServerConnection(
        smtp.ServerConnection(smtp.ServerSettings(), entropy=bytes(32)), stream, Peer("192.0.2.1", 1), None, server
    )
    async for event in connection:
        if isinstance(event, Question):
            connection.answer(event, ACCEPT)
    assert stream.turns >= 10


@on_both_loops
async def test_each_record_of_a_handshake_counts_as_an_event(loop: loops.Loop) -> None:
    """A ClientHello may be split into records of one byte (RFC 8446 section 5.1)."""
    hello = b"\x01\x00\xff\xff" + bytes(10 * EVENTS_PER_TURN)
    for alpn in ("smtp", None):
        stream = AllAtOnce(b"".join(b"\x16\x03\x01\x00\x01" + bytes([each]) for each in hello))
        options = TlsOptions(context=server_context(), timeout=60.0, alpn=alpn)
        with pytest.raises(ConnectionResetError):  # it ends before the ClientHello is complete
            await start_tls(stream, options, server_side=True)
        assert stream.turns >= 10


@given(st.lists(st.binary(max_size=300), max_size=20), st.integers(1, 5), st.randoms(use_true_random=False))
def test_record_counter_finds_the_ends_of_records(contents: list[bytes], most: int, chance: random.Random) -> None:
    """However the records are split, each call passes the data up to the header after the *most*-th record."""
    data = b"".join(b"\x17\x03\x03" + len(content).to_bytes(2, "big") + content for content in contents)
    ends = [0]
    for content in contents:
        ends.append(ends[-1] + 5 + len(content))
    counter = RecordCounter()
    at = 0
    while at < len(data):
        piece = data[at : at + chance.randrange(1, 400)]
        before = counter.number
        size = counter.count(piece, most)
        assert counter.number - before <= most
        assert size == len(piece) or at + size in ends
        assert size > 0
        at += size
        assert counter.number == sum(at >= end + 5 for end in ends[:-1])
