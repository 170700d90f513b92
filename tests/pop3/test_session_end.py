"""The ways a POP3 session ends, in each state, on both sides."""

from __future__ import annotations

import base64

import pytest

from mailauth import (
    ACCEPT,
    BeginTls,
    Closed,
    CloseReason,
    LocalProtocolError,
    MessageChunk,
    Paused,
    RemoteProtocolError,
    Send,
    pop3,
    sasl,
)
from tests.pop3.drive import TLS, Application, client, exchange, in_transaction, pull, said, server, settle, talk

PLAIN = base64.b64encode(b"\0alice\0wonderland")


# Server: the peer closes the connection


def test_between_commands_whole_lines_are_obeyed_and_half_a_line_is_dropped() -> None:
    connection, application = in_transaction(b"a", b"b")
    connection.receive_data(b"DELE 1\r\nDELE 2\r\nQUI")
    connection.receive_data(b"")
    events = settle(connection, application)
    assert said(events) == b"+OK message 1 deleted\r\n+OK message 2 deleted\r\n"
    assert events[-1] == Closed(reason=CloseReason.PEER_CLOSED)
    assert application.committed == []


def test_a_question_that_is_open_when_the_peer_closes_is_still_answered() -> None:
    connection, application = in_transaction(b"a")
    connection.receive_data(b"DELE 1\r\nQUIT\r\n")
    question = settle(connection, application, pause_at=pop3.Update)[-1]
    assert isinstance(question, pop3.Update)
    connection.receive_data(b"")
    assert isinstance(connection.next_event(), Paused)
    connection.answer(question, ACCEPT)
    events = settle(connection, application)
    assert said(events).startswith(b"+OK")
    assert events[-1] == Closed(reason=CloseReason.QUIT)


@pytest.mark.parametrize("line", [b"USER alice\r\n", b"AUTH PLAIN\r\n", b"AUTH LOGIN\r\n"])
def test_a_login_under_way_fails_when_the_peer_closes(line: bytes) -> None:
    connection, application = server(), Application()
    talk(connection, application, line)
    events = talk(connection, application, b"")
    assert [event.reason for event in events if isinstance(event, sasl.AuthenticationFailed)] == [None]
    assert events[-1] == Closed(reason=CloseReason.PEER_CLOSED)


def test_a_handshake_that_failed_is_closed_and_nothing_is_sent() -> None:
    connection, application = server(), Application()
    settle(connection, application)
    connection.receive_data(b"STLS\r\n")
    assert isinstance(settle(connection, application)[-1], BeginTls)
    connection.receive_data(b"")
    assert settle(connection, application) == [Closed(reason=CloseReason.PEER_CLOSED)]


def test_a_retrieval_under_way_goes_on_when_the_peer_has_said_all() -> None:
    connection, application = in_transaction(b"ab", piece=1)
    connection.receive_data(b"RETR 1\r\n")
    connection.receive_data(b"")
    events = settle(connection, application)
    assert said(events).endswith(b"ab\r\n.\r\n")
    assert events[-1] == Closed(reason=CloseReason.PEER_CLOSED)


# Server: shut_down()


@pytest.mark.parametrize("reason", [CloseReason.SHUT_DOWN, CloseReason.TIMED_OUT])
def test_between_commands_nothing_is_said_and_nothing_is_committed(reason: CloseReason) -> None:
    """RFC 1939 section 3: no UPDATE on timeout."""
    connection, application = in_transaction(b"a")
    talk(connection, application, b"DELE 1\r\n")
    connection.shut_down(reason)
    connection.shut_down(CloseReason.ABORTED)
    assert settle(connection, application) == [Closed(reason=reason)]
    assert settle(connection, application) == [Closed(reason=reason)]
    assert application.committed == []


def test_replies_that_wait_are_still_written() -> None:
    connection, application = in_transaction(b"a")
    connection.receive_data(b"NOOP\r\n")
    assert isinstance(connection.next_event(), pop3.Noop)
    connection.shut_down()
    events = settle(connection, application)
    assert said(events).startswith(b"+OK")
    assert events[-1] == Closed(reason=CloseReason.SHUT_DOWN)


