"""Our SMTP client with real servers: Postfix, Exim, sendmail, Courier and OpenSMTPD.

Skipped if they are not unpacked (``unpack_servers.sh``), which is an error with MAILAUTH_INTEROP=require; also skipped
without root.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from contextlib import AbstractAsyncContextManager

import anyio
import pytest

from mailauth import MessageChunk, sasl, smtp
from mailauth_io import client
from mailauth_io.client import TlsMode
from tests.interop.client_config import HOST
from tests.interop.peers import ALICE, DINAH, LIMIT, NAME, PASSWORD, Peer, running
from tests.interop.smtp_peers import POSTFIX
from tests.interop.smtp_servers import (
    ALL_MECHANISMS,
    BLOCKED,
    KNOWN,
    SENDER,
    SERVERS,
    UNKNOWN,
    WITH_TLS,
    Start,
    body_of,
    every_password_login,
    every_server,
    every_server_with_tls,
    make_message,
)
from tests.io import loops
from tests.io.logins import replied, smtp_login
from tests.io.server_support import Run, on_both_loops, run_on_asyncio
from tests.io.tls import authority, client_context


def test_postfix_ends_with_its_context() -> None:
    """It changes its user, which clears the signal that it would get at the end of its parent (prctl(2))."""
    with running(POSTFIX) as peer:
        address = (HOST, peer.ports.smtp or 0)
        socket.create_connection(address, timeout=30).close()
    deadline = time.monotonic() + 30
    with contextlib.suppress(ConnectionRefusedError):
        while True:
            socket.create_connection(address, timeout=30).close()
            assert time.monotonic() < deadline


def session(
    peer: Peer, tls: TlsMode | None = None, *, password: str | None = PASSWORD, mechanisms: tuple[str, ...] = ()
) -> AbstractAsyncContextManager[client.SmtpClient]:
    """Connect, by default with STARTTLS if the server has TLS, and log in."""
    tls = tls or ("starttls" if peer.ports.smtps else "none")
    port = peer.ports.smtps if tls == "implicit" else peer.ports.smtp
    login = None if password is None or not peer.ports.smtps else client.Login(NAME, password, mechanisms=mechanisms)
    context = None if tls == "none" else client_context()
    return client.smtp_client(host=HOST, port=port, tls=tls, ssl_context=context, login=login, timeout=20)


def with_certificate() -> ssl.SSLContext:
    """The TLS context of a client whose certificate names the account."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority().configure_trust(context)
    authority().issue_cert(NAME, common_name=NAME).configure_cert(context)
    return context


BODY = (
    b".\r\n..\r\n.dot\r\n\r\nFrom here\r\n" + b"x" * 998 + b"\r\n" + b"." * 900 + b"\r\n \r\n"
    + "grün\r\n".encode() + bytes(range(0xA0, 0x100)) + b"\r\n\ttab \r\n\r\n"
)  # fmt: skip
MODES: dict[TlsMode, tuple[str, ...]] = {"none": tuple(SERVERS), "starttls": WITH_TLS, "implicit": WITH_TLS}


@on_both_loops
@pytest.mark.parametrize(("tls", "name"), [(tls, name) for tls, names in MODES.items() for name in names])
def test_message_arrives_unchanged(start: Start, run: Run, tls: TlsMode, name: str) -> None:
    """Dots, a line of 998 bytes, bytes above 127, trailing whitespace, and an empty line at the end.

    By DATA to the port with implicit TLS and to servers without CHUNKING, otherwise by BDAT.
    """
    peer = start(SERVERS[name].recipe)
    mark, message = make_message(BODY)

    async def main() -> None:
        async with session(peer, tls) as smtp_session:
            (await smtp_session.send(message, SENDER, [ALICE])).raise_for_rejected()

    run(main)
    assert body_of(peer.delivered(mark)) == BODY.replace(b"\r\n", b"\n")


# What is offered, and logins


