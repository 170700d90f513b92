"""What a client accepts although it breaks RFC 1939, where that ends, and how ``strict_syntax`` turns it off."""

from __future__ import annotations

from typing import Any, Final

import pytest
from hypothesis import given, strategies as st

from mailauth import (
    BeginTls,
    Closed,
    CloseReason,
    Command,
    LocalProtocolError,
    MessageChunk,
    NeedData,
    RemoteProtocolError,
    Send,
    pop3,
    sasl,
)
from tests.pop3.drive import TLS, client, exchange, pull, refused_locally, said

STRICT: Final = pop3.ClientSettings(strict_syntax=True)
USER: Final = sasl.UserPassClient(authentication_identity="alice", password=b"wonderland")
QUIT: Final = pop3.Quit()


def logged_in(settings: pop3.ClientSettings | None = None, *, pipelining: bool = False) -> pop3.ClientConnection:
    connection = client(settings)
    if pipelining:
        exchange(connection, pop3.Capa(), b"+OK\r\nUSER\r\nPIPELINING\r\n.\r\n")
    connection.authenticate(USER)
    pull(connection)
    for _ in range(2):
        connection.receive_data(b"+OK\r\n")
        pull(connection)
    return connection


def send(connection: pop3.ClientConnection, *commands: Command) -> None:
    for command in commands:
        connection.send(command)
    pull(connection)


def violates(connection: pop3.ClientConnection, data: bytes) -> None:
    """The machine raises RemoteProtocolError, now and at every further call."""
    connection.receive_data(data)
    for _ in range(2):
        with pytest.raises(RemoteProtocolError):
            pull(connection)


# Empty lines


def test_empty_line_before_a_reply_is_skipped() -> None:
    """Before the greeting, between replies, and while nothing is unanswered."""
    connection = pop3.ClientConnection()
    connection.receive_data(b"\r\n+OK hello\r\n\r\n")
    assert pull(connection) == [pop3.ReplyReceived(command=None, reply=pop3.Reply(True, "", "hello"))]
    connection.receive_data(b"\r\n")
    (replied,) = exchange(connection, pop3.Capa(), b"\r\n+OK\r\nUSER\r\n.\r\n\r\n")
    assert replied == pop3.ReplyReceived(command=pop3.Capa(), reply=pop3.Reply(True, lines=("USER",)))


def test_empty_lines_of_a_message_and_of_a_response_are_kept() -> None:
    """Only where a reply begins is an empty line no data."""
    connection = logged_in()
    events = exchange(connection, pop3.Retrieve(number=1), b"\r\n+OK\r\n\r\n\r\nx\r\n\r\n.\r\n")
    assert b"".join(event.data for event in events if isinstance(event, MessageChunk)) == b"\r\n\r\nx\r\n\r\n"
    (replied,) = exchange(connection, pop3.Uidl(), b"+OK\r\n\r\n1 a\r\n.\r\n")
    assert replied == pop3.ReplyReceived(command=pop3.Uidl(), reply=pop3.Reply(True, lines=("", "1 a")))


def test_ten_empty_lines_are_skipped_for_each_connection() -> None:
    """architecture.md, invariant 4."""
    connection = logged_in()
    exchange(connection, pop3.Noop(), b"\r\n" * 9 + b"+OK\r\n\r\n")
    send(connection, pop3.Noop())
    violates(connection, b"\r\n+OK\r\n")


@pytest.mark.parametrize("line", [b" \r\n", b"\t\r\n", b"\n\r\n", b"\r\r\n", b".\r\n"])
def test_no_other_line_is_skipped(line: bytes) -> None:
    connection = logged_in()
    send(connection, pop3.Noop())
    violates(connection, line + b"+OK\r\n")


def test_empty_line_in_a_login_is_an_error() -> None:
    connection = client()
    connection.authenticate(USER)
    pull(connection)
    violates(connection, b"\r\n+OK\r\n")


def test_empty_line_between_the_reply_to_stls_and_the_handshake_is_an_error() -> None:
    """RFC 2595 section 4, CVE-2021-23993."""
    connection = client()
    send(connection, pop3.Stls())
    violates(connection, b"+OK go\r\n\r\n")
    connection = client()
    assert exchange(connection, pop3.Stls(), b"\r\n+OK go\r\n") == [BeginTls(data=b"")]
    with pytest.raises(LocalProtocolError):
        connection.receive_data(b"\r\n")


def test_strict_client_rejects_an_empty_line() -> None:
    connection = logged_in(STRICT)
    send(connection, pop3.Noop())
    violates(connection, b"\r\n+OK\r\n")


# The end of the stream after QUIT


@pytest.mark.parametrize("partial", [b"", b"\r\n", b"+OK bye"])
def test_end_of_stream_after_quit_is_a_normal_end(partial: bytes) -> None:
    """Closed names the QUIT that has no reply: whether the deletions were committed is not known."""
    for connection in (client(), logged_in(), client(tls=TLS)):
        send(connection, QUIT)
        if partial:
            connection.receive_data(partial)
        connection.receive_data(b"")
        assert pull(connection) == [Closed(reason=CloseReason.QUIT, unanswered=(QUIT,))]


