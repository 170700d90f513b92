"""LOGIN-DELAY, EXPIRE and the response codes (RFC 2449), and the fast path compared with the normal path."""

from __future__ import annotations

from typing import Literal

import pytest
from hypothesis import given, strategies as st

from mailauth import Action, LocalProtocolError, RemoteProtocolError, Send, pop3, sasl
from tests.pop3.drive import OPEN, TLS, Application, Event, ask, client, exchange, pull, said, server, settle, talk

POLICY = pop3.ServerSettings(login_delay=900, expire=60)


# LOGIN-DELAY and EXPIRE


def capabilities(settings: pop3.ServerSettings, logged_in: bool) -> list[bytes]:
    connection, application = server(settings, TLS), Application()
    settle(connection, application)
    if logged_in:
        ask(connection, application, b"USER alice", b"PASS wonderland")
    return ask(connection, application, b"CAPA").split(b"\r\n")


@pytest.mark.parametrize("logged_in", [False, True])
def test_login_delay_and_expire_are_listed_if_configured(logged_in: bool) -> None:
    """RFC 2449 sections 6.5 and 6.7: listed in both states, the same for all users."""
    assert {b"LOGIN-DELAY 900", b"EXPIRE 60"} <= set(capabilities(POLICY, logged_in))
    assert b"EXPIRE NEVER" in capabilities(pop3.ServerSettings(expire="NEVER"), logged_in)
    assert b"EXPIRE 0" in capabilities(pop3.ServerSettings(expire=0), logged_in)
    plain = capabilities(pop3.ServerSettings(), logged_in)
    assert not [line for line in plain if line.startswith((b"LOGIN-DELAY", b"EXPIRE"))]


@pytest.mark.parametrize("expire", [-1, "never"])
def test_invalid_expire_is_rejected(expire: Literal["NEVER"]) -> None:
    with pytest.raises(LocalProtocolError):
        pop3.ServerSettings(expire=expire)


def test_negative_login_delay_is_rejected() -> None:
    with pytest.raises(LocalProtocolError):
        pop3.ServerSettings(login_delay=-1)


def test_login_delay_rejects_pass_and_later_login_succeeds() -> None:
    """RFC 2449 section 8.1.1: the -ERR to PASS has the code, and the client may log in later."""
    connection, application = server(POLICY, TLS), Application()
    application.instead[pop3.OpenMaildrop] = pop3.Unavailable.LOGIN_DELAY
    settle(connection, application)
    assert (
        ask(connection, application, b"USER alice", b"PASS wonderland")
        .splitlines()[1]
        .startswith(b"-ERR [LOGIN-DELAY] ")
    )
    assert connection.identity is None
    application.instead.clear()
    assert ask(connection, application, b"USER alice", b"PASS wonderland").splitlines()[1].startswith(b"+OK")


def test_client_reads_login_delay_and_expire_and_response_code() -> None:
    """RFC 2449 sections 6.5, 6.7 and 8.1.1."""
    connection = client(tls=TLS)
    exchange(connection, pop3.Capa(), b"+OK\r\nUSER\r\nLOGIN-DELAY 900 USER\r\nEXPIRE 5 USER\r\n.\r\n")
    assert connection.capabilities["LOGIN-DELAY"] == "900 USER"
    assert connection.capabilities["EXPIRE"] == "5 USER"
    connection.authenticate(sasl.UserPassClient(authentication_identity="a", password=b"b"))
    pull(connection)
    connection.receive_data(b"+OK\r\n")
    pull(connection)
    connection.receive_data(b"-ERR [LOGIN-DELAY] wait\r\n")
    (failed,) = pull(connection)
    assert isinstance(failed, pop3.AuthenticationRejected)
    assert failed.reply.response_code == "LOGIN-DELAY"