@every_server
def test_offered_extensions_are_those_known(start: Start, name: str) -> None:
    """So a server that stops offering what another test uses is noticed."""
    peer = start(SERVERS[name].recipe)

    async def main() -> None:
        async with session(peer, password=None) as smtp_session:
            assert KNOWN & smtp_session.extensions.keys() == SERVERS[name].extensions

    run_on_asyncio(main)


@every_server_with_tls
def test_offered_mechanisms_are_those_known(start: Start, name: str) -> None:
    peer = start(SERVERS[name].recipe)

    async def main() -> None:
        async with client.smtp_client(
            host=HOST, port=peer.ports.smtp, tls="starttls", ssl_context=with_certificate()
        ) as smtp_session:
            offered = ALL_MECHANISMS.intersection(smtp_session.extensions["AUTH"].split())
            assert offered == set(SERVERS[name].mechanisms)
            assert not any(each.endswith("-PLUS") for each in smtp_session.extensions["AUTH"].split())

    run_on_asyncio(main)


@on_both_loops
@every_password_login
def test_login_by_each_password_mechanism(start: Start, run: Run, name: str, mechanism: str) -> None:
    peer = start(SERVERS[name].recipe)
    mark, message = make_message()

    async def main() -> None:
        async with session(peer, "implicit", mechanisms=(mechanism,)) as smtp_session:
            (await smtp_session.send(message, SENDER, [ALICE])).raise_for_rejected()

    run(main)
    assert body_of(peer.delivered(mark)) == b"body\n"


@every_server_with_tls
def test_login_without_tls(start: Start, name: str) -> None:
    """By the strongest mechanism that is offered."""
    peer = start(SERVERS[name].recipe)

    async def main() -> None:
        async with session(peer, "none") as smtp_session:
            assert smtp_session.tls is None

    run_on_asyncio(main)


@on_both_loops
@pytest.mark.parametrize("upgrade", [False, True], ids=["implicit", "upgraded"])
@pytest.mark.parametrize("name", [name for name in WITH_TLS if "EXTERNAL" in SERVERS[name].mechanisms])
def test_login_by_certificate(start: Start, run: Run, name: str, upgrade: bool) -> None:
    """RFC 4422 appendix A."""
    peer = start(SERVERS[name].recipe)

    async def main() -> None:
        external = sasl.ExternalClient(authorization_identity=NAME)
        assert await smtp_login(peer.ports, with_certificate(), external, upgrade) == "ok"

    run(main)


@every_password_login
def test_wrong_password_is_rejected(start: Start, name: str, mechanism: str) -> None:
    peer = start(SERVERS[name].recipe)

    async def main() -> None:
        with pytest.raises(client.AuthenticationFailed) as caught:
            async with session(peer, password="open poppy", mechanisms=(mechanism,)):
                pass
        assert isinstance(caught.value.reply, smtp.Reply)
        assert caught.value.reply.code == 535

    run_on_asyncio(main)


@every_server_with_tls
def test_certificate_of_an_unknown_authority_ends_the_session(start: Start, name: str) -> None:
    peer = start(SERVERS[name].recipe)

    async def main() -> None:
        with pytest.raises(client.ConnectionFailed, match="certificate"):
            await client.submit(
                b"", SENDER, [ALICE], host=HOST, port=peer.ports.smtp, tls="starttls", login=(NAME, PASSWORD)
            )

    run_on_asyncio(main)


# Transactions


@on_both_loops
@every_server
def test_refused_recipient_does_not_affect_the_others(start: Start, run: Run, name: str) -> None:
    peer = start(SERVERS[name].recipe)
    (mark, message), (mark_2, message_2) = make_message(), make_message()

    async def main() -> None:
        async with session(peer) as smtp_session:
            result = await smtp_session.send(message, SENDER, [UNKNOWN, ALICE])
            assert result.accepted == (ALICE,)
            assert result.rejected[UNKNOWN].code == 550
            assert not (await smtp_session.send(message, SENDER, [UNKNOWN])).accepted
            (await smtp_session.send(message_2, "", [DINAH, ALICE])).raise_for_rejected()

    run(main)
    assert body_of(peer.delivered(mark)) == body_of(peer.delivered(mark_2)) == b"body\n"


