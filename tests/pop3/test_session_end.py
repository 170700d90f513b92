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


def test_peer_close_executes_complete_lines_and_drops_partial_line() -> None:
    connection, application = in_transaction(b"a", b"b")
    connection.receive_data(b"DELE 1\r\nDELE 2\r\nQUI")
    connection.receive_data(b"")
    events = settle(connection, application)
    assert said(events) == b"+OK message 1 deleted\r\n+OK message 2 deleted\r\n"
    assert events[-1] == Closed(reason=CloseReason.PEER_CLOSED)
    assert application.committed == []


def test_open_question_is_still_answered_after_peer_close() -> None:
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
def test_login_in_progress_fails_on_peer_close(line: bytes) -> None:
    connection, application = server(), Application()
    talk(connection, application, line)
    events = talk(connection, application, b"")
    assert [event.reason for event in events if isinstance(event, sasl.AuthenticationFailed)] == [None]
    assert events[-1] == Closed(reason=CloseReason.PEER_CLOSED)


def test_failed_handshake_closes_without_reply() -> None:
    connection, application = server(), Application()
    settle(connection, application)
    connection.receive_data(b"STLS\r\n")
    assert isinstance(settle(connection, application)[-1], BeginTls)
    connection.receive_data(b"")
    assert settle(connection, application) == [Closed(reason=CloseReason.PEER_CLOSED)]


def test_retr_in_progress_is_completed_after_peer_close() -> None:
    connection, application = in_transaction(b"ab", piece=1)
    connection.receive_data(b"RETR 1\r\n")
    connection.receive_data(b"")
    events = settle(connection, application)
    assert said(events).endswith(b"ab\r\n.\r\n")
    assert events[-1] == Closed(reason=CloseReason.PEER_CLOSED)


# Server: shut_down()


@pytest.mark.parametrize("reason", [CloseReason.SHUT_DOWN, CloseReason.TIMED_OUT])
def test_shut_down_between_commands_sends_and_commits_nothing(reason: CloseReason) -> None:
    """RFC 1939 section 3: no UPDATE on timeout."""
    connection, application = in_transaction(b"a")
    talk(connection, application, b"DELE 1\r\n")
    connection.shut_down(reason)
    connection.shut_down(CloseReason.ABORTED)
    assert settle(connection, application) == [Closed(reason=reason)]
    assert settle(connection, application) == [Closed(reason=reason)]
    assert application.committed == []


def test_shut_down_still_sends_pending_replies() -> None:
    connection, application = in_transaction(b"a")
    connection.receive_data(b"NOOP\r\n")
    assert isinstance(connection.next_event(), pop3.Noop)
    connection.shut_down()
    events = settle(connection, application)
    assert said(events).startswith(b"+OK")
    assert events[-1] == Closed(reason=CloseReason.SHUT_DOWN)


def test_shut_down_completes_open_retr_then_closes() -> None:
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


def test_shut_down_during_content_closes_without_final_dot() -> None:
    connection, application = in_transaction(b"ab", piece=1)
    connection.receive_data(b"RETR 1\r\n")
    question = settle(connection, application, pause_at=pop3.Retrieve)[-1]
    assert isinstance(question, pop3.Retrieve)
    connection.answer(question, pop3.Content(data=b"a", last=False))
    connection.shut_down()
    events = settle(connection, application)
    assert said(events).endswith(b"\r\na")
    assert events[-1] == Closed(reason=CloseReason.SHUT_DOWN)


def test_shut_down_during_listing_closes_without_final_dot() -> None:
    connection, application = in_transaction(*[b""] * 5_000)
    connection.receive_data(b"UIDL\r\n")
    assert isinstance(connection.next_event(), pop3.Uidl)
    connection.shut_down()
    events = settle(connection, application)
    assert not said(events).endswith(b".\r\n")
    assert events[-1] == Closed(reason=CloseReason.SHUT_DOWN)


def test_shut_down_completes_open_update_then_closes() -> None:
    connection, application = in_transaction(b"a")
    connection.receive_data(b"DELE 1\r\nQUIT\r\n")
    question = settle(connection, application, pause_at=pop3.Update)[-1]
    assert isinstance(question, pop3.Update)
    connection.shut_down()
    connection.answer(question, ACCEPT)
    events = settle(connection, application)
    assert said(events).startswith(b"+OK")
    assert isinstance(events[-1], Closed)


