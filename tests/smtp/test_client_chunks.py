"""Content sent by the client by BDAT, if the server offers CHUNKING (RFC 3030); also against our own server."""

from __future__ import annotations

import copy
import itertools

import attrs
import pytest
from hypothesis import given, strategies as st

from mailauth import ACCEPT, Accept, Command, LocalProtocolError, MessageChunk, RemoteProtocolError, smtp
from tests.smtp.drive import ENTROPY, IN_CLEAR, Session, converse, greeted

MAIL = smtp.Mail(reverse_path=smtp.Mailbox("a", "b"))
BINARY = smtp.Mail(reverse_path=None, body=smtp.Body.BINARY_MIME)
RCPT = smtp.Rcpt(forward_path=smtp.Mailbox("c", "d"))
COMPLETE = smtp.MessageComplete()
SERVER = attrs.evolve(IN_CLEAR, chunking=True, binary_mime=True)


def chunk(data: bytes) -> MessageChunk:
    return MessageChunk(data=data)


def in_transaction(*extensions: str, mail: smtp.Mail = MAIL, settings: smtp.ClientSettings | None = None) -> Session:
    session = greeted("CHUNKING", "BINARYMIME", *extensions, settings=settings)
    return session.send(mail, RCPT).receive(b"250 ok\r\n", b"250 ok\r\n").forget()


def refuses(session: Session, command: Command) -> None:
    """LocalProtocolError, and nothing is sent."""
    before = session.data
    with pytest.raises(LocalProtocolError):
        session.client.send(command)
    assert session.pull().data == before


def test_content_without_data_command_is_sent_by_bdat() -> None:
    """RFC 3030 section 2: no dot-stuffing; a missing CRLF is added, and LAST marks the end."""
    session = in_transaction("PIPELINING").send(chunk(b".one\r\n"), chunk(b""), chunk(b".\r\ntwo"), COMPLETE)
    assert session.data == b"BDAT 6\r\n.one\r\nBDAT 0\r\nBDAT 6\r\n.\r\ntwoBDAT 2 LAST\r\n\r\n"
    session.receive(b"250 1\r\n250 2\r\n250 3\r\n250 4\r\n")
    sizes = [smtp.Bdat(size=size) for size in (6, 0, 6)]
    assert [event.command for event in session.of(smtp.ReplyReceived)] == [*sizes, COMPLETE]
    assert session.forget().send(MAIL).data == b"MAIL FROM:<a@b>\r\n"


def test_chunks_wait_for_each_reply_without_pipelining() -> None:
    """RFC 2920 section 3.1; the bytes of a chunk are sent with its command."""
    session = in_transaction().send(chunk(b"one\r\n"), chunk(b"two\r\n"), COMPLETE)
    assert session.data == b"BDAT 5\r\none\r\n"
    session.receive(b"250 ok\r\n")
    assert session.data.endswith(b"BDAT 5\r\ntwo\r\n")
    session.receive(b"250 ok\r\n")
    assert session.data.endswith(b"BDAT 0 LAST\r\n")


def test_chunks_are_pipelined_after_rcpt_and_before_the_next_mail() -> None:
    """RFC 3030 section 4.2: the client need not wait for a 354."""
    session = greeted("CHUNKING", "PIPELINING").send(MAIL, RCPT, chunk(b"x\r\n"), COMPLETE, MAIL, RCPT, smtp.Data())
    head = b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n"
    assert session.data == head + b"BDAT 3\r\nx\r\nBDAT 0 LAST\r\n" + head + b"DATA\r\n"
    session.receive(b"250 ok\r\n" * 6 + b"354 go\r\n")
    assert session.forget().send(chunk(b".y\r\n"), COMPLETE).data == b"..y\r\n.\r\n"


def test_content_without_chunking_requires_data() -> None:
    """RFC 3030 section 2."""
    session = greeted("PIPELINING").send(MAIL, RCPT)
    refuses(session, chunk(b"x\r\n"))
    refuses(session, COMPLETE)


def test_commands_not_allowed_between_chunks_raise() -> None:
    """RFC 3030 section 2: between chunks only commands such as NOOP and RSET are allowed."""
    session = in_transaction("PIPELINING").send(chunk(b"x\r\n"))
    for command in (smtp.Data(), MAIL, RCPT, smtp.Bdat(size=3), smtp.StartTls()):
        refuses(session, command)
    session.send(smtp.Rset())
    assert session.data == b"BDAT 3\r\nx\r\nRSET\r\n"
    refuses(session, chunk(b"x\r\n"))
    session.receive(b"250 ok\r\n250 ok\r\n").forget()
    assert session.send(MAIL).data == b"MAIL FROM:<a@b>\r\n"