def test_an_open_retrieval_is_answered_whole_then_closed() -> None:
    connection, application = in_transaction(b"a\r\n")
    connection.receive_data(b"RETR 1\r\nNOOP\r\n")
    question = settle(connection, application, pause_at=pop3.Retrieve)[-1]
    assert isinstance(question, pop3.Retrieve)
    connection.shut_down()
    assert isinstance(connection.next_event(), Paused)
    connection.answer(question, pop3.Content(data=b"a\r\n"))
    events = settle(connection, application)
    assert said(events) == b"+OK message follows\r\na\r\n.\r\n"
    assert events[-1] == Closed(reason=CloseReason.SHUT_DOWN)


def test_inside_content_the_connection_closes_without_the_dot() -> None:
    connection, application = in_transaction(b"ab", piece=1)
    connection.receive_data(b"RETR 1\r\n")
    question = settle(connection, application, pause_at=pop3.Retrieve)[-1]
    assert isinstance(question, pop3.Retrieve)
    connection.answer(question, pop3.Content(data=b"a", last=False))
    connection.shut_down()
    events = settle(connection, application)
    assert said(events).endswith(b"\r\na")
    assert events[-1] == Closed(reason=CloseReason.SHUT_DOWN)


def test_inside_a_listing_the_connection_closes_without_the_dot() -> None:
    connection, application = in_transaction(*[b""] * 5_000)
    connection.receive_data(b"UIDL\r\n")
    assert isinstance(connection.next_event(), pop3.Uidl)
    connection.shut_down()
    events = settle(connection, application)
    assert not said(events).endswith(b".\r\n")
    assert events[-1] == Closed(reason=CloseReason.SHUT_DOWN)


def test_an_open_commit_is_answered_then_closed() -> None:
    connection, application = in_transaction(b"a")
    connection.receive_data(b"DELE 1\r\nQUIT\r\n")
    question = settle(connection, application, pause_at=pop3.Update)[-1]
    assert isinstance(question, pop3.Update)
    connection.shut_down()
    connection.answer(question, ACCEPT)
    events = settle(connection, application)
    assert said(events).startswith(b"+OK")
    assert isinstance(events[-1], Closed)


def test_a_commit_that_was_not_asked_yet_is_not_made() -> None:
    connection, application = in_transaction(b"a")
    connection.receive_data(b"DELE 1\r\nQUIT\r\n")
    settle(connection, application, pause_at=pop3.Quit)
    connection.shut_down()
    events = settle(connection, application)
    assert events[-1] == Closed(reason=CloseReason.SHUT_DOWN)
    assert b"goodbye" not in said(events)
    assert application.committed == []


@pytest.mark.parametrize(
    ("answer", "kind", "reply"),
    [
        (ACCEPT, sasl.Authenticated, b"-ERR [SYS/TEMP] "),
        (sasl.Refusal.BAD_CREDENTIALS, sasl.AuthenticationFailed, b"-ERR [AUTH] "),
    ],
)
def test_a_login_that_is_being_judged_is_told_its_verdict(
    answer: sasl.Refusal, kind: type[object], reply: bytes
) -> None:
    """A grant can still be made, but the maildrop is not opened."""
    connection, application = server(), Application()
    settle(connection, application)
    connection.receive_data(b"AUTH PLAIN " + PLAIN + b"\r\n")
    question = settle(connection, application, pause_at=sasl.CheckPassword)[-1]
    assert isinstance(question, sasl.CheckPassword)
    connection.shut_down()
    connection.answer(question, answer)
    events = settle(connection, application)
    assert [type(event) for event in events] == [kind, Send, Closed]
    assert said(events).startswith(reply)
    assert events[-1] == Closed(reason=CloseReason.SHUT_DOWN)


def test_a_login_that_waits_for_the_client_is_abandoned() -> None:
    connection, application = server(), Application()
    talk(connection, application, b"AUTH LOGIN\r\n")
    connection.shut_down()
    events = settle(connection, application)
    assert [type(event) for event in events] == [sasl.AuthenticationFailed, Closed]


def test_stls_that_is_being_decided_is_refused() -> None:
    connection, application = server(), Application()
    settle(connection, application)
    connection.receive_data(b"STLS\r\n")
    question = connection.next_event()
    assert isinstance(question, pop3.Stls)
    connection.shut_down()
    connection.answer(question, ACCEPT)
    events = settle(connection, application)
    assert said(events).startswith(b"-ERR [SYS/TEMP] ")
    assert events[-1] == Closed(reason=CloseReason.SHUT_DOWN)


