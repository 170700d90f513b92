"""How a session ends, on the server and on the client.

The rows are the state of the session: 1 between commands, 2 with a question open, 3 inside content or a login, 4 at a
TLS handshake, 5 any state of a client.  The columns are the cause: 1 the end of the stream, 2 ``shut_down()``.
"""

from __future__ import annotations

import pytest

from mailauth import (
    ACCEPT,
    BeginTls,
    Closed,
    CloseReason,
    LocalProtocolError,
    MessageChunk,
    RemoteProtocolError,
    Send,
    sasl,
    smtp,
)
from mailauth.events import PAUSED
from tests.smtp.drive import LEFT_OPEN, TLS, Session, call, each_cut, greeted, ready, serve

GOODBYE = "421 4.3.2 service shutting down, closing connection"
SILENT = "421 4.4.2 timeout exceeded, closing connection"
DATA = b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\n"
PLAIN = b"AUTH PLAIN AHRlc3QAMTIzNA==\r\n"
ALICE = sasl.PlainClient(authentication_identity="alice", password=b"correct horse")


def shut_down(session: Session, reason: CloseReason = CloseReason.SHUT_DOWN) -> Session:
    session.machine.shut_down(reason)
    session.machine.shut_down(CloseReason.ABORTED)  # a second call does nothing
    return session.pull()


def ends(session: Session, reason: CloseReason, *unanswered: smtp.Mail | smtp.Rcpt | smtp.Data | smtp.Noop) -> None:
    """Check that the session is closed and that further input changes nothing."""
    assert session.last == Closed(reason=reason, unanswered=unanswered)
    session.machine.receive_data(b"NOOP\r\n")
    session.machine.receive_data(b"")
    session.machine.shut_down()
    assert session.machine.next_event() == session.last
    assert session.machine.next_event() == session.last


# The server, end of stream