def test_rset_is_required_after_a_rejected_chunk() -> None:
    """RFC 3030 section 2: the state of the server is then unknown."""
    session = in_transaction("PIPELINING").send(chunk(b"x\r\n")).receive(b"452 full\r\n")
    assert [event.reply.code for event in session.of(smtp.ReplyReceived)] == [452]
    for command in (chunk(b"y\r\n"), COMPLETE, MAIL, smtp.Data()):
        refuses(session, command)
    session.forget().send(smtp.Rset(), MAIL, RCPT, chunk(b"z\r\n"))
    session.send(chunk(b"last\r\n"))
    assert session.data.startswith(b"RSET\r\nMAIL")
    assert session.data.endswith(b"BDAT 3\r\nz\r\nBDAT 6\r\nlast\r\n")
    refused = in_transaction("PIPELINING").send(chunk(b"x\r\n"), COMPLETE).receive(b"452 full\r\n503 order\r\n")
    assert refused.forget().send(MAIL).data == b"MAIL FROM:<a@b>\r\n"


def test_mail_after_bdat_without_recipients_may_be_accepted_or_rejected() -> None:
    """RFC 3030 section 2: if the server kept the transaction, its reply to the next MAIL shows it."""
    for reply in (b"250 ok\r\n", b"503 order\r\n"):
        session = greeted("CHUNKING", "PIPELINING").send(MAIL, RCPT, chunk(b"x\r\n"), COMPLETE, MAIL)
        session.receive(b"250 ok\r\n550 no\r\n503 order\r\n503 order\r\n", reply)
        assert [event.reply.code for event in session.of(smtp.ReplyReceived)] == [250, 550, 503, 503, int(reply[:3])]


def test_queued_chunks_are_not_sent_after_a_rejected_chunk() -> None:
    """RFC 3030 section 2: queued chunks are answered by the same reply, and RSET replaces the end of the message."""
    chunks = [chunk(b"one\r\n"), chunk(b"two\r\n"), chunk(b"three\r\n")]
    session = in_transaction().send(*chunks, COMPLETE, MAIL, RCPT)
    assert session.data == b"BDAT 5\r\none\r\n"
    refusal = smtp.Reply(452, "", "full")
    session.forget().receive(b"452 full\r\n")
    assert session.data == b"RSET\r\n"
    assert session.events == [smtp.ReplyReceived(command=smtp.Bdat(size=size), reply=refusal) for size in (5, 5, 7)]
    session.forget().receive(b"250 reset\r\n")
    assert session.events == [smtp.ReplyReceived(command=COMPLETE, reply=refusal)]
    assert session.data == b"MAIL FROM:<a@b>\r\n"
    session.receive(b"250 ok\r\n", b"250 ok\r\n").forget().send(chunk(b"next\r\n"))
    assert session.data == b"BDAT 6\r\nnext\r\n"


def test_replies_keep_command_order_after_a_rejected_chunk() -> None:
    """architecture.md, A connection: replies come in the order of the commands."""
    session = in_transaction().send(chunk(b"one\r\n"), smtp.Noop(), chunk(b"two\r\n"), smtp.Rset())
    session.receive(b"552 full\r\n", b"250 noop\r\n", b"250 reset\r\n")
    assert session.data == b"BDAT 5\r\none\r\nNOOP\r\nRSET\r\n"
    assert [(type(event.command), event.reply.code) for event in session.of(smtp.ReplyReceived)] == [
        (smtp.Bdat, 552), (smtp.Noop, 250), (smtp.Bdat, 552), (smtp.Rset, 250),
    ]  # fmt: skip


def test_lmtp_message_with_rejected_chunk_has_one_reply_per_recipient() -> None:
    """RFC 2033 section 4.2."""
    session = Session(smtp.ClientConnection()).pull().receive(b"220 lmtp\r\n").send(smtp.Hello(domain="c", lmtp=True))
    session.receive(b"250-lmtp\r\n250 CHUNKING\r\n").send(MAIL, RCPT, RCPT).receive(*[b"250 ok\r\n"] * 3).forget()
    session.send(chunk(b"one\r\n"), COMPLETE).receive(b"452 full\r\n", b"250 reset\r\n")
    assert [event.command for event in session.events] == [smtp.Bdat(size=5), COMPLETE, COMPLETE]
    assert {event.reply.code for event in session.events} == {452}


