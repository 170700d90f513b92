"""A session whose task is cancelled closes the maildrop, releases memory and leaves no staged message."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
import pytest
import trio

from mailauth import pop3, smtp
from mailauth_io import server, stores
from mailauth_io._workers import FILES
from mailauth_io.adapters.connection import AsyncServerConnection
from mailauth_io.adapters.stream import Peer
from mailauth_io.server.pop3_session import Pop3Session
from mailauth_io.server.smtp_session import SmtpSession
from mailauth_io.server.state import ServerState
from tests.io import file_calls, loops
from tests.io.next_hops import Double, Fault
from tests.io.server_support import PASSWORD, Run, accounts, on_both_loops
from tests.io.time_machine import MemoryStream

pytestmark = on_both_loops


class SilentClient(MemoryStream):
    """A client that sends *said* and then neither sends more nor closes."""

    def __init__(self, *said: bytes) -> None:
        super().__init__()
        self.said = list(said)
        self.silent = False
        self.now = lambda: 0.0

    def take(self) -> bytes | None:
        return self.said.pop(0) if self.said else None

    async def wait_readable(self, due: float) -> None:
        if self.said:
            return
        self.silent = True
        await loops.current().sleep_forever()

    def put_back(self, data: bytes) -> None:
        self.said.insert(0, data)


async def cancel(
    work: Callable[[], Awaitable[None]], ready: Callable[[], bool], meanwhile: Callable[[], None] = lambda: None
) -> None:
    """Start *work* in a task, cancel it as soon as it is *ready*, call *meanwhile*, and wait for the task."""

    async def wait() -> None:
        while not ready():
            await loops.current().sleep(0)

    if loops.current().name == "trio":
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            await wait()
            nursery.cancel_scope.cancel()
            meanwhile()
        return

    async def whole() -> None:
        await work()

    task = asyncio.create_task(whole())
    await wait()
    task.cancel()
    meanwhile()
    with pytest.raises(asyncio.CancelledError):
        await task


async def threads_have_ended() -> None:
    while FILES.admission.running:
        await loops.current().sleep(0)


def server_state(
    maildrops: stores.Maildrops, budget: stores.Budget, outbox: stores.Outbox | server.NextHop | None = None
) -> ServerState:
    kept = server.Stores(
        accounts=accounts(), maildrops=maildrops, outbox=outbox or stores.MemoryOutbox(), budget=budget
    )
    return ServerState.of(server.Config(legacy=True), kept, lambda: 0.0)


def smtp_work(shared: ServerState, stream: SilentClient) -> Callable[[], Awaitable[None]]:
    async def work() -> None:
        machine = smtp.ServerConnection(shared.config.smtp_settings(), entropy=bytes(32))
        await SmtpSession.serve(shared, AsyncServerConnection(machine, stream, Peer("192.0.2.1", 1), None, None))

    return work


def pop3_work(shared: ServerState, stream: SilentClient) -> Callable[[], Awaitable[None]]:
    async def work() -> None:
        machine = pop3.ServerConnection(shared.config.pop3_settings(), entropy=bytes(32))
        await Pop3Session.serve(shared, AsyncServerConnection(machine, stream, Peer("192.0.2.1", 1), None, None))

    return work


MESSAGE = b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<alice@example.test>\r\nRCPT TO:<bob@example.test>\r\nDATA\r\n"
LOGIN = b"AUTH PLAIN " + base64.b64encode(f"\0alice\0{PASSWORD}".encode()) + b"\r\n"


def test_cancellation_during_data_releases_memory(run: Run) -> None:
    budget = stores.Budget()
    stream = SilentClient(MESSAGE, b"half a message\r\n")

    async def main() -> None:
        await cancel(smtp_work(server_state(stores.MemoryMaildrops(), budget), stream), lambda: stream.silent)

    run(main)
    assert stream.heard.endswith(b"\r\n")
    assert b"354 " in stream.heard
    assert budget.free == budget.size


@attrs.define
class Stuck:
    """Maildrops that store the first copy of a message and hang at the second."""

    real: stores.Maildrops
    stuck: bool = False
    count: int = 0

    async def open(self, name: str) -> stores.OpenedMaildrop | pop3.Unavailable:
        return await self.real.open(name)

    async def stage(self, name: str, head: bytes, content: stores.MessageContent) -> stores.Staged:
        self.count += 1
        if self.count == 2:
            self.stuck = True
            await loops.current().sleep_forever()
        return await self.real.stage(name, head, content)


@pytest.mark.parametrize("kind", ["memory", "maildir"])
def test_cancellation_during_delivery_leaves_no_message(run: Run, kind: str, tmp_path: Path) -> None:
    budget = stores.Budget()
    stuck = Stuck(stores.MemoryMaildrops() if kind == "memory" else stores.MaildirMaildrops(tmp_path))
    stream = SilentClient(MESSAGE, b"whole\r\n.\r\n")

    async def main() -> None:
        await cancel(smtp_work(server_state(stuck, budget), stream), lambda: stuck.stuck)
        opened = await stuck.open("alice")
        assert not isinstance(opened, pop3.Unavailable)
        assert opened.messages == ()
        opened.close()

    run(main)
    assert b"queued" not in stream.heard
    assert budget.free == budget.size
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} <= {"mailauth.lock"}


def test_cancellation_while_next_hop_is_silent_leaves_no_message(run: Run, tmp_path: Path) -> None:
    """The local copy is staged, and the next hop may have the message, but the client has no reply."""
    budget = stores.Budget()
    double = Double(deeds={smtp.MessageComplete: [Fault.FALL_SILENT]})
    commands = MESSAGE.replace(b"<bob@example.test>", b"<bob@far.test>").replace(b"MAIL", LOGIN + b"MAIL")
    stream = SilentClient(commands, b"whole\r\n.\r\n")

    async def main() -> None:
        async with loops.current().adapter.serve_smtp(double.session, smtp.ServerSettings(), grace=0.1) as listener:
            hop = server.NextHop(host="127.0.0.1", port=listener.port, tls_required=False)
            work = smtp_work(server_state(stores.MaildirMaildrops(tmp_path), budget, hop), stream)
            await cancel(work, lambda: double.heard[-1:] == ["MessageComplete"])

    run(main)
    assert b"queued" not in stream.heard
    assert budget.free == budget.size
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("kind", ["memory", "maildir"])
def test_cancellation_with_open_maildrop_closes_it(run: Run, kind: str, tmp_path: Path) -> None:
    maildrops: stores.Maildrops = stores.MemoryMaildrops() if kind == "memory" else stores.MaildirMaildrops(tmp_path)
    stream = SilentClient(LOGIN)

    async def main() -> None:
        await cancel(pop3_work(server_state(maildrops, stores.Budget()), stream), lambda: stream.silent)
        assert b"+OK maildrop has 0 messages" in stream.heard
        assert not isinstance(await maildrops.open("alice"), pop3.Unavailable)

    run(main)


def test_cancellation_while_thread_opens_maildrop_leaves_it_unlocked(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread continues and takes the lock after its task was cancelled."""
    entered, go_on = threading.Event(), threading.Event()

    def slow(path: Path) -> None:
        entered.set()
        assert go_on.wait(20)

    file_calls.before(monkeypatch, "open", slow)
    maildrops = stores.MaildirMaildrops(tmp_path)
    stream = SilentClient(LOGIN)

    async def first() -> None:
        await cancel(pop3_work(server_state(maildrops, stores.Budget()), stream), entered.is_set, go_on.set)
        await threads_have_ended()

    async def second() -> None:
        assert not isinstance(await maildrops.open("alice"), pop3.Unavailable)

    run(first)
    run(second)