@pytest.mark.parametrize("before", [b"NOOP\r\n", b"EHLO c\r\n", b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\n"])
def test_end_of_stream_processes_complete_lines_and_discards_incomplete_line(before: bytes) -> None:
    """Row 1, column 1."""
    session = serve(before).forget()
    session.machine.receive_data(b"NOOP\r\nVRFY x\r\nQUI")
    session.machine.receive_data(b"")
    session.pull()
    assert session.codes == [250, 252]
    ends(session, CloseReason.PEER_CLOSED)


def test_end_of_stream_waits_for_the_answer_to_an_open_question() -> None:
    """Row 2, column 1: the message may be stored, and the reply is sent if possible."""
    session = ready(DATA + b"text\r\n.\r\n", answers={smtp.MessageComplete: LEFT_OPEN})
    session.machine.receive_data(b"")
    assert session.machine.next_event() == PAUSED
    session.answer(ACCEPT)
    assert session.codes[-1] == 250
    assert session.of(smtp.MessageAborted) == []
    ends(session, CloseReason.PEER_CLOSED)


def test_end_of_stream_processes_lines_after_the_open_question() -> None:
    """Rows 1 and 2, column 1."""
    session = ready(b"MAIL FROM:<>\r\nNOOP\r\nQUIT\r\n", answers={smtp.Mail: LEFT_OPEN})
    session.machine.receive_data(b"")
    session.answer(ACCEPT)
    assert session.codes == [250, 250, 221]
    ends(session, CloseReason.QUIT)


@pytest.mark.parametrize("content", [b"", b"half", b"line\r\n", b"line\r\n.", b"line\r\n.\r", b"."])
def test_end_of_stream_aborts_content(content: bytes) -> None:
    """Row 3, column 1: what was received so far is not a message."""
    session = ready(DATA + content).forget().receive(b"")
    assert session.events == [smtp.MessageAborted(reason=CloseReason.PEER_CLOSED)]
    assert session.data == b""
    ends(session, CloseReason.PEER_CLOSED)


def test_end_of_stream_aborts_data_accepted_afterwards() -> None:
    """Rows 2 and 3, column 1: every accepted Data ends exactly once."""
    session = ready(DATA, answers={smtp.Data: LEFT_OPEN})
    session.machine.receive_data(b"")
    session.answer(ACCEPT)
    assert session.events[-1] == smtp.MessageAborted(reason=CloseReason.PEER_CLOSED)
    ends(session, CloseReason.PEER_CLOSED)


@pytest.mark.parametrize("data", [b"AUTH PLAIN\r\n", b"AUTH LOGIN\r\ndGVzdA==\r\n", b"AUTH CRAM-MD5\r\nhalf a lin"])
def test_end_of_stream_fails_a_login(data: bytes) -> None:
    """Row 3, column 1."""
    session = ready(data).forget().receive(b"")
    assert [event.reason for event in session.events] == [None]
    assert isinstance(session.events[0], sasl.AuthenticationFailed)
    assert session.data == b""
    ends(session, CloseReason.PEER_CLOSED)


def test_end_of_stream_waits_for_the_answer_to_an_open_login() -> None:
    """Row 2, column 1."""
    session = ready(PLAIN, answers={sasl.CheckPassword: LEFT_OPEN})
    session.machine.receive_data(b"")
    session.answer(ACCEPT)
    assert session.codes == [235]
    assert len(session.of(sasl.Authenticated)) == 1
    ends(session, CloseReason.PEER_CLOSED)


def test_end_of_stream_during_handshake_closes_without_sending() -> None:
    """Row 4, column 1: nothing is sent."""
    session = ready()
    session.starts_tls = False
    session.receive(b"STARTTLS\r\n").forget().receive(b"")
    assert session.log == [Closed(reason=CloseReason.PEER_CLOSED)]
    ends(session, CloseReason.PEER_CLOSED)


def test_end_of_stream_before_the_greeting_still_sends_the_greeting() -> None:
    """Row 2, column 1: Connected is still asked, and its answer is sent as the greeting."""
    session = Session(smtp.ServerConnection(smtp.ServerSettings(), entropy=bytes(32)))
    session.machine.receive_data(b"")
    session.pull()
    assert session.codes == [220]
    ends(session, CloseReason.PEER_CLOSED)


def test_data_after_end_of_stream_raises() -> None:
    session = ready(b"MAIL FROM:<>\r\n", answers={smtp.Mail: LEFT_OPEN})
    session.machine.receive_data(b"")
    session.machine.receive_data(b"")
    with pytest.raises(LocalProtocolError):
        session.machine.receive_data(b"NOOP\r\n")


# The server, shut_down


@pytest.mark.parametrize("before", [b"NOOP\r\n", b"EHLO c\r\n", b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\nNO"])
@pytest.mark.parametrize(("reason", "line"), [(CloseReason.SHUT_DOWN, GOODBYE), (CloseReason.TIMED_OUT, SILENT)])
def test_shut_down_between_commands_sends_421(before: bytes, reason: CloseReason, line: str) -> None:
    """Row 1, column 2 (RFC 5321 section 3.8)."""
    session = shut_down(serve(before).forget(), reason)
    assert session.lines == [line]
    assert session.events == []
    ends(session, reason)


def test_shut_down_before_the_greeting_sends_421() -> None:
    """Row 1, column 2: 421 replaces the greeting."""
    session = shut_down(Session(smtp.ServerConnection(smtp.ServerSettings(), entropy=bytes(32))))
    assert session.log[:-1] == [Send(data=GOODBYE.encode("ascii") + b"\r\n")]
    ends(session, CloseReason.SHUT_DOWN)


def test_shut_down_after_a_554_greeting_sends_421() -> None:
    """Row 1, column 2."""
    session = shut_down(serve(answers={smtp.Connected: smtp.Reply(554)}))
    assert session.codes == [554, 421]
    ends(session, CloseReason.SHUT_DOWN)


@pytest.mark.parametrize(
    ("kind", "data", "code"),
    [
        (smtp.Mail, b"MAIL FROM:<>\r\nNOOP\r\n", 250),
        (smtp.Rcpt, b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nNOOP\r\n", 250),
        (smtp.MessageComplete, DATA + b"text\r\n.\r\nNOOP\r\n", 250),
        (sasl.CheckPassword, PLAIN + b"NOOP\r\n", 235),
    ],
)
def test_shut_down_waits_for_the_answer_to_an_open_question(kind: type[object], data: bytes, code: int) -> None:
    """Row 2, column 2: the reply to the question is sent first, then 421; no more input is read."""
    session = ready(data, answers={kind: LEFT_OPEN})
    shut_down(session)
    assert session.last == PAUSED
    before = len(session.codes)
    session.answer(ACCEPT)
    assert session.codes[before:][-2:] == [code, 421]
    assert session.of(smtp.Noop, smtp.MessageAborted) == []
    ends(session, CloseReason.SHUT_DOWN)


def test_shut_down_waits_for_the_answer_to_connected() -> None:
    """Row 2, column 2."""
    session = shut_down(serve(answers={smtp.Connected: LEFT_OPEN})).answer(ACCEPT)
    assert session.codes == [220, 421]
    ends(session, CloseReason.SHUT_DOWN)


def test_shut_down_aborts_content_that_is_accepted_afterwards() -> None:
    """Rows 2 and 3, column 2."""
    session = shut_down(ready(DATA, answers={smtp.Data: LEFT_OPEN})).answer(ACCEPT)
    assert session.codes == [250, 250, 354, 421]
    assert session.events[-1] == smtp.MessageAborted(reason=CloseReason.SHUT_DOWN)
    ends(session, CloseReason.SHUT_DOWN)


def test_shut_down_replaces_the_reply_to_starttls_with_421() -> None:
    """Rows 2 and 4, column 2: no handshake begins, and 421 is the reply to STARTTLS."""
    session = shut_down(ready(b"STARTTLS\r\n", answers={smtp.StartTls: LEFT_OPEN})).answer(ACCEPT)
    assert session.lines == [GOODBYE]
    assert session.begun_tls == []
    ends(session, CloseReason.SHUT_DOWN)


def test_shut_down_with_rejected_starttls_sends_both_replies() -> None:
    """Row 2, column 2."""
    session = shut_down(ready(b"STARTTLS\r\n", answers={smtp.StartTls: LEFT_OPEN})).answer(smtp.Reply(454))
    assert session.codes == [454, 421]
    ends(session, CloseReason.SHUT_DOWN)


def test_shut_down_with_421_as_the_answer_sends_421_once() -> None:
    """Row 2, column 2."""
    session = ready(b"MAIL FROM:<>\r\n", answers={smtp.Mail: LEFT_OPEN})
    shut_down(session).answer(smtp.Reply(421, "4.3.2", "later"))
    assert session.lines == ["421 4.3.2 later"]
    ends(session, CloseReason.SHUT_DOWN)


@pytest.mark.parametrize("content", [b"", b"half a line", b"line\r\n."])
def test_shut_down_during_content_aborts_it_and_sends_421(content: bytes) -> None:
    """Row 3, column 2: the notice comes first."""
    session = shut_down(ready(DATA + content).forget(), CloseReason.TIMED_OUT)
    assert session.log == [
        smtp.MessageAborted(reason=CloseReason.TIMED_OUT),
        Send(data=SILENT.encode("ascii") + b"\r\n"),
        Closed(reason=CloseReason.TIMED_OUT),
    ]
    ends(session, CloseReason.TIMED_OUT)


def test_shut_down_before_the_message_complete_event_aborts_the_message() -> None:
    """Row 3, column 2: not stored, so not acknowledged."""
    session = ready(DATA)
    session.machine.receive_data(b"text\r\n.\r\n")
    assert session.machine.next_event() == MessageChunk(data=b"text\r\n")
    shut_down(session)
    assert session.events[-1] == smtp.MessageAborted(reason=CloseReason.SHUT_DOWN)
    assert session.codes[-1] == 421
    ends(session, CloseReason.SHUT_DOWN)


@pytest.mark.parametrize("data", [b"AUTH PLAIN\r\n", b"AUTH LOGIN\r\ndGVzdA==\r\n"])
def test_shut_down_during_a_login_fails_it_and_sends_421(data: bytes) -> None:
    """Row 3, column 2."""
    session = shut_down(ready(data).forget())
    assert [event.reason for event in session.of(sasl.AuthenticationFailed)] == [None]
    assert session.lines == [GOODBYE]
    ends(session, CloseReason.SHUT_DOWN)


def test_shut_down_waits_for_the_second_question_of_a_login() -> None:
    """Rows 2 and 3, column 2: a second question of the same login is still asked, and its answer counts."""
    data = b"AUTH PLAIN " + sasl.encode_base64(b"bob\0test\0001234") + b"\r\n"
    session = shut_down(ready(data, answers={sasl.CheckPassword: LEFT_OPEN, sasl.Authorize: ACCEPT}))
    session.answer(ACCEPT)
    assert session.codes == [235, 421]
    ends(session, CloseReason.SHUT_DOWN)


@pytest.mark.parametrize("pulled", [True, False])
def test_shut_down_before_or_during_handshake_sends_nothing(pulled: bool) -> None:
    """Row 4, column 2: neither before BeginTls was pulled nor after it."""
    session = ready(b"RSET\r\nSTARTTLS\r\n", answers={smtp.StartTls: LEFT_OPEN})
    session.starts_tls = False
    assert session.question is not None
    session.server.answer(session.question, ACCEPT)
    if pulled:
        assert isinstance(session.machine.next_event(), BeginTls)
    session.forget()
    shut_down(session)
    assert session.log == [Closed(reason=CloseReason.SHUT_DOWN)]
    ends(session, CloseReason.SHUT_DOWN)


# The client


def test_client_closes_at_end_of_stream_between_commands() -> None:
    """Row 1, column 1; an incomplete reply is dropped."""
    ends(greeted().receive(b""), CloseReason.PEER_CLOSED)


@pytest.mark.parametrize("data", [b"", b"25", b"250-a\r\n"])
def test_client_end_of_stream_with_replies_due_raises(data: bytes) -> None:
    """Row 5, column 1."""
    session = greeted().send(smtp.Noop())
    if data:
        session.receive(data)
    session.machine.receive_data(b"")
    for _ in range(3):
        with pytest.raises(RemoteProtocolError):
            session.machine.next_event()


def test_client_end_of_stream_before_the_greeting_raises() -> None:
    """Row 5, column 1: the greeting is due."""
    session = call()
    session.machine.receive_data(b"")
    with pytest.raises(RemoteProtocolError):
        session.machine.next_event()


def test_client_end_of_stream_after_421_reports_unanswered_commands() -> None:
    """Row 5, column 1: sent or not, in their order."""
    commands = (
        smtp.Mail(reverse_path=None),
        smtp.Rcpt(forward_path=smtp.Mailbox("a", "b")),
        smtp.Data(),
    )
    for extension in ("PIPELINING", "SIZE"):
        session = greeted(extension).send(*commands).receive(b"421 4.3.2 bye\r\n")
        assert session.events == [smtp.ReplyReceived(command=commands[0], reply=smtp.Reply(421, "4.3.2", "bye"))]
        session.receive(b"")
        ends(session, CloseReason.PEER_CLOSED, *commands[1:])


@pytest.mark.parametrize("rest", [b"250 ok\r\n", b"garbage\r\n", b"421 again\r\n", b"x" * 10_000])
def test_client_ignores_data_after_421(rest: bytes) -> None:
    """RFC 5321 section 3.8: the server closes; what it sends afterwards is ignored."""
    session = greeted("SIZE").send(smtp.Mail(reverse_path=None), smtp.Noop()).receive(b"421 bye\r\n" + rest)
    assert len(session.events) == 1
    assert len(session.machine._input) == 0
    session.receive(b"")
    ends(session, CloseReason.PEER_CLOSED, smtp.Noop())


def test_client_shut_down_between_commands_sends_quit() -> None:
    """Row 5, column 2."""
    session = shut_down(greeted())
    assert session.data == b"QUIT\r\n"
    ends(session, CloseReason.SHUT_DOWN)
    session = shut_down(call(b"554 no\r\n"))
    assert session.data == b"QUIT\r\n"


def test_client_shut_down_with_replies_due_sends_nothing() -> None:
    """Row 5, column 2: unanswered commands are reported, whether they were sent or not."""
    noop, mail = smtp.Noop(), smtp.Mail(reverse_path=None)
    session = greeted().send(noop, mail).forget()
    shut_down(session)
    assert session.data == b""
    ends(session, CloseReason.SHUT_DOWN, noop, mail)


def test_client_shut_down_during_content_sends_no_final_dot() -> None:
    """Row 5, column 2: otherwise an incomplete message would count as complete."""
    session = greeted().send(smtp.Mail(reverse_path=None), smtp.Rcpt(forward_path=smtp.Mailbox("a", "b")), smtp.Data())
    session.receive(b"250 ok\r\n", b"250 ok\r\n", b"354 go\r\n").forget()
    session.client.send(MessageChunk(data=b"half a mess"))
    shut_down(session)
    assert session.data == b"half a mess"
    ends(session, CloseReason.SHUT_DOWN)


def test_client_shut_down_before_greeting_or_during_login_sends_nothing() -> None:
    """Row 5, column 2."""
    assert shut_down(call()).data == b""
    session = greeted("AUTH PLAIN")
    session.client.authenticate(ALICE)
    session.pull().forget()
    assert shut_down(session).data == b""


def test_client_shut_down_after_421_sends_nothing() -> None:
    """Row 5, column 2: the server no longer reads."""
    session = shut_down(greeted().receive(b"421 bye\r\n"))
    assert session.data == b""
    ends(session, CloseReason.SHUT_DOWN)


@pytest.mark.parametrize("how", ["end of stream", "shut_down"])
def test_client_closes_without_sending_if_the_handshake_fails(how: str) -> None:
    """Row 4: nothing is sent, and the reply to STARTTLS is never reported."""
    session = greeted("STARTTLS")
    session.starts_tls = False
    session.send(smtp.StartTls()).receive(b"220 go\r\n").forget()
    if how == "shut_down":
        shut_down(session)
    else:
        session.receive(b"")
    assert session.log == [session.last]
    ends(session, CloseReason.SHUT_DOWN if how == "shut_down" else CloseReason.PEER_CLOSED)


def test_client_closes_after_the_reply_to_quit() -> None:
    """RFC 5321 section 4.1.1.10: whatever the reply is."""
    for reply in (b"221 bye\r\n", b"500 what\r\n"):
        session = greeted().send(smtp.Quit()).receive(reply)
        ends(session, CloseReason.QUIT)
        with pytest.raises(LocalProtocolError):
            session.client.send(smtp.Noop())


def test_input_after_the_handshake_answers_commands_sent_in_tls() -> None:
    """RFC 3207 section 4.2: nothing received before the handshake is part of it, however the reply 220 is split."""
    for pieces in each_cut(b"220 go\r\n"):
        session = greeted("STARTTLS", "SIZE").send(smtp.StartTls()).receive(*pieces)
        assert session.client.tls == TLS
        hello = smtp.Hello(domain="client.example")
        session.forget().send(hello).receive(b"250-server.example\r\n250 DSN\r\n")
        reply = smtp.Reply(250, "", "server.example\nDSN")
        assert session.events == [smtp.ReplyReceived(command=hello, reply=reply)]
        assert session.client.extensions == {"DSN": ""}
