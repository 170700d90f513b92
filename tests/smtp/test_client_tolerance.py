"""What a client accepts although it breaks RFC 5321, where that ends, and how ``strict_syntax`` turns it off."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import pytest
from hypothesis import given, strategies as st

from mailauth import Closed, CloseReason, Command, LocalProtocolError, MessageChunk, RemoteProtocolError, sasl, smtp
from tests.smtp.drive import TLS, Session, call, each_cut, greeted

MAIL: Final = smtp.Mail(reverse_path=smtp.Mailbox("a", "b"))
RCPT: Final = smtp.Rcpt(forward_path=smtp.Mailbox("c", "d"))
DATA: Final = smtp.Data()
COMPLETE: Final = smtp.MessageComplete()
CHUNK: Final = MessageChunk(data=b"x\r\n")
HELLO: Final = smtp.Hello(domain="c.test")
STRICT: Final = smtp.ClientSettings(strict_syntax=True)
ALICE: Final = sasl.PlainClient(authentication_identity="alice", password=b"correct horse")


def violates(session: Session, data: bytes) -> None:
    """The machine raises RemoteProtocolError, now and at every further call."""
    session.machine.receive_data(data)
    for _ in range(2):
        with pytest.raises(RemoteProtocolError):
            session.pull()


def codes(session: Session) -> list[tuple[str | None, int]]:
    """The verb and the code of each reply."""
    return [(getattr(event.command, "verb", None), event.reply.code) for event in session.of(smtp.ReplyReceived)]


# Replies that begin positive and end in a refusal

BLOCKED: Final = smtp.Reply(521, "", "mx.test ESMTP\n5.7.1 blocked")


def test_greeting_that_becomes_a_refusal_is_one() -> None:
    """As Postfix sends it: postscreen says ``220-`` to detect clients that do not wait, and then 521."""
    for pieces in each_cut(b"220-mx.test ESMTP\r\n521 5.7.1 blocked\r\n"):
        session = call(*pieces)
        assert session.events == [smtp.ReplyReceived(command=None, reply=BLOCKED)]
        assert session.client.is_open


def test_greeting_that_becomes_421_ends_the_session() -> None:
    session = call(b"220-mx.test ESMTP\r\n421 4.3.2 too busy\r\n")
    assert codes(session) == [(None, 421)]
    assert not session.client.is_open


@pytest.mark.parametrize("hello", [HELLO, smtp.Hello(domain="c.test", extended=False)], ids=["EHLO", "HELO"])
def test_reply_to_ehlo_that_becomes_a_refusal_is_one(hello: smtp.Hello) -> None:
    """As servers send it that list their extensions before they ask their own rules.  None of them is offered."""
    session = (
        call(b"220 mx.test\r\n")
        .send(hello)
        .receive(b"250-mx.test\r\n250-STARTTLS\r\n550-5.7.1 not\r\n550 5.7.1 you\r\n")
    )
    assert codes(session) == [(None, 220), (hello.verb, 550)]
    assert session.client.extensions == {}
    assert session.forget().send(hello).receive(b"250 mx.test\r\n").of(smtp.ReplyReceived)[-1].reply.code == 250


@pytest.mark.parametrize(
    "said",
    [
        b"521-no\r\n220 yes\r\n",
        b"220-a\r\n521-b\r\n220 c\r\n",
        b"220-a\r\n250 b\r\n",
        b"220-a\r\n354 b\r\n",
        b"354-a\r\n521 b\r\n",
        b"451-a\r\n550 b\r\n",
        b"550-a\r\n451 b\r\n",
        b"220-a\r\n521-b\r\n554 c\r\n",
    ],
)
def test_other_mixtures_of_codes_are_an_error(said: bytes) -> None:
    """It is not clear what the server means, or whether to try again."""
    violates(call(), said)


@pytest.mark.parametrize("command", [MAIL, smtp.Noop(), smtp.Rset(), smtp.StartTls(), smtp.Quit()])
def test_reply_to_another_command_has_one_code(command: Command) -> None:
    """The server may have accepted mail, or have begun TLS."""
    violates(greeted("STARTTLS").send(command), b"250-a\r\n550 b\r\n")


def test_reply_to_a_message_or_login_has_one_code() -> None:
    session = greeted().send(MAIL).receive(b"250 ok\r\n").send(RCPT).receive(b"250 ok\r\n")
    session.send(DATA).receive(b"354 go\r\n").send(CHUNK, COMPLETE)
    violates(session, b"250-a\r\n550 b\r\n")
    session = greeted("AUTH PLAIN")
    session.client.authenticate(ALICE)
    violates(session.pull(), b"235-a\r\n535 b\r\n")


def test_strict_client_rejects_a_reply_with_two_codes() -> None:
    violates(call(settings=STRICT), b"220-mx.test ESMTP\r\n521 5.7.1 blocked\r\n")
    violates(call(b"220 mx.test\r\n", settings=STRICT).send(HELLO), b"250-mx.test\r\n550 no\r\n")


# Reply codes outside the grammar


@pytest.mark.parametrize("line", [b"571 5.7.1 blocked", b"560 no", b"599", b"498 later", b"460 4.2.0 later"])
def test_first_digit_of_a_code_decides(line: bytes) -> None:
    """RFC 5321 section 4.2.1: the recipient is rejected, and the others are not lost."""
    for pieces in each_cut(b"250 ok\r\n" + line + b"\r\n250 ok\r\n354 go\r\n"):
        session = greeted("PIPELINING").send(MAIL, RCPT, RCPT, DATA).receive(*pieces)
        assert codes(session) == [("MAIL", 250), ("RCPT", int(line[:3])), ("RCPT", 250), ("DATA", 354)]
        rejected = session.of(smtp.ReplyReceived)[1]
        assert not rejected.reply.positive
        assert rejected.temporary is (line[:1] == b"4")


def test_enhanced_status_code_of_an_unusual_code_is_parsed() -> None:
    """RFC 2034: as for the codes of the grammar."""
    session = greeted().send(MAIL).receive(b"571-5.7.1 not\r\n571 5.7.1 here\r\n")
    assert session.events == [smtp.ReplyReceived(command=MAIL, reply=smtp.Reply(571, "5.7.1", "not\nhere"))]


def test_unusual_code_accepts_where_any_2yz_does() -> None:
    """RFC 5321 section 4.2.1."""
    session = greeted().send(MAIL).receive(b"260 ok\r\n").send(RCPT).receive(b"299 ok\r\n")
    assert codes(session) == [("MAIL", 260), ("RCPT", 299)]
    assert session.forget().send(DATA).data == b"DATA\r\n"


@pytest.mark.parametrize("code", [221, 235, 250, 260, 300, 334, 354, 360, 399])
def test_only_220_accepts_starttls(code: int) -> None:
    """RFC 3207 section 4."""
    violates(greeted("STARTTLS").send(smtp.StartTls()), b"%d go\r\n" % code)


@pytest.mark.parametrize("code", [220, 234, 236, 250, 290, 300, 335, 354, 399])
def test_only_235_accepts_auth(code: int) -> None:
    """RFC 4954 section 4."""
    session = greeted("AUTH PLAIN")
    session.client.authenticate(ALICE)
    violates(session.pull(), b"%d go\r\n" % code)


@pytest.mark.parametrize("code", [220, 250, 253, 290, 334, 353, 355, 399])
def test_only_354_accepts_data(code: int) -> None:
    """RFC 5321 section 4.1.1.4."""
    violates(greeted("PIPELINING").send(MAIL, RCPT, DATA), b"250 ok\r\n250 ok\r\n%d go\r\n" % code)


@pytest.mark.parametrize("code", [300, 354, 360, 399])
@pytest.mark.parametrize("command", [MAIL, smtp.Noop(), smtp.Hello(domain="c"), smtp.Quit()])
def test_3yz_is_an_error_elsewhere(command: Command, code: int) -> None:
    """RFC 5321 section 4.3.2."""
    violates(greeted().send(command), b"%d go\r\n" % code)


@pytest.mark.parametrize(
    "line", [b"199 x", b"600 x", b"999 x", b"57 x", b"5711 x", b"57a x", b"571x", b" 571 x", b"571- \0"]
)
def test_code_that_is_no_number_from_200_to_599_is_an_error(line: bytes) -> None:
    violates(greeted().send(MAIL), line + b"\r\n")


@pytest.mark.parametrize("code", [260, 299, 360, 460, 498, 560, 571, 599])
def test_strict_client_accepts_only_the_codes_of_the_grammar(code: int) -> None:
    """RFC 5321 section 4.2."""
    violates(greeted(settings=STRICT).send(MAIL), b"%d x\r\n" % code)


@pytest.mark.parametrize("code", [260, 299, 399, 460, 498, 560, 571, 599])
def test_unusual_code_is_never_sent(code: int) -> None:
    """RFC 5321 section 4.2: by no server of this library, whatever a next hop has replied."""
    reply = smtp.Reply(code, "", "x")
    with pytest.raises(LocalProtocolError, match="second digit"):
        reply.to_wire()
    server = smtp.ServerConnection(smtp.ServerSettings(), entropy=bytes(32))
    session = Session(server, answers={smtp.Mail: reply}).pull()
    with pytest.raises(LocalProtocolError):
        session.receive(b"EHLO c\r\nMAIL FROM:<a@b>\r\n")


@pytest.mark.parametrize(("code", "sent"), [(571, 554), (599, 554), (498, 451), (260, 250), (550, 550), (452, 452)])
def test_reply_can_be_passed_on_with_a_standard_code(code: int, sent: int) -> None:
    """RFC 5321 section 4.2.2: with the same text and enhanced status code."""
    status = f"{code // 100}.7.1"
    assert smtp.Reply(code, status, "x").with_standard_code() == smtp.Reply(sent, status, "x")


# Empty lines


def test_empty_line_before_a_reply_is_skipped() -> None:
    """Before the greeting, between replies, and while nothing is unanswered."""
    for pieces in each_cut(b"\r\n220 hi\r\n\r\n"):
        session = call(*pieces).send(smtp.Hello(domain="c"))
        session.receive(b"\r\n\r\n250-hi\r\n250 PIPELINING\r\n\r\n").send(MAIL, RCPT).receive(b"250 1\r\n\r\n250 2\r\n")
        assert codes(session) == [(None, 220), ("EHLO", 250), ("MAIL", 250), ("RCPT", 250)]


def test_ten_empty_lines_are_skipped_for_each_connection() -> None:
    """architecture.md, invariant 4: the next one is an error, also after replies."""
    session = greeted().receive(b"\r\n" * 9).send(smtp.Noop()).receive(b"\r\n250 ok\r\n")
    assert codes(session) == [("NOOP", 250)]
    violates(session.send(smtp.Noop()), b"\r\n250 ok\r\n")


@pytest.mark.parametrize(
    "data", [b"250-a\r\n\r\n250 b\r\n", b" \r\n250 ok\r\n", b"\t\r\n", b"\n\r\n250 ok\r\n", b"\r\r\n"]
)
def test_no_other_line_is_skipped(data: bytes) -> None:
    """Inside a reply of several lines, or with blanks, or a bare line end."""
    violates(greeted().send(smtp.Noop()), data)


def test_empty_line_in_a_login_is_an_error() -> None:
    session = greeted("AUTH PLAIN")
    session.client.authenticate(ALICE)
    violates(session.pull(), b"\r\n235 ok\r\n")


@pytest.mark.parametrize("pieces", list(each_cut(b"220 go\r\n\r\n")))
def test_empty_line_between_the_reply_to_starttls_and_the_handshake_is_an_error(pieces: Sequence[bytes]) -> None:
    """RFC 3207 section 4.2, CVE-2021-23993: the machine has it before BeginTls, or refuses it after."""
    session = greeted("STARTTLS").send(smtp.StartTls())
    session.starts_tls = False
    with pytest.raises((RemoteProtocolError, LocalProtocolError)):
        session.receive(*pieces)


def test_empty_line_does_not_change_the_timeout() -> None:
    """The adapter restarts a timeout only for an event or a write."""
    session = greeted().send(MAIL)
    before, count = session.last, len(session.log)
    session.receive(b"\r\n")
    assert session.log[count:] == [before]


def test_strict_client_rejects_an_empty_line() -> None:
    violates(greeted(settings=STRICT).send(smtp.Noop()), b"\r\n250 ok\r\n")
    violates(call(settings=STRICT), b"\r\n220 hi\r\n")


# The end of the stream after QUIT


@pytest.mark.parametrize("partial", [b"", b"\r\n", b"2", b"221-bye\r\n", b"221 bye"])
@pytest.mark.parametrize("tls", [None, TLS])
def test_end_of_stream_after_quit_is_a_normal_end(partial: bytes, tls: Any) -> None:
    """Closed names the QUIT that has no reply."""
    session = greeted(tls=tls).send(QUIT := smtp.Quit()).receive(*filter(None, [partial]), b"")
    assert session.closed == Closed(reason=CloseReason.QUIT, unanswered=(QUIT,))
    refused = call(b"554 no\r\n").send(QUIT).receive(b"")
    assert refused.closed == Closed(reason=CloseReason.QUIT, unanswered=(QUIT,))


@pytest.mark.parametrize("others", [[smtp.Noop()], [smtp.Rset()], [MAIL], [MAIL, RCPT]])
@pytest.mark.parametrize("pipelining", [True, False])
def test_end_of_stream_with_another_command_unanswered_is_an_error(others: list[Command], pipelining: bool) -> None:
    session = greeted("PIPELINING") if pipelining else greeted()
    violates(session.send(*others, smtp.Quit()), b"")


def test_end_of_stream_with_an_unanswered_message_before_quit_is_an_error() -> None:
    """It is not known whether the server has the message."""
    session = greeted("PIPELINING").send(MAIL, RCPT, DATA).receive(b"250 ok\r\n250 ok\r\n354 go\r\n")
    violates(session.send(CHUNK, COMPLETE, smtp.Quit()), b"")


def test_strict_client_requires_the_reply_to_quit() -> None:
    violates(greeted(settings=STRICT).send(smtp.Quit()), b"")


# A reply while no command is unanswered


def in_content(settings: smtp.ClientSettings | None = None) -> Session:
    session = greeted("PIPELINING", settings=settings).send(MAIL, RCPT, DATA)
    return session.receive(b"250 ok\r\n250 ok\r\n354 go\r\n").forget()


IDLE: Final[dict[str, Callable[[smtp.ClientSettings | None], Session]]] = {
    "ready": lambda settings: greeted(settings=settings),
    "in a transaction": lambda settings: greeted(settings=settings).send(MAIL).receive(b"250 ok\r\n").forget(),
    "in content": in_content,
}


@pytest.mark.parametrize("idle", IDLE.values(), ids=IDLE)
@pytest.mark.parametrize("code", [421, 221, 451, 450, 452, 498])
def test_reply_that_ends_an_idle_session_is_reported_without_a_command(
    idle: Callable[[smtp.ClientSettings | None], Session], code: int
) -> None:
    """RFC 5321 section 3.8: Postfix, Exim, sendmail and qmail each have a code of their own."""
    for pieces in each_cut(b"\r\n%d-4.4.2 idle\r\n%d 4.4.2 bye\r\n" % (code, code)):
        session = idle(None).receive(*pieces)
        assert codes(session) == [(None, code)]
        if code == 421:  # the server closes
            session.receive(b"")
        assert session.closed == Closed(reason=CloseReason.PEER_CLOSED)
        with pytest.raises(LocalProtocolError):
            session.client.send(smtp.Noop())
        assert session.data == b""


@pytest.mark.parametrize("idle", IDLE.values(), ids=IDLE)
@pytest.mark.parametrize("code", [200, 220, 235, 250, 299, 334, 354, 399, 500, 550, 554, 599])
def test_one_reply_too_many_is_an_error(idle: Callable[[smtp.ClientSettings | None], Session], code: int) -> None:
    """It could be the reply to another command, so the client and the server are out of step."""
    violates(idle(None), b"%d x\r\n" % code)


@pytest.mark.parametrize("data", [b"451 idle\r\n", b"221 bye\r\n", b"\r\n421 bye\r\n"])
def test_reply_that_ends_an_idle_session_is_not_credited_to_the_next_command(data: bytes) -> None:
    """It arrived before the command, which is not sent."""
    command = smtp.Noop()
    session = greeted()
    session.machine.receive_data(data)
    session.send(command)
    assert session.data == b""
    assert codes(session) == [(None, int(data.split()[0]))]
    session.receive(b"")
    assert session.closed == Closed(reason=CloseReason.PEER_CLOSED, unanswered=(command,))


@pytest.mark.parametrize("command", [smtp.Noop(), smtp.StartTls(), MAIL])
def test_command_is_sent_after_an_unread_empty_line(command: Command) -> None:
    """It is part of no reply."""
    for first, rest in ((b"\r\n", b""), (b"\r", b"\n"), (b"\r\n\r", b"\n")):
        session = greeted("STARTTLS")
        session.machine.receive_data(first)
        session.client.send(command)
        session.pull()
        if rest:
            session.receive(rest)
        assert session.data.count(b"\r\n") == 1
        assert not session.events


def test_login_begins_after_an_unread_empty_line() -> None:
    session = greeted("AUTH PLAIN")
    session.machine.receive_data(b"\r\n")
    session.client.authenticate(ALICE)
    session.pull().receive(b"235 welcome\r\n")
    assert session.events == [sasl.Authenticated(mechanism="PLAIN")]


@pytest.mark.parametrize("code", [221, 451, 450])
def test_strict_client_accepts_only_421_while_idle(code: int) -> None:
    violates(greeted(settings=STRICT), b"%d idle\r\n" % code)
    assert codes(greeted(settings=STRICT).receive(b"421 idle\r\n")) == [(None, 421)]


# A refused chunk


def chunks(*extensions: str, settings: smtp.ClientSettings | None = None) -> Session:
    """A client that has sent two chunks and the end of a message."""
    session = greeted("CHUNKING", *extensions, settings=settings).send(MAIL, RCPT).receive(b"250 ok\r\n", b"250 ok\r\n")
    return session.forget().send(CHUNK, CHUNK, COMPLETE)


FULL: Final = smtp.Reply(552, "5.3.4", "too large")
REFUSED: Final = [
    smtp.ReplyReceived(command=smtp.Bdat(size=3), reply=FULL),
    smtp.ReplyReceived(command=smtp.Bdat(size=3), reply=FULL),
    smtp.ReplyReceived(command=COMPLETE, reply=FULL),
]


@pytest.mark.parametrize("pipelining", [["PIPELINING"], []])
@pytest.mark.parametrize("settings", [None, STRICT])
def test_end_of_a_message_is_answered_by_the_refusal_if_the_server_closes(
    pipelining: list[str], settings: smtp.ClientSettings | None
) -> None:
    """As Exim does: the rest of the message gets no reply."""
    session = chunks(*pipelining, settings=settings).receive(b"552 5.3.4 too large\r\n", b"")
    assert session.events == REFUSED
    assert session.closed == Closed(reason=CloseReason.PEER_CLOSED)


@pytest.mark.parametrize(
    "replies", [b"500 what?\r\n", b"502 what?\r\n", b"250 ok\r\n250 ok\r\n", b"354 go\r\n", b"garbage\r\n"]
)
@pytest.mark.parametrize("pipelining", [["PIPELINING"], []])
def test_end_of_a_message_is_answered_by_the_refusal_before_a_violation(pipelining: list[str], replies: bytes) -> None:
    """What follows the refusal ends the connection: replies to data that the server reads as commands."""
    for pieces in each_cut(b"552 5.3.4 too large\r\n" + replies):
        session = chunks(*pipelining)
        with pytest.raises(RemoteProtocolError):
            session.receive(*pieces)
        assert session.events[-1] == REFUSED[-1]
        with pytest.raises(RemoteProtocolError):
            session.pull()


def test_end_of_a_message_is_answered_by_the_refusal_before_421() -> None:
    session = chunks("PIPELINING").receive(b"552 5.3.4 too large\r\n421 too many errors\r\n")
    assert session.events == [*REFUSED, smtp.ReplyReceived(command=None, reply=smtp.Reply(421, "", "too many errors"))]


def test_end_of_a_message_is_answered_by_the_refusal_and_not_by_503() -> None:
    """RFC 3030 section 2: 452 is temporary, the 503 that follows would be permanent."""
    session = chunks("PIPELINING").receive(b"452 4.3.1 full\r\n503 order\r\n503 order\r\n")
    assert [event.reply.code for event in session.events] == [452, 503, 452]
    assert session.forget().send(MAIL).data == b"MAIL FROM:<a@b>\r\n"


def test_lmtp_message_is_answered_by_the_refusal_for_each_recipient_if_the_server_closes() -> None:
    """RFC 2033 section 4.2."""
    for replies, count in ((b"452 full\r\n", 2), (b"452 full\r\n503 order\r\n", 2)):
        session = call(b"220 lmtp\r\n").send(smtp.Hello(domain="c", lmtp=True))
        session.receive(b"250-lmtp\r\n250-PIPELINING\r\n250 CHUNKING\r\n").send(MAIL, RCPT, RCPT)
        session.receive(b"250 ok\r\n" * 3).forget().send(CHUNK, COMPLETE).receive(replies, b"")
        assert [event.reply.code for event in session.events if event.command == COMPLETE] == [452] * count
        assert session.closed == Closed(reason=CloseReason.PEER_CLOSED)


def test_commands_after_a_refused_message_are_not_answered_by_its_refusal() -> None:
    """They are named by the error, and were never decided."""
    session = chunks("PIPELINING").send(MAIL, RCPT)
    session.machine.receive_data(b"552 5.3.4 too large\r\n")
    session.machine.receive_data(b"")
    with pytest.raises(RemoteProtocolError):
        session.pull()
    assert session.events == REFUSED


def test_message_without_a_refused_chunk_is_not_answered_at_the_end_of_the_stream() -> None:
    """It is not known whether the server has the message."""
    for replies in (b"", b"250 ok\r\n", b"250 ok\r\n250 ok\r\n"):
        session = chunks("PIPELINING").receive(*filter(None, [replies]))
        violates(session, b"")
        assert all(event.reply.positive and event.command != COMPLETE for event in session.events)


# Commands without a class


def test_generic_command_sends_any_other_verb() -> None:
    etrn = smtp.GenericCommand(verb="ETRN", argument="@example.net")
    session = greeted("ETRN").send(etrn)
    assert session.data == b"ETRN @example.net\r\n"
    session.receive(b"458 unable to queue\r\n")
    assert session.events == [smtp.ReplyReceived(command=etrn, reply=smtp.Reply(458, "", "unable to queue"))]
    session.forget().send(smtp.GenericCommand(verb="X-EXPS")).receive(b"250-one\r\n250 two\r\n")
    assert session.data == b"X-EXPS\r\n"
    assert session.events[0].reply == smtp.Reply(250, "", "one\ntwo")


def test_generic_command_is_allowed_where_noop_is_and_changes_nothing() -> None:
    """RFC 2920 section 3.1: no command is sent after it before its reply."""
    expn = smtp.GenericCommand(verb="EXPN", argument="staff")
    session = greeted("PIPELINING").send(MAIL, expn, RCPT)
    assert session.data == b"MAIL FROM:<a@b>\r\nEXPN staff\r\n"
    session.receive(b"250 ok\r\n252 maybe\r\n").forget()
    assert session.receive(b"250 ok\r\n").send(DATA).data.endswith(b"DATA\r\n")
    for other in (call(), call(b"554 no\r\n")):
        with pytest.raises(LocalProtocolError, match="EXPN is not allowed"):
            other.client.send(expn)
    violates(greeted().send(expn), b"354 go\r\n")


@pytest.mark.parametrize(
    "verb", ["MAIL", "RCPT", "DATA", "BDAT", "AUTH", "STARTTLS", "EHLO", "HELO", "LHLO", "QUIT", "RSET"]
)
def test_generic_command_cannot_send_a_verb_that_has_a_class(verb: str) -> None:
    """Otherwise the client would not know the state of the session."""
    session = greeted("CHUNKING", "STARTTLS", "AUTH PLAIN")
    with pytest.raises(LocalProtocolError, match=verb):
        session.client.send(smtp.GenericCommand(verb=verb))
    assert session.pull().sends == []


@pytest.mark.parametrize(
    ("verb", "argument"),
    [
        *(("", ""), ("expn", ""), ("EX PN", ""), ("EXPN\r\nRSET", ""), ("EXPN\n", ""), ("É", ""), ("5XX", "")),
        *(("EXPN", "a\r\nRSET"), ("EXPN", "a\n"), ("EXPN", "a\0"), ("EXPN", "a "), ("EXPN", "ä"), ("EXPN", "a\tb")),
        ("EXPN", "x" * 506),
    ],
)
def test_generic_command_has_a_valid_line(verb: str, argument: str) -> None:
    """architecture.md, invariant 11; RFC 5321 section 4.5.3.1.4."""
    with pytest.raises(LocalProtocolError):
        smtp.GenericCommand(verb=verb, argument=argument)
    assert len(smtp.GenericCommand(verb="EXPN", argument="x" * 505).to_wire()) == 512


# Tolerant and strict

WORDS: Final = (
    *(b"220 go\r\n", b"250 ok\r\n", b"250-a\r\n", b"354 go\r\n", b"334 \r\n", b"235 ok\r\n", b"421 bye\r\n"),
    *(b"552 full\r\n", b"571 5.7.1 no\r\n", b"460 later\r\n", b"260 ok\r\n", b"\r\n", b" \r\n", b"\n", b"2", b"50"),
)
COMMANDS: Final = (
    *(MAIL, RCPT, DATA, CHUNK, COMPLETE, smtp.Rset(), smtp.Noop(), smtp.StartTls(), smtp.Quit()),
    *(smtp.Hello(domain="c"), smtp.GenericCommand(verb="EXPN", argument="x")),
)
replies = st.one_of(st.lists(st.sampled_from(WORDS), max_size=12).map(b"".join), st.binary(max_size=30))
groups = st.lists(st.tuples(st.lists(st.sampled_from(COMMANDS), max_size=4), replies), max_size=6)
single = st.lists(st.tuples(st.lists(st.sampled_from(COMMANDS), max_size=1), replies), max_size=9)
"""One command at a time: what arrives before a command is written is not the reply to it."""


def run(
    steps: list[tuple[list[Command], bytes]],
    extensions: Sequence[str],
    *,
    strict: bool,
    alone: bool = False,
    bytewise: bool = False,
) -> tuple[list[Any], bool]:
    """Return the events, the output and the end of a session, and whether it failed.

    *alone*: leave out a command while another is unanswered.
    """
    session = greeted(*extensions, settings=smtp.ClientSettings(strict_syntax=strict))
    refused: list[Command] = []
    failed = False
    try:
        for commands, data in steps:
            for command in commands:
                if alone and session.client._unanswered:
                    continue
                try:
                    session.client.send(command)
                except LocalProtocolError:
                    refused.append(command)
            session.pull()
            session.receive(*([data[n : n + 1] for n in range(len(data))] if bytewise else filter(None, [data])))
        session.receive(b"")
    except RemoteProtocolError:
        failed = True
    return [*session.events, session.data, session.closed, refused], failed


@given(groups, st.sampled_from([(), ("PIPELINING",), ("PIPELINING", "CHUNKING", "STARTTLS"), ("CHUNKING",)]))
def test_tolerant_and_strict_clients_agree_where_both_accept(
    steps: list[tuple[list[Command], bytes]], extensions: Sequence[str]
) -> None:
    """What the strict client accepts, the tolerant one reads in the same way."""
    strict, failed = run(steps, extensions, strict=True)
    if not failed:
        assert run(steps, extensions, strict=False) == (strict, False)


@given(single, st.sampled_from([(), ("PIPELINING",), ("PIPELINING", "CHUNKING"), ("CHUNKING",)]), st.booleans())
def test_events_do_not_depend_on_how_replies_are_split(
    steps: list[tuple[list[Command], bytes]], extensions: Sequence[str], strict: bool
) -> None:
    """architecture.md, invariant 8, in both modes."""
    whole = run(steps, extensions, strict=strict, alone=True)
    assert run(steps, extensions, strict=strict, alone=True, bytewise=True) == whole
