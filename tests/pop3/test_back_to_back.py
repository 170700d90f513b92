"""The client and the server connected in memory: both agree on the result of any conversation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, strategies as st

from mailauth import BeginTls, Closed, CloseReason, Command, MessageChunk, NeedData, Paused, Question, Send, pop3, sasl
from tests.pop3.drive import OPEN, TLS, Application, server

LOGINS: dict[str, Callable[[], sasl.ClientMechanism]] = {
    "USER": lambda: sasl.UserPassClient(authentication_identity="alice", password=b"wonderland"),
    "APOP": lambda: sasl.ApopClient(authentication_identity="alice", password=b"wonderland"),
    "PLAIN": lambda: sasl.PlainClient(authentication_identity="alice", password=b"wonderland"),
    "LOGIN": lambda: sasl.LoginClient(authentication_identity="alice", password=b"wonderland"),
    "CRAM-MD5": lambda: sasl.CramMd5Client(authentication_identity="alice", password=b"wonderland"),
}


class Wire:
    """Passes bytes both ways in pieces of *cut*, answers the server's questions, and collects the client's events."""

    def __init__(self, application: Application, *, cut: int = 1 << 30) -> None:
        self.application = application
        self.cut = cut
        self.client = pop3.ClientConnection()
        self.server = server(OPEN)
        self.told: list[pop3.ClientEvent] = []
        self.closed: list[CloseReason] = []
        self.tls_awaited = False

    def run(self) -> list[pop3.ClientEvent]:
        """Run until both sides wait; return the events of the client."""
        before = len(self.told)
        while self._run_server() | self._run_client():
            pass
        return self.told[before:]

    def _run_server(self) -> bool:
        busy = False
        while not isinstance(event := self.server.next_event(), NeedData):
            if isinstance(event, Closed):
                self.closed.append(event.reason)
                return busy
            busy = True
            if isinstance(event, Send | BeginTls):
                self._carry(event.data)
            if isinstance(event, BeginTls):
                assert self.tls_awaited
                self.client.tls_started(TLS)
                self.server.tls_started(TLS)
            elif isinstance(event, Question):
                self.application.answer(self.server, event)
        return busy

    def _carry(self, data: bytes) -> None:
        for start in range(0, len(data), self.cut):
            self.client.receive_data(data[start : start + self.cut])
            self._run_client()

    def _run_client(self) -> bool:
        busy = False
        while True:
            event = self.client.next_event()
            if isinstance(event, BeginTls):
                self.tls_awaited = True
            if isinstance(event, NeedData | Closed | BeginTls | Paused):
                return busy
            busy = True
            if isinstance(event, Send):
                for start in range(0, len(event.data), self.cut):
                    self.server.receive_data(event.data[start : start + self.cut])
            else:
                assert isinstance(
                    event, pop3.ReplyReceived | MessageChunk | sasl.Authenticated | pop3.AuthenticationRejected
                )
                self.told.append(event)

    def say(self, *commands: Command) -> list[pop3.ClientEvent]:
        for command in commands:
            self.client.send(command)
        return self.run()


@pytest.mark.parametrize("name", LOGINS)
@pytest.mark.parametrize("cut", [1, 7, 1 << 30])
@pytest.mark.parametrize("secure", [False, True])
def test_each_default_mechanism_logs_in(name: str, cut: int, secure: bool) -> None:
    wire = Wire(Application(b"a\r\n"), cut=cut)
    wire.run()
    if secure:
        (replied,) = wire.say(pop3.Stls())
        assert isinstance(replied, pop3.ReplyReceived)
        assert (wire.client.tls, wire.server.tls) == (TLS, TLS)
    wire.say(pop3.Capa())
    wire.client.authenticate(LOGINS[name]())
    assert wire.run() == [sasl.Authenticated(mechanism=name)]
    assert wire.server.identity == "alice"


commands = st.one_of(
    st.builds(pop3.Retrieve, number=st.integers(1, 4), lines=st.none() | st.integers(0, 4)),
    st.builds(pop3.Dele, number=st.integers(1, 4)),
    st.builds(pop3.List, number=st.none() | st.integers(1, 4)),
    st.builds(pop3.Uidl, number=st.none() | st.integers(1, 4)),
    st.sampled_from([pop3.Stat(), pop3.Noop(), pop3.Rset(), pop3.Capa()]),
)
lines = st.sampled_from([b"a", b".", b"..", b"a.", b"\r\n", b"\r\n."])
texts = st.lists(st.lists(lines, max_size=9).map(b"".join), max_size=3)


@given(
    texts, st.lists(commands, max_size=12), st.sampled_from([1, 3, 1000]), st.sampled_from([1, 5, 1000]), st.booleans()
)
def test_client_and_server_agree_in_generated_sessions(
    texts: list[bytes], wanted: list[Command], cut: int, piece: int, pipelining: bool
) -> None:
    """Each command gets one ReplyReceived, in order; RETR returns the stored text; QUIT commits what DELE marked."""
    application = Application(*texts, piece=piece)
    wire = Wire(application, cut=cut)
    wire.run()
    if pipelining:
        wire.say(pop3.Capa())
    wire.client.authenticate(LOGINS["APOP"]())
    wire.run()
    deleted: set[int] = set()
    chunks: list[bytes] = []
    answered: list[Command | None] = []
    for event in wire.say(*wanted):
        if isinstance(event, MessageChunk):
            chunks.append(event.data)
            continue
        assert isinstance(event, pop3.ReplyReceived)
        command, reply = event.command, event.reply
        answered.append(command)
        match command:
            case pop3.Retrieve(number=number, lines=None) if reply.positive:
                text = texts[number - 1]
                assert b"".join(chunks) == (text if text.endswith(b"\r\n") or not text else text + b"\r\n")
            case pop3.Dele(number=number) if reply.positive:
                deleted.add(number)
            case pop3.Rset():
                deleted.clear()
            case pop3.Stat():
                assert reply.text.split()[0] == str(len(texts) - len(deleted))
            case pop3.Uidl(number=None):
                alive = [n for n in range(1, len(texts) + 1) if n not in deleted]
                assert reply.lines == tuple(f"{n} uid-{n}" for n in alive)
            case _:
                pass
        chunks.clear()
    assert answered == wanted
    wire.say(pop3.Quit())
    assert application.committed == ([frozenset(deleted)] if deleted else [])
    assert wire.closed[-1] is CloseReason.QUIT


def test_login_succeeds_after_wrong_password() -> None:
    wire = Wire(Application())
    wire.run()
    wire.client.authenticate(sasl.UserPassClient(authentication_identity="alice", password=b"x"))
    (failed,) = wire.run()
    assert isinstance(failed, pop3.AuthenticationRejected)
    assert failed.reply.response_code == "AUTH"
    wire.client.authenticate(LOGINS["USER"]())
    assert wire.run() == [sasl.Authenticated(mechanism="USER")]
