"""Helpers of the POP3 tests: an application that answers every question, and functions that run connections."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import attrs

from mailauth import (
    ACCEPT,
    Action,
    BeginTls,
    Closed,
    Command,
    LocalProtocolError,
    NeedData,
    Paused,
    Question,
    Send,
    Tls,
    pop3,
    sasl,
)
from tests import both_modes

ENTROPY = bytes(range(32))
TLS = Tls(version="TLSv1.3")
EVERYTHING = frozenset(pop3.DEFAULT_MECHANISMS.names)
OPEN = pop3.ServerSettings(host_name="pop.example.test", mechanisms_without_tls=EVERYTHING, stls=True)
"""Every mechanism without TLS, and STLS."""
STRICT = pop3.ServerSettings(host_name="pop.example.test", stls=True)

Event: TypeAlias = pop3.ServerEvent | Action


def server(settings: pop3.ServerSettings = OPEN, tls: Tls | None = None) -> pop3.ServerConnection:
    if both_modes.strict:
        settings = attrs.evolve(settings, strict_syntax=True)
    return pop3.ServerConnection(settings, entropy=ENTROPY, tls=tls)


def maildrop(*texts: bytes) -> pop3.Maildrop:
    messages = [pop3.Message(size=len(text), unique_id=f"uid-{number}") for number, text in enumerate(texts, 1)]
    return pop3.Maildrop(messages=tuple(messages))


class Application:
    """Has one user, alice, with the secret ``wonderland`` and *texts* as messages; each Content holds *piece* bytes."""

    def __init__(self, *texts: bytes, piece: int = 1 << 30) -> None:
        self.texts = list(texts)
        self.piece = piece
        self.committed: list[frozenset[int]] = []
        self.instead: dict[type[object], object] = {}
        """Answers that replace the usual ones, by the type of the question."""

    def usual(self, question: object) -> object:
        match question:
            case sasl.CheckPassword(authentication_identity=who, password=password):
                return ACCEPT if (who, password) == ("alice", b"wonderland") else sasl.Refusal.BAD_CREDENTIALS
            case sasl.FetchSecret(authentication_identity=who):
                return b"wonderland" if who == "alice" else None
            case sasl.Authorize():
                return sasl.Refusal.NOT_AUTHORIZED
            case pop3.OpenMaildrop():
                return maildrop(*self.texts)
            case pop3.Retrieve(number=number):
                return self._content(number, 0)
            case pop3.RetrieveMore(number=number, offset=offset):
                return self._content(number, offset)
            case pop3.Update(deleted=deleted):
                self.committed.append(deleted)
                return ACCEPT
            case _:
                return ACCEPT

    def _content(self, number: int, offset: int) -> pop3.Content:
        data = self.texts[number - 1][offset : offset + self.piece]
        return pop3.Content(data=data, last=offset + len(data) == len(self.texts[number - 1]))

    def answer(self, connection: pop3.ServerConnection, question: Question[Any]) -> None:
        answer = self.instead.get(type(question))
        connection.answer(question, self.usual(question) if answer is None else answer)


def settle(
    connection: pop3.ServerConnection, application: Application, *, pause_at: type[object] | None = None
) -> list[Event]:
    """Return every event until the machine needs data or TLS, or is closed; leave *pause_at* unanswered."""
    events: list[Event] = []
    while True:
        event = connection.next_event()
        if isinstance(event, NeedData | Paused):
            return events
        events.append(event)
        if isinstance(event, Closed | BeginTls) or (pause_at is not None and isinstance(event, pause_at)):
            return events
        if isinstance(event, Question):
            application.answer(connection, event)


def talk(connection: pop3.ServerConnection, application: Application, *chunks: bytes) -> list[Event]:
    """Pass in *chunks* one by one, ``b""`` for the end of the stream, and complete each TLS handshake at once."""
    events = settle(connection, application)
    for chunk in chunks:
        if events and isinstance(events[-1], Closed):
            break
        connection.receive_data(chunk)
        events += settle(connection, application)
        while events and isinstance(events[-1], BeginTls):
            connection.tls_started(TLS)
            events += settle(connection, application)
    return events


def said(events: Iterable[object]) -> bytes:
    """Return the bytes of all Sends."""
    return b"".join(event.data for event in events if isinstance(event, Send | BeginTls))


def in_transaction(
    *texts: bytes, settings: pop3.ServerSettings = OPEN, piece: int = 1 << 30
) -> tuple[pop3.ServerConnection, Application]:
    """Return a session in which alice has logged in and all replies have been read."""
    connection, application = server(settings, TLS), Application(*texts, piece=piece)
    talk(connection, application, b"USER alice\r\nPASS wonderland\r\n")
    return connection, application


def ask(connection: pop3.ServerConnection, application: Application, *lines: bytes) -> bytes:
    """Return the replies to *lines*; CRLF is added to each line."""
    return said(talk(connection, application, b"".join(line + b"\r\n" for line in lines)))


def client(settings: pop3.ClientSettings | None = None, tls: Tls | None = None) -> pop3.ClientConnection:
    connection = pop3.ClientConnection(settings, tls=tls)
    connection.receive_data(b"+OK hello\r\n")
    assert connection.next_event() == pop3.ReplyReceived(command=None, reply=pop3.Reply(True, "", "hello"))
    return connection


def pull(connection: pop3.ClientConnection) -> list[pop3.ClientEvent | Action]:
    """Return every event until the machine needs data or TLS, or is closed."""
    events: list[pop3.ClientEvent | Action] = []
    while True:
        event = connection.next_event()
        if isinstance(event, NeedData | Paused):
            return events
        events.append(event)
        if isinstance(event, Closed | BeginTls):
            return events


def exchange(connection: pop3.ClientConnection, command: Command, data: bytes) -> list[pop3.ClientEvent | Action]:
    """Send *command*, check that it is sent, and pass in *data*."""
    connection.send(command)
    sent = pull(connection)
    assert said(sent)
    connection.receive_data(data)
    return pull(connection)


def refused_locally(connection: pop3.ClientConnection, command: Command) -> bool:
    try:
        connection.send(command)
    except LocalProtocolError:
        return True
    return False
