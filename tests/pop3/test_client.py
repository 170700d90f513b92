"""The client: which commands are allowed when, the events for replies, and protocol errors of the server."""

from __future__ import annotations

import base64

import pytest

from mailauth import (
    BeginTls,
    Closed,
    CloseReason,
    Command,
    LocalProtocolError,
    MessageChunk,
    NeedData,
    RemoteProtocolError,
    pop3,
    sasl,
)
from mailauth.pop3.commands import Pass, User
from tests.pop3.drive import TLS, client, exchange, pull, refused_locally, said

CAPABILITIES = b"+OK\r\nUSER\r\nsasl PLAIN cram-md5\r\nPIPELINING\r\nSTLS\r\nIMPLEMENTATION a b c\r\n.\r\n"
USER = sasl.UserPassClient(authentication_identity="alice", password=b"wonder land")
APOP = sasl.ApopClient(authentication_identity="alice", password=b"wonderland")
PLAIN = sasl.PlainClient(authentication_identity="alice", password=b"wonderland")
CRAM = sasl.CramMd5Client(authentication_identity="alice", password=b"wonderland")


def greeted(line: bytes = b"+OK hello", *, tls: bool = False, tls_required: bool = False) -> pop3.ClientConnection:
    connection = pop3.ClientConnection(pop3.ClientSettings(tls_required=tls_required), tls=TLS if tls else None)
    connection.receive_data(line + b"\r\n")
    assert isinstance(connection.next_event(), pop3.ReplyReceived)
    return connection


def logged_in(*, pipelining: bool = False) -> pop3.ClientConnection:
    connection = greeted()
    if pipelining:
        exchange(connection, pop3.Capa(), CAPABILITIES)
    connection.authenticate(USER)
    pull(connection)
    connection.receive_data(b"+OK\r\n")
    pull(connection)
    connection.receive_data(b"+OK\r\n")
    assert pull(connection) == [sasl.Authenticated(mechanism="USER")]
    return connection


def test_greeting_is_the_first_event_and_sets_timestamp() -> None:
    connection = pop3.ClientConnection()
    assert connection.next_event() == NeedData(timeout=600.0)
    connection.receive_data(b"+OK POP3 ready <1@host>\r\n")
    assert connection.next_event() == pop3.ReplyReceived(
        command=None, reply=pop3.Reply(True, "", "POP3 ready <1@host>")
    )
    assert connection.timestamp == b"<1@host>"


def test_commands_before_greeting_are_rejected() -> None:
    connection = pop3.ClientConnection()
    assert refused_locally(connection, pop3.Capa())
    with pytest.raises(LocalProtocolError):
        connection.authenticate(USER)


def test_no_command_is_allowed_after_err_greeting() -> None:
    connection = greeted(b"-ERR [SYS/TEMP] busy")
    assert refused_locally(connection, pop3.Capa())
    connection.receive_data(b"")
    assert pull(connection) == [Closed(reason=CloseReason.PEER_CLOSED)]


def test_capa_reply_sets_capabilities() -> None:
    """RFC 2449 section 5: tags are case-insensitive."""
    connection = client()
    assert dict(connection.capabilities) == {}
    capa = pop3.Capa()
    (replied,) = exchange(connection, capa, CAPABILITIES)
    assert isinstance(replied, pop3.ReplyReceived)
    assert replied.command is capa
    assert connection.capabilities["SASL"] == "PLAIN cram-md5"
    assert connection.capabilities["IMPLEMENTATION"] == "a b c"
    exchange(connection, pop3.Capa(), b"-ERR what?\r\n")
    assert dict(connection.capabilities) == {}


def test_commands_are_sent_one_at_a_time_unless_pipelining_is_offered() -> None:
    """RFC 2449 section 6.6."""
    connection = logged_in()
    stat, noop = pop3.Stat(), pop3.Noop()
    connection.send(stat)
    connection.send(noop)
    assert said(pull(connection)) == b"STAT\r\n"
    connection.receive_data(b"+OK 0 0\r\n")
    events = pull(connection)
    assert said(events) == b"NOOP\r\n"
    assert [event.command for event in events if isinstance(event, pop3.ReplyReceived)] == [stat]
    connection.receive_data(b"+OK\r\n")
    pull(connection)

    connection = logged_in(pipelining=True)
    connection.send(stat)
    connection.send(noop)
    assert said(pull(connection)) == b"STAT\r\nNOOP\r\n"


