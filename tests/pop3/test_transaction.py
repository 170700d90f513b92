"""The TRANSACTION and UPDATE states of the server: listings, the text of messages, and the commit."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, strategies as st

from mailauth import Closed, CloseReason, LocalProtocolError, NeedData, Question, Send, pop3
from mailauth._dots import Stuffer, stuff_whole
from mailauth.pop3.content import TopLimiter
from tests.pop3.drive import OPEN, TLS, Application, ask, in_transaction, maildrop, said, server, settle, talk

HEADER = b"Subject: tea\r\nFrom: hatter@example.test\r\n"
BODY = b"one\r\n.two\r\n..three\r\n.\r\n\r\nsix\r\n"
TEXT = HEADER + b"\r\n" + BODY


def content(answer: bytes) -> bytes:
    """Return the text in the response to RETR or TOP, unstuffed by a simple second implementation."""
    status, _, rest = answer.partition(b"\r\n")
    assert status.startswith(b"+OK")
    assert rest == b".\r\n" or rest.endswith(b"\r\n.\r\n")
    lines = rest[:-3].split(b"\r\n")
    return b"\r\n".join(line[1:] if line.startswith(b".") else line for line in lines)


# Messages


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 7, 1000])
def test_retr_sends_the_message_stuffed(piece: int) -> None:
    """RFC 1939 sections 3 and 5, for any split of the message."""
    connection, application = in_transaction(TEXT, piece=piece)
    answer = ask(connection, application, b"RETR 1")
    assert answer.endswith(b"one\r\n..two\r\n...three\r\n..\r\n\r\nsix\r\n.\r\n")
    assert content(answer) == TEXT


@pytest.mark.parametrize("text", [b"a\r\nb", b".", b"\r\n."])
def test_missing_final_crlf_is_added(text: bytes) -> None:
    for piece in (1, 1000):
        connection, application = in_transaction(text, piece=piece)
        assert content(ask(connection, application, b"RETR 1")) == text + b"\r\n"


def test_retr_and_top_of_empty_message_send_no_content() -> None:
    connection, application = in_transaction(b"")
    assert content(ask(connection, application, b"RETR 1")) == b""
    assert content(ask(connection, application, b"TOP 1 5")) == b""


@pytest.mark.parametrize("lines", range(8))
@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_top_sends_the_header_the_blank_line_and_n_lines(lines: int, piece: int) -> None:
    """RFC 1939 section 7: also 0 lines, and more lines than the message has."""
    connection, application = in_transaction(TEXT, piece=piece)
    expected = HEADER + b"\r\n" + b"".join(BODY.splitlines(keepends=True)[:lines])
    assert content(ask(connection, application, b"TOP 1 %d" % lines)) == expected


def test_top_reads_no_more_content_than_needed() -> None:
    connection, application = in_transaction(TEXT, piece=len(HEADER) + 2)
    events = talk(connection, application, b"TOP 1 0\r\n")
    assert [type(event) for event in events if isinstance(event, Question)] == [pop3.Retrieve]


def naive_top(text: bytes, lines: int) -> bytes:
    if text.startswith(b"\r\n"):
        header, body = b"\r\n", text[2:]
    elif b"\r\n\r\n" in text:
        header, body = text[: text.index(b"\r\n\r\n") + 4], text[text.index(b"\r\n\r\n") + 4 :]
    else:
        return text
    parts = body.split(b"\r\n")
    return text if lines >= len(parts) else header + b"".join(part + b"\r\n" for part in parts[:lines])


@given(st.text("\r\n.a", max_size=30), st.integers(0, 6), st.lists(st.integers(0, 30), max_size=6))
def test_top_limiter_result_does_not_depend_on_pieces(text: str, lines: int, cuts: list[int]) -> None:
    data = text.encode()
    cut = TopLimiter(lines)
    taken = b""
    edges = [0, *sorted(cuts), len(data)]
    for start, end in pairwise(edges):
        if not cut.done:
            taken += cut.take(data[start:end])
    assert taken == naive_top(data, lines)


@given(st.text("\r\n.a", max_size=30))
def test_stuff_whole_gives_same_data_as_stuffer(text: str) -> None:
    stuffer = Stuffer()
    pieces = (b"+OK\r\n", stuffer.stuff(text.encode()), stuffer.end())
    assert stuff_whole(b"+OK\r\n", text.encode()) == b"".join(pieces)


BARE = [
    b"a\nb\r\n",
    b"\na\r\n",
    b"a\n",
    b"a\n.\r\nb\r\n",
    b"a\rb\r\n",
    b"a\r\r\n",
    b"a\r",
    b"\n",
    b"\r",
    b"a\r\n\n",
    b"a\n\r",
]


@pytest.mark.parametrize("command", [b"RETR 1\r\n", b"TOP 1 99\r\n"])
@pytest.mark.parametrize("piece", [1, 2, 3, 1000])
@pytest.mark.parametrize("text", BARE)
def test_bare_cr_or_lf_is_not_sent(text: bytes, piece: int, command: bytes) -> None:
    """RFC 1939 section 3: lines end in CRLF.  A client that accepts LF, as poplib does, would read another message."""
    connection, application = in_transaction(text, piece=piece)
    connection.receive_data(command)
    sent = b""

    def pull() -> None:
        nonlocal sent
        while not isinstance(event := connection.next_event(), NeedData):
            if isinstance(event, Question):
                application.answer(connection, event)
            elif isinstance(event, Send):
                sent += event.data

    with pytest.raises(LocalProtocolError, match="data contains a bare CR or a bare LF; end each line with CRLF"):
        pull()
    assert text.startswith(sent.partition(b"\r\n")[2])
    assert re.search(rb"\r(?!\n|\Z)|(?<!\r)\n", sent) is None


@pytest.mark.parametrize("text", [b"", b"a", b"a\r\nb", b"\r\n", b"a\0\r\n", b"\xff\x85\r\n", b"\r\n\r\n.\r\n"])
@pytest.mark.parametrize("piece", [1, 2, 3, 1000])
def test_other_content_is_sent_however_it_is_split(text: bytes, piece: int) -> None:
    connection, application = in_transaction(text, piece=piece)
    assert content(ask(connection, application, b"RETR 1")).removesuffix(b"\r\n") == text.removesuffix(b"\r\n")


@pytest.mark.parametrize("first", [b"a\r", b"a\r\n", b""])
def test_refused_piece_can_be_replaced(first: bytes) -> None:
    """The question stays open.  A CR at the end of the piece before is remembered."""
    connection, application = in_transaction(b"")
    connection.receive_data(b"RETR 1\r\n")
    retrieve = settle(connection, application, pause_at=pop3.Retrieve)[-1]
    assert isinstance(retrieve, pop3.Retrieve)
    for wrong in (b"a\nb", b"a\rb"):
        with pytest.raises(LocalProtocolError):
            connection.answer(retrieve, pop3.Content(data=wrong, last=False))
    connection.answer(retrieve, pop3.Content(data=first, last=False))
    events = settle(connection, application, pause_at=pop3.RetrieveMore)
    more = events[-1]
    assert isinstance(more, pop3.RetrieveMore)
    for wrong in (b"b\n", b"b\r"):
        with pytest.raises(LocalProtocolError):
            connection.answer(more, pop3.Content(data=wrong))
    rest = b"\nb" if first.endswith(b"\r") else b"b"
    connection.answer(more, pop3.Content(data=rest))
    events += settle(connection, application)
    sent = b"".join(event.data for event in events if isinstance(event, Send))
    assert sent.endswith(b"\r\n" + first + rest + b"\r\n.\r\n")


@pytest.mark.parametrize("text", [b"a\r\n.\r\nb\r\n", b".\r\n", b"..a\r\n.b"])
@pytest.mark.parametrize("piece", [1, 2, 3, 1000])
def test_line_that_begins_with_a_dot_is_stuffed(text: bytes, piece: int) -> None:
    """RFC 1939 section 3, however the message is split."""
    connection, application = in_transaction(text, piece=piece)
    answer = ask(connection, application, b"RETR 1")
    lines = answer.split(b"\r\n")[1:]
    assert lines[-2:] == [b".", b""]
    assert [line.removeprefix(b".") for line in lines[:-2]] == text.removesuffix(b"\r\n").split(b"\r\n")


def test_content_is_requested_after_previous_piece_is_sent() -> None:
    """So a slow client slows down reading from the store."""
    connection, application = in_transaction(b"a" * 10, piece=4)
    connection.receive_data(b"RETR 1\r\n")
    events = settle(connection, application)
    assert [type(event) for event in events] == [
        *(pop3.Retrieve, Send, pop3.RetrieveMore, Send, pop3.RetrieveMore, Send)
    ]
    assert [event.offset for event in events if isinstance(event, pop3.RetrieveMore)] == [4, 8]


@pytest.mark.parametrize("reason", pop3.Unavailable)
def test_unreadable_message_gets_err_with_response_code(reason: pop3.Unavailable) -> None:
    connection, application = in_transaction(TEXT)
    application.instead[pop3.Retrieve] = reason
    assert ask(connection, application, b"RETR 1").startswith(f"-ERR [{reason.value}] ".encode())
    assert ask(connection, application, b"NOOP").startswith(b"+OK")


def test_interrupted_content_closes_without_final_dot() -> None:
    """With the final dot, the client would accept an incomplete message."""
    connection, application = in_transaction(b"half\r\n" * 2, piece=6)
    application.instead[pop3.RetrieveMore] = pop3.Unavailable.TEMPORARY
    events = talk(connection, application, b"RETR 1\r\nNOOP\r\n")
    assert said(events).endswith(b"half\r\n")
    assert events[-1] == Closed(reason=CloseReason.ABORTED)


def test_pipelined_retr_replies_are_in_order_and_sends_are_bounded() -> None:
    """RFC 2449 section 6.6."""
    texts = [b"%d" % number * 30_000 for number in range(1, 6)]
    connection, application = in_transaction(*texts)
    events = talk(connection, application, b"".join(b"RETR %d\r\n" % number for number in range(1, 6)))
    assert [event.number for event in events if isinstance(event, pop3.Retrieve)] == [1, 2, 3, 4, 5]
    assert said(events).count(b"+OK") == 5
    assert max(len(event.data) for event in events if isinstance(event, Send)) <= 65_536 + 30_100


@pytest.mark.parametrize(
    "line", [b"RETR 2", b"TOP 2 1", b"LIST 2", b"UIDL 2", b"DELE 2", b"RETR 4", b"TOP 4 0", b"DELE 9999999999"]
)
def test_deleted_and_unknown_messages_are_rejected(line: bytes) -> None:
    """RFC 1939 section 5."""
    connection, application = in_transaction(b"a", b"b", b"c")
    ask(connection, application, b"DELE 2")
    events = talk(connection, application, line + b"\r\n")
    assert said(events).startswith(b"-ERR ")
    assert [type(event) for event in events] == [pop3.CommandRejected, Send]


def test_dele_of_deleted_message_does_not_count_as_error() -> None:
    connection, application = in_transaction(b"a")
    ask(connection, application, b"DELE 1")
    for _ in range(50):
        assert ask(connection, application, b"DELE 1").startswith(b"-ERR ")


def test_content_of_wrong_type_raises_and_question_stays_open() -> None:
    connection, application = in_transaction(TEXT)
    connection.receive_data(b"RETR 1\r\n")
    question = connection.next_event()
    assert isinstance(question, pop3.Retrieve)
    wrong: Question[Any] = question
    with pytest.raises(LocalProtocolError):
        connection.answer(wrong, maildrop())
    connection.answer(question, pop3.Content(data=TEXT))
    assert content(said(settle(connection, application))) == TEXT


def test_maildrop_of_wrong_type_raises_and_question_stays_open() -> None:
    connection, application = server(OPEN, TLS), Application()
    settle(connection, application)
    connection.receive_data(b"USER alice\r\nPASS wonderland\r\n")
    question = settle(connection, application, pause_at=pop3.OpenMaildrop)[-1]
    assert isinstance(question, pop3.OpenMaildrop)
    wrong: Question[Any] = question
    with pytest.raises(LocalProtocolError):
        connection.answer(wrong, pop3.Content(data=b""))
    connection.answer(question, maildrop(b"a"))
    assert said(settle(connection, application)).endswith(b"1 messages (1 octets)\r\n")


# Listings


def test_long_listing_is_sent_in_pieces() -> None:
    messages = tuple(pop3.Message(size=number, unique_id=f"{number:070d}") for number in range(1, 5_001))
    connection, application = server(OPEN, TLS), Application()
    application.instead[pop3.OpenMaildrop] = pop3.Maildrop(messages=messages)
    talk(connection, application, b"USER alice\r\nPASS wonderland\r\nDELE 1000\r\n")
    connection.receive_data(b"UIDL\r\nLIST\r\n")
    events = settle(connection, application)
    sends = [event.data for event in events if isinstance(event, Send)]
    assert max(map(len, sends)) < 65_536 + 256 * 90
    uidl, list_ = said(events).split(b".\r\n+OK")
    assert uidl.split(b"\r\n")[1:-1] == [b"%d %070d" % (n, n) for n in range(1, 5_001) if n != 1_000]
    assert list_.split(b"\r\n")[1:-2] == [b"%d %d" % (n, n) for n in range(1, 5_001) if n != 1_000]


# UPDATE


@pytest.mark.parametrize("reason", pop3.Unavailable)
def test_failed_update_gets_err_and_session_ends(reason: pop3.Unavailable) -> None:
    """RFC 1939 section 6."""
    connection, application = in_transaction(b"a", b"b")
    application.instead[pop3.Update] = reason
    events = talk(connection, application, b"DELE 1\r\nQUIT\r\n")
    assert said(events).splitlines()[-1].startswith(f"-ERR [{reason.value}] ".encode())
    assert events[-1] == Closed(reason=CloseReason.QUIT)


def test_update_precedes_reply_to_quit() -> None:
    connection, application = in_transaction(b"a", b"b")
    connection.receive_data(b"DELE 2\r\n")
    settle(connection, application)
    connection.receive_data(b"QUIT\r\n")
    assert [type(event) for event in settle(connection, application)] == [pop3.Quit, pop3.Update, Send, Closed]


def test_quit_without_deletions_commits_nothing() -> None:
    connection, application = in_transaction(b"a")
    events = talk(connection, application, b"DELE 1\r\nRSET\r\nQUIT\r\n")
    assert events[-1] == Closed(reason=CloseReason.QUIT)
    assert application.committed == []


@pytest.mark.parametrize("before", [b"", b"USER alice\r\n", b"USER alice\r\nPASS x\r\n", b"DELE 1\r\n"])
def test_quit_in_authorization_replies_ok_and_commits_nothing(before: bytes) -> None:
    """RFC 1939 sections 4 and 6: the UPDATE state is entered from the TRANSACTION state only."""
    connection, application = server(), Application(b"a")
    events = talk(connection, application, before + b"QUIT\r\n")
    assert said(events).splitlines()[-1].startswith(b"+OK")
    assert events[-1] == Closed(reason=CloseReason.QUIT)
    assert not [event for event in events if isinstance(event, pop3.Update)]
    assert application.committed == []


def test_commands_after_quit_are_ignored() -> None:
    connection, application = in_transaction(b"a", b"b")
    events = talk(connection, application, b"DELE 1\r\nQUIT\r\nDELE 2\r\nQUIT\r\n")
    assert application.committed == [frozenset({1})]
    assert said(events).count(b"\r\n") == 2


def test_server_has_the_syntax_of_the_run(request: pytest.FixtureRequest) -> None:
    """The tests of this module run twice (tests/both_modes.py)."""
    strict = request.node.callspec.params["syntax"] == "strict"
    assert ask(*in_transaction(), b"NOOP ").startswith(b"-ERR" if strict else b"+OK")
