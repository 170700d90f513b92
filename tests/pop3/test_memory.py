"""The memory of a POP3 server or client connection stays bounded for any input (architecture.md, invariant 4)."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, strategies as st

from mailauth import (
    BeginTls,
    Closed,
    Command,
    LocalProtocolError,
    NeedData,
    Paused,
    Question,
    RemoteProtocolError,
    Send,
    pop3,
)
from mailauth._lines import MAX_UNREAD
from tests.pop3.drive import OPEN, Application, client, maildrop, server
from tests.pop3.test_client import logged_in
from tests.pop3.test_properties import act, answers, plans, streams
from tests.weight import Scales

ROOM = MAX_UNREAD
"""Bytes that a connection may keep in addition to the chunk being processed."""
CHUNK = 65_536
"""Bytes that an adapter reads at once."""
TEXT = b"x" * 70 + b"\r\n"


def heaviest(chunks: Iterable[bytes], application: Application, *others: object, answering: bool = True) -> int:
    """Return the largest memory use of a server between two events, above its use when idle.

    Without *answering*, the first question about a message stays open while more data arrives.
    """
    connection = server()
    scales = Scales(connection, OPEN, application, *others)
    most = 0
    for chunk in chunks:
        try:
            connection.receive_data(chunk)
        except LocalProtocolError:  # an adapter does not read while a question is open
            break
        while not isinstance(event := connection.next_event(), NeedData | Paused | BeginTls | Closed):
            if isinstance(event, Question) and (answering or not isinstance(event, pop3.Retrieve)):
                application.answer(connection, event)
            if isinstance(event, Send):
                most = max(most, scales.weigh())
        most = max(most, scales.weigh())
    return most


LOGIN = b"USER alice\r\nPASS wonderland\r\n"


FLOODS = {
    "an endless line": b"x" * CHUNK,
    "lines of nothing": b"\r\n" * (CHUNK // 2),
    "bare CR": b"\r" * CHUNK,
    "NOOP": b"NOOP\r\n" * (CHUNK // 6),
    "RETR": b"RETR 1\r\n" * 600,
    "TOP": b"TOP 1 3\r\n" * 600,
    "LIST": b"LIST\r\n" * 600,
    "UIDL": b"UIDL\r\n" * 600,
    "DELE": b"DELE 1\r\nRSET\r\n" * 4_000,
    "AUTH lines": b"AUTH PLAIN\r\n" + b"y" * 30_000,
}


@pytest.mark.parametrize("answering", [True, False])
@pytest.mark.parametrize("flood", FLOODS)
def test_server_memory_is_bounded_under_floods(flood: str, answering: bool) -> None:
    """RFC 2449 section 6.6 allows a client to send all commands at once."""
    texts = [TEXT * 300] + [TEXT] * 299
    application = Application(*texts, piece=10_000)
    application.instead[pop3.OpenMaildrop] = snapshot = maildrop(*texts)
    chunks = [LOGIN, *[FLOODS[flood]] * 3]
    assert heaviest(chunks, application, snapshot, answering=answering) < ROOM + CHUNK


@given(streams | st.binary(max_size=2_000), st.integers(1, 4_000), st.booleans())
def test_server_memory_is_bounded_for_any_data(data: bytes, size: int, answering: bool) -> None:
    """architecture.md, invariant 4."""
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    application = Application(TEXT * 3, TEXT, piece=50)
    assert heaviest(chunks, application, answering=answering) < ROOM


ANSWERS = {
    "an endless status line": (pop3.Stat(), b"x" * CHUNK),
    "status lines for nothing": (pop3.Stat(), b"+OK\r\n" * (CHUNK // 5)),
    "an endless line of an answer": (pop3.List(), b"+OK\r\n" + b"x" * (CHUNK - 5)),
    "an endless line of content": (pop3.Retrieve(number=1), b"+OK\r\n" + b"x" * (CHUNK - 5)),
    "endless lines of content": (pop3.Retrieve(number=1), b"+OK\r\n" + b"..\r\n" * (CHUNK // 4)),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_client_memory_is_bounded_for_endless_replies(answer: str) -> None:
    """architecture.md, invariant 4.  Lines of LIST and UIDL are kept; ``max_response`` limits them."""
    command, data = ANSWERS[answer]
    connection = logged_in()
    scales = Scales(connection)
    connection.send(command)
    most = 0
    try:
        for chunk in (data, data[5:], data[5:]):
            connection.receive_data(chunk)
            while not isinstance(event := connection.next_event(), NeedData | Closed):
                most = max(most, 0 if isinstance(event, Send) else scales.weigh())
            most = max(most, scales.weigh())
    except RemoteProtocolError:
        most = max(most, scales.weigh())
    assert most < ROOM + CHUNK


@given(answers | st.binary(max_size=2_000), plans, st.integers(1, 4_000))
def test_client_memory_is_bounded_for_any_data(data: bytes, plan: list[Command | str], size: int) -> None:
    """architecture.md, invariant 4."""
    connection = client()
    scales = Scales(connection)
    for step in plan:
        act(connection, step)
    try:
        for start in range(0, len(data), size):
            connection.receive_data(data[start : start + size])
            while not isinstance(connection.next_event(), NeedData | Paused | BeginTls | Closed):
                assert scales.weigh() < ROOM
    except (RemoteProtocolError, LocalProtocolError):  # Local: data was passed in before the handshake
        assert scales.weigh() < ROOM
