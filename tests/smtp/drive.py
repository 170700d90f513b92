"""Drives an SMTP state machine by hand: bytes in, in any pieces; events and bytes out; questions answered by type.

The tests compare what is collected here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import attrs

from mailauth import ACCEPT, BeginTls, Closed, Command, MessageChunk, NeedData, Paused, Question, Send, Tls, sasl, smtp
from tests import both_modes

ENTROPY: Final = bytes(range(32))
TLS: Final = Tls(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384")
CRAM: Final = "<1896.697170952@postoffice.reston.mci.net>"

IN_CLEAR: Final = smtp.ServerSettings(
    mechanisms_without_tls=frozenset({"PLAIN", "LOGIN", "CRAM-MD5"}), starttls=True, max_junk_commands=100_000
)
"""A server that offers everything without TLS too, and has the high limits that some tests need."""

LEFT_OPEN: Final = object()
"""Leaves the question open instead of answering it."""

SECRETS: Final[Mapping[str, bytes]] = {"tim": b"tanstaaftanstaaf", "test": b"1234", "alice": b"correct horse"}


def exact(*values: Any) -> list[object]:
    """Return the fields of *values*, for an exact comparison.

    Mailboxes are equal whatever the case of their domains, but a parser may not change it.
    """
    return [(type(each), attrs.astuple(each)) if attrs.has(type(each)) else each for each in values]


def check_password(question: sasl.CheckPassword) -> object:
    right = SECRETS.get(question.authentication_identity) == question.password
    return ACCEPT if right else sasl.Refusal.BAD_CREDENTIALS


ANSWERS: Final[Mapping[type[object], object]] = {
    sasl.CheckPassword: check_password,
    sasl.FetchSecret: lambda question: SECRETS.get(question.authentication_identity),
    sasl.Authorize: sasl.Refusal.NOT_AUTHORIZED,
}
"""Any other question is answered ACCEPT.  A function is called with the question; a list gives one answer after
another."""


@attrs.define
class Session:
    """One side of a session, and everything that it has returned so far."""

    machine: smtp.ServerConnection | smtp.ClientConnection
    answers: Mapping[type[object], object] = attrs.field(factory=dict)
    events: list[Any] = attrs.field(factory=list)
    sends: list[bytes] = attrs.field(factory=list)
    log: list[Any] = attrs.field(factory=list)
    """All events, including actions, in order."""
    begun_tls: list[BeginTls] = attrs.field(factory=list)
    question: Question[Any] | None = None
    """The question that LEFT_OPEN left open."""
    last: object = None
    """The action after which no more events were pulled."""
    starts_tls: bool = True

    @property
    def data(self) -> bytes:
        return b"".join(self.sends)

    @property
    def lines(self) -> list[str]:
        return self.data.decode("ascii").split("\r\n")[:-1]

    @property
    def codes(self) -> list[int]:
        """The codes of all complete replies, in order."""
        return [int(line[:3]) for line in self.lines if line[3:4] != "-"]

    @property
    def closed(self) -> Closed | None:
        return self.last if isinstance(self.last, Closed) else None

    def of(self, *kinds: type[object]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kinds)]

    @property
    def content(self) -> bytes:
        return b"".join(chunk.data for chunk in self.of(MessageChunk))

    def receive(self, *pieces: bytes) -> Session:
        """Pass one piece after another, and pull the events of each."""
        if self.last is None:
            self.pull()
        for piece in pieces:
            self.machine.receive_data(piece)
            self.pull()
        return self

    def pull(self) -> Session:
        """Pull and answer events until the machine needs something from the peer or from the test."""
        while True:
            event = self.machine.next_event()
            self.log.append(event)
            match event:
                case Send(data=data):
                    self.sends.append(data)
                case BeginTls(data=data):
                    self.sends.append(data)
                    self.begun_tls.append(event)
                    if not self.starts_tls:
                        self.last = event
                        return self
                    self.machine.tls_started(TLS)
                case NeedData() | Paused() | Closed():
                    self.last = event
                    return self
                case Question() if isinstance(self.machine, smtp.ServerConnection):
                    self.events.append(event)
                    self._answer(event)
                case _:
                    self.events.append(event)

    def _answer(self, question: Question[Any]) -> None:
        answer = self.answers.get(type(question), ANSWERS.get(type(question), ACCEPT))
        if isinstance(answer, list):
            answer = answer.pop(0) if answer else ACCEPT
        elif callable(answer) and not isinstance(answer, type(ACCEPT)):
            answer = answer(question)
        if answer is LEFT_OPEN:
            self.question = question
        else:
            self.server.answer(question, answer)

    @property
    def server(self) -> smtp.ServerConnection:
        assert isinstance(self.machine, smtp.ServerConnection)
        return self.machine

    @property
    def client(self) -> smtp.ClientConnection:
        assert isinstance(self.machine, smtp.ClientConnection)
        return self.machine

    def answer(self, answer: object) -> Session:
        """Answer the question that was left open, and continue."""
        assert self.question is not None
        question: Question[Any] = self.question
        self.server.answer(question, answer)
        self.question = None
        return self.pull()

    def send(self, *commands: Command) -> Session:
        for command in commands:
            self.client.send(command)
        return self.pull()

    def forget(self) -> Session:
        """Discard what was collected."""
        self.events.clear()
        self.sends.clear()
        self.log.clear()
        return self


def serve(
    *pieces: bytes,
    settings: smtp.ServerSettings = IN_CLEAR,
    answers: Mapping[type[object], object] | None = None,
    tls: Tls | None = None,
) -> Session:
    """Return a server session that has received *pieces*."""
    if both_modes.strict:
        settings = attrs.evolve(settings, strict_syntax=True)
    machine = smtp.ServerConnection(settings, entropy=ENTROPY, tls=tls)
    return Session(machine, answers=answers or {}).pull().receive(*pieces)


def ready(*pieces: bytes, **rest: Any) -> Session:
    """Like ``serve()``, after the greeting and EHLO, which are discarded."""
    session = serve(b"EHLO client.example\r\n", **rest).forget()
    return session.receive(*pieces)


def call(
    *pieces: bytes,
    settings: smtp.ClientSettings | None = None,
    tls: Tls | None = None,
) -> Session:
    """Return a client session that has received *pieces*."""
    return Session(smtp.ClientConnection(settings, tls=tls)).pull().receive(*pieces)


def greeted(*extensions: str, settings: smtp.ClientSettings | None = None, tls: Tls | None = None) -> Session:
    """Return a client after the replies to the greeting and EHLO, with nothing collected."""
    session = call(b"220 server.example\r\n", settings=settings, tls=tls).send(smtp.Hello(domain="client.example"))
    lines = ["server.example", *extensions]
    hello = "".join(f"250{'-' if line is not lines[-1] else ' '}{line}\r\n" for line in lines)
    return session.receive(hello.encode("ascii")).forget()


def each_cut(data: bytes) -> Iterable[Sequence[bytes]]:
    """Return *data* whole, byte by byte, and split in two at each position."""
    yield (data,)
    yield [data[n : n + 1] for n in range(len(data))]
    for n in range(1, len(data)):
        yield (data[:n], data[n:])


def without_cuts(events: Iterable[Any]) -> list[Any]:
    """Return the events with adjacent chunks joined, so that they do not depend on how the input is split."""
    joined: list[Any] = []
    for event in events:
        if isinstance(event, MessageChunk) and joined and isinstance(joined[-1], MessageChunk):
            joined[-1] = MessageChunk(data=joined[-1].data + event.data)
        else:
            joined.append(event)
    return joined


def converse(client: Session, server: Session) -> None:
    """Pass bytes between the two until neither sends any more."""
    said = [len(client.sends), len(server.sends)]
    client.pull()
    server.pull()
    while len(client.sends) > said[0] or len(server.sends) > said[1]:
        for n, (source, target) in enumerate(((client, server), (server, client))):
            data = b"".join(source.sends[said[n] :])
            said[n] = len(source.sends)
            if data and target.closed is None:
                target.receive(data)