def test_replies_arrive_in_order_with_the_sent_command_objects() -> None:
    connection = logged_in(pipelining=True)
    sent: list[Command] = [pop3.Noop(), pop3.List(number=1), pop3.Noop(), pop3.Dele(number=3)]
    for command in sent:
        connection.send(command)
    pull(connection)
    connection.receive_data(b"+OK\r\n+OK 1 2\r\n-ERR\r\n+OK\r\n")
    answered = [event.command for event in pull(connection) if isinstance(event, pop3.ReplyReceived)]
    assert [id(command) for command in answered] == [id(command) for command in sent]


def test_unanswered_commands_are_limited() -> None:
    connection = logged_in()
    for _ in range(200):
        connection.send(pop3.Noop())
    assert refused_locally(connection, pop3.Noop())


def test_multi_line_replies_are_unstuffed() -> None:
    """RFC 1939 section 3."""
    connection = logged_in()
    (replied,) = exchange(connection, pop3.Uidl(), b"+OK here\r\n1 a\r\n..2 b\r\n.\r\n")
    assert replied == pop3.ReplyReceived(command=pop3.Uidl(), reply=pop3.Reply(True, "", "here", ("1 a", ".2 b")))
    (replied,) = exchange(connection, pop3.Uidl(number=1), b"+OK 1 a\r\n")
    assert replied == pop3.ReplyReceived(command=pop3.Uidl(number=1), reply=pop3.Reply(True, "", "1 a"))
    (replied,) = exchange(connection, pop3.List(), b"-ERR [SYS/TEMP] later\r\n")
    assert replied == pop3.ReplyReceived(command=pop3.List(), reply=pop3.Reply(False, "SYS/TEMP", "later"))


@pytest.mark.parametrize("command", [pop3.Retrieve(number=1), pop3.Retrieve(number=1, lines=3)])
def test_content_is_unstuffed_and_precedes_its_reply(command: pop3.Retrieve) -> None:
    connection = logged_in()
    events = exchange(connection, command, b"+OK follows\r\nSubject: x\r\n\r\n..dot\r\n...\r\n.\r\n")
    text = b"".join(event.data for event in events if isinstance(event, MessageChunk))
    assert text == b"Subject: x\r\n\r\n.dot\r\n..\r\n"
    assert events[-1] == pop3.ReplyReceived(command=command, reply=pop3.Reply(True, "", "follows"))


def test_rejected_retr_has_no_content() -> None:
    connection = logged_in()
    (replied,) = exchange(connection, pop3.Retrieve(number=1), b"-ERR gone\r\n")
    assert replied == pop3.ReplyReceived(command=pop3.Retrieve(number=1), reply=pop3.Reply(False, "", "gone"))


def test_quit_closes() -> None:
    connection = logged_in()
    events = exchange(connection, pop3.Quit(), b"+OK bye\r\n")
    assert events == [
        pop3.ReplyReceived(command=pop3.Quit(), reply=pop3.Reply(True, "", "bye")),
        Closed(reason=CloseReason.QUIT),
    ]
    assert refused_locally(connection, pop3.Noop())


def test_commands_after_quit_are_rejected() -> None:
    connection = logged_in(pipelining=True)
    connection.send(pop3.Quit())
    assert refused_locally(connection, pop3.Dele(number=1))


@pytest.mark.parametrize(
    "command", [pop3.Stat(), pop3.Retrieve(number=1), pop3.Dele(number=1), pop3.Noop(), pop3.Rset()]
)
def test_transaction_commands_before_login_are_rejected(command: Command) -> None:
    assert refused_locally(client(), command)


@pytest.mark.parametrize("command", [User(argument=b"a"), Pass(argument=b"a"), MessageChunk(data=b"a"), Command()])
def test_send_rejects_login_commands_and_unknown_types(command: Command) -> None:
    assert refused_locally(client(), command)


# Login