def test_cancellation_while_thread_writes_message_leaves_no_file(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = threading.Event(), threading.Event()

    def slow(path: Path) -> None:
        entered.set()
        assert go_on.wait(20)

    file_calls.before(monkeypatch, "open", slow)
    budget = stores.Budget()
    stream = SilentClient(MESSAGE, b"whole\r\n.\r\n")

    async def main() -> None:
        shared = server_state(stores.MaildirMaildrops(tmp_path), budget)
        await cancel(smtp_work(shared, stream), entered.is_set, go_on.set)
        await threads_have_ended()

    run(main)
    assert budget.free == budget.size
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_cancellation_during_deletion_keeps_lock_until_it_is_finished(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The maildrop stays locked until the thread has finished the deletion, after its task was cancelled."""
    entered, go_on = threading.Event(), threading.Event()

    def slow(path: Path) -> None:
        entered.set()
        assert go_on.wait(20)

    maildrops = stores.MaildirMaildrops(tmp_path)
    stream = SilentClient(LOGIN, b"DELE 1\r\nDELE 2\r\nQUIT\r\n")

    async def first() -> None:
        for _ in range(2):
            content = stores.MessageContent.of(b"x\r\n", stores.Budget())
            await (await maildrops.stage("alice", b"", content)).commit()
        file_calls.before(monkeypatch, "unlink", slow)
        work = pop3_work(server_state(maildrops, stores.Budget()), stream)
        if loops.current().name == "trio":  # a trio task waits for its thread
            await cancel(work, entered.is_set, go_on.set)
        else:
            await cancel(work, entered.is_set)
            assert await maildrops.open("alice") is pop3.Unavailable.IN_USE
            go_on.set()
        await threads_have_ended()

    async def second() -> None:
        opened = await maildrops.open("alice")
        assert not isinstance(opened, pop3.Unavailable)
        assert opened.messages == ()

    run(first)
    run(second)
