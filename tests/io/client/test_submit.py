"""``submit`` and ``smtp_client``: the result for each recipient, and what fails at each step of a session."""

from __future__ import annotations

import io
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import anyio
import pytest
from anyio import to_thread

from mailauth import smtp
from mailauth_io import client
from tests.io.client.peers import SILENT, End, Peer, Script, ehlo, smtp_server
from tests.io.server_support import TIMEOUT, Run, on_both_loops

ALICE, BOB, CAROL, DAVE = (f"{name}@example.org" for name in ("alice", "bob", "carol", "dave"))
MESSAGE = b"Subject: tea\r\n\r\nAt six.\r\n"
LONG = b"Subject: tea\r\n\r\n" + b"At six, or later.\r\n" * 10_000
LOGIN = ("alice", "wonderland")
STEPS = ("GREETING", "EHLO", "AUTH", "MAIL", "RCPT", "DATA", "MESSAGE")
CHUNKS = {"EHLO": ehlo("PIPELINING", "CHUNKING", "AUTH PLAIN")}
ONE_BY_ONE = {"EHLO": ehlo("AUTH PLAIN")}
with_each_extension = pytest.mark.parametrize(
    "offered",
    [{}, ONE_BY_ONE, CHUNKS, {"EHLO": ehlo("CHUNKING", "AUTH PLAIN")}],
    ids=["pipelining", "none", "chunking", "chunking only"],
)


def submit(
    run: Run, script: Script, *recipients: str, message: client.MessageLike = MESSAGE, **options: Any
) -> tuple[client.SubmitResult, Peer]:
    with smtp_server(script) as peer:
        result = run(lambda: submit_to(peer, *recipients, message=message, **options))
    return result, peer


async def submit_to(
    peer: Peer, *recipients: str, message: client.MessageLike = MESSAGE, timeout: float = TIMEOUT, **options: Any
) -> client.SubmitResult:
    return await client.submit(
        message,
        ALICE,
        recipients or (BOB,),
        host="127.0.0.1",
        port=peer.port,
        login=LOGIN,
        tls="none",
        timeout=timeout,
        **options,
    )


def codes(result: client.SubmitResult) -> list[int]:
    return [reply.code for reply in result.replies.values()]


@on_both_loops
@with_each_extension
def test_accepted_message_has_a_positive_reply_for_each_recipient(run: Run, offered: Script) -> None:
    result, peer = submit(run, offered, BOB, CAROL)
    assert (result.accepted, dict(result.rejected), result.complete) == ((BOB, CAROL), {}, True)
    result.raise_for_rejected()
    assert peer.messages == [MESSAGE]
    assert peer.heard[-1] == "QUIT"


@on_both_loops
@with_each_extension
def test_each_rejected_recipient_has_its_own_reply(run: Run, offered: Script) -> None:
    script = {**offered, f"RCPT {BOB}": b"550 5.1.1 unknown\r\n", f"RCPT {DAVE}": b"452 4.2.2 full\r\n"}
    result, peer = submit(run, script, BOB, CAROL, DAVE)
    assert codes(result) == [550, 250, 452]
    assert (result.accepted, result.complete) == ((CAROL,), False)
    assert peer.messages == [MESSAGE]
    with pytest.raises(
        client.MessageRejected, match=f"2 of 3 recipients: {BOB}: 550 5.1.1 unknown; {DAVE}: 452"
    ) as found:
        result.raise_for_rejected()
    assert found.value.result is result


@on_both_loops
@with_each_extension
@pytest.mark.parametrize("code", [450, 550])
@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA", "MESSAGE", "LAST"])
def test_message_rejected_at_a_step_is_not_accepted_for_anybody(
    run: Run, offered: Script, step: str, code: int
) -> None:
    if step in (("DATA", "MESSAGE") if "CHUNKING" in str(offered) else ("LAST",)):
        return  # not a step of this session
    result, peer = submit(run, {**offered, step: b"%d not this one\r\n" % code}, BOB, CAROL)
    assert codes(result) == [code, code]
    assert result.accepted == ()
    assert peer.heard[-1] == "QUIT"