def test_while_tls_is_awaited_nothing_is_sent() -> None:
    connection, application = server(), Application()
    settle(connection, application)
    connection.receive_data(b"STLS\r\n")
    settle(connection, application)
    connection.shut_down()
    assert settle(connection, application) == [Closed(reason=CloseReason.SHUT_DOWN)]
    with pytest.raises(LocalProtocolError):
        connection.tls_started(TLS)


def test_before_the_greeting_its_answer_is_still_said() -> None:
    connection, application = server(), Application()
    question = connection.next_event()
    assert isinstance(question, pop3.Connected)
    connection.shut_down()
    connection.answer(question, ACCEPT)
    events = settle(connection, application)
    assert said(events).startswith(b"+OK ")
    assert events[-1] == Closed(reason=CloseReason.SHUT_DOWN)


def test_after_the_end_data_is_ignored() -> None:
    connection, application = in_transaction()
    talk(connection, application, b"QUIT\r\n")
    connection.receive_data(b"NOOP\r\n")
    connection.receive_data(b"")
    assert settle(connection, application) == [Closed(reason=CloseReason.QUIT)]


# Client


def logged_in_client() -> pop3.ClientConnection:
    connection = client()
    connection.authenticate(sasl.UserPassClient(authentication_identity="alice", password=b"wonderland"))
    pull(connection)
    connection.receive_data(b"+OK\r\n")
    pull(connection)
    connection.receive_data(b"+OK\r\n")
    assert pull(connection) == [sasl.Authenticated(mechanism="USER")]
    return connection


def test_a_client_whose_replies_are_due_finds_the_server_at_fault() -> None:
    connection = client()
    connection.send(pop3.Capa())
    pull(connection)
    connection.receive_data(b"+OK capabilities\r\nUSER\r\n")
    connection.receive_data(b"")
    for _ in range(2):
        with pytest.raises(RemoteProtocolError):
            pull(connection)


def test_a_server_that_closes_without_a_greeting_is_at_fault() -> None:
    connection = pop3.ClientConnection()
    connection.receive_data(b"")
    with pytest.raises(RemoteProtocolError):
        connection.next_event()


def test_a_server_that_closes_inside_a_login_is_at_fault() -> None:
    connection = client()
    connection.authenticate(sasl.UserPassClient(authentication_identity="alice", password=b"wonderland"))
    pull(connection)
    connection.receive_data(b"")
    with pytest.raises(RemoteProtocolError):
        connection.next_event()


def test_a_server_that_closes_between_commands_is_only_closed() -> None:
    connection = logged_in_client()
    connection.receive_data(b"")
    assert pull(connection) == [Closed(reason=CloseReason.PEER_CLOSED)]


def test_an_err_that_nobody_asked_for_is_the_servers_last_word() -> None:
    connection = logged_in_client()
    connection.receive_data(b"-ERR autologout\r\n")
    assert pull(connection) == [pop3.ReplyReceived(command=None, reply=pop3.Reply(False, "", "autologout"))]
    with pytest.raises(LocalProtocolError):
        connection.send(pop3.Noop())
    connection.receive_data(b"")
    assert pull(connection) == [Closed(reason=CloseReason.PEER_CLOSED)]


def test_a_client_between_commands_says_quit() -> None:
    connection = logged_in_client()
    connection.shut_down()
    events = pull(connection)
    assert said(events) == b"QUIT\r\n"
    assert events[-1] == Closed(reason=CloseReason.SHUT_DOWN)


def test_a_client_that_is_shut_down_commits_no_deletion() -> None:
    """RFC 1939 section 6: QUIT commits deletions, so only ``send(Quit())`` sends it."""
    connection = logged_in_client()
    exchange(connection, pop3.Dele(number=1), b"+OK\r\n")
    connection.shut_down()
    assert pull(connection) == [Closed(reason=CloseReason.SHUT_DOWN)]


def test_a_client_inside_content_just_closes() -> None:
    connection = logged_in_client()
    retrieve = pop3.Retrieve(number=1)
    assert exchange(connection, retrieve, b"+OK\r\nhalf\r\n") == [MessageChunk(data=b"half")]
    connection.shut_down()
    assert pull(connection) == [Closed(reason=CloseReason.SHUT_DOWN, unanswered=(retrieve,))]