@pytest.mark.parametrize("name", [name for name, each in SERVERS.items() if each.blocked])
def test_reply_code_of_a_site_rejects_the_recipient(start: Start, name: str) -> None:
    """RFC 5321 section 4.2.1: the first digit decides."""
    peer = start(SERVERS[name].recipe)

    async def main() -> None:
        async with session(peer) as smtp_session:
            result = await smtp_session.send(make_message()[1], SENDER, [BLOCKED, ALICE])
            assert result.rejected[BLOCKED].code == SERVERS[name].blocked
            assert result.accepted == (ALICE,)

    run_on_asyncio(main)


@on_both_loops
@every_server
def test_pipelined_commands_get_their_own_replies(start: Start, run: Run, name: str) -> None:
    """They are in one write if the server offers PIPELINING.  QUIT is answered by 221, and the connection ends."""
    peer = start(SERVERS[name].recipe)
    codes: list[int] = []

    async def main() -> None:
        connect = loops.current().adapter.connect
        async with await connect(lambda tls: smtp.ClientConnection(tls=tls), HOST, peer.ports.smtp or 0) as connection:
            await replied(connection)
            connection.send(smtp.Hello(domain="client.test"))
            await replied(connection)
            path = {each: smtp.Mailbox.parse(each) for each in (SENDER, ALICE, DINAH, UNKNOWN)}
            for command in (
                smtp.Mail(reverse_path=path[SENDER]), smtp.Rcpt(forward_path=path[ALICE]),
                smtp.Rcpt(forward_path=path[UNKNOWN]), smtp.Rcpt(forward_path=path[DINAH]), smtp.Rset(),
                smtp.Noop(), smtp.Quit(),
            ):  # fmt: skip
                connection.send(command)
            async for event in connection:
                assert isinstance(event, smtp.ReplyReceived)
                codes.append(event.reply.code)

    run(main)
    assert codes == [250, 250, 550, 250, 250, 250, 221]


@on_both_loops
@pytest.mark.parametrize("name", ["Postfix", "Exim"])
def test_message_rejected_after_its_content_does_not_affect_the_next(start: Start, run: Run, name: str) -> None:
    """Both have CHUNKING, so the reply is that to the last BDAT."""
    peer = start(SERVERS[name].recipe)
    mark, message = make_message()

    async def main() -> None:
        async with session(peer) as smtp_session:
            result = await smtp_session.send(b"X-Reject: yes\r\n" + message, SENDER, [ALICE, DINAH])
            assert [reply.code for reply in result.replies.values()] == [550, 550]
            assert result.rejected[ALICE].enhanced_status_code == "5.7.1"
            assert (await smtp_session.send(message, SENDER, [ALICE])).complete

    run(main)
    assert b"X-Reject" not in peer.delivered(mark)


@on_both_loops
def test_recipients_above_the_limit_are_rejected(start: Start, run: Run) -> None:
    """RFC 5321 section 4.5.3.1.10: 452; the others get the message."""
    peer = start(POSTFIX)
    names = [f"alice+{number}@example.test" for number in range(30)]

    async def main() -> None:
        async with session(peer) as smtp_session:
            result = await smtp_session.send(make_message()[1], SENDER, names)
            assert result.accepted == tuple(names[:20])
            assert {reply.code for reply in result.rejected.values()} == {452}

    run(main)