def test_user_and_pass() -> None:
    connection = client()
    connection.authenticate(USER)
    assert said(pull(connection)) == b"USER alice\r\n"
    connection.receive_data(b"+OK\r\n")
    assert said(pull(connection)) == b"PASS wonder land\r\n"
    connection.receive_data(b"+OK\r\n")
    assert pull(connection) == [sasl.Authenticated(mechanism="USER")]
    assert not refused_locally(connection, pop3.Stat())


@pytest.mark.parametrize("refused_at", [1, 2])
def test_user_and_pass_rejected(refused_at: int) -> None:
    connection = client()
    connection.authenticate(USER)
    sent = said(pull(connection))
    for _ in range(refused_at - 1):
        connection.receive_data(b"+OK\r\n")
        sent += said(pull(connection))
    connection.receive_data(b"-ERR [AUTH] no\r\n")
    assert pull(connection) == [pop3.AuthenticationRejected(mechanism="USER", reply=pop3.Reply(False, "AUTH", "no"))]
    assert sent.count(b"wonder") == refused_at - 1
    connection.authenticate(USER)


def test_apop_requires_valid_timestamp_in_greeting() -> None:
    with pytest.raises(LocalProtocolError):
        greeted().authenticate(APOP)
    with pytest.raises(LocalProtocolError):
        greeted(b"+OK <no\x80t@ascii>").authenticate(APOP)
    connection = greeted(b"+OK <1@h>")
    connection.authenticate(APOP)
    assert said(pull(connection)).startswith(b"APOP alice ")
    connection.receive_data(b"+OK\r\n")
    assert pull(connection) == [sasl.Authenticated(mechanism="APOP")]


def test_first_offered_mechanism_is_used() -> None:
    connection = greeted(b"+OK <1@h>")
    exchange(connection, pop3.Capa(), b"+OK\r\nSASL CRAM-MD5\r\n.\r\n")
    connection.authenticate(PLAIN, USER, CRAM, APOP)
    assert said(pull(connection)) == b"AUTH CRAM-MD5\r\n"


def test_user_is_used_if_capa_is_not_supported() -> None:
    connection = client()
    exchange(connection, pop3.Capa(), b"-ERR what?\r\n")
    connection.authenticate(PLAIN, USER)
    assert said(pull(connection)) == b"USER alice\r\n"


def test_user_is_not_used_if_capa_does_not_list_it() -> None:
    connection = client()
    exchange(connection, pop3.Capa(), b"+OK\r\nSTLS\r\n.\r\n")
    with pytest.raises(LocalProtocolError):
        connection.authenticate(PLAIN, USER)


def test_apop_is_the_last_choice_with_tls() -> None:
    """CVE-2007-1558: APOP is not chosen with TLS if another mechanism is offered."""
    connection = greeted(b"+OK <1@h>", tls=True)
    exchange(connection, pop3.Capa(), CAPABILITIES)
    connection.authenticate(APOP, PLAIN)
    assert said(pull(connection)).startswith(b"AUTH PLAIN ")


def test_initial_response_is_sent_with_auth_if_line_has_room() -> None:
    """RFC 5034 section 4: 255 bytes."""
    for length, room in ((100, True), (180, False)):
        connection = greeted(tls=True)
        exchange(connection, pop3.Capa(), CAPABILITIES)
        password = b"p" * length
        connection.authenticate(sasl.PlainClient(authentication_identity="alice", password=password))
        response = base64.b64encode(b"\0alice\0" + password)
        sent = said(pull(connection))
        assert len(sent) <= 255
        if room:
            assert sent == b"AUTH PLAIN " + response + b"\r\n"
        else:
            assert sent == b"AUTH PLAIN\r\n"
            connection.receive_data(b"+ \r\n")
            assert said(pull(connection)) == response + b"\r\n"


def test_invalid_challenge_is_cancelled() -> None:
    """RFC 5034 section 4: with ``*``."""
    connection = client()
    exchange(connection, pop3.Capa(), CAPABILITIES)
    connection.authenticate(CRAM)
    pull(connection)
    connection.receive_data(b"+ not base64\r\n")
    assert said(pull(connection)) == b"*\r\n"
    connection.receive_data(b"-ERR cancelled\r\n")
    (failed,) = pull(connection)
    assert isinstance(failed, pop3.AuthenticationRejected)