@pytest.mark.parametrize("reason", pop3.Unavailable)
def test_client_reads_response_code_of_every_unavailable_reason(reason: pop3.Unavailable) -> None:
    """RFC 2449 section 8, RFC 3206 section 4, RFC 6856 section 5."""
    connection, application = server(OPEN, TLS), Application()
    application.instead[pop3.OpenMaildrop] = reason
    settle(connection, application)
    refusal = ask(connection, application, b"USER alice", b"PASS wonderland").splitlines(keepends=True)[1]
    reader = client(tls=TLS)
    reader.authenticate(sasl.UserPassClient(authentication_identity="alice", password=b"wonderland"))
    pull(reader)
    reader.receive_data(b"+OK\r\n")
    pull(reader)
    reader.receive_data(refusal)
    (failed,) = pull(reader)
    assert isinstance(failed, pop3.AuthenticationRejected)
    assert failed.reply.response_code == reason.value


# Lines that do not end


def test_protocol_error_during_login_does_not_quote_the_server() -> None:
    """The line may contain the password."""
    connection = client(tls=TLS)
    connection.authenticate(sasl.UserPassClient(authentication_identity="a", password=b"rabbit-hole"))
    pull(connection)
    connection.receive_data(b"you said rabbit-hole\r\n")
    with pytest.raises(RemoteProtocolError) as caught:
        pull(connection)
    assert "rabbit" not in str(caught.value)


@pytest.mark.parametrize("piece", [1, 1000])
def test_line_without_end_raises_remote_protocol_error(piece: int) -> None:
    """RFC 1939 section 3 allows 512 bytes; longer lines are not buffered."""
    connection = client()

    def flood() -> None:
        for _ in range(2_100 // piece + 2):
            connection.receive_data(b"x" * piece)
            pull(connection)

    with pytest.raises(RemoteProtocolError, match="longer than 2048 bytes"):
        flood()


# Fast path


def conversation(lines: list[bytes], application: Application, *, usual: bool, cut: bool) -> tuple[list[Event], bytes]:
    """Return the events without Sends, and the bytes sent.  A space at the end of a line bypasses the fast path."""
    connection = server(OPEN, TLS)
    events = talk(connection, application, b"USER alice\r\nPASS wonderland\r\n")
    wire = b"".join(line + (b"\r\n" if usual else b" \r\n") for line in lines)
    pieces = [wire[start : start + 5] for start in range(0, len(wire), 5)] if cut else [wire]
    events += talk(connection, application, *filter(None, pieces), b"")
    return [
        event for event in events if not isinstance(event, Action | pop3.RetrieveMore | pop3.CommandRejected)
    ], said(events)


TEXTS = (b"Subject: a\r\n\r\n.b\r\n", "Subject: \xe9\r\n\r\n".encode(), b"c")
COMMON = st.one_of(
    st.builds(
        lambda verb, number: b"%s %d" % (verb, number), st.sampled_from([b"RETR", b"DELE", b"LIST"]), st.integers(1, 4)
    ),
    st.sampled_from([b"STAT", b"NOOP", b"RSET", b"QUIT", b"retr 1"]),
)


@pytest.mark.usefixtures("tolerant")
@given(st.lists(COMMON, max_size=9), st.booleans(), st.sampled_from([2, 1000]))
def test_fast_path_and_normal_path_give_same_events_and_data(lines: list[bytes], cut: bool, piece: int) -> None:
    """The events and bytes are the same with and without the fast path."""
    usual = conversation(lines, Application(*TEXTS), usual=True, cut=cut)
    assert usual == conversation(lines, Application(*TEXTS), usual=False, cut=cut)
    pieces = Application(TEXTS[0], TEXTS[1], TEXTS[2], piece=12)
    assert usual == conversation(lines, pieces, usual=True, cut=not cut)


def test_replies_to_pipelined_retr_are_combined_in_one_send() -> None:
    connection, application = server(OPEN, TLS), Application(*TEXTS)
    events = talk(connection, application, b"USER alice\r\nPASS wonderland\r\n", b"RETR 1\r\nRETR 3\r\n")
    assert len([event for event in events if isinstance(event, Send)]) == 3
