"""``collect`` and ``pop3_client``: what is retrieved, and that only what was retrieved is deleted."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any, cast

import anyio
import pytest
from anyio import to_thread

from mailauth import MessageChunk, pop3
from mailauth_io import client
from mailauth_io.client import _server
from tests.io.client.peers import MAILS, SILENT, End, Peer, Script, pop3_server
from tests.io.server_support import TIMEOUT, Run, on_both_loops

LOGIN = ("alice", "wonderland")
STEPS = ("GREETING", "CAPA", "USER", "PASS", "LIST", "UIDL", "RETR", "DELE", "QUIT")


def collected(run: Run, script: Script, got: list[client.CollectedMessage] | None = None, **options: Any) -> Peer:
    """Collect all messages, into *got*."""
    with pop3_server(script) as peer:
        run(lambda: collect_from(peer, [] if got is None else got, **options))
    return peer


async def collect_from(
    peer: Peer,
    got: list[client.CollectedMessage],
    *,
    then: Callable[[client.CollectedMessage], object] = bool,
    timeout: float = TIMEOUT,
    **options: Any,
) -> None:
    """Collect messages into *got* until *then* returns ``"break"``."""
    async with client.collect(
        host="127.0.0.1", port=peer.port, login=LOGIN, tls="none", timeout=timeout, **{"delete": True, **options}
    ) as messages:
        async for message in messages:
            got.append(message)
            if then(message) == "break":
                break


@on_both_loops
def test_all_messages_are_retrieved_and_deleted(run: Run) -> None:
    got: list[client.CollectedMessage] = []
    peer = collected(run, {}, got)
    assert [message.raw for message in got] == list(MAILS)
    assert [(message.number, message.unique_id, message.complete) for message in got] == [
        (number, f"id-{number}", True) for number in (1, 2, 3)
    ]
    assert [message.email["Subject"] for message in got] == ["one", "two", "three"]
    assert got[1].email.get_content() == ".second\n"
    assert (peer.deleted, peer.heard[-1]) == ([1, 2, 3], "QUIT")


@on_both_loops
def test_nothing_is_deleted_by_default(run: Run) -> None:
    got: list[client.CollectedMessage] = []
    with pop3_server({}) as peer:
        run(lambda: collect_from(peer, got, delete=False))
    assert len(got) == 3
    assert "DELE" not in peer.verbs()


@on_both_loops
def test_message_that_is_shorter_than_announced_is_not_deleted(run: Run) -> None:
    got: list[client.CollectedMessage] = []
    peer = collected(run, {"RETR 2": b"+OK\r\nSubject: two\r\n.\r\n"}, got)
    assert [message.complete for message in got] == [True, False, True]
    assert peer.deleted == [1, 3]


@on_both_loops
def test_message_that_the_server_does_not_send_is_named_and_the_others_are_deleted(run: Run) -> None:
    with pop3_server({"RETR 2": b"-ERR [SYS/TEMP] cannot read\r\n"}) as peer:
        with pytest.raises(
            client.ServerRejected, match=r"did not send message 2 \(unique-id id-2\): -ERR \[SYS/"
        ) as found:
            run(lambda: collect_from(peer, []))
        assert found.value.temporary
    assert peer.deleted == [1]


@on_both_loops
def test_collecting_can_go_on_after_a_message_that_the_server_does_not_send(run: Run) -> None:
    numbers: list[int] = []

    async def main() -> None:
        async with client.collect(host="127.0.0.1", port=peer.port, login=LOGIN, tls="none", delete=True) as messages:
            while True:
                try:
                    numbers.append((await anext(messages)).number)
                except client.ServerRejected:
                    pass
                except StopAsyncIteration:
                    break

    with pop3_server({"RETR 2": b"-ERR cannot read\r\n"}) as peer:
        run(main)
    assert numbers == peer.deleted == [1, 3]


@on_both_loops
def test_rejected_deletion_is_an_error_and_the_others_are_deleted(run: Run) -> None:
    with pop3_server({"DELE 2": b"-ERR no\r\n"}) as peer, pytest.raises(client.ServerRejected, match="DELE: -ERR no"):
        run(lambda: collect_from(peer, []))
    assert peer.deleted == [1]


@on_both_loops
@pytest.mark.parametrize("step", STEPS)
def test_connection_lost_at_a_step_deletes_nothing(run: Run, step: str) -> None:
    with pop3_server({step: End()}) as peer, pytest.raises(client.ConnectionFailed):
        run(lambda: collect_from(peer, []))
    assert peer.deleted == ([1, 2, 3] if step == "QUIT" else [])


@on_both_loops
def test_connection_lost_in_a_message_deletes_nothing(run: Run) -> None:
    got: list[client.CollectedMessage] = []
    with pop3_server({"RETR 2": End(b"+OK\r\nSubject: tw")}) as peer, pytest.raises(client.ConnectionFailed):
        run(lambda: collect_from(peer, got))
    assert [message.number for message in got] == [1]
    assert "DELE 1" in peer.heard
    assert (peer.deleted, "QUIT" in peer.heard) == ([], False)


@on_both_loops
def test_lost_connection_that_the_caller_ignores_closes_the_socket(run: Run) -> None:
    async def main() -> None:
        async with client.pop3_client(host="127.0.0.1", port=peer.port, login=LOGIN, tls="none") as maildrop:
            with pytest.raises(client.ConnectionFailed):
                await maildrop.listing()

    with pop3_server({"LIST": End()}) as peer:
        run(main)


@on_both_loops
@pytest.mark.parametrize("step", STEPS)
def test_silent_server_times_out(run: Run, step: str) -> None:
    with pop3_server({step: SILENT}) as peer, pytest.raises(client.ConnectionFailed, match="timed out"):
        run(lambda: collect_from(peer, [], timeout=0.05))


@on_both_loops
@pytest.mark.parametrize(
    ("step", "said"), [("UIDL", b"+OK\r\n1 a\r\n.\r\n"), ("RETR 2", b"+OK\r\n.\r\n"), ("DELE 2", b"+OK\r\n")]
)
def test_session_that_the_server_ends_deletes_nothing(run: Run, step: str, said: bytes) -> None:
    """An autologout: an unsolicited -ERR, after which the server closes."""
    with pop3_server({step: End(said + b"-ERR autologout\r\n")}) as peer, pytest.raises(client.ClientError):
        run(lambda: collect_from(peer, []))
    assert (peer.deleted, "QUIT" in peer.heard) == ([], False)


@on_both_loops
@pytest.mark.parametrize(
    ("script", "numbers"), [({"DELE 1": b"+OK\r\n+OK\r\n"}, [1]), ({"UIDL": b"-ERR what?\r\n+OK\r\n"}, [])]
)
def test_reply_too_many_deletes_nothing(run: Run, script: Script, numbers: list[int]) -> None:
    """It is not taken as the reply to the next RETR: the message would begin with another reply."""
    got: list[client.CollectedMessage] = []
    with pop3_server(script) as peer, pytest.raises(client.ConnectionFailed, match="reply received without a command"):
        run(lambda: collect_from(peer, got))
    assert ([message.number for message in got], peer.deleted) == (numbers, [])


@on_both_loops
def test_exception_in_the_loop_keeps_the_deletions_before_it(run: Run) -> None:
    def fail_at_2(message: client.CollectedMessage) -> None:
        if message.number == 2:
            raise LookupError("disk full")

    with pop3_server({}) as peer, pytest.raises(LookupError):
        run(lambda: collect_from(peer, [], then=fail_at_2))
    assert (peer.deleted, peer.heard[-1]) == ([1], "QUIT")


@on_both_loops
def test_failed_connection_to_another_server_keeps_the_deletions_before_it(run: Run) -> None:
    """A loop that forwards each message: the session of the maildrop has not failed."""

    def fail_at_2(message: client.CollectedMessage) -> None:
        if message.number == 2:
            raise client.ConnectionFailed("another connection")

    with pop3_server({}) as peer, pytest.raises(client.ConnectionFailed, match="another connection"):
        run(lambda: collect_from(peer, [], then=fail_at_2))
    assert peer.deleted == [1]


@on_both_loops
def test_exception_in_the_loop_is_raised_even_if_quit_fails(run: Run) -> None:
    def fail(message: client.CollectedMessage) -> None:
        raise LookupError("disk full")

    with pop3_server({"QUIT": b"-ERR [SYS/PERM] not removed\r\n"}) as peer, pytest.raises(LookupError) as found:
        run(lambda: collect_from(peer, [], then=fail))
    assert "not removed" in found.value.__notes__[0]


@on_both_loops
def test_message_at_which_the_loop_is_left_is_not_deleted(run: Run) -> None:
    def leave_at_2(message: client.CollectedMessage) -> str:
        return "break" if message.number == 2 else ""

    peer = collected(run, {}, then=leave_at_2)
    assert (peer.deleted, peer.heard[-1]) == ([1], "QUIT")


@on_both_loops
def test_exception_in_the_loop_that_is_caught_in_the_context_keeps_the_message(run: Run) -> None:
    async def main() -> None:
        async with client.collect(host="127.0.0.1", port=peer.port, login=LOGIN, tls="none", delete=True) as messages:
            with contextlib.suppress(LookupError):
                async for message in messages:
                    if message.number == 2:
                        raise LookupError("disk full")

    with pop3_server({}) as peer:
        run(main)
    assert (peer.deleted, peer.heard[-1]) == ([1], "QUIT")


@on_both_loops
def test_cancellation_in_the_loop_inside_the_context_keeps_the_message(run: Run) -> None:
    """A deadline for the whole loop, which is exceeded while a message is stored."""

    async def main() -> None:
        async with client.collect(host="127.0.0.1", port=peer.port, login=LOGIN, tls="none", delete=True) as messages:
            with anyio.CancelScope() as scope:
                async for message in messages:
                    if message.number == 2:
                        scope.cancel()
                        await anyio.sleep_forever()

    with pop3_server({}) as peer:
        run(main)
    assert (peer.deleted, peer.heard[-1]) == ([1], "QUIT")


@on_both_loops
def test_request_for_the_next_message_deletes_the_one_before(run: Run) -> None:
    """The loop goes on after an exception; the last message is not confirmed."""

    async def main() -> None:
        async with client.collect(host="127.0.0.1", port=peer.port, login=LOGIN, tls="none", delete=True) as messages:
            for _ in range(3):
                await anext(messages)

    with pop3_server({}) as peer:
        run(main)
    assert peer.deleted == [1, 2]


async def cancel_when_silent(peer: Peer, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(work)
        await to_thread.run_sync(peer.silent.wait, TIMEOUT)
        group.cancel_scope.cancel()


@on_both_loops
@pytest.mark.parametrize("step", [*STEPS[:-1], "RETR 2", "RETR 3"])
def test_cancelled_collection_deletes_nothing_and_closes_the_socket(run: Run, step: str) -> None:
    with pop3_server({step: SILENT}) as peer:
        run(lambda: cancel_when_silent(peer, lambda: collect_from(peer, [])))
        assert peer.ended.wait(TIMEOUT)
    assert (peer.deleted, "QUIT" in peer.heard) == ([], False)


@on_both_loops
def test_cancellation_in_the_loop_deletes_nothing(run: Run) -> None:
    async def main() -> None:
        with anyio.CancelScope() as scope:
            async with client.collect(
                host="127.0.0.1", port=peer.port, login=LOGIN, tls="none", delete=True
            ) as messages:
                async for message in messages:
                    if message.number == 2:
                        scope.cancel()
                        await anyio.sleep_forever()

    with pop3_server({}) as peer:
        run(main)
        assert peer.ended.wait(TIMEOUT)
    assert "DELE 1" in peer.heard
    assert (peer.deleted, "QUIT" in peer.heard) == ([], False)


@on_both_loops
def test_rejected_quit_is_an_error_and_the_socket_is_closed(run: Run) -> None:
    text = "rejected QUIT: -ERR not removed"
    with pop3_server({"QUIT": b"-ERR not removed\r\n"}) as peer, pytest.raises(client.ServerRejected, match=text):
        run(lambda: collect_from(peer, []))


@on_both_loops
@pytest.mark.parametrize(
    ("step", "said", "error", "text", "temporary"),
    [
        (
            "GREETING",
            b"-ERR [SYS/TEMP] later\r\n",
            client.ServerRejected,
            "ended the session: -ERR .SYS/TEMP. later",
            True,
        ),
        (
            "PASS",
            b"-ERR [AUTH] no\r\n",
            client.AuthenticationFailed,
            "rejected the login of alice: -ERR .AUTH. no",
            False,
        ),
        ("PASS", b"-ERR [IN-USE] locked\r\n", client.AuthenticationFailed, "-ERR .IN-USE. locked", True),
        ("LIST", b"-ERR no\r\n", client.ServerRejected, "rejected LIST: -ERR no", False),
    ],
)
def test_rejected_session(
    run: Run, step: str, said: bytes, error: type[client.ServerRejected], text: str, temporary: bool
) -> None:
    with pop3_server({step: said}) as peer, pytest.raises(error, match=text) as found:
        run(lambda: collect_from(peer, []))
    assert type(found.value) is error
    assert found.value.temporary is temporary
    assert "\n" not in str(found.value)


@on_both_loops
@pytest.mark.parametrize("line", [b"1", b"x 10", b"1 ten", b"1 -5", "\u0661 10".encode()])
def test_invalid_list_is_an_error(run: Run, line: bytes) -> None:
    script = {"LIST": b"+OK\r\n" + line + b"\r\n.\r\n"}
    with pop3_server(script) as peer, pytest.raises(client.ConnectionFailed, match="to LIST has an invalid"):
        run(lambda: collect_from(peer, []))


@on_both_loops
@pytest.mark.parametrize(("capabilities", "sent"), [(b"USER\r\nUTF8\r\n", True), (b"USER\r\n", False)])
def test_utf8_is_enabled_where_it_is_offered(run: Run, capabilities: bytes, sent: bool) -> None:
    peer = collected(run, {"CAPA": b"+OK\r\n" + capabilities + b".\r\n"})
    assert ("UTF8" in peer.heard) is sent


@on_both_loops
def test_single_messages(run: Run) -> None:
    async def main() -> None:
        async with client.pop3_client(host="127.0.0.1", port=peer.port, login=LOGIN, tls="none") as maildrop:
            assert maildrop.tls is None
            assert "UIDL" in maildrop.capabilities
            first, *_ = await maildrop.listing()
            assert first == client.Listed(number=1, size=len(MAILS[0]), unique_id="id-1")
            assert await maildrop.retrieve(1) == MAILS[0]
            assert await maildrop.top(2, 1) == MAILS[1]
            await maildrop.delete(1)
            await maildrop.undelete()
            await maildrop.delete(2)
            with pytest.raises(client.ServerRejected):
                await maildrop.retrieve(3)
            assert (await maildrop.execute(pop3.Noop())).positive

    with pop3_server({"RETR 3": b"-ERR\r\n"}) as peer:
        run(main)
    assert (peer.deleted, "TOP 2 1" in peer.heard) == ([2], True)


@on_both_loops
def test_exception_in_a_session_deletes_nothing(run: Run) -> None:
    async def main() -> None:
        async with client.pop3_client(host="127.0.0.1", port=peer.port, login=LOGIN, tls="none") as maildrop:
            await maildrop.delete(1)
            raise LookupError

    with pop3_server({}) as peer, pytest.raises(LookupError):
        run(main)
    assert peer.deleted == []


@on_both_loops
def test_command_after_the_end_of_the_session_is_a_failed_connection(run: Run) -> None:
    async def main() -> None:
        async with client.pop3_client(host="127.0.0.1", port=peer.port, login=LOGIN, tls="none") as maildrop:
            await maildrop.quit()
            with pytest.raises(client.ConnectionFailed, match="the session has ended; open another"):
                await maildrop.listing()

    with pop3_server({}) as peer:
        run(main)
    assert peer.heard.count("QUIT") == 1


@on_both_loops
def test_message_that_is_longer_than_announced_and_than_the_limit_ends_the_session(run: Run) -> None:
    line = b"x" * 98 + b"\r\n"
    got: list[client.CollectedMessage] = []
    script = {"RETR 2": b"+OK\r\n" + line * 1_000 + b".\r\n"}
    text = "message 2 is longer than 1000 bytes"
    with pop3_server(script) as peer, pytest.raises(client.MessageTooLarge, match=text):
        run(lambda: collect_from(peer, got, max_message_size=1_000))
    assert ([message.number for message in got], peer.deleted, "QUIT" in peer.heard) == ([1], [], False)


@on_both_loops
def test_message_that_is_announced_too_large_is_not_requested_and_the_others_are(run: Run) -> None:
    numbers: list[int] = []
    texts: list[str] = []

    async def main() -> None:
        async with client.collect(
            host="127.0.0.1", port=peer.port, login=LOGIN, tls="none", delete=True, max_message_size=1_000
        ) as messages:
            while True:
                try:
                    numbers.append((await anext(messages)).number)
                except client.MessageTooLarge as error:
                    texts.append(str(error))
                except StopAsyncIteration:
                    break

    with pop3_server({"LIST": b"+OK\r\n1 10\r\n2 1001\r\n3 10\r\n.\r\n"}) as peer:
        run(main)
    assert (numbers, peer.deleted, "RETR 2" in peer.heard) == ([1, 3], [1, 3], False)
    assert texts == ["message 2 (unique-id id-2) has 1001 bytes, more than 1000 (max_message_size)"]


@on_both_loops
def test_message_of_the_maximum_size_is_retrieved(run: Run) -> None:
    got: list[client.CollectedMessage] = []
    with pop3_server({"RETR": b"+OK\r\n" + b"x" * 98 + b"\r\n.\r\n"}) as peer:
        run(lambda: collect_from(peer, got, max_message_size=100))
    assert [len(message.raw) for message in got] == [100] * 3


@pytest.mark.parametrize("value", [0, -1, 1.5, "1000", None, True])
def test_invalid_max_message_size(value: Any) -> None:
    with pytest.raises(ValueError, match="max_message_size must be a number of bytes"):
        asyncio.run(collect_from(Peer(1), [], max_message_size=value))


@on_both_loops
def test_timeout_is_for_each_64_kib_of_content(run: Run) -> None:
    """The clock of the timeout is not restarted by each chunk, but after 64 KiB."""
    steps: list[int] = []

    class Connection:
        machine = None

        def __init__(self) -> None:
            self.chunks = [MessageChunk(data=b"x" * 1_024)] * 160

        def __aiter__(self) -> Connection:
            return self

        async def __anext__(self) -> object:
            steps[-1] += 1
            return self.chunks.pop() if self.chunks else pop3.ReplyReceived(command=None, reply=pop3.Reply(True))

    class Session(_server.Session[object]):
        @contextlib.asynccontextmanager
        async def _step(self) -> AsyncGenerator[None]:
            steps.append(0)
            yield

    session = Session(cast("Any", Connection()), TIMEOUT)
    run(lambda: session.event_after_content(len))
    assert steps == [64, 64, 33]