@on_both_loops
@pytest.mark.parametrize(
    ("step", "error"),
    [("GREETING", client.ServerRejected), ("EHLO", client.ServerRejected), ("AUTH", client.AuthenticationFailed)],
)
@pytest.mark.parametrize("code", [454, 554])
def test_session_rejected_before_the_transaction_is_an_error(
    run: Run, step: str, error: type[client.ServerRejected], code: int
) -> None:
    with pytest.raises(error, match=f"{code} no") as found:
        submit(run, {step: b"%d no\r\n" % code})
    assert type(found.value) is error
    assert found.value.temporary is (code == 454)
    assert isinstance(found.value.reply, smtp.Reply)
    assert found.value.reply.code == code


@on_both_loops
@pytest.mark.parametrize("code", [500, 501, 502, 503, 504, 550])
def test_helo_is_sent_if_ehlo_is_rejected(run: Run, code: int) -> None:
    """RFC 5321 section 4.1.4; a server without EHLO that waits for HELO may reply 503."""
    found: list[list[int]] = []

    async def main() -> None:
        async with client.smtp_client(host="127.0.0.1", port=peer.port, tls="none", timeout=TIMEOUT) as connected:
            assert connected.extensions == {}
            found.append(codes(await connected.send(MESSAGE, ALICE, [BOB])))

    with smtp_server({"EHLO": b"%d no\r\n" % code}) as peer:
        run(main)
    assert found == [[250]]
    assert peer.verbs()[:3] == ["EHLO", "HELO", "MAIL"]


@on_both_loops
@pytest.mark.parametrize("code", [421, 450, 451, 521, 530, 554, 571])
def test_helo_is_not_sent_if_the_client_is_rejected(run: Run, code: int) -> None:
    """If HELO were accepted then, a missing extension would be reported in place of the reason."""
    with (
        smtp_server({"EHLO": b"%d no\r\n" % code}) as peer,
        pytest.raises(client.ServerRejected, match=f"rejected EHLO: {code} no"),
    ):
        run(lambda: submit_to(peer))
    assert "HELO" not in peer.verbs()


@on_both_loops
@pytest.mark.parametrize(
    ("helo", "reason"),
    [
        (b"501 5.5.4 invalid name\r\n", "501 5.5.4 invalid name"),
        (b"450 4.7.1 name not found\r\n", "450 4.7.1 name not found"),
        (b"421 4.7.0 bye\r\n", "550 5.7.1 you are blocked"),
        (End(), "550 5.7.1 you are blocked"),
        (b"what?\r\n", "550 5.7.1 you are blocked"),
    ],
    ids=["rejected", "later", "421", "closed", "garbled"],
)
def test_reason_of_a_rejected_ehlo_is_reported_if_helo_gets_none(run: Run, helo: bytes | End, reason: str) -> None:
    with pytest.raises(client.ServerRejected, match=f"rejected EHLO: {reason}"):
        submit(run, {"EHLO": b"550 5.7.1 you are blocked\r\n", "HELO": helo})


@on_both_loops
def test_greeting_that_becomes_a_refusal_is_reported(run: Run) -> None:
    """postscreen of Postfix sends it to a client that it blocks."""
    with pytest.raises(client.ServerRejected, match=r"rejected the connection: 521 mx\.test ESMTP 5\.7\.1 blocked"):
        submit(run, {"GREETING": b"220-mx.test ESMTP\r\n521 5.7.1 blocked\r\n"})


GOING_DOWN = b"421 4.3.2 going down\r\n"


@on_both_loops
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("said", [GOING_DOWN, End(GOING_DOWN)], ids=["open", "closed"])
def test_421_at_a_step_is_a_temporary_rejection(run: Run, step: str, said: bytes | End) -> None:
    if step in STEPS[:3]:
        with pytest.raises(client.ServerRejected, match=r"421 4\.3\.2 going down") as found:
            submit(run, {step: said}, BOB, CAROL)
        assert found.value.temporary
    else:
        result, _ = submit(run, {step: said}, BOB, CAROL)
        assert codes(result) == [421, 421]


@on_both_loops
@pytest.mark.parametrize("step", ["BDAT", "LAST"])
def test_421_to_a_chunk_is_a_temporary_rejection(run: Run, step: str) -> None:
    result, _ = submit(run, {**CHUNKS, step: End(GOING_DOWN)}, BOB, message=b"x" * 70 * 1024)
    assert codes(result) == [421]


