"""The client side of LMTP: LHLO, and one reply for each accepted recipient (RFC 2033); also against our own server."""

from __future__ import annotations

import attrs
import pytest

from mailauth import ACCEPT, Command, MessageChunk, RemoteProtocolError, smtp
from tests.smtp.drive import ENTROPY, IN_CLEAR, Session, call, converse

MAIL = smtp.Mail(reverse_path=None)
ONE, TWO, THREE = (smtp.Rcpt(forward_path=smtp.Mailbox(name, "d")) for name in ("one", "two", "three"))
COMPLETE = smtp.MessageComplete()
CONTENT = MessageChunk(data=b"x\r\n")


def greeted() -> Session:
    session = call(b"220 hi\r\n").send(smtp.Hello(domain="c", lmtp=True))
    assert session.data == b"LHLO c\r\n"
    return session.receive(b"250-hi\r\n250-CHUNKING\r\n250 PIPELINING\r\n").forget()


def codes(session: Session) -> list[tuple[type[object], int]]:
    return [(type(event.command), event.reply.code) for event in session.of(smtp.ReplyReceived)]


def test_message_has_one_reply_per_accepted_recipient() -> None:
    """RFC 2033 section 4.2: in their order; what follows waits for the last of them."""
    session = (
        greeted().send(MAIL, ONE, TWO, THREE, smtp.Data()).receive(b"250 a\r\n250 b\r\n550 c\r\n250 d\r\n354 e\r\n")
    )
    session.forget().send(CONTENT, COMPLETE, MAIL, ONE).receive(b"250 ok\r\n452 full\r\n250 mail\r\n")
    assert codes(session) == [(smtp.MessageComplete, 250), (smtp.MessageComplete, 452), (smtp.Mail, 250)]


def test_only_the_last_chunk_has_one_reply_per_recipient() -> None:
    """RFC 2033 section 4.2 and RFC 3030 section 2."""
    session = greeted().send(MAIL, ONE, TWO, CONTENT, COMPLETE)
    session.receive(b"250 a\r\n250 b\r\n250 c\r\n").forget().receive(b"250 chunk\r\n550 one\r\n250 two\r\n")
    assert codes(session) == [(smtp.Bdat, 250), (smtp.MessageComplete, 550), (smtp.MessageComplete, 250)]
    assert session.forget().send(MAIL).data == b"MAIL FROM:<>\r\n"


def test_more_replies_than_recipients_raise_remote_protocol_error() -> None:
    """RFC 2033 section 4.2."""
    session = greeted().send(MAIL, ONE, smtp.Data()).receive(b"250 a\r\n250 b\r\n354 c\r\n").send(CONTENT, COMPLETE)
    session.machine.receive_data(b"250 one\r\n250 two\r\n")
    with pytest.raises(RemoteProtocolError):
        session.pull()


@pytest.mark.parametrize("by_bdat", [False, True])
def test_client_and_server_agree_on_lmtp(by_bdat: bool) -> None:
    """Client and server connected, two messages in one session."""
    no = smtp.Reply(452, "4.2.2", "full")
    verdicts = smtp.PerRecipient((ACCEPT, no))
    settings = attrs.evolve(IN_CLEAR, lmtp=True, chunking=True)
    machine = smtp.ServerConnection(settings, entropy=ENTROPY)
    server = Session(machine, answers={smtp.MessageComplete: verdicts}).pull()
    client = Session(smtp.ClientConnection()).pull().receive(server.data)

    def say(*commands: Command) -> None:
        for command in commands:
            client.client.send(command)
        converse(client, server)

    say(smtp.Hello(domain="c", lmtp=True))
    for _ in range(2):
        say(MAIL, ONE, TWO, *([] if by_bdat else [smtp.Data()]))
        client.forget()
        server.forget()
        say(CONTENT, COMPLETE)
        assert server.content == b"x\r\n"
        replies = [event.reply.code for event in client.of(smtp.ReplyReceived) if event.command is COMPLETE]
        assert replies == [250, 452]