def test_shut_down_before_update_commits_nothing() -> None:
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
def test_shut_down_during_password_check_still_sends_its_result(
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


def test_shut_down_aborts_login_waiting_for_client() -> None:
    connection, application = server(), Application()
    talk(connection, application, b"AUTH LOGIN\r\n")
    connection.shut_down()
    events = settle(connection, application)
    assert [type(event) for event in events] == [sasl.AuthenticationFailed, Closed]


def test_shut_down_rejects_pending_stls() -> None:
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


def test_shut_down_before_handshake_sends_nothing() -> None:
    connection, application = server(), Application()
    settle(connection, application)
    connection.receive_data(b"STLS\r\n")
    settle(connection, application)
    connection.shut_down()
    assert settle(connection, application) == [Closed(reason=CloseReason.SHUT_DOWN)]
    with pytest.raises(LocalProtocolError):
        connection.tls_started(TLS)


def test_shut_down_before_greeting_still_sends_greeting() -> None:
    connection, application = server(), Application()
    question = connection.next_event()
    assert isinstance(question, pop3.Connected)
    connection.shut_down()
    connection.answer(question, ACCEPT)
    events = settle(connection, application)
    assert said(events).startswith(b"+OK ")
    assert events[-1] == Closed(reason=CloseReason.SHUT_DOWN)


def test_data_after_close_is_ignored() -> None:
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


def test_close_with_pending_replies_raises_remote_protocol_error() -> None:
    connection = client()
    connection.send(pop3.Capa())
    pull(connection)
    connection.receive_data(b"+OK capabilities\r\nUSER\r\n")
    connection.receive_data(b"")
    for _ in range(2):
        with pytest.raises(RemoteProtocolError):
            pull(connection)


def test_close_before_greeting_raises_remote_protocol_error() -> None:
    connection = pop3.ClientConnection()
    connection.receive_data(b"")
    with pytest.raises(RemoteProtocolError):
        connection.next_event()


def test_close_during_login_raises_remote_protocol_error() -> None:
    connection = client()
    connection.authenticate(sasl.UserPassClient(authentication_identity="alice", password=b"wonderland"))
    pull(connection)
    connection.receive_data(b"")
    with pytest.raises(RemoteProtocolError):
        connection.next_event()


def test_close_between_commands_gives_closed_event() -> None:
    connection = logged_in_client()
    connection.receive_data(b"")
    assert pull(connection) == [Closed(reason=CloseReason.PEER_CLOSED)]


def test_unsolicited_err_allows_no_further_commands() -> None:
    connection = logged_in_client()
    connection.receive_data(b"-ERR autologout\r\n")
    assert pull(connection) == [pop3.ReplyReceived(command=None, reply=pop3.Reply(False, "", "autologout"))]
    with pytest.raises(LocalProtocolError):
        connection.send(pop3.Noop())
    connection.receive_data(b"")
    assert pull(connection) == [Closed(reason=CloseReason.PEER_CLOSED)]


def test_client_shut_down_between_commands_sends_quit() -> None:
    connection = logged_in_client()
    connection.shut_down()
    events = pull(connection)
    assert said(events) == b"QUIT\r\n"
    assert events[-1] == Closed(reason=CloseReason.SHUT_DOWN)


def test_client_shut_down_after_dele_does_not_send_quit() -> None:
    """RFC 1939 section 6: QUIT commits deletions, so only ``send(Quit())`` sends it."""
    connection = logged_in_client()
    exchange(connection, pop3.Dele(number=1), b"+OK\r\n")
    connection.shut_down()
    assert pull(connection) == [Closed(reason=CloseReason.SHUT_DOWN)]


def test_client_shut_down_during_content_closes_without_quit() -> None:
    connection = logged_in_client()
    retrieve = pop3.Retrieve(number=1)
    assert exchange(connection, retrieve, b"+OK\r\nhalf\r\n") == [MessageChunk(data=b"half")]
    connection.shut_down()
    assert pull(connection) == [Closed(reason=CloseReason.SHUT_DOWN, unanswered=(retrieve,))]