def test_challenge_without_space_after_plus_raises() -> None:
    """RFC 5034 section 4."""
    connection = client()
    exchange(connection, pop3.Capa(), CAPABILITIES)
    connection.authenticate(CRAM)
    pull(connection)
    connection.receive_data(b"+PDFAaD4=\r\n")
    with pytest.raises(RemoteProtocolError):
        pull(connection)


def test_ok_before_mechanism_is_satisfied_raises() -> None:
    connection = client()
    exchange(connection, pop3.Capa(), CAPABILITIES)
    connection.authenticate(CRAM)
    pull(connection)
    connection.receive_data(b"+OK welcome\r\n")
    with pytest.raises(RemoteProtocolError):
        pull(connection)


def test_login_without_tls_raises_if_tls_is_required() -> None:
    connection = greeted(b"+OK <1@h>", tls_required=True)
    for mechanism in (USER, APOP, PLAIN):
        with pytest.raises(LocalProtocolError):
            connection.authenticate(mechanism)
    exchange(connection, pop3.Stls(), b"+OK\r\n")
    connection.tls_started(TLS)
    pull(connection)
    connection.authenticate(USER)


def test_login_with_pending_replies_and_command_during_login_raise() -> None:
    connection = client()
    connection.send(pop3.Capa())
    with pytest.raises(LocalProtocolError):
        connection.authenticate(USER)
    connection = client()
    connection.authenticate(USER)
    assert refused_locally(connection, pop3.Capa())
    with pytest.raises(LocalProtocolError):
        connection.authenticate(USER)


# STLS


def test_stls_reply_is_returned_after_handshake_and_clears_capabilities() -> None:
    """RFC 2595 section 4."""
    connection = client()
    exchange(connection, pop3.Capa(), CAPABILITIES)
    stls = pop3.Stls()
    assert exchange(connection, stls, b"+OK go\r\n") == [BeginTls(data=b"")]
    assert refused_locally(connection, pop3.Capa())
    connection.tls_started(TLS)
    assert pull(connection) == [pop3.ReplyReceived(command=stls, reply=pop3.Reply(True, "", "go"))]
    assert dict(connection.capabilities) == {}
    assert refused_locally(connection, pop3.Stls())


@pytest.mark.parametrize("cut", [False, True])
def test_data_after_stls_reply_raises(cut: bool) -> None:
    """CVE-2021-23993."""
    connection = client()
    connection.send(pop3.Stls())
    pull(connection)
    if cut:
        connection.receive_data(b"+OK go\r")
        pull(connection)
        connection.receive_data(b"\n-")
    else:
        connection.receive_data(b"+OK go\r\n-ERR injected\r\n")
    for _ in range(2):
        with pytest.raises(RemoteProtocolError):
            pull(connection)


def test_rejected_stls_continues_session_without_tls() -> None:
    connection = client()
    (replied,) = exchange(connection, pop3.Stls(), b"-ERR no\r\n")
    assert replied == pop3.ReplyReceived(command=pop3.Stls(), reply=pop3.Reply(False, "", "no"))
    assert not refused_locally(connection, pop3.Capa())


# Protocol errors of the server


@pytest.mark.parametrize(
    "data",
    [
        *(
            b"OK\r\n",
            b"+ok\r\n",
            b"\r\n" * 10,
            b"+OKAY\r\n",
            b"+ \r\n",
            b"+ abc\r\n",
            b"* OK IMAP\r\n",
            b"220 smtp\r\n",
        ),
        *(b"+OK\n\r\n\r\n", b"x" * 2_049),
    ],
)
def test_invalid_reply_raises_remote_protocol_error(data: bytes) -> None:
    connection = logged_in()
    connection.send(pop3.Noop())
    pull(connection)
    connection.receive_data(data + b"\r\n")
    with pytest.raises(RemoteProtocolError):
        pull(connection)


def test_unsolicited_ok_raises_remote_protocol_error() -> None:
    connection = logged_in()
    connection.receive_data(b"+OK\r\n")
    with pytest.raises(RemoteProtocolError):
        pull(connection)


