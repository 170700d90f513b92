"""A next hop that is this server, or that relays back to it: the loop ends, and the client gets 451."""

from __future__ import annotations

import logging
import re
import smtplib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import anyio
import attrs
import pytest
from anyio.abc import ByteStream, SocketAttribute

from mailauth import ACCEPT, Question, smtp
from mailauth_io import server, stores
from tests.io import loops
from tests.io.next_hops import FAR, LOCAL, send, state_of
from tests.io.scripted_hop import ScriptedHop
from tests.io.server_support import PASSWORD, TIMEOUT, Run, accounts, on_both_loops

pytestmark = on_both_loops

TOKEN = re.compile(r"\b[0-9a-f]{32}\b")
LOGIN = server.Login(name="alice", password=PASSWORD.encode())


@attrs.define
class Proxy:
    """A TCP proxy, so that a server can have a next hop that is started later, or is that server."""

    port: int
    target: int = 0
    first_target: int | None = None
    """Where the first connection goes, if not to *target*."""

    async def handle(self, client: ByteStream) -> None:
        target, self.first_target = self.first_target or self.target, None
        upstream = await anyio.connect_tcp("127.0.0.1", target)
        async with client, upstream, anyio.create_task_group() as tasks:
            tasks.start_soon(self._copy, client, upstream)
            await self._copy(upstream, client)
            tasks.cancel_scope.cancel()

    @staticmethod
    async def _copy(source: ByteStream, sink: ByteStream) -> None:
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            while True:
                await sink.send(await source.receive())
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError, OSError):
            await sink.send_eof()


@asynccontextmanager
async def proxy() -> AsyncIterator[Proxy]:
    async with AsyncExitStack() as stack:
        listener = await stack.enter_async_context(await anyio.create_tcp_listener(local_host="127.0.0.1"))
        tasks = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(tasks.cancel_scope.cancel)
        found = Proxy(listener.extra(SocketAttribute.local_port))
        tasks.start_soon(listener.serve, found.handle)
        yield found


def next_hop(port: int, **fields: Any) -> server.NextHop:
    return server.NextHop(host="127.0.0.1", port=port, tls_required=False, login=LOGIN, clear_text_login=True, **fields)


@asynccontextmanager
async def relay(
    outbox: stores.Outbox | server.NextHop, *interceptors: server.InterceptorFunction, domain: str = "example.test"
) -> AsyncIterator[int]:
    """Run a server and yield its SMTP port."""
    async with running_relay(outbox, *interceptors, domain=domain) as running:
        assert running.smtp is not None
        yield running.smtp


@asynccontextmanager
async def running_relay(
    outbox: stores.Outbox | server.NextHop, *interceptors: server.InterceptorFunction, domain: str = "example.test"
) -> AsyncIterator[server.RunningServer]:
    kept = server.Stores(accounts=accounts(), maildrops=stores.MemoryMaildrops(), outbox=outbox)
    config = server.Config(smtp=0, domains=(domain,), legacy=True)
    async with server.serve(config, kept, interceptors=interceptors) as running:
        yield running


def submit(port: int, *recipients: str) -> list[str]:
    with smtplib.SMTP("127.0.0.1", port, "client.test", timeout=TIMEOUT) as client:
        client.login("alice", PASSWORD)
        return send(client, *recipients)


def greeting(port: int) -> str:
    with smtplib.SMTP(timeout=TIMEOUT) as client:
        return client.connect("127.0.0.1", port)[1].decode()


def connections(caplog: pytest.LogCaptureFixture) -> int:
    """Return the number of connections that all servers have had."""
    return sum(record.getMessage().startswith("connected ") for record in caplog.records)