@pytest.mark.parametrize("pipelining", [True, False])
def test_end_of_stream_with_another_command_unanswered_is_an_error(pipelining: bool) -> None:
    connection = logged_in(pipelining=pipelining)
    send(connection, pop3.Dele(number=1), QUIT)
    violates(connection, b"")


def test_end_of_stream_without_quit_is_an_error() -> None:
    connection = logged_in()
    send(connection, pop3.Noop())
    violates(connection, b"")


def test_strict_client_requires_the_reply_to_quit() -> None:
    connection = logged_in(STRICT)
    send(connection, QUIT)
    violates(connection, b"")


# UTF8, then STLS


def test_stls_is_allowed_after_utf8_was_rejected() -> None:
    """RFC 6856 section 2.1 forbids it only after UTF8 was accepted."""
    connection = client()
    exchange(connection, pop3.Utf8(), b"-ERR what?\r\n")
    assert exchange(connection, pop3.Stls(), b"+OK go\r\n") == [BeginTls(data=b"")]


@pytest.mark.parametrize("replies", [[b"+OK\r\n"], [b"-ERR\r\n", b"+OK\r\n"], [b"+OK\r\n", b"-ERR\r\n"]])
def test_stls_is_not_allowed_after_utf8_was_accepted(replies: list[bytes]) -> None:
    """RFC 6856 section 2.1."""
    connection = client()
    for reply in replies:
        exchange(connection, pop3.Utf8(), reply)
    assert refused_locally(connection, pop3.Stls())


@pytest.mark.parametrize("pipelining", [True, False])
def test_stls_is_not_allowed_while_the_reply_to_utf8_is_due(pipelining: bool) -> None:
    connection = client()
    exchange(connection, pop3.Capa(), b"+OK\r\nPIPELINING\r\n.\r\n" if pipelining else b"-ERR\r\n")
    send(connection, pop3.Capa(), pop3.Utf8())
    assert refused_locally(connection, pop3.Stls())


# Commands without a class


def test_generic_command_sends_any_other_verb() -> None:
    connection = logged_in()
    lang = pop3.GenericCommand(verb="LANG", argument="fr")
    connection.send(lang)
    assert said(pull(connection)) == b"LANG fr\r\n"
    connection.receive_data(b"-ERR no\r\n")
    assert pull(connection) == [pop3.ReplyReceived(command=lang, reply=pop3.Reply(False, "", "no"))]


def test_generic_command_may_have_a_response_of_several_lines() -> None:
    """RFC 6856 section 3: LANG without an argument lists the languages."""
    connection = client()
    lang = pop3.GenericCommand(verb="LANG", multi_line=True)
    (replied,) = exchange(connection, lang, b"+OK\r\nen English\r\n..\r\n.\r\n")
    assert replied == pop3.ReplyReceived(command=lang, reply=pop3.Reply(True, lines=("en English", ".")))
    (replied,) = exchange(connection, lang, b"-ERR no\r\n")
    assert replied == pop3.ReplyReceived(command=lang, reply=pop3.Reply(False, "", "no"))


@pytest.mark.parametrize("verb", [*pop3.ServerSettings().table])
def test_generic_command_cannot_send_a_verb_that_has_a_class(verb: str) -> None:
    """Otherwise a password could be sent outside a login, and the client would not know the state of the session."""
    assert refused_locally(client(), pop3.GenericCommand(verb=verb))
    assert refused_locally(logged_in(), pop3.GenericCommand(verb=verb))


@pytest.mark.parametrize(
    ("verb", "argument"),
    [
        *(("", ""), ("lang", ""), ("LA NG", ""), ("LANG\r\nQUIT", ""), ("LANG\n", ""), ("É", ""), ("5XX", "")),
        *(("LANG", "a\r\nQUIT"), ("LANG", "a\n"), ("LANG", "a\0"), ("LANG", "a "), ("LANG", "ä")),
        ("LANG", "x" * 249),
    ],
)
def test_generic_command_has_a_valid_line(verb: str, argument: str) -> None:
    """architecture.md, invariant 11; RFC 2449 section 4."""
    with pytest.raises(LocalProtocolError):
        pop3.GenericCommand(verb=verb, argument=argument)
    assert len(pop3.GenericCommand(verb="LANG", argument="x" * 248).to_wire()) == 255


# Tolerant and strict

