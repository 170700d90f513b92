"""A connection keeps under 64 KiB in addition to the current chunk, whatever it receives, in every state, on both
sides.

architecture.md, invariant 4; decision 14 defines what is counted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import attrs
import pytest
from hypothesis import given, strategies as st

from mailauth import (
    ACCEPT,
    BeginTls,
    Closed,
    Command,
    LocalProtocolError,
    MessageChunk,
    NeedData,
    Paused,
    Question,
    RemoteProtocolError,
    sasl,
    smtp,
)
from mailauth._lines import MAX_UNREAD
from tests.smtp.drive import ENTROPY, IN_CLEAR, Session, greeted
from tests.smtp.test_properties import REPLY_LINES, cuts, fates, sessions, under
from tests.weight import Scales

ROOM: Final = MAX_UNREAD
CHUNK: Final = 65_536
"""Bytes that an adapter reads at once."""
ENDLESS: Final = 10**9
"""A limit that no flood of these tests reaches: the memory bound must not depend on it."""

SETTINGS: Final = attrs.evolve(
    IN_CLEAR,
    chunking=True,
    smtputf8=True,
    dsn=True,
    max_errors=ENDLESS,
    max_junk_commands=ENDLESS,
    max_transactions=ENDLESS,
    max_failed_logins=ENDLESS,
    max_recipients=100,
    max_message_size=100_000,
)
BEGIN: Final = b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\n"
STATES: Final[Mapping[str, bytes]] = {
    "connected": b"",
    "ready": b"EHLO c\r\n",
    "in a transaction": b"EHLO c\r\nMAIL FROM:<>\r\n",
    "with a recipient": BEGIN,
    "in content": BEGIN + b"DATA\r\n",
    "in content over its size": BEGIN + b"DATA\r\n" + b"x" * 100_001,
    "between chunks": BEGIN + b"BDAT 3\r\nabc",
    "in a chunk": BEGIN + b"BDAT 90000\r\nabc",
    "in a chunk that was refused": b"EHLO c\r\nBDAT 90000\r\nabc",
    "in AUTH PLAIN": b"EHLO c\r\nAUTH PLAIN\r\n",
    "in AUTH LOGIN": b"EHLO c\r\nAUTH LOGIN\r\ndGVzdA==\r\n",
    "in AUTH CRAM-MD5": b"EHLO c\r\nAUTH CRAM-MD5\r\n",
    "closed": b"QUIT\r\n",
}


def filled(data: bytes, size: int = CHUNK) -> bytes:
    """Return *data* repeated to *size* bytes.  The default is what an adapter reads at once."""
    return (data * (size // len(data) + 1))[:size]


LONG_PATH: Final = b"a" * 64 + b"@" + b"d" * 189
FLOODS: Final[Mapping[str, bytes]] = {
    "an endless line": filled(b"x"),
    "endless base64": filled(b"AAAA"),
    "lines of base64": filled(b"A" * 12_000 + b"\r\n"),
    "lines of nothing": filled(b"\r\n", 3_000),
    "bare CR": filled(b"\r"),
    "NUL": bytes(CHUNK),
    "dots": filled(b"\r\n..", 4_000),
    "an end of content that never comes": filled(b"\r\n.\r", 4_000),
    "RSET": filled(b"RSET\r\n", 21_000),
    "commands that do nothing": filled(b"NOOP\r\nHELP\r\nVRFY x\r\nEHLO " + b"d" * 255 + b"\r\n", 10_000),
    "transactions": filled(b"MAIL FROM:<" + LONG_PATH + b">\r\nRCPT TO:<" + LONG_PATH + b">\r\nRSET\r\n"),
    "recipients": filled(b"MAIL FROM:<>\r\n" + b"RCPT TO:<%b>\r\n" % LONG_PATH * 300),
    "messages": filled(b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\nx\r\n.\r\n", 20_000),
    "chunks": filled(b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nBDAT 2\r\nx\nBDAT 9 LAST\r\n.\r\n.\r\n.\r\n", 20_000),
    "logins": filled(b"AUTH PLAIN AHRlc3QAMTIzNQ==\r\nAUTH LOGIN\r\nAAAA\r\nAAAA\r\nAUTH X\r\n", 10_000),
    "STARTTLS": b"STARTTLS\r\n" + filled(b"EHLO c\r\n", 4_000),
}
ASKING: Final = ("transactions", "recipients", "messages", "chunks", "logins", "STARTTLS")


def heaviest(session: Session, pieces: Iterable[bytes], *, answering: bool = True) -> int:
    """Return the maximum size of a server, less its size before and less the last piece of input.

    Without *answering*, its first question stays open, and input is passed until the server refuses it.
    """
    machine = session.server
    scales = Scales(machine, SETTINGS)
    most = events = 0
    for piece in pieces:
        try:
            machine.receive_data(piece)
        except LocalProtocolError:  # its buffer is full, or a handshake is due
            break
        most = max(most, scales.weigh() - sys.getsizeof(piece))
        while True:
            event = machine.next_event()
            events += 1
            if events % 97 == 1 or isinstance(event, NeedData | Paused):
                most = max(most, scales.weigh() - sys.getsizeof(piece))
            if isinstance(event, NeedData | Paused | Closed | BeginTls):
                break
            if isinstance(event, Question) and answering:
                session._answer(event)
    return most


def in_state(name: str) -> Session:
    session = Session(smtp.ServerConnection(SETTINGS, entropy=ENTROPY), starts_tls=False).pull()
    data = STATES[name]
    return session.receive(*(data[n : n + CHUNK] for n in range(0, len(data), CHUNK))).forget()


@pytest.mark.parametrize("state", STATES)
def test_server_memory_is_limited_during_input_floods(state: str) -> None:
    """Neither the flood, nor a few bytes after it that would keep all of it in memory."""
    for name, flood in FLOODS.items():
        assert heaviest(in_state(state), [flood, b"x", flood, b"\r", b"y"]) < ROOM, name


@pytest.mark.parametrize("state", ["ready", "in a transaction", "with a recipient", "in content"])
def test_server_memory_is_limited_during_floods_with_an_open_question(state: str) -> None:
    """64 KiB of input are accepted and then refused, plus the objects that hold them.  No adapter does this."""
    for name in ASKING:
        flood = FLOODS[name]
        small = [flood[n : n + 3_000] for n in range(0, len(flood), 3_000)] * 9
        assert heaviest(in_state(state), small, answering=False) < ROOM + 8_192, name
        assert heaviest(in_state(state), [flood] * 9, answering=False) < ROOM + 8_192, name


def test_input_after_a_question_is_limited_after_consumed_input() -> None:
    """A past error: if the input before the question was used up, the input after it was accepted without a limit."""
    session = in_state("ready")
    machine = session.server
    machine.receive_data(b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\n")
    mail = machine.next_event()
    assert isinstance(mail, smtp.Mail)
    machine.receive_data(b"NOOP\r\n")
    machine.answer(mail, ACCEPT)
    assert isinstance(machine.next_event(), smtp.Rcpt)
    for _ in range(66):
        machine.receive_data(b"x" * 1_000)
    with pytest.raises(LocalProtocolError):
        machine.receive_data(b"x")


@pytest.mark.parametrize("before", ["greeting", "refusing"])
def test_server_memory_is_limited_before_greeting_and_after_554_greeting(before: str) -> None:
    """RFC 5321 section 3.1: the greeting is due, or was 554."""
    for name, flood in FLOODS.items():
        session = Session(
            smtp.ServerConnection(SETTINGS, entropy=ENTROPY),
            answers={smtp.Connected: smtp.Reply(554, "5.7.1", "no service")},
        )
        room = ROOM if before == "refusing" else ROOM + 8_192
        assert heaviest(session, [flood, b"x", flood], answering=before == "refusing") < room, name


def test_memory_of_recipients_is_limited_by_max_recipients() -> None:
    """RFC 5321 section 4.5.3.1.8 requires 100 recipients, which fit; more require a higher setting."""
    for number in (100, 1_000):
        settings = attrs.evolve(SETTINGS, max_recipients=number)
        session = (
            Session(smtp.ServerConnection(settings, entropy=ENTROPY)).pull().receive(b"EHLO c\r\nMAIL FROM:<>\r\n")
        )
        scales = Scales(session.server, settings)
        for n in range(number + 10):
            session.receive(b"RCPT TO:<%04d%b>\r\n" % (n, LONG_PATH[4:]))
            session.forget()
        assert scales.weigh() < 520 * number < (ROOM if number == 100 else sys.maxsize)


@given(sessions | st.binary(max_size=300), fates, st.data())
def test_server_memory_is_limited_for_arbitrary_data(data: bytes, fate: list[int], choices: st.DataObject) -> None:
    """Whatever the application answers."""
    session = under(fate, SETTINGS).pull()
    scales = Scales(session.server, SETTINGS)
    for piece in choices.draw(cuts(data)):
        session.receive(piece)
        assert scales.weigh() - sys.getsizeof(piece) < 16_384


# The client

REPLIES: Final[Mapping[str, bytes]] = {
    "an endless line": filled(b"x"),
    "an endless line of a reply": b"250 " + filled(b"x"),
    "endless lines": filled(b"250-x\r\n"),
    "endless long lines": filled(b"250-" + b"x" * 4_000 + b"\r\n"),
    "endless lines of no text": filled(b"250-\r\n"),
    "replies": filled(b"250 ok\r\n"),
    "extensions": b"".join(b"250-%050d %080d\r\n" % (n, n) for n in range(99)) + b"250 X\r\n250-" + b"y" * 4_000,
    "challenges": filled(b"334 " + b"AAAA" * 3_000 + b"\r\n"),
    "an endless challenge": b"334 " + filled(b"A"),
    "421 and more": b"421 bye\r\n" + filled(b"250 ok\r\n"),
    "354": filled(b"354 go\r\n"),
}
LOGIN: Final = sasl.LoginClient(authentication_identity="a", password=b"b")
MAIL: Final = smtp.Mail(reverse_path=None)
RCPT: Final = smtp.Rcpt(forward_path=smtp.Mailbox("a", "b"))
GROUP: Final[tuple[Command, ...]] = (MAIL, RCPT, smtp.Rset())


def writing() -> Session:
    return greeted().send(MAIL).receive(b"250 ok\r\n").send(RCPT).receive(b"250 ok\r\n").send(smtp.Data())


def logging_in() -> Session:
    session = greeted("AUTH LOGIN")
    session.client.authenticate(LOGIN)
    return session.pull()


CALLERS: Final[Mapping[str, Callable[[], Session]]] = {
    "before the greeting": lambda: Session(smtp.ClientConnection()).pull(),
    "with nothing asked": greeted,
    "after EHLO": lambda: greeted().send(smtp.Hello(domain="c")),
    "after a group": lambda: greeted("PIPELINING").send(*GROUP * 100),
    "after DATA": writing,
    "in content": lambda: writing().receive(b"354 go\r\n"),
    "after content": lambda: writing().receive(b"354 go\r\n").send(smtp.MessageComplete()),
    "after chunks": lambda: greeted("PIPELINING", "CHUNKING").send(MAIL, RCPT, *[MessageChunk(data=b"x\r\n")] * 9),
    "in a login": logging_in,
    "after STARTTLS": lambda: greeted("STARTTLS").send(smtp.StartTls()),
    "after QUIT": lambda: greeted().send(smtp.Quit()),
}


def heaviest_client(session: Session, pieces: Iterable[bytes]) -> int:
    machine = session.client
    scales = Scales(machine)
    most = 0
    for piece in pieces:
        try:
            machine.receive_data(piece)
            most = max(most, scales.weigh() - sys.getsizeof(piece))
            while not isinstance(event := machine.next_event(), NeedData | Closed | BeginTls | Paused):
                if isinstance(event, smtp.ReplyReceived):
                    most = max(most, scales.weigh() - sys.getsizeof(piece))
        except LocalProtocolError:  # a handshake is due
            return most
        except RemoteProtocolError:
            pass  # more input is still allowed
        most = max(most, scales.weigh() - sys.getsizeof(piece))
    return most


@pytest.mark.parametrize("caller", CALLERS)
def test_client_memory_is_limited_during_reply_floods(caller: str) -> None:
    """Replies are limited in lines and in bytes, and nothing is kept after an error or a 421."""
    for name, data in REPLIES.items():
        session = CALLERS[caller]()
        assert heaviest_client(session, [data, data[:-3], data, b"2"]) < ROOM, name
        small = [data[n : n + 900] for n in range(0, len(data), 900)]
        assert heaviest_client(CALLERS[caller](), small) < ROOM, name


@given(
    st.sampled_from(sorted(CALLERS)),
    st.lists(REPLY_LINES, max_size=12).map(b"".join) | st.binary(max_size=200),
    st.data(),
)
def test_client_memory_is_limited_for_arbitrary_data(caller: str, data: bytes, choices: st.DataObject) -> None:
    pieces: list[Any] = choices.draw(cuts(data))
    assert heaviest_client(CALLERS[caller](), pieces) < 16_384


def test_failed_client_discards_further_input() -> None:
    """architecture.md, A connection: the connection is finished."""
    session = greeted()
    session.machine.receive_data(b"nonsense\r\n" + bytes(CHUNK))
    with pytest.raises(RemoteProtocolError):
        session.pull()
    for _ in range(3):
        session.machine.receive_data(bytes(CHUNK))
        assert len(session.machine._input) == 0


def test_idle_connection_does_not_keep_what_it_has_read() -> None:
    """Thousands of connections may wait for their next command after a large message."""
    session = Session(smtp.ServerConnection(SETTINGS, entropy=ENTROPY)).receive(
        BEGIN + b"DATA\r\n", b"x" * 60_000 + b"\r\n.\r\n"
    )
    assert session.events[-1] == smtp.MessageComplete(recipients=(smtp.Mailbox("a", "b"),))
    assert sys.getsizeof(session.machine._input.data) < 100