@on_both_loops
@with_each_extension
def test_421_to_a_recipient_keeps_the_replies_before_it(run: Run, offered: Script) -> None:
    script = {**offered, f"RCPT {BOB}": b"550 5.1.1 unknown\r\n", f"RCPT {DAVE}": End(GOING_DOWN)}
    result, peer = submit(run, script, BOB, CAROL, DAVE)
    assert codes(result) == [550, 421, 421]
    assert peer.messages == []


@on_both_loops
def test_421_in_the_first_group_of_recipients_keeps_the_replies_before_it(run: Run) -> None:
    recipients = [f"r{number}@example.org" for number in range(120)]
    result, _ = submit(run, {"RCPT r0@example.org": b"550 no\r\n", "RCPT r1@example.org": End(GOING_DOWN)}, *recipients)
    assert codes(result) == [550] + [421] * 119


@on_both_loops
@pytest.mark.parametrize("step", STEPS)
def test_connection_lost_at_a_step_is_not_a_result(run: Run, step: str) -> None:
    with pytest.raises(client.ConnectionFailed) as found:
        submit(run, {step: End()})
    assert type(found.value) is (client.DeliveryUnknown if step == "MESSAGE" else client.ConnectionFailed)
    assert found.value.__cause__ is not None


@on_both_loops
@pytest.mark.parametrize(("step", "known"), [("BDAT", True), ("LAST", False)])
def test_connection_lost_at_a_chunk(run: Run, step: str, known: bool) -> None:
    with pytest.raises(client.ConnectionFailed) as found:
        submit(run, {**CHUNKS, step: End()}, message=b"x" * 70 * 1024)
    assert type(found.value) is (client.ConnectionFailed if known else client.DeliveryUnknown)


class _Paused(io.BytesIO):
    """A message whose second half is read after the server has closed the connection."""

    def __init__(self, content: bytes, peer: Peer) -> None:
        super().__init__(content)
        self._peer = peer
        self._reads = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        if not data:
            self._reads += 1
        if self._reads == 2:  # the end, the second time: the first time the content was only examined
            assert self._peer.ended.wait(TIMEOUT)
        return data


@on_both_loops
@pytest.mark.parametrize("said", [End(b"354 go ahead\r\n"), End(b"354 go ahead\r\n421 4.3.2 going down\r\n")])
def test_connection_lost_before_the_final_dot_is_known_not_to_deliver(run: Run, said: End) -> None:
    with smtp_server({"DATA": said}) as peer:
        work = lambda: submit_to(peer, message=_Paused(MESSAGE, peer))  # noqa: E731
        if said.last.endswith(GOING_DOWN):
            assert codes(run(work)) == [421]
        else:
            with pytest.raises(client.ConnectionFailed) as found:
                run(work)
            assert type(found.value) is client.ConnectionFailed