@on_both_loops
def test_reply_421_is_the_reply_to_all_further_commands(start: Start, run: Run) -> None:
    """RFC 5321 section 3.8: Postfix ends the session after 20 errors, while more pipelined commands arrive."""
    peer = start(POSTFIX)
    names = [f"unknown+{number}@example.test" for number in range(18)]

    async def main() -> None:
        async with session(peer) as smtp_session:
            first = await smtp_session.send(make_message()[1], SENDER, names)
            assert {reply.code for reply in first.rejected.values()} == {550}
            second = await smtp_session.send(make_message()[1], SENDER, [*names, ALICE])
            assert second.rejected[ALICE].code == second.rejected[names[-1]].code == 421
            third = await smtp_session.send(make_message()[1], SENDER, [ALICE])
            assert third.rejected[ALICE].code == 421

    run(main)


@every_server
def test_message_without_content_is_accepted(start: Start, name: str) -> None:
    """RFC 3030 section 2 allows a chunk of 0 bytes, but DATA is accepted everywhere."""
    peer = start(SERVERS[name].recipe)

    async def main() -> None:
        async with session(peer) as smtp_session:
            (await smtp_session.send(b"", SENDER, [ALICE])).raise_for_rejected()

    run_on_asyncio(main)


@on_both_loops
@every_server
def test_sessions_at_the_same_time_do_not_affect_each_other(start: Start, run: Run, name: str) -> None:
    peer = start(SERVERS[name].recipe)
    sent = [make_message(bytes([0x61 + number]) * 100 * number + b"\r\n") for number in range(6)]

    async def submit(message: bytes) -> None:
        async with session(peer) as smtp_session:
            (await smtp_session.send(message, SENDER, [ALICE])).raise_for_rejected()

    async def main() -> None:
        async with anyio.create_task_group() as group:
            for _, message in sent:
                group.start_soon(submit, message)

    run(main)
    for mark, message in sent:
        assert body_of(peer.delivered(mark)) == body_of(message.replace(b"\r\n", b"\n"))


@every_server
def test_vrfy_and_help_are_answered(start: Start, name: str) -> None:
    peer = start(SERVERS[name].recipe)

    async def main() -> None:
        async with session(peer) as smtp_session:
            assert (await smtp_session.execute(smtp.Vrfy(argument=ALICE))).code == SERVERS[name].vrfy
            assert (await smtp_session.execute(smtp.Help())).code in (214, 250, 500, 502)
            assert (await smtp_session.execute(smtp.Noop())).code == 250

    run_on_asyncio(main)