def test_rejected_rset_after_rejected_chunk_raises() -> None:
    """RFC 5321 section 4.1.1.5: RSET is always accepted; without it the state of the server is unknown."""
    session = in_transaction().send(chunk(b"one\r\n"), COMPLETE).receive(b"452 full\r\n")
    session.forget().machine.receive_data(b"503 no\r\n")
    with pytest.raises(RemoteProtocolError):
        session.pull()
    assert session.events == [smtp.ReplyReceived(command=COMPLETE, reply=smtp.Reply(452, "", "full"))]


@pytest.mark.parametrize(
    "replies",
    [
        b"250 ok\r\n250 ok\r\n452 full\r\n250 taken\r\n",  # of which a chunk was refused
        b"250 ok\r\n550 no\r\n250 ok\r\n",  # a chunk without recipients
        b"250 ok\r\n250 ok\r\n354 go\r\n",
    ],
)
def test_inconsistent_reply_to_bdat_raises_remote_protocol_error(replies: bytes) -> None:
    """RFC 3030 section 2: otherwise an incomplete message would count as complete."""
    session = greeted("CHUNKING", "PIPELINING").send(MAIL, RCPT, chunk(b"x\r\n"), COMPLETE)
    session.machine.receive_data(replies)
    with pytest.raises(RemoteProtocolError):
        session.pull()


def test_line_endings_are_checked_across_chunks() -> None:
    """RFC 5321 section 2.3.8: BDAT does not avoid the check."""
    session = in_transaction("PIPELINING").send(chunk(b"x\r"))
    refuses(session, chunk(b"y"))
    refuses(session, COMPLETE)
    session.send(chunk(b"\n"), COMPLETE)
    assert session.data == b"BDAT 2\r\nx\rBDAT 1\r\n\nBDAT 0 LAST\r\n"


def test_binarymime_allows_any_bytes_only_by_bdat() -> None:
    """RFC 3030 section 3: no line end is added."""
    session = in_transaction("PIPELINING", mail=BINARY)
    refuses(session, smtp.Data())
    session.send(chunk(b"\0\r\n.\r\n\n\r"), COMPLETE)
    assert session.data == b"BDAT 8\r\n\0\r\n.\r\n\n\rBDAT 0 LAST\r\n"
    session.receive(b"250 ok\r\n250 ok\r\n").send(MAIL, RCPT)
    refuses(session, chunk(b"\0"))


def test_queued_chunks_are_limited() -> None:
    """architecture.md, invariant 4: without pipelining, each chunk adds to the queue."""
    session = in_transaction()
    piece = chunk(b"x" * 99_998 + b"\r\n")
    for _ in range(12):
        session.send(piece)
    refuses(session, piece)
    session.receive(b"250 ok\r\n").send(piece)


@pytest.mark.parametrize("pipelining", [True, False])
def test_message_rejected_by_server_does_not_close_the_session(pipelining: bool) -> None:
    """RFC 3030 section 2: the next message is accepted, however many chunks were in flight."""
    settings = attrs.evolve(SERVER, pipelining=pipelining, max_errors=3)
    no = smtp.Reply(550, "5.7.1", "no")
    server = Session(smtp.ServerConnection(settings, entropy=ENTROPY), answers={smtp.Data: [no]}).pull()
    client = Session(smtp.ClientConnection()).pull().receive(server.data)

    def say(*commands: Command) -> None:
        for command in commands:
            client.client.send(command)
        converse(client, server)

    say(smtp.Hello(domain="c"))
    say(MAIL, RCPT, *[chunk(b"x\r\n")] * 50, COMPLETE, MAIL, RCPT)
    client.forget()
    say(chunk(b"second\r\n"), COMPLETE)
    assert [event.reply.code for event in client.of(smtp.ReplyReceived)] == [250, 250]
    assert server.content == b"second\r\n"
    assert len(server.of(smtp.CommandRejected)) == (50 if pipelining else 0)


contents = st.lists(st.sampled_from([b"a", b"\r\n", b".", b"\r\n.\r\n", b"BDAT 3\r\n", b"b" * 50]), max_size=9)


