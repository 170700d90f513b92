"""What the client receives while no command is unanswered is not the reply to the next command."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest

from mailauth import Closed, CloseReason, MessageChunk, NeedData, RemoteProtocolError, Send, sasl, smtp
from tests.smtp.drive import Session, greeted

MAIL = smtp.Mail(reverse_path=None)
RCPT = smtp.Rcpt(forward_path=smtp.Mailbox("c", "d"))
PLAIN = sasl.PlainClient(authentication_identity="alice", password=b"correct horse")
CHUNK = MessageChunk(data=b"x\r\n")
END = smtp.MessageComplete()
Start: TypeAlias = Callable[[], Session]
Step: TypeAlias = Callable[[smtp.ClientConnection], None]


def ready() -> Session:
    return greeted("PIPELINING", "CHUNKING", "AUTH PLAIN", "STARTTLS")


def in_content() -> Session:
    session = ready().send(MAIL, RCPT, smtp.Data())
    return session.receive(b"250 ok\r\n250 ok\r\n354 go\r\n")


def before_chunks() -> Session:
    return ready().send(MAIL, RCPT).receive(b"250 ok\r\n250 ok\r\n")


def after_a_chunk() -> Session:
    return before_chunks().send(CHUNK).receive(b"250 ok\r\n")


COMMANDS: dict[str, tuple[Start, Step]] = {
    "NOOP": (ready, lambda client: client.send(smtp.Noop())),
    "EHLO": (ready, lambda client: client.send(smtp.Hello(domain="c"))),
    "STARTTLS": (ready, lambda client: client.send(smtp.StartTls())),
    "QUIT": (ready, lambda client: client.send(smtp.Quit())),
    "MAIL": (ready, lambda client: client.send(MAIL)),
    "AUTH": (ready, lambda client: client.authenticate(PLAIN)),
    "final dot": (in_content, lambda client: client.send(END)),
    "BDAT": (before_chunks, lambda client: client.send(CHUNK)),
    "BDAT LAST": (after_a_chunk, lambda client: client.send(END)),
}
each_command = pytest.mark.parametrize(("start", "command"), COMMANDS.values(), ids=COMMANDS)
each_time = pytest.mark.parametrize("pulled", [True, False], ids=["pulled before", "not pulled"])
"""Whether the application has pulled events between the early data and its command makes no difference."""


def receive(client: smtp.ClientConnection, data: bytes, *, pulled: bool) -> None:
    client.receive_data(data)
    if pulled:
        assert isinstance(client.next_event(), NeedData)


@each_command
@pytest.mark.parametrize("data", [b"250 ok\r\n", b"550 no\r\n", b"235 ok\r\n", b"250-a\r\n250 b\r\n"])
def test_reply_before_its_command_is_a_violation(start: Start, command: Step, data: bytes) -> None:
    client = start().client
    client.receive_data(data)
    command(client)
    assert client.is_open
    with pytest.raises(RemoteProtocolError, match="reply without a command"):
        client.next_event()
    assert not client.is_open


@each_command
@each_time
@pytest.mark.parametrize(("first", "rest"), [(b"25", b"0 ok\r\n"), (b"250-a\r\n", b"250 b\r\n"), (b"2", b"35 ok\r\n")])
def test_reply_that_begins_before_its_command_is_a_violation(
    start: Start, command: Step, first: bytes, rest: bytes, pulled: bool
) -> None:
    client = start().client
    receive(client, first, pulled=pulled)
    command(client)
    assert isinstance(client.next_event(), NeedData)  # nothing is sent
    client.receive_data(rest)
    with pytest.raises(RemoteProtocolError, match="reply without a command"):
        client.next_event()


@each_command
@each_time
@pytest.mark.parametrize(
    ("first", "rest"), [(b"421 bye\r\n", b""), (b"42", b"1 bye\r\n"), (b"421-\r\n", b"421 bye\r\n")]
)
def test_421_before_a_command_answers_no_command_and_the_command_is_not_sent(
    start: Start, command: Step, first: bytes, rest: bytes, pulled: bool
) -> None:
    client = start().client
    receive(client, first, pulled=pulled and bool(rest))
    command(client)
    if rest:
        client.receive_data(rest)
    event = client.next_event()
    assert isinstance(event, smtp.ReplyReceived)
    assert (event.command, event.reply.code, client.is_open) == (None, 421, False)
    client.receive_data(b"")
    closed = client.next_event()
    assert isinstance(closed, Closed)
    assert (closed.reason, len(closed.unanswered)) == (CloseReason.PEER_CLOSED, 1)


def test_reply_to_a_queued_command_before_it_is_sent_is_a_violation() -> None:
    """Without PIPELINING, RCPT waits for the reply to MAIL."""
    client = greeted("SIZE").send(MAIL, RCPT).client
    client.receive_data(b"250 ok\r\n250 early\r\n")
    assert client.next_event() == smtp.ReplyReceived(command=MAIL, reply=smtp.Reply(250, "", "ok"))
    with pytest.raises(RemoteProtocolError, match="reply without a command"):
        client.next_event()


def test_replies_to_commands_that_were_sent_may_arrive_together() -> None:
    """RFC 2920 section 3.1."""
    client = ready().send(MAIL, RCPT).client
    client.receive_data(b"250 1\r\n250 2\r\n")
    client.send(RCPT)  # MAIL is unanswered
    assert client.next_event() == Send(data=b"RCPT TO:<c@d>\r\n")
    assert [event.command for event in (client.next_event(), client.next_event())] == [MAIL, RCPT]  # type: ignore[union-attr]  # both are replies


def test_reply_before_the_final_dot_of_a_message_without_recipients_is_a_violation() -> None:
    client = ready().send(MAIL, RCPT, smtp.Data()).client
    client.receive_data(b"250 ok\r\n550 no\r\n354 go\r\n250 early\r\n")
    client.next_event(), client.next_event()
    with pytest.raises(RemoteProtocolError, match="before the content"):
        client.next_event()


@pytest.mark.parametrize("more", [b"235 ok\r\n", b"334 \r\n", b"2"])
def test_data_after_a_challenge_is_a_violation(more: bytes) -> None:
    """RFC 4954 section 4: the server waits for the response."""
    client = greeted("AUTH LOGIN").client
    client.authenticate(sasl.LoginClient(authentication_identity="test", password=b"1234"))
    client.next_event()
    client.receive_data(b"334 VXNlcm5hbWU6\r\n" + more)
    with pytest.raises(RemoteProtocolError, match="before the response to its challenge"):
        client.next_event()