@every_server
def test_message_above_the_size_limit_is_not_sent(start: Start, name: str) -> None:
    """RFC 1870.  Courier does not announce its limit, and replies to MAIL."""
    peer = start(SERVERS[name].recipe)

    async def main() -> None:
        async with session(peer) as smtp_session:
            message = make_message(b"x" * 70 + b"\r\n")[1] * (LIMIT // 60)
            if smtp_session.extensions["SIZE"]:
                with pytest.raises(client.NotSupported, match=str(LIMIT)):
                    await smtp_session.send(message, SENDER, [ALICE])
            else:
                assert (await smtp_session.send(message, SENDER, [ALICE])).rejected[ALICE].code // 100 == 5
            assert (await smtp_session.send(make_message()[1], SENDER, [ALICE])).complete

    run_on_asyncio(main)


@on_both_loops
@every_server
def test_content_above_the_size_limit_is_rejected(start: Start, run: Run, name: str) -> None:
    """The size is not declared in MAIL, so the reply comes after the final dot; the session goes on."""
    peer = start(SERVERS[name].recipe)

    async def main() -> None:
        async with session(peer) as smtp_session:
            await smtp_session.execute(smtp.Mail(reverse_path=smtp.Mailbox.parse(SENDER)))
            await smtp_session.execute(smtp.Rcpt(forward_path=smtp.Mailbox.parse(ALICE)))
            await smtp_session.execute(smtp.Data())
            await smtp_session.write((b"x" * 70 + b"\r\n") * (2 * LIMIT // 72))
            assert (await smtp_session.execute(smtp.MessageComplete())).code // 100 == 5
            assert (await smtp_session.send(make_message()[1], SENDER, [ALICE])).complete

    run(main)


@on_both_loops
@pytest.mark.parametrize("name", [name for name, each in SERVERS.items() if "SMTPUTF8" in each.extensions])
def test_non_ascii_address_is_accepted_with_smtputf8(start: Start, run: Run, name: str) -> None:
    """RFC 6531: the address and the header are UTF-8."""
    peer = start(SERVERS[name].recipe)
    mark, _ = make_message()
    message = "From: bób@example.org\r\nTo: grün@example.test\r\nSubject: ".encode() + mark + b"\r\n\r\nbody\r\n"

    async def main() -> None:
        async with session(peer) as smtp_session:
            result = await smtp_session.send(message, "bób@example.org", ["grün@example.test"])
            result.raise_for_rejected()

    run(main)
    assert "From: bób@example.org\n".encode() in peer.delivered(mark)


@pytest.mark.parametrize("name", [name for name, each in SERVERS.items() if "SMTPUTF8" not in each.extensions])
def test_non_ascii_address_is_not_sent_without_smtputf8(start: Start, name: str) -> None:
    peer = start(SERVERS[name].recipe)

    async def main() -> None:
        async with session(peer) as smtp_session:
            with pytest.raises(client.NotSupported, match="SMTPUTF8"):
                await smtp_session.send(make_message()[1], SENDER, ["grün@example.test"])

    run_on_asyncio(main)


@on_both_loops
@every_server
def test_requested_delivery_report_arrives(start: Start, run: Run, name: str) -> None:
    """RFC 3461: NOTIFY, RET and ENVID.  The report quotes the envelope identifier, except that of OpenSMTPD.

    Exim does not decode it (RFC 3461 section 4.4 says that the original value is reported).
    """
    peer = start(SERVERS[name].recipe)
    mark, message = make_message()
    dsn = client.Dsn(notify=("SUCCESS", "FAILURE"), ret="HDRS", envelope_id=f"id+{mark.decode()}")

    async def main() -> None:
        async with session(peer) as smtp_session:
            (await smtp_session.send(message, ALICE, [DINAH], dsn=dsn)).raise_for_rejected()

    run(main)
    report = peer.delivered(mark, b"delivery-status").lower()
    quoted = {"Exim": b"id+2b" + mark, "OpenSMTPD": b""}.get(name, b"id+" + mark)
    assert quoted in report


CHUNKING = [name for name, each in SERVERS.items() if "CHUNKING" in each.extensions]


@on_both_loops
@pytest.mark.parametrize("name", CHUNKING)
def test_chunk_above_the_size_limit_is_rejected(start: Start, run: Run, name: str) -> None:
    """RFC 3030: BDAT, with further chunks and the end of the message after it, as PIPELINING allows."""
    peer = start(SERVERS[name].recipe)
    replies: list[smtp.Reply] = []

    async def main() -> None:
        connect = loops.current().adapter.connect
        async with await connect(lambda tls: smtp.ClientConnection(tls=tls), HOST, peer.ports.smtp or 0) as connection:
            await replied(connection)
            connection.send(smtp.Hello(domain="client.test"))
            await replied(connection)
            connection.send(smtp.Mail(reverse_path=smtp.Mailbox.parse(SENDER)))
            connection.send(smtp.Rcpt(forward_path=smtp.Mailbox.parse(ALICE)))
            await replied(connection)
            await replied(connection)
            for _ in range(10):
                connection.send(MessageChunk(data=b"VRFY b\r\n" * (LIMIT // 40)))
            connection.send(smtp.MessageComplete())
            async for event in connection:
                assert isinstance(event, smtp.ReplyReceived)
                replies.append(event.reply)
                if isinstance(event.command, smtp.MessageComplete):
                    return

    run(main)
    assert 552 in [reply.code for reply in replies]
    assert replies[-1].code // 100 == 5
