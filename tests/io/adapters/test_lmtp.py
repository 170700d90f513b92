"""LMTP over TCP (RFC 2033): a server and a client on both loops, with a reply for each recipient after the message."""

from __future__ import annotations

import smtplib
import socket
from typing import Final

import pytest

from mailauth import Command, LocalProtocolError, MessageChunk, smtp
from tests.io import loops
from tests.io.by_hand import hear, read_line
from tests.io.grant_stores import on_both_loops
from tests.io.lmtp_store import ALICE, BOB, MESSAGE, NOBODY, serving
from tests.io.server_support import TIMEOUT


@on_both_loops
async def test_client_of_the_standard_library_gets_a_reply_for_each_recipient(loop: loops.Loop) -> None:
    """``smtplib.LMTP.sendmail()`` reads one reply after the message, so the test reads the others."""

    def deliver(port: int) -> tuple[list[int], list[str]]:
        with smtplib.LMTP("127.0.0.1", port, "client.test", timeout=TIMEOUT) as lmtp:
            lmtp.sendmail("carol@client.test", [str(ALICE)], MESSAGE)
            codes = [lmtp.mail("carol@client.test")[0]]
            codes += [lmtp.rcpt(str(each))[0] for each in (ALICE, NOBODY, BOB, ALICE)]
            codes.append(lmtp.data(MESSAGE)[0])
            codes += [lmtp.getreply()[0] for _ in range(2)]
            codes.append(lmtp.noop()[0])
            return codes, sorted(lmtp.esmtp_features)

    async with serving(loop) as (store, port):
        codes, features = await loop.in_thread(deliver, port)
    assert store.mail == {"alice": [MESSAGE] * 3}
    assert codes == [250, 250, 550, 250, 250, 250, 452, 250, 250]
    assert {"pipelining", "enhancedstatuscodes", "8bitmime", "chunking"} <= set(features)


GROUP: Final = (
    b"LHLO client.test\r\nMAIL FROM:<>\r\nRCPT TO:<alice@store.test>\r\nRCPT TO:<nobody@store.test>\r\n"
    b"RCPT TO:<bob@store.test>\r\n"
)


@on_both_loops
@pytest.mark.parametrize(
    ("content", "codes"),
    [
        (b"DATA\r\nx\r\n.\r\nQUIT\r\n", b"354 250 452 221"),
        (b"BDAT 3 LAST\r\nx\r\nQUIT\r\n", b"250 452 221"),
        (b"BDAT 3\r\nx\r\nBDAT 0 LAST\r\nQUIT\r\n", b"250 250 452 221"),
        (b"DATA\r\nx\ny\r\n.\r\nQUIT\r\n", b"354 554 554 221"),
        (b"RSET\r\nMAIL FROM:<>\r\nRCPT TO:<nobody@store.test>\r\nDATA\r\nQUIT\r\n", b"250 250 550 503 221"),
        (b"RSET\r\nMAIL FROM:<>\r\nRCPT TO:<nobody@store.test>\r\nBDAT 1 LAST\r\nxQUIT\r\n", b"250 250 550 503 221"),
    ],
)
async def test_pipelined_session_has_one_reply_for_each_accepted_recipient(
    loop: loops.Loop, content: bytes, codes: bytes
) -> None:
    """RFC 2033 sections 4.2 and 5; also if the whole session arrives at once, or byte by byte."""

    def talk(port: int, pieces: list[bytes]) -> list[bytes]:
        with socket.create_connection(("127.0.0.1", port), TIMEOUT) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                connection.sendall(piece)
            heard = [hear(connection)[:3]]
            while heard[-1] != b"221":
                heard.append(hear(connection)[:3])
            return heard

    whole = GROUP + content
    async with serving(loop) as (_, port):
        for pieces in ([whole], [whole[at : at + 1] for at in range(len(whole))]):
            heard = await loop.in_thread(talk, port, pieces)
            assert b" ".join(heard) == b"220 250 250 250 550 250 " + codes


@on_both_loops
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("paths", [(ALICE, BOB, NOBODY), (BOB, ALICE), (NOBODY,)])
async def test_client_gets_a_reply_for_each_accepted_recipient(
    loop: loops.Loop, chunked: bool, paths: tuple[smtp.Mailbox, ...]
) -> None:
    """With pipelined commands, and twice in one session."""
    async with serving(loop) as (store, port):
        client = await loop.adapter.connect(smtp.ClientConnection(), "127.0.0.1", port)
        async with client:

            async def replies(*commands: Command, extra: int = 0) -> list[int]:
                for command in commands:
                    client.send(command)
                answered = len(commands) + extra
                found: list[int] = []
                async for event in client:
                    if isinstance(event, smtp.ReplyReceived):
                        found.append(event.reply.code)
                    if len(found) == answered:
                        break
                return found

            assert await replies(extra=1) == [220]
            assert await replies(smtp.Hello(domain="client.test", lmtp=True)) == [250]
            for _ in range(2):
                commands: list[Command] = [
                    smtp.Mail(reverse_path=None),
                    *(smtp.Rcpt(forward_path=path) for path in paths),
                ]
                got = await replies(*commands)
                assert got == [250, *(550 if path == NOBODY else 250 for path in paths)]
                accepted = [path for path in paths if path != NOBODY]
                if not accepted:
                    with pytest.raises(LocalProtocolError):
                        client.send(smtp.Data())  # it would get 503
                    assert await replies(smtp.Rset()) == [250]
                    continue
                if not chunked:
                    assert await replies(smtp.Data()) == [354]
                client.send(MessageChunk(data=MESSAGE))
                if chunked:
                    assert await replies(extra=1) == [250]
                final = await replies(smtp.MessageComplete(), extra=len(accepted) - 1)
                assert final == [452 if path == BOB else 250 for path in accepted]
    assert store.mail == ({"alice": [MESSAGE, MESSAGE]} if ALICE in paths else {})


@on_both_loops
async def test_smtp_client_on_a_port_of_lmtp_is_told_to_send_lhlo(loop: loops.Loop) -> None:
    def talk(port: int) -> list[bytes]:
        with socket.create_connection(("127.0.0.1", port), TIMEOUT) as connection:
            heard = [read_line(connection)]
            for line in (b"EHLO c.test\r\n", b"HELO c.test\r\n", b"MAIL FROM:<>\r\n"):
                connection.sendall(line)
                heard.append(read_line(connection))
            return heard

    async with serving(loop) as (_, port):
        greeting, *rest = await loop.in_thread(talk, port)
    assert greeting == b"220 store.test LMTP\r\n"
    assert [line[:3] for line in rest] == [b"500", b"500", b"503"]
    assert b"LHLO" in rest[2]