@on_both_loops
@pytest.mark.parametrize("step", STEPS)
def test_silent_server_times_out(run: Run, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The result depends on whether the end of the message was sent, so the steps before it get time."""
    complete = client.SmtpClient._complete

    async def complete_soon(session: client.SmtpClient) -> object:
        session._session.timeout = 0.05
        return await complete(session)

    monkeypatch.setattr(client.SmtpClient, "_complete", complete_soon)
    with pytest.raises(client.ConnectionFailed, match="timed out") as found:
        submit(run, {step: SILENT}, timeout=TIMEOUT if step == "MESSAGE" else 0.05)
    assert type(found.value) is (client.DeliveryUnknown if step == "MESSAGE" else client.ConnectionFailed)
    assert isinstance(found.value.__cause__, TimeoutError)


@on_both_loops
def test_reply_that_is_not_smtp_is_a_failed_connection(run: Run) -> None:
    with pytest.raises(client.ConnectionFailed, match="not a reply: b'HTTP"):
        submit(run, {"GREETING": b"HTTP/1.1 400 Bad Request\r\n"})


@on_both_loops
@pytest.mark.parametrize("message", [MESSAGE, LONG], ids=["one piece", "pieces"])
@pytest.mark.parametrize("said", [b"250 queued\r\n", b"552 too long\r\n", b"garbage\r\n"])
def test_reply_before_the_content_is_a_failed_connection(run: Run, message: bytes, said: bytes) -> None:
    """It is known that the message was not delivered: its end is not sent."""
    with smtp_server({"DATA": b"354 go ahead\r\n" + said}) as peer:
        with pytest.raises(client.ConnectionFailed) as found:
            run(lambda: submit_to(peer, message=message))
        assert peer.ended.wait(TIMEOUT)
    assert (type(found.value), peer.messages) == (client.ConnectionFailed, [])


@on_both_loops
@pytest.mark.parametrize("message", [MESSAGE, LONG], ids=["one piece", "pieces"])
def test_421_before_the_content_is_the_final_reply(run: Run, message: bytes) -> None:
    result, peer = submit(run, {"DATA": b"354 go ahead\r\n421 going down\r\n"}, message=message)
    assert (codes(result), peer.messages) == ([421], [])


@on_both_loops
@pytest.mark.parametrize("message", [MESSAGE, LONG], ids=["one piece", "pieces"])
@pytest.mark.parametrize("said", [b"552 full\r\n", b"garbage\r\n", b"250 a\r\n250 b\r\n"])
def test_reply_before_the_first_chunk_is_a_failed_connection(run: Run, message: bytes, said: bytes) -> None:
    script: Script = {**CHUNKS, f"RCPT {BOB}": b"250 ok\r\n" + said}
    with smtp_server(script) as peer, pytest.raises(client.ConnectionFailed):
        run(lambda: submit_to(peer, message=message))
    assert peer.messages == []


@on_both_loops
@pytest.mark.parametrize("message", [MESSAGE, LONG], ids=["one piece", "pieces"])
def test_421_before_the_first_chunk_is_the_final_reply(run: Run, message: bytes) -> None:
    result, peer = submit(run, {**CHUNKS, f"RCPT {BOB}": b"250 ok\r\n421 going down\r\n"}, message=message)
    assert (codes(result), peer.messages) == ([421], [])


@on_both_loops
def test_421_before_content_that_is_written_in_pieces_is_the_reply_to_its_end(run: Run) -> None:
    async def main() -> None:
        async with client.smtp_client(host="127.0.0.1", port=peer.port, tls="none", timeout=TIMEOUT) as session:
            for command in (smtp.Mail(reverse_path=None), smtp.Rcpt(forward_path=smtp.Mailbox.parse(BOB)), smtp.Data()):
                await session.execute(command)
            for _ in range(3):
                await session.write(b"At six.\r\n")
            assert (await session.execute(smtp.MessageComplete())).code == 421

    with smtp_server({"DATA": b"354 go ahead\r\n421 going down\r\n"}) as peer:
        run(main)


@on_both_loops
def test_login_after_an_unsolicited_reply_is_a_failed_connection(run: Run) -> None:
    """Not NotSupported, which says that trying again is useless."""
    with pytest.raises(client.ConnectionFailed, match="reply without a command"):
        submit(run, {"EHLO": ehlo("AUTH PLAIN") + b"250 early\r\n"})


@on_both_loops
@with_each_extension
def test_250_recipients_are_sent_in_groups(run: Run, offered: Script) -> None:
    recipients = [f"r{number}@example.org" for number in range(250)]
    result, peer = submit(run, {**offered, "RCPT r101@example.org": b"550 no\r\n"}, *recipients)
    assert list(result.replies) == recipients
    assert list(result.rejected) == ["r101@example.org"]
    assert peer.verbs().count("RCPT") == 250
    assert peer.messages == [MESSAGE]


@on_both_loops
def test_recipient_that_is_passed_twice_is_sent_once(run: Run) -> None:
    result, peer = submit(run, {}, BOB, BOB)
    assert list(result.replies) == [BOB]
    assert peer.verbs().count("RCPT") == 1


def session(
    run: Run, script: Script, use: Callable[[client.SmtpClient], Awaitable[Any]], *, timeout: float = TIMEOUT
) -> Peer:
    """Call *use* with a client that has logged in."""

    async def main() -> None:
        async with client.smtp_client(
            host="127.0.0.1", port=peer.port, login=LOGIN, tls="none", timeout=timeout
        ) as connected:
            await use(connected)

    with smtp_server(script) as peer:
        run(main)
    return peer


@on_both_loops
@with_each_extension
def test_rejected_message_does_not_affect_the_next(run: Run, offered: Script) -> None:
    found: list[list[int]] = []

    async def use(connected: client.SmtpClient) -> None:
        for message, recipient in ((b"one\r\n", BOB), (b"two\r\n", CAROL), (b"three\r\n", DAVE), (b"four\r\n", BOB)):
            found.append(codes(await connected.send(message, ALICE, [recipient])))

    peer = session(run, {**offered, f"RCPT {CAROL}": b"550 no\r\n", "MAIL 3": b"451 busy\r\n"}, use)
    assert found == [[250], [550], [451], [250]]
    assert peer.messages == [b"one\r\n", b"four\r\n"]
    assert peer.verbs().count("RSET") == 2  # after each transaction that did not end
    assert peer.verbs().count("EHLO") == 1


@on_both_loops
def test_rejected_chunk_ends_the_message_and_not_the_session(run: Run) -> None:
    found: list[list[int]] = []

    async def use(connected: client.SmtpClient) -> None:
        for message in (b"x" * 300_000, b"next\r\n"):
            found.append(codes(await connected.send(message, ALICE, [BOB, CAROL])))

    peer = session(run, {**CHUNKS, "BDAT 2": b"552 5.3.4 too big\r\n"}, use)
    assert found == [[552, 552], [250, 250]]
    assert peer.messages == [b"next\r\n"]
    assert peer.heard.count("BDAT 65536") in (2, 3)  # at most one chunk is ahead of the replies


@on_both_loops
def test_every_message_after_421_has_that_reply(run: Run) -> None:
    found: list[list[int]] = []

    async def use(connected: client.SmtpClient) -> None:
        for _ in range(2):
            found.append(codes(await connected.send(MESSAGE, ALICE, [BOB])))
        assert (await connected.execute(smtp.Noop())).code == 421

    peer = session(run, {"MAIL": GOING_DOWN}, use)
    assert found == [[421], [421]]
    assert "QUIT" not in peer.verbs()


@on_both_loops
def test_execute_returns_the_reply_to_a_command(run: Run) -> None:
    async def use(connected: client.SmtpClient) -> None:
        assert (await connected.execute(smtp.Vrfy(argument="bob"))).code == 252
        assert "PIPELINING" in connected.extensions
        assert connected.tls is None

    assert "VRFY bob" in session(run, {"VRFY": b"252 2.5.2 try it\r\n"}, use).heard


@on_both_loops
def test_lost_connection_ends_the_session(run: Run) -> None:
    async def use(connected: client.SmtpClient) -> None:
        with pytest.raises(client.ConnectionFailed):
            await connected.send(MESSAGE, ALICE, [BOB])
        with pytest.raises(client.ConnectionFailed):
            await connected.send(MESSAGE, ALICE, [BOB])

    assert session(run, {"MAIL": End()}, use).messages == []


@on_both_loops
def test_failure_of_quit_is_ignored(run: Run) -> None:
    result, peer = submit(run, {"QUIT": End()})
    assert result.complete
    assert peer.heard[-1] == "QUIT"


@on_both_loops
def test_exception_in_the_body_closes_the_session_without_quit(run: Run) -> None:
    with smtp_server({}) as peer:

        async def main() -> None:
            async with client.smtp_client(host="127.0.0.1", port=peer.port, login=LOGIN, tls="none"):
                raise LookupError("of the body")

        with pytest.raises(LookupError):
            run(main)
    assert "QUIT" not in peer.verbs()


async def cancel_when_silent(peer: Peer, work: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Cancel *work* when the server does not reply."""
    async with anyio.create_task_group() as group:
        group.start_soon(work)
        await to_thread.run_sync(peer.silent.wait, TIMEOUT)
        group.cancel_scope.cancel()


@on_both_loops
@pytest.mark.parametrize("step", STEPS)
def test_cancelled_submission_delivers_nothing_and_closes_the_socket(run: Run, step: str) -> None:
    """The server would wait for the client, and fail the test, if the socket stayed open."""
    with smtp_server({step: SILENT}) as peer:
        run(lambda: cancel_when_silent(peer, lambda: submit_to(peer)))
        assert peer.ended.wait(TIMEOUT)
    assert "QUIT" not in peer.verbs()
    assert len(peer.messages) == (step == "MESSAGE")


def test_result_has_no_truth_value() -> None:
    result = client.SubmitResult({BOB: smtp.Reply(250, "2.0.0", "ok")})
    with pytest.raises(TypeError, match=r"use \.complete, \.accepted or raise_for_rejected"):
        bool(result)
    with pytest.raises(TypeError):
        result.replies[BOB] = smtp.Reply(550, "", "no")  # type: ignore[index]  # read-only