def test_server_that_is_its_own_next_hop_rejects_remote_mail_and_delivers_local_mail(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def main() -> list[str]:
        async with proxy() as way:
            async with running_relay(next_hop(way.port)) as running:
                way.target = running.smtp or 0
                replies = await loops.current().in_thread(submit, way.target, FAR, LOCAL, "bill@far.test")
            assert len(state_of(running).sessions) == 0
            return replies

    replies = run(main)
    loop = "451 4.4.6 mail loop: the next hop is this server"
    assert replies[:3] == [loop, "250 2.1.5 recipient ok", loop]
    assert replies[3].startswith("250 2.0.0 queued")
    assert connections(caplog) == 2
    assert "it is this server, so that mail would loop" in caplog.text


def test_check_at_the_start_finds_the_loop(run: Run) -> None:
    async def main() -> str | None:
        async with proxy() as way, running_relay(next_hop(way.port)) as running:
            way.target = running.smtp or 0
            return await running.check_next_hop()

    assert run(main) == "it is this server, so that mail would loop"


@pytest.mark.parametrize("first_is_other", [False, True])
def test_loop_through_processes_that_share_a_port_ends_when_one_is_connected_to_itself(
    run: Run, caplog: pytest.LogCaptureFixture, first_is_other: bool
) -> None:
    """``--reuse-port``: the system chooses the process for each connection.  Each has a token of its own."""
    caplog.set_level(logging.DEBUG)

    async def main() -> list[str]:
        async with proxy() as way, relay(next_hop(way.port)) as first, relay(next_hop(way.port)) as second:
            way.target = second if first_is_other else first
            way.first_target = second
            return await loops.current().in_thread(submit, first, FAR, LOCAL)

    replies = run(main)
    assert replies[0] == "451 4.4.6 mail loop: the next hop is this server"
    assert replies[2].startswith("250 2.0.0 queued")
    assert connections(caplog) == (3 if first_is_other else 4)


@pytest.mark.parametrize(("most", "each"), [(8, 2), (20, 5)])
def test_loop_through_another_server_ends_when_its_sessions_are_used_up(
    run: Run, caplog: pytest.LogCaptureFixture, most: int, each: int
) -> None:
    """Each server sees the token of the other one.  Every turn has the same address and account."""
    caplog.set_level(logging.DEBUG)
    limits = {"max_sessions": most, "timeouts": server.Timeouts(session=0.05)}

    async def main() -> list[str]:
        async with proxy() as way:
            async with running_relay(next_hop(way.port, **limits), domain="a.test") as first:
                port = first.smtp or 0
                async with running_relay(next_hop(port, **limits), domain="b.test") as second:
                    way.target = second.smtp or 0
                    replies = await loops.current().in_thread(submit, port, FAR, "alice@a.test")
            assert [len(state_of(each).sessions) for each in (first, second)] == [0, 0]
            return replies

    replies = run(main)
    assert replies[0] == "451 4.3.2 too many sessions with the next hop, try again later"
    assert replies[2].startswith("250 2.0.0 queued")
    assert connections(caplog) == 1 + 2 * each  # the client, and the sessions with each server


def test_greeting_of_a_server_that_relays_has_its_token(run: Run) -> None:
    def own_text(view: server.SessionView, question: Question[Any]) -> server.Decision:
        return smtp.Reply(220, "", "ESMTP\nno spam") if isinstance(question, smtp.Connected) else server.PASS

    def accept(view: server.SessionView, question: Question[Any]) -> server.Decision:
        return ACCEPT if isinstance(question, smtp.Connected) else server.PASS

    async def main() -> None:
        hop = next_hop(25)
        tokens = set()
        for interceptors, text in ((), "ESMTP"), ((accept,), "ESMTP"), ((own_text,), "ESMTP\nno spam"):
            async with running_relay(hop, *interceptors) as running:
                token = state_of(running).token
                found = await loops.current().in_thread(greeting, running.smtp or 0)
            assert found == f"example.test {text} {token}"
            assert TOKEN.fullmatch(token)
            tokens.add(token)
        assert len(tokens) == 3
        async with relay(stores.MemoryOutbox(), own_text) as port:
            assert await loops.current().in_thread(greeting, port) == "example.test ESMTP\nno spam"
        async with relay(stores.MemoryOutbox()) as port:
            assert await loops.current().in_thread(greeting, port) == "example.test ESMTP"

    run(main)


def test_loop_is_detected_before_a_login_or_mail_is_sent_and_no_other_address_is_tried(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token may be anywhere in the greeting, such as that of a proxy."""
    tried: list[str] = []

    def resolve(host: str, port: int) -> list[str]:
        tried.append(host)
        return ["127.0.0.1", "127.0.0.1"]

    monkeypatch.setattr("mailauth_io.server._next_hop_session.resolve", resolve)
    double = ScriptedHop()

    async def main() -> list[str]:
        async with running_relay(next_hop(double.port)) as running:
            double.greeting = f"220-proxy.test ESMTP\r\n220-{state_of(running).token} ok\r\n220 ready\r\n".encode()
            return await loops.current().in_thread(submit, running.smtp or 0, FAR)

    with double.listening():
        assert run(main)[0].startswith("451 4.4.6")
    assert double.commands() == [["EHLO"]]
    assert tried == ["127.0.0.1"]