WORDS: Final = (
    *(b"+OK\r\n", b"+OK 1 2\r\n", b"-ERR\r\n", b"-ERR [IN-USE] x\r\n", b"\r\n", b".\r\n", b"x\r\n", b"..\r\n"),
    *(b" \r\n", b"\n", b"+", b"+ \r\n"),
)
COMMANDS: Final = (
    *(pop3.Noop(), pop3.Capa(), pop3.Uidl(), pop3.Retrieve(number=1), pop3.Dele(number=1), QUIT, pop3.Stat()),
    *(pop3.GenericCommand(verb="LANG", multi_line=True), pop3.GenericCommand(verb="XTND")),
)
replies = st.one_of(st.lists(st.sampled_from(WORDS), max_size=12).map(b"".join), st.binary(max_size=30))
groups = st.lists(st.tuples(st.lists(st.sampled_from(COMMANDS), max_size=4), replies), max_size=6)
single = st.lists(st.tuples(st.lists(st.sampled_from(COMMANDS), max_size=1), replies), max_size=9)
"""One command at a time: what arrives before a command is written is not the reply to it."""


def run(
    steps: list[tuple[list[Command], bytes]],
    *,
    pipelining: bool,
    strict: bool,
    alone: bool = False,
    bytewise: bool = False,
) -> tuple[list[Any], bool]:
    """Return the events, the content and the output of a session, and whether it failed.

    *alone*: leave out a command while another is unanswered.
    """
    connection = logged_in(STRICT if strict else None, pipelining=pipelining)
    events: list[Any] = []
    sent: list[bytes] = []
    content: list[bytes] = []
    refused: list[Command] = []

    def pull_all() -> None:
        while not isinstance(event := connection.next_event(), NeedData):
            if isinstance(event, Send):
                sent.append(event.data)
            elif isinstance(event, MessageChunk):
                content.append(event.data)
            else:
                events.append(event)
            if isinstance(event, Closed):
                break

    failed = False
    try:
        for commands, data in steps:
            for command in commands:
                if alone and connection._unanswered:
                    continue
                try:
                    connection.send(command)
                except LocalProtocolError:
                    refused.append(command)
            pull_all()
            for piece in [data[n : n + 1] for n in range(len(data))] if bytewise else [data] if data else []:
                connection.receive_data(piece)
                pull_all()
        connection.receive_data(b"")
        pull_all()
    except RemoteProtocolError:
        failed = True
    ends = [event for event in events if isinstance(event, Closed)]
    others = [event for event in events if not isinstance(event, Closed)]
    return [others, ends[:1], b"".join(sent), b"".join(content), refused], failed


@given(groups, st.booleans())
def test_tolerant_and_strict_clients_agree_where_both_accept(
    steps: list[tuple[list[Command], bytes]], pipelining: bool
) -> None:
    """What the strict client accepts, the tolerant one reads in the same way."""
    strict, failed = run(steps, pipelining=pipelining, strict=True)
    if not failed:
        assert run(steps, pipelining=pipelining, strict=False) == (strict, False)


@given(single, st.booleans(), st.booleans())
def test_events_do_not_depend_on_how_replies_are_split(
    steps: list[tuple[list[Command], bytes]], pipelining: bool, strict: bool
) -> None:
    """architecture.md, invariant 8, in both modes."""
    whole = run(steps, pipelining=pipelining, strict=strict, alone=True)
    assert run(steps, pipelining=pipelining, strict=strict, alone=True, bytewise=True) == whole


# Lines of a response


def lines_of(data: bytes) -> tuple[str, ...]:
    """Return the lines of the response *data* to UIDL, as a client returns them."""
    (replied,) = exchange(logged_in(), pop3.Uidl(), data)
    assert isinstance(replied, pop3.ReplyReceived)
    assert replied.reply.lines is not None
    return replied.reply.lines


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (bytes(range(0x21, 0x7F)), bytes(range(0x21, 0x7F)).decode()),
        (b"a b\tc", "a b\tc"),
        (b"caf\xe9", r"caf\xe9"),
        (b"caf\xc3\xa9", r"caf\xc3\xa9"),
        (b"\0\x1b\x7f\x80\x85\xa0\xff", r"\x00\x1b\x7f\x80\x85\xa0\xff"),
        (rb"caf\xe9", r"caf\x5cxe9"),
        (rb"C:\x", r"C:\x"),
        (rb"\\xe9", r"\\x5cxe9"),
        (rb"\xE9 \xg0 \x1", r"\xE9 \xg0 \x1"),
        (b"\\x1\xe9", r"\x1\xe9"),
    ],
)
def test_byte_of_a_line_that_is_not_printable_ascii_is_escaped(sent: bytes, text: str) -> None:
    assert lines_of(b"+OK\r\n1 " + sent + b"\r\n.\r\n") == (f"1 {text}",)


@given(
    st.sets(
        st.one_of(st.binary(max_size=8), st.text("\\x5ce9\xe9?").map(lambda text: text.encode("latin-1"))), max_size=20
    )
)
def test_lines_that_differ_are_different_text(sent: set[bytes]) -> None:
    """They may be unique-ids (RFC 1939 section 7), which decide which messages are retrieved."""
    sent = {line for line in sent if b"\r" not in line and b"\n" not in line}
    data = b"".join(b"x" + line + b"\r\n" for line in sent)
    assert len(set(lines_of(b"+OK\r\n" + data + b".\r\n"))) == len(sent)
