"""A task that is cancelled anywhere leaves nothing behind, and loses no mail: each test tries every suspension."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import anyio
import attrs
import pytest
import trio

from mailauth import ACCEPT, Question, pop3, smtp
from mailauth_io import client, server, stores
from mailauth_io.adapters import AsyncServerConnection, Listener
from mailauth_io.server.state import ServerState
from tests.io import loops
from tests.io.by_hand import hear
from tests.io.grant_stores import InRedis, Keeper, Memory, Sqlite, on_both_loops
from tests.io.interruptions import Interruption, at_every_suspension, running_tasks, until, until_threads_end
from tests.io.log_events import logged
from tests.io.next_hops import Double
from tests.io.server_support import PASSWORD, TIMEOUT
from tests.io.tls import client_context, server_context
from tests.redis_server import redis_server

ALICE, BOB, FAR = "alice@example.test", "bob@example.test", "dinah@far.test"
MESSAGE = b"Subject: tea\r\n\r\nAt six.\r\n"
PLAIN = base64.b64encode(f"\0alice\0{PASSWORD}".encode())

STARTTLS, QUIT = b"STARTTLS\r\n", b"QUIT\r\n"
SUBMISSION: Final[tuple[bytes, ...]] = (
    b"EHLO client.test\r\n", STARTTLS, b"EHLO client.test\r\n", b"AUTH PLAIN " + PLAIN + b"\r\n",
    b"MAIL FROM:<alice@example.test>\r\n", b"RCPT TO:<alice@example.test>\r\n", b"RCPT TO:<bob@example.test>\r\n",
    b"RCPT TO:<dinah@far.test>\r\n", b"DATA\r\n", MESSAGE + b".\r\n", QUIT,
)  # fmt: skip
STLS = b"STLS\r\n"
COLLECTION: Final[tuple[bytes, ...]] = (STLS, b"USER alice\r\n", f"PASS {PASSWORD}\r\n".encode(), b"DELE 1\r\n", QUIT)


@functools.cache
def credential() -> stores.Credential:
    """A password that is hashed, in a thread, at each login."""
    return stores.read_credential(stores.write_credential("SCRAM-SHA-256", PASSWORD.encode()).encode())


def accounts() -> stores.MemoryAccounts:
    return stores.MemoryAccounts([stores.Account(name=name, credential=credential()) for name in ("alice", "bob")])


@attrs.define
class Interrupted:
    """The sessions at *port* of the server whose state is *state* are interrupted."""

    interruption: Interruption | None = None
    spared: int = 0
    """The port of another server in this process, which is not interrupted."""
    state: ServerState | None = None

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        handle, of = Listener.handle, ServerState.of

        async def interrupted_handle(listener: Listener, *arguments: Any) -> None:
            work = handle(listener, *arguments)
            if self.interruption is None or listener.port == self.spared:
                await work
            elif loops.current().name == "trio":
                with trio.CancelScope() as scope:
                    await self.interruption.of(work, scope.cancel)
            else:
                task = asyncio.current_task()
                assert task is not None
                await self.interruption.of(work, task.cancel)

        def noted(*arguments: Any, **options: Any) -> ServerState:
            self.state = of(*arguments, **options)
            return self.state

        monkeypatch.setattr(Listener, "handle", interrupted_handle)
        monkeypatch.setattr(ServerState, "of", noted)

    def check_released(self) -> None:
        """Check that no session holds anything."""
        state = self.state
        assert state is not None
        assert (len(state.limiter), len(state.inbound_quota), state._logged_in) == (0, 0, {})


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Interrupted:
    made = Interrupted()
    made.install(monkeypatch)
    return made


def talk(port: int | None, lines: tuple[bytes, ...], tls: bool = False) -> list[bytes]:
    """Send each of *lines* after the reply to the last one.  Return the replies until the server closes.

    With *tls*, start with a handshake.
    """
    heard: list[bytes] = []
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(socket.create_connection(("127.0.0.1", port or 0), timeout=TIMEOUT))
        try:
            if tls:
                connection = stack.enter_context(client_context().wrap_socket(connection, server_hostname="127.0.0.1"))
            heard.append(hear(connection))
            for line in lines:
                connection.sendall(line)
                heard.append(hear(connection))
                if line in (STARTTLS, STLS):
                    connection = client_context().wrap_socket(connection, server_hostname="127.0.0.1")
                    stack.enter_context(connection)
            assert connection.recv(1) == b""
        except TimeoutError:
            raise
        except (OSError, EOFError):
            pass
    return heard


def files(directory: Path) -> list[str]:
    """Return the messages and remains in *directory*: the name of the Maildir and of the folder of each file."""
    found = [path.relative_to(directory).parts for path in directory.rglob("*") if path.is_file()]
    return sorted("/".join(parts[:-1]) for parts in found if parts[-1] != "mailauth.lock")


CONFIG: dict[str, Any] = {"smtp": 0, "pop3": 0, "legacy": True, "ssl_context": server_context(), "grace": TIMEOUT}


@on_both_loops
async def test_submission_is_stored_for_all_recipients_or_none(
    loop: loops.Loop, interrupted: Interrupted, tmp_path: Path
) -> None:
    async def scenario(interruption: Interruption) -> None:
        home = tmp_path / f"{interruption.at}{interruption.late}"
        interrupted.interruption = interruption
        kept = server.Stores(
            accounts=accounts(),
            maildrops=stores.MaildirMaildrops(home / "mail"),
            outbox=stores.MaildirOutbox(home / "out"),
        )
        with logged() as events:
            async with server.serve(server.Config(**CONFIG), kept) as ports:
                heard = await loop.in_thread(talk, ports.smtp, SUBMISSION)
        await until_threads_end()
        accepted = any(event.name == "message" for event in events)
        if b"queued" in b"".join(heard) or not interruption.happened:
            assert accepted, heard
        assert files(home) == (["mail/alice/new", "mail/bob/new", "out/new"] if accepted else [])
        assert kept.budget.free == kept.budget.size
        interrupted.check_released()

    assert await at_every_suspension(scenario) > 20


@on_both_loops
async def test_submission_that_is_relayed_is_acknowledged_after_the_next_hop_has_it(
    loop: loops.Loop, interrupted: Interrupted
) -> None:
    async def scenario(interruption: Interruption) -> None:
        double = Double()
        maildrops = stores.MemoryMaildrops()
        budget = stores.Budget()
        interrupted.interruption = interruption
        async with loop.adapter.serve_smtp(
            double.session, double.settings, ssl_context=server_context(), grace=TIMEOUT
        ) as listener:
            interrupted.spared = listener.port
            hop = server.NextHop(
                host="127.0.0.1",
                port=listener.port,
                ssl_context=client_context(),
                login=server.Login(name="relay", password=b"secret"),
            )
            kept = server.Stores(accounts=accounts(), maildrops=maildrops, outbox=hop, budget=budget)
            with logged() as events:
                async with server.serve(server.Config(**CONFIG), kept) as ports:
                    heard = await loop.in_thread(talk, ports.smtp, SUBMISSION)
        accepted = any(event.name == "message" for event in events)
        if b"queued" in b"".join(heard) or not interruption.happened:
            assert accepted, heard
        local = [len(maildrops.messages(name)) for name in ("alice", "bob")]
        assert local == ([1, 1] if accepted else [0, 0])
        assert [taken.recipients for taken in double.taken] == [(FAR,)] or not accepted
        for name in ("alice", "bob"):
            opened = await maildrops.open(name)
            assert not isinstance(opened, pop3.Unavailable)
            await opened.update(frozenset(range(1, len(opened.messages) + 1)))
            opened.close()
        assert budget.free == budget.size
        interrupted.check_released()

    assert await at_every_suspension(scenario) > 30


@on_both_loops
async def test_messages_are_deleted_at_quit_only_and_the_maildrop_is_unlocked(
    loop: loops.Loop, interrupted: Interrupted, tmp_path: Path
) -> None:
    async def scenario(interruption: Interruption) -> None:
        home = tmp_path / f"{interruption.at}{interruption.late}"
        interrupted.interruption = interruption
        maildrops = stores.MaildirMaildrops(home)
        grants = Sqlite(tmp_path / f"{home.name}.db")
        budget = stores.Budget()
        for _ in range(2):
            content = stores.MessageContent.of(MESSAGE, budget)
            await (await maildrops.stage("alice", b"", content)).commit()
            content.release()
        store = grants.open()
        kept = server.Stores(
            accounts=accounts(), maildrops=maildrops, outbox=stores.MemoryOutbox(), grants=store, budget=budget
        )
        with contextlib.closing(grants):
            async with server.serve(server.Config(**CONFIG), kept) as ports:
                heard = await loop.in_thread(talk, ports.pop3, COLLECTION)
            assert bool(await store.find("127.0.0.1")) or len(heard) <= COLLECTION.index(COLLECTION[2]) + 1
        left = len(files(home))
        if len(heard) == 1 + len(COLLECTION):  # +OK to QUIT was received
            assert left == 1
        elif len(heard) < len(COLLECTION):  # QUIT was not sent
            assert left == 2
        assert left in (1, 2)
        assert interruption.happened or len(heard) == 1 + len(COLLECTION)
        opened = await maildrops.open("alice")
        assert not isinstance(opened, pop3.Unavailable)
        assert len(opened.messages) == left
        opened.close()
        interrupted.check_released()

    assert await at_every_suspension(scenario) > 10


@on_both_loops
@pytest.mark.parametrize("tls", ["none", "starttls", "implicit"])
async def test_submit_leaves_no_connection_and_at_most_one_message(loop: loops.Loop, tls: client.TlsMode) -> None:
    async def scenario(interruption: Interruption) -> None:
        double = Double(settings=attrs.evolve(Double().settings, chunking=interruption.at % 2 == 0))
        async with loop.adapter.serve_smtp(
            double.session, attrs.evolve(double.settings, starttls=tls == "starttls"),
            ssl_context=server_context(), implicit_tls=tls == "implicit", grace=TIMEOUT,
        ) as listener:  # fmt: skip
            result = await interruption.run(
                lambda: client.submit(
                    MESSAGE, ALICE, [BOB], host="127.0.0.1", port=listener.port, tls=tls,
                    ssl_context=None if tls == "none" else client_context(),
                )
            )  # fmt: skip
        assert len(double.taken) <= 1
        if result is not None:
            assert (result.complete, len(double.taken)) == (True, 1)
        assert result is not None or interruption.happened

    assert await at_every_suspension(scenario) >= 8


@on_both_loops
@pytest.mark.parametrize("tls", ["none", "implicit"])
async def test_collect_deletes_no_message_that_the_caller_did_not_get(loop: loops.Loop, tls: client.TlsMode) -> None:
    async def scenario(interruption: Interruption) -> None:
        maildrops = stores.MemoryMaildrops()
        for text in (b"1\r\n", b"2\r\n"):
            maildrops.add("alice", b"Subject: x\r\n\r\n" + text)
        before = [message.data for message in maildrops.messages("alice")]
        got: list[bytes] = []
        kept = server.Stores(accounts=accounts(), maildrops=maildrops, outbox=stores.MemoryOutbox())
        config = server.Config(pop3=0, pop3s=0, legacy=True, ssl_context=server_context(), grace=TIMEOUT)

        async def collect(ports: server.RunningServer) -> str:
            async with client.collect(
                host="127.0.0.1", port=ports.pop3 if tls == "none" else ports.pop3s, tls=tls, delete=True,
                ssl_context=None if tls == "none" else client_context(), login=("alice", PASSWORD),
            ) as messages:  # fmt: skip
                async for message in messages:
                    got.append(message.raw)
            return "done"

        async with server.serve(config, kept) as ports:
            done = await interruption.run(functools.partial(collect, ports))
        left = [message.data for message in maildrops.messages("alice")]
        assert left in (before, [])
        assert left == before or got == before
        if done:
            assert (got, left) == (before, [])

    assert await at_every_suspension(scenario) >= 8


@on_both_loops
async def test_server_that_is_interrupted_while_it_starts_or_stops_leaves_nothing(
    loop: loops.Loop, tmp_path: Path
) -> None:
    """A client is connected, and has not sent all of its message, when the server stops."""

    async def scenario(interruption: Interruption) -> None:
        home = tmp_path / f"{interruption.at}{interruption.late}"
        kept = server.Stores(accounts=accounts(), maildrops=stores.MaildirMaildrops(home), outbox=stores.MemoryOutbox())
        config = server.Config(
            hosts=("127.0.0.1", "127.0.0.2"), smtp=0, smtps=0, pop3=0, pop3s=0, ssl_context=server_context(), grace=0.05
        )
        ended = False
        tasks = running_tasks()

        async def serve() -> None:
            nonlocal ended
            with contextlib.ExitStack() as stack:
                async with server.serve(config, kept) as ports:
                    connection = stack.enter_context(socket.create_connection(("127.0.0.1", ports.smtp or 0)))
                    connection.settimeout(TIMEOUT)
                    await loop.in_thread(hear, connection)
                    for line in SUBMISSION[0], SUBMISSION[4], SUBMISSION[5], SUBMISSION[8]:
                        connection.sendall(line)
                        await loop.in_thread(hear, connection)
                    connection.sendall(MESSAGE)
                ended = True

        await interruption.run(serve)
        assert running_tasks() == tasks  # the sessions have ended before the context
        assert ended or interruption.happened
        assert files(home) == []
        assert kept.budget.free == kept.budget.size

    assert await at_every_suspension(scenario) >= 8


@on_both_loops
@pytest.mark.parametrize("tls", [False, True])
async def test_session_goes_on_after_a_call_that_was_cancelled_while_it_read(loop: loops.Loop, tls: bool) -> None:
    """No input is lost.  If the call was cancelled while it wrote, the connection is closed."""
    lines = (*SUBMISSION[:1], *SUBMISSION[4:7], *SUBMISSION[8:])
    codes = [b"220", b"250", b"250", b"250", b"250", b"354", b"250", b"221"]

    async def scenario(interruption: Interruption) -> None:
        aborted = False

        async def session(connection: AsyncServerConnection[smtp.ServerEvent]) -> None:
            nonlocal aborted

            async def receive() -> smtp.ServerEvent | str:
                return await anext(connection, "the end")

            try:
                while (event := await interruption.run(receive)) != "the end":
                    match event:
                        case smtp.Connected() | smtp.Mail() | smtp.Rcpt() | smtp.Data():
                            connection.answer(event, ACCEPT)
                        case smtp.MessageComplete():
                            connection.answer(event, ACCEPT)
                        case Question():
                            connection.decline(event)
                        case _:
                            pass
            except ConnectionAbortedError:
                aborted = True

        async with loop.adapter.serve_smtp(
            session, smtp.ServerSettings(), ssl_context=server_context(), implicit_tls=tls, grace=TIMEOUT
        ) as listener:
            heard = await loop.in_thread(talk, listener.port, lines, tls)
        assert [line[:3] for line in heard] == codes[: len(heard)]
        assert aborted or len(heard) == len(codes)
        assert interruption.happened or not aborted

    assert await at_every_suspension(scenario) >= 7


@on_both_loops
async def test_listener_that_is_interrupted_while_it_closes_waits_for_its_sessions(loop: loops.Loop) -> None:
    """A session that is cancelled may need some time to end."""

    async def scenario(interruption: Interruption) -> None:
        running = 0

        async def session(connection: AsyncServerConnection[smtp.ServerEvent]) -> None:
            nonlocal running
            running += 1
            try:
                await loop.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    for _ in range(3):
                        await loop.sleep(0)
                running -= 1

        async def serve() -> None:
            with socket.socket() as connection:
                try:
                    async with loop.adapter.serve_smtp(session, smtp.ServerSettings(), grace=0.01) as listener:
                        connection.connect((listener.address, listener.port))
                        await until(lambda: running == 1)
                finally:
                    assert running == 0

        await interruption.run(serve)

    assert await at_every_suspension(scenario) >= 4


@pytest.fixture(params=("memory", "sqlite", "redis"))
def keeper(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Keeper]:
    with contextlib.ExitStack() as stack:
        made: Keeper
        if request.param == "memory":
            made = Memory()
        elif request.param == "sqlite":
            made = Sqlite(tmp_path / "grants.db")
        else:
            made = InRedis(stack.enter_context(redis_server(tmp_path)))
        stack.callback(made.close)
        yield made


@on_both_loops
async def test_interrupted_calls_leave_a_store_of_grants_that_works(loop: loops.Loop, keeper: Keeper) -> None:
    async def scenario(interruption: Interruption) -> None:
        store = keeper.open()

        async def calls() -> str:
            await store.grant("192.0.2.1", "alice")
            await store.grant("192.0.2.1", "bob")
            await store.find("192.0.2.1")
            await store.active()
            await store.revoke_identity("alice")
            await store.revoke_address("192.0.2.1")
            return "done"

        done = await interruption.run(calls)
        assert done or interruption.happened
        await store.grant("192.0.2.2", "carol")
        found = await store.find("192.0.2.2")
        assert found is not None
        await store.revoke_address("192.0.2.1")
        assert await store.revoke_identity("carol") == 1
        assert await store.active() == []
        store.close()

    await at_every_suspension(scenario)
