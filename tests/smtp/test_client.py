"""The client: what it may send and when, what is sent together, and what a reply changes (RFC 5321, 2920)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mailauth import (
    BeginTls,
    Command,
    LocalProtocolError,
    MessageChunk,
    RemoteProtocolError,
    Send,
    pop3,
    sasl,
    smtp,
)
from tests.smtp.drive import TLS, Session, call, each_cut, greeted

MAIL = smtp.Mail(reverse_path=smtp.Mailbox("a", "b"))
RCPT = smtp.Rcpt(forward_path=smtp.Mailbox("c", "d"))
OTHER = smtp.Rcpt(forward_path=smtp.Mailbox("e", "f"))
DATA = smtp.Data()
ALICE = sasl.PlainClient(authentication_identity="alice", password=b"correct horse")


def refuses(session: Session, command: Command) -> None:
    """LocalProtocolError, and nothing is sent."""
    session.pull()
    with pytest.raises(LocalProtocolError):
        session.client.send(command)
    before = len(session.sends)
    session.pull()
    assert len(session.sends) == before


def writing() -> Session:
    """A client that may send content."""
    session = greeted("PIPELINING").send(MAIL, RCPT, DATA)
    return session.receive(b"250 ok\r\n250 ok\r\n354 go\r\n").forget()


def codes(session: Session) -> list[tuple[type[object], int]]:
    return [(type(event.command), event.reply.code) for event in session.of(smtp.ReplyReceived)]


# What is sent, and when


def test_commands_are_pipelined_if_offered() -> None:
    """RFC 2920 section 3.1: one group, one Send, DATA last."""
    session = greeted("PIPELINING").send(MAIL, RCPT, OTHER, DATA)
    assert session.sends == [b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRCPT TO:<e@f>\r\nDATA\r\n"]


def test_commands_wait_for_each_reply_without_pipelining() -> None:
    """RFC 2920 section 3.1."""
    session = greeted("SIZE").send(MAIL, RCPT, DATA)
    assert session.sends == [b"MAIL FROM:<a@b>\r\n"]
    session.receive(b"250 ok\r\n", b"250 ok\r\n")
    assert session.sends == [b"MAIL FROM:<a@b>\r\n", b"RCPT TO:<c@d>\r\n", b"DATA\r\n"]


@pytest.mark.parametrize("last", [smtp.Noop(), smtp.Vrfy(argument="x"), smtp.Hello(domain="c"), smtp.Help()])
def test_ungroupable_command_ends_the_pipelined_group(last: Command) -> None:
    """RFC 2920 section 3.1."""
    session = greeted("PIPELINING").send(smtp.Rset(), last, MAIL)
    assert b"MAIL" not in session.data
    session.receive(b"250 ok\r\n")
    assert b"MAIL" not in session.data
    session.receive(b"250 ok\r\n")
    assert session.data.endswith(b"MAIL FROM:<a@b>\r\n")


def test_pipelined_group_may_start_with_end_of_content() -> None:
    """RFC 2920 section 4: the next message need not wait for the reply to the last one."""
    session = writing().send(MessageChunk(data=b"x\r\n"), smtp.MessageComplete(), MAIL, RCPT, DATA)
    assert session.data == b"x\r\n.\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n"
    session.receive(b"452 full\r\n250 ok\r\n250 ok\r\n354 go\r\n")
    assert [code for _, code in codes(session)] == [452, 250, 250, 354]
    session.forget().send(MessageChunk(data=b".y"), smtp.MessageComplete())
    assert session.data == b"..y\r\n.\r\n"


def test_reply_event_contains_the_command_object_sent() -> None:
    """architecture.md, A connection: in order."""
    session = greeted("PIPELINING").send(RSET := smtp.Rset(), MAIL, RCPT).receive(b"250 1\r\n250 2\r\n550 5.1.1 3\r\n")
    assert [event.command for event in session.events] == [RSET, MAIL, RCPT]
    assert all(event.command is sent for event, sent in zip(session.events, (RSET, MAIL, RCPT), strict=True))
    assert session.events[2].reply == smtp.Reply(550, "5.1.1", "3")


# Order


@pytest.mark.parametrize(
    "command",
    [RCPT, DATA, smtp.MessageComplete(), MessageChunk(data=b"x"), pop3.Noop(), smtp.MessageChunk(data=b"")],
)
def test_command_out_of_order_raises_local_protocol_error(command: Command) -> None:
    """RFC 5321 section 4.1.4: nothing is sent."""
    refuses(greeted("PIPELINING"), command)


def test_order_check_assumes_outstanding_commands_are_accepted() -> None:
    """RFC 2920 section 3.1: as if every outstanding command were accepted."""
    session = greeted("PIPELINING").send(MAIL)
    refuses(session, DATA)
    refuses(session, MAIL)
    refuses(session, smtp.StartTls())
    session.send(RCPT, DATA)
    for command in (RCPT, smtp.Rset(), smtp.Quit(), MessageChunk(data=b"x")):
        refuses(session, command)


def test_commands_that_need_the_greeting_or_ehlo_raise_before_it() -> None:
    """RFC 5321 section 4.3.1."""
    refuses(call(), smtp.Hello(domain="c"))
    refuses(call(b"220 hi\r\n"), MAIL)
    refuses(call(b"554 no\r\n"), smtp.Hello(domain="c"))
    assert call(b"554 no\r\n").send(smtp.Quit()).data == b"QUIT\r\n"


def test_commands_after_quit_or_during_login_raise() -> None:
    session = greeted().send(smtp.Quit())
    refuses(session, smtp.Noop())
    session = greeted("AUTH PLAIN")
    session.client.authenticate(ALICE)
    refuses(session, smtp.Noop())


def test_new_transaction_is_possible_after_rejected_pipelined_group() -> None:
    """RFC 2920 section 3.1: all are answered, and the next transaction may begin."""
    session = greeted("PIPELINING").send(MAIL, RCPT, DATA).receive(b"550 no\r\n")
    session.receive(b"503 order\r\n503 order\r\n")
    assert codes(session) == [(smtp.Mail, 550), (smtp.Rcpt, 503), (smtp.Data, 503)]
    session.forget().send(MAIL, RCPT, DATA)
    assert session.data.endswith(b"DATA\r\n")


def test_acceptance_out_of_order_raises_remote_protocol_error() -> None:
    """RFC 5321 section 4.1.4: otherwise content could be sent without a known sender."""
    session = greeted("PIPELINING").send(MAIL, RCPT, DATA)
    session.machine.receive_data(b"550 no\r\n250 ok\r\n354 go\r\n")
    with pytest.raises(RemoteProtocolError):
        session.pull()


def test_client_sends_final_dot_after_354_without_recipients() -> None:
    """RFC 2920 section 3.1: the client sends the dot itself; the reply to it is the reply to Data."""
    session = greeted("PIPELINING").send(MAIL, RCPT, OTHER, DATA).forget()
    session.receive(b"250 ok\r\n550 no\r\n550 no\r\n354 go\r\n")
    assert session.sends == [b".\r\n"]
    refuses(session, MessageChunk(data=b"x"))
    refuses(session, smtp.MessageComplete())
    session.receive(b"554 no valid recipients\r\n")
    assert codes(session) == [(smtp.Mail, 250), (smtp.Rcpt, 550), (smtp.Rcpt, 550), (smtp.Data, 554)]
    assert session.forget().send(MAIL).data == b"MAIL FROM:<a@b>\r\n"


def test_second_354_after_final_dot_raises_remote_protocol_error() -> None:
    """RFC 5321 section 4.3.2."""
    session = greeted("PIPELINING").send(MAIL, RCPT, DATA)
    session.machine.receive_data(b"250 ok\r\n550 no\r\n354 go\r\n354 go on\r\n")
    with pytest.raises(RemoteProtocolError):
        session.pull()


def test_recipient_of_earlier_transaction_is_not_counted() -> None:
    """RFC 2920 section 3.1."""
    session = greeted("PIPELINING").send(MAIL, RCPT, smtp.Rset(), MAIL, RCPT, DATA).forget()
    session.receive(b"250 ok\r\n250 ok\r\n250 ok\r\n250 ok\r\n550 no\r\n354 go\r\n")
    assert session.sends == [b".\r\n"]


def test_rejected_data_leaves_transaction_open() -> None:
    """RFC 5321 section 4.1.1.4."""
    session = greeted("PIPELINING").send(MAIL, RCPT, DATA).receive(b"250 ok\r\n250 ok\r\n451 wait\r\n")
    assert session.forget().send(DATA).data == b"DATA\r\n"


# What cannot be sent


@pytest.mark.parametrize("bad", ["a\r\nRSET", "a\nb", "a\rb", "a\0b", "ä", "a\x7f", "a\x85b", "a\u2028b"])
def test_control_or_non_ascii_characters_in_arguments_raise(bad: str) -> None:
    """CRLF injection: an error before anything is sent."""
    session = greeted("PIPELINING")
    a = smtp.Mailbox("a", "b")
    makers: tuple[Callable[[], Command], ...] = (
        lambda: smtp.Hello(domain=bad),
        lambda: smtp.Noop(argument=bad),
        lambda: smtp.Vrfy(argument=bad),
        lambda: smtp.Help(argument=bad),
        lambda: smtp.Mail(reverse_path=smtp.Mailbox(bad, "b")),
        lambda: smtp.Mail(reverse_path=smtp.Mailbox("a", bad)),
        lambda: smtp.Mail(reverse_path=smtp.Mailbox("a", f"[{bad}]")),
        lambda: smtp.Mail(reverse_path=smtp.Mailbox("a", f"[x:{bad}]")),
        lambda: smtp.Mail(reverse_path=a, auth=bad),
        lambda: smtp.Mail(reverse_path=a, parameters={bad: None}),
        lambda: smtp.Mail(reverse_path=a, parameters={"X": bad}),
        lambda: smtp.Rcpt(forward_path=smtp.Mailbox(bad, "")),
        lambda: smtp.Rcpt(forward_path=a, parameters={"X": bad}),
    )
    for make in makers:
        with pytest.raises(LocalProtocolError):
            session.client.send(make())
    assert session.pull().sends == []
    assert session.send(MAIL).data == b"MAIL FROM:<a@b>\r\n"


@pytest.mark.parametrize(
    "fields",
    [
        {"reverse_path": smtp.Mailbox("Postmaster", "")},
        {"size": -1},
        {"size": 10**20},
        {"size": True},
        {"auth": ""},
        {"parameters": {"": None}},
        {"parameters": {"X": ""}},
        {"parameters": {"X Y": None}},
        {"parameters": {"X=1": None}},
        {"parameters": {"x-lower": None}},
        {"parameters": {"SIZE": "1"}},
        {"parameters": {"SMTPUTF8": None}},
    ],
)
def test_invalid_mail_field_raises_and_names_the_field(fields: Any) -> None:
    """RFC 5321 section 4.1.2, RFC 1870 section 4, RFC 4954 section 5: the error names the field."""
    with pytest.raises(LocalProtocolError, match=next(iter(fields))):
        smtp.Mail(**{"reverse_path": None, **fields})


def test_parameter_changed_after_validation_is_not_sent() -> None:
    parameters: dict[str, str | None] = {"X": "1"}
    mail = smtp.Mail(reverse_path=None, parameters=parameters)
    parameters["X"] = "1\r\nRCPT TO:<a@b>"
    session = greeted("PIPELINING")
    refuses(session, mail)
    assert session.send(MAIL).data == b"MAIL FROM:<a@b>\r\n"


def test_tls_required_prevents_mail_and_auth_without_tls() -> None:
    """RFC 3207 section 6: a stripped STARTTLS is an error."""
    settings = smtp.ClientSettings(tls_required=True)
    session = greeted("AUTH PLAIN", settings=settings)
    refuses(session, MAIL)
    with pytest.raises(LocalProtocolError):
        session.client.authenticate(ALICE)
    assert session.pull().sends == []
    session = greeted("AUTH PLAIN", settings=settings, tls=TLS)
    assert session.send(MAIL).data == b"MAIL FROM:<a@b>\r\n"


def test_unanswered_commands_are_limited() -> None:
    """architecture.md, A connection."""
    session = greeted("PIPELINING", settings=smtp.ClientSettings(max_unanswered=2))
    session.client.send(MAIL)
    session.client.send(RCPT)
    refuses(session, OTHER)
    session.receive(b"250 ok\r\n")
    session.send(OTHER)


def test_queued_data_is_limited() -> None:
    """architecture.md, invariant 4: flush, then go on."""
    session = writing()
    piece = MessageChunk(data=b"x" * 998 + b"\r\n")
    for _ in range(1_049):
        session.client.send(piece)
    with pytest.raises(LocalProtocolError):
        session.client.send(piece)
    session.pull()
    session.send(piece, smtp.MessageComplete())
    assert session.data == piece.data * 1_050 + b".\r\n"


# Content


@pytest.mark.parametrize("bad", [b"a\rb", b"a\nb", b"a\0b", b"\n", b"a\n\r\n"])
def test_invalid_content_is_rejected_and_valid_content_may_follow(bad: bytes) -> None:
    """RFC 5321 section 2.3.8: the connection is unchanged, and valid content may follow."""
    session = writing().send(MessageChunk(data=b"good\r\n"))
    refuses(session, MessageChunk(data=bad))
    session.send(MessageChunk(data=b".more\r"))
    refuses(session, MessageChunk(data=b"x"))
    refuses(session, smtp.MessageComplete())
    session.send(MessageChunk(data=b"\n"), smtp.MessageComplete())
    assert session.data == b"good\r\n..more\r\n.\r\n"


def test_content_that_ends_in_a_cr_cannot_be_completed() -> None:
    """RFC 5321 section 2.3.8: with the added CRLF, it would contain a bare CR."""
    session = writing().send(MessageChunk(data=b"text\r"))
    refuses(session, smtp.MessageComplete())


def test_dot_stuffing_and_final_crlf_are_independent_of_splitting() -> None:
    """RFC 5321 section 4.5.2."""
    content = b".a\r\n..\r\n.\r\nb.\r\n.c"
    for pieces in each_cut(content):
        session = writing().send(*(MessageChunk(data=piece) for piece in pieces), smtp.MessageComplete())
        assert session.data == b"..a\r\n...\r\n..\r\nb.\r\n..c\r\n.\r\n"


def test_empty_message_is_sent_as_a_final_dot() -> None:
    assert writing().send(MessageChunk(data=b""), smtp.MessageComplete()).data == b".\r\n"


def test_content_state_is_reset_for_the_next_message() -> None:
    session = writing().send(MessageChunk(data=b"x"), smtp.MessageComplete()).receive(b"250 ok\r\n")
    refuses(session, MessageChunk(data=b"x"))
    session.send(MAIL, RCPT, DATA).receive(b"250 ok\r\n250 ok\r\n354 go\r\n").forget()
    assert session.send(MessageChunk(data=b"."), smtp.MessageComplete()).data == b"..\r\n.\r\n"


# EHLO and STARTTLS


def test_extensions_are_read_from_the_ehlo_reply() -> None:
    """RFC 5321 section 4.1.1.1; ``AUTH=`` of old servers counts as AUTH."""
    session = greeted("SIZE 1000", "size", "AUTH=LOGIN PLAIN", "AUTH CRAM-MD5 PLAIN ", "8bitmime", "X-FOO a  b")
    assert session.client.extensions["SIZE"].startswith("1000")
    assert session.client.extensions["AUTH"].split() == ["LOGIN", "PLAIN", "CRAM-MD5", "PLAIN"]
    assert session.client.extensions["8BITMIME"] == ""
    assert session.client.extensions["X-FOO"] == "a  b"
    assert "server.example" not in session.client.extensions


def test_rejected_ehlo_keeps_extensions_and_helo_clears_them() -> None:
    """RFC 5321 section 4.1.1.1."""
    session = greeted("PIPELINING").send(smtp.Hello(domain="c")).receive(b"500 what\r\n")
    assert session.client.extensions == {"PIPELINING": ""}
    session.send(smtp.Hello(domain="c", extended=False)).receive(b"250-hi\r\n250 PIPELINING\r\n")
    assert session.client.extensions == {}


def test_reply_to_starttls_is_reported_after_the_handshake() -> None:
    """RFC 3207 section 4.2: the event comes inside TLS, when the extensions have been cleared."""
    session = greeted("STARTTLS", "PIPELINING")
    session.starts_tls = False
    command = smtp.StartTls()
    session.send(command).receive(b"220 go\r\n")
    assert session.last == BeginTls(data=b"")
    assert session.events == []
    refuses_now = smtp.Noop()
    with pytest.raises(LocalProtocolError):
        session.client.send(refuses_now)
    session.machine.tls_started(TLS)
    session.pull()
    assert session.events == [smtp.ReplyReceived(command=command, reply=smtp.Reply(220, "", "go"))]
    assert session.client.extensions == {}
    refuses(session, MAIL)
    refuses(session, smtp.StartTls())
    session.forget().send(smtp.Hello(domain="c"))
    assert session.log[0] == Send(data=b"EHLO c\r\n")


@pytest.mark.parametrize("after", [b"2", b"250 evil\r\n", b"\r\n"])
def test_data_after_220_to_starttls_raises_remote_protocol_error(after: bytes) -> None:
    """RFC 3207 section 4.2, CVE-2021-23993."""
    session = greeted("STARTTLS").send(smtp.StartTls())
    session.machine.receive_data(b"220 go\r\n" + after)
    for _ in range(2):
        with pytest.raises(RemoteProtocolError):
            session.machine.next_event()


def test_rejected_starttls_leaves_the_session_unchanged() -> None:
    """RFC 3207 section 4.1: the client decides."""
    session = greeted("STARTTLS", "SIZE").send(smtp.StartTls()).receive(b"454 later\r\n")
    assert codes(session) == [(smtp.StartTls, 454)]
    assert session.client.extensions == {"STARTTLS": "", "SIZE": ""}
    assert session.send(MAIL).data.endswith(b"MAIL FROM:<a@b>\r\n")


# Replies


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n",
        b"\r\n" * 11,
        b" \r\n",
        b"99 x\r\n",
        b"2500 x\r\n",
        b"150 x\r\n",
        b"600 x\r\n",
        b"360 x\r\n",
        b"650 x\r\n",
        b"250x\r\n",
        b"250 a\0b\r\n",
        b"250 a\nb\r\n",
        b"250 a\rb\r\n",
        b"250-a\r\n251 b\r\n",
        b"250-a\r\nb\r\n",
        b"354 go\r\n",
        b"334 go\r\n",
        b"250 " + b"x" * 4_096 + b"\r\n",
        b"250 " + b"x" * 4_096,
        b"250-a\r\n" * 201,
        (b"250-" + b"x" * 4_000 + b"\r\n") * 17,
    ],
)
def test_invalid_reply_raises_remote_protocol_error_permanently(data: bytes) -> None:
    """RFC 5321 section 4.2: malformed, inconsistent, too long and endless replies."""
    session = greeted().send(smtp.Noop())
    session.machine.receive_data(data)
    with pytest.raises(RemoteProtocolError):
        session.pull()
    with pytest.raises(RemoteProtocolError):
        session.machine.next_event()
    with pytest.raises(LocalProtocolError):
        session.client.send(smtp.Noop())


def test_overlong_reply_line_raises_before_its_end() -> None:
    """architecture.md, invariant 4."""
    session = greeted().send(smtp.Noop())
    session.receive(*[b"x" * 1_000] * 4)
    session.machine.receive_data(b"x" * 1_000)
    with pytest.raises(RemoteProtocolError):
        session.machine.next_event()


def test_unsolicited_reply_raises_remote_protocol_error() -> None:
    """RFC 5321 section 4.2."""
    session = greeted()
    session.machine.receive_data(b"250 ok\r\n")
    with pytest.raises(RemoteProtocolError):
        session.machine.next_event()


@pytest.mark.parametrize("data", [b"250 ok\r\n", b"334 go\r\n", b"350 go\r\n", b"235 ok\r\n"])
def test_reply_to_data_other_than_354_or_rejection_raises(data: bytes) -> None:
    """RFC 5321 section 4.3.2."""
    session = greeted("PIPELINING").send(MAIL, RCPT, DATA)
    session.machine.receive_data(b"250 ok\r\n250 ok\r\n" + data)
    with pytest.raises(RemoteProtocolError):
        session.pull()


def test_greeting_with_code_354_raises_remote_protocol_error() -> None:
    """RFC 5321 section 4.3.2."""
    session = call()
    session.machine.receive_data(b"354 go\r\n")
    with pytest.raises(RemoteProtocolError):
        session.machine.next_event()


def test_all_reply_forms_of_rfc_5321_are_accepted() -> None:
    """RFC 5321 section 4.2: a bare code, no text, many lines, bytes above 127."""
    session = greeted("PIPELINING").send(*[smtp.Rset()] * 5)
    session.receive(b"250\r\n250 \r\n250-a\r\n250-\r\n250 b\r\n250-2.0.0 c\r\n250 2.0.0 d\r\n250 \xc3\xa9\tx\r\n")
    assert [event.reply for event in session.events] == [
        smtp.Reply(250),
        smtp.Reply(250),
        smtp.Reply(250, "", "a\n\nb"),
        smtp.Reply(250, "2.0.0", "c\nd"),
        smtp.Reply(250, "", "??\tx"),
    ]


def test_421_may_come_at_any_time() -> None:
    """RFC 5321 section 3.8: it answers the oldest command, or none, and nothing may be sent afterwards."""
    for session in (call(), greeted(), writing()):
        session.forget().receive(b"421 bye\r\n")
        assert session.events == [smtp.ReplyReceived(command=None, reply=smtp.Reply(421, "", "bye"))]
        refuses(session, smtp.Noop())
    session = greeted("PIPELINING").send(MAIL, RCPT, DATA).receive(b"250 ok\r\n421 bye\r\n")
    assert codes(session) == [(smtp.Mail, 250), (smtp.Rcpt, 421)]


@pytest.mark.parametrize(
    ("command", "code", "temporary"),
    [
        (RCPT, 452, True),
        (RCPT, 552, True),
        (RCPT, 550, False),
        (smtp.MessageComplete(), 552, False),
        (smtp.MessageComplete(), 451, True),
        (RCPT, 250, False),
        (None, 421, True),
    ],
)
def test_552_is_temporary_only_as_reply_to_rcpt(command: Command | None, code: int, temporary: bool) -> None:
    """RFC 5321 section 4.5.3.1.10: older servers reply 552 to too many recipients, and the rest may be sent later."""
    assert smtp.ReplyReceived(command=command, reply=smtp.Reply(code)).temporary is temporary