@pytest.mark.parametrize("login", [True, False], ids=["login", "command"])
@pytest.mark.parametrize("data", [b"+OK\r\n", b"+OK\r\n-ERR no\r\n", b"+ \r\n", b"+\r\n"])
def test_reply_before_its_command_is_a_violation(data: bytes, login: bool) -> None:
    """It is not the reply to the command, whether or not events were pulled before."""
    connection = greeted() if login else logged_in()
    connection.receive_data(data)
    if login:
        connection.authenticate(USER)
    else:
        connection.send(pop3.Dele(number=1))
    with pytest.raises(RemoteProtocolError):
        connection.next_event()


def test_reply_that_begins_before_its_command_is_a_violation() -> None:
    connection = logged_in()
    connection.receive_data(b"+O")
    connection.send(pop3.Dele(number=1))
    assert isinstance(connection.next_event(), NeedData)  # nothing is sent
    connection.receive_data(b"K\r\n")
    with pytest.raises(RemoteProtocolError, match="without a command"):
        connection.next_event()


@pytest.mark.parametrize("login", [True, False], ids=["login", "command"])
def test_err_before_a_command_answers_no_command_and_the_command_is_not_sent(login: bool) -> None:
    """An autologout that arrived while the client was idle."""
    connection = greeted() if login else logged_in()
    connection.receive_data(b"-ERR autologout\r\n")
    if login:
        connection.authenticate(USER)
    else:
        connection.send(pop3.Noop())
    assert pull(connection) == [pop3.ReplyReceived(command=None, reply=pop3.Reply(False, "", "autologout"))]
    connection.receive_data(b"")
    closed = connection.next_event()
    assert isinstance(closed, Closed)
    assert len(closed.unanswered) == 1


def test_reply_to_a_queued_command_before_it_is_sent_is_a_violation() -> None:
    """Without PIPELINING, the second DELE waits for the reply to the first."""
    connection = logged_in()
    connection.send(pop3.Dele(number=1))
    connection.send(pop3.Dele(number=2))
    pull(connection)
    connection.receive_data(b"+OK 1\r\n+OK early\r\n")
    assert connection.next_event() == pop3.ReplyReceived(command=pop3.Dele(number=1), reply=pop3.Reply(True, "", "1"))
    with pytest.raises(RemoteProtocolError, match="without a command"):
        connection.next_event()


def test_reply_to_pass_before_it_is_sent_is_a_violation() -> None:
    connection = greeted()
    connection.authenticate(USER)
    pull(connection)
    connection.receive_data(b"+OK\r\n+OK welcome\r\n")
    with pytest.raises(RemoteProtocolError, match="without a command"):
        connection.next_event()


def test_data_after_a_challenge_is_a_violation() -> None:
    """RFC 5034 section 4: the server waits for the response."""
    connection = greeted()
    exchange(connection, pop3.Capa(), CAPABILITIES)
    connection.authenticate(CRAM)
    pull(connection)
    connection.receive_data(b"+ " + base64.b64encode(b"<1@host>") + b"\r\n+OK welcome\r\n")
    with pytest.raises(RemoteProtocolError, match="before the response to its challenge"):
        connection.next_event()


def test_challenge_to_user_raises_remote_protocol_error() -> None:
    connection = client()
    connection.authenticate(USER)
    pull(connection)
    connection.receive_data(b"+ \r\n")
    with pytest.raises(RemoteProtocolError):
        pull(connection)


@pytest.mark.parametrize("line", [b"X" * 998, b"\xff" * 250, b"\\x00" * 200], ids=["text", "bytes", "backslashes"])
def test_multi_line_reply_length_is_limited(line: bytes) -> None:
    """The limit is that of the text: a byte that is not printable ASCII takes four characters."""
    connection = pop3.ClientConnection(pop3.ClientSettings(max_response=65_536))
    connection.receive_data(b"+OK\r\n")
    pull(connection)
    connection.send(pop3.Capa())
    pull(connection)
    connection.receive_data(b"+OK\r\n")
    pull(connection)

    def flood() -> None:
        for _ in range(100):
            connection.receive_data(line + b"\r\n")
            pull(connection)

    with pytest.raises(RemoteProtocolError, match="65536"):
        flood()