@given(contents, st.lists(st.integers(0, 80), max_size=5), st.booleans(), st.booleans())
def test_client_and_server_agree_on_chunks(
    pieces: list[bytes], places: list[int], pipelining: bool, binary: bool
) -> None:
    """Client and server connected, with any chunks; then another message by DATA."""
    content = b"".join(pieces)
    cuts = sorted({0, *(place for place in places if place < len(content)), len(content)})
    settings = attrs.evolve(SERVER, pipelining=pipelining)
    server = Session(smtp.ServerConnection(settings, entropy=ENTROPY)).pull()
    client = Session(smtp.ClientConnection()).pull().receive(server.data)

    def say(*commands: Command) -> None:
        for command in commands:
            client.client.send(command)
        converse(client, server)

    say(smtp.Hello(domain="c"))
    chunks = [chunk(content[a:b]) for a, b in zip(cuts, [*cuts[1:], len(content)], strict=True)]
    say(BINARY if binary else MAIL, RCPT, *chunks, COMPLETE, MAIL, RCPT, smtp.Data())
    say(chunk(b".second\r\n"), COMPLETE)
    ending = b"" if binary or content.endswith(b"\r\n") or not content else b"\r\n"
    assert server.content == content + ending + b".second\r\n"
    assert len(server.of(smtp.MessageComplete)) == 2
    assert [event.reply.code for event in client.of(smtp.ReplyReceived) if event.reply.code not in (220, 250)] == [354]


STEPS = (
    MAIL,
    RCPT,
    RCPT,
    smtp.Data(),
    chunk(b"x\r\n"),
    chunk(b".y"),
    chunk(b"y\r\n"),
    COMPLETE,
    smtp.Rset(),
    smtp.Noop(),
)
YES_OR_NO = (ACCEPT, ACCEPT, ACCEPT, smtp.Reply(450, "4.2.0", "no"), smtp.Reply(550, "5.7.1", "no"))


@given(
    st.lists(st.lists(st.sampled_from((*STEPS, *STEPS[4:8])), max_size=14), max_size=4),
    st.lists(st.sampled_from(YES_OR_NO), min_size=1, max_size=9),
    st.booleans(),
    st.booleans(),
)
def test_client_and_server_agree_after_any_rejection(
    groups: list[list[Command]], verdicts: list[Accept | smtp.Reply], pipelining: bool, lmtp: bool
) -> None:
    """By DATA and by BDAT: each command has its replies in order, and both sides see the same messages."""
    asked = itertools.cycle(verdicts)
    server = Session(
        smtp.ServerConnection(attrs.evolve(SERVER, pipelining=pipelining or lmtp, lmtp=lmtp), entropy=ENTROPY),
        answers={kind: lambda _: next(asked) for kind in (smtp.Mail, smtp.Rcpt, smtp.Data)},
    ).pull()
    client = Session(smtp.ClientConnection()).pull().receive(server.data)
    sent: list[Command] = []
    content: dict[int, bytes] = {}
    said = b""
    beginning: list[list[Command]] = [[smtp.Hello(domain="c", lmtp=lmtp)], [MAIL, RCPT]]
    for group in (*beginning, *groups):
        for step in group:
            command = copy.copy(step)  # an equal command that is another object
            try:
                client.client.send(command)
            except LocalProtocolError:
                continue
            if isinstance(command, MessageChunk):
                said += command.data
            else:
                sent.append(command)
                content[id(command)] = said
                said = b"" if isinstance(command, smtp.MessageComplete | smtp.Mail) else said
        converse(client, server)

    replied = [event for event in client.of(smtp.ReplyReceived) if not isinstance(event.command, smtp.Bdat | None)]
    in_order = [command for command, _ in itertools.groupby(id(event.command) for event in replied)]
    assert in_order == [id(command) for command in sent[: len(in_order)]]
    assert len(in_order) == len(sent) or client.client._state is smtp.State.DATA
    taken = {id(event.command): content[id(event.command)] for event in replied
             if isinstance(event.command, smtp.MessageComplete) and event.reply.positive}  # fmt: skip
    assert [text if not text or text.endswith(b"\r\n") else text + b"\r\n" for text in taken.values()] == messages(
        server
    )


def messages(server: Session) -> list[bytes]:
    """The content of each message that a server was asked to store."""
    found = [b""]
    for event in server.events:
        if isinstance(event, smtp.Data):
            found[-1] = b""
        elif isinstance(event, MessageChunk):
            found[-1] += event.data
        elif isinstance(event, smtp.MessageComplete):
            found.append(b"")
    return found[:-1]


def test_chunk_rejects_subclass_of_bytes() -> None:
    """A subclass could report a wrong length, and the rest of a chunk would be read as commands."""

    class Short(bytes):
        def __len__(self) -> int:
            return 1

    with pytest.raises(LocalProtocolError, match="data must be bytes"):
        MessageChunk(data=Short(b"a\r\nQUIT\r\n"))
