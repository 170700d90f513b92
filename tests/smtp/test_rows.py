"""Rows of verbs from outside the library, on a server and on a client (``smtp.Verb``)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Final, Self

import attrs
import pytest
from hypothesis import given, strategies as st

from mailauth import (
    ACCEPT,
    CloseReason,
    Command,
    ExtensionNotice,
    ExtensionQuestion,
    LocalProtocolError,
    Malformed,
    MessageChunk,
    Notice,
    ProtocolError,
    Question,
    RemoteProtocolError,
    TlsStarted,
    smtp,
)
from mailauth.smtp import Effect, Reply, State, Verb
from tests.smtp.drive import IN_CLEAR, LEFT_OPEN, Session, call, converse, greeted, ready, serve
from tests.smtp.test_properties import END_OF_LINE, LINES, SMALL, USUAL, cuts, fates, under, whole_replies

ANYWHERE: Final = (State.CONNECTED, State.READY, State.MAIL, State.RCPT, State.CHUNKS)
SAME: Final = {state: state for state in ANYWHERE}


@attrs.frozen(kw_only=True)
class Ask(Command, ExtensionQuestion[smtp.Verdict]):
    """A command with a number, which the application decides about."""

    number: int

    @property
    def unavailable(self) -> Reply:
        return Reply(451, "4.3.0", "later")

    @classmethod
    def parse(cls, argument: str) -> Self:
        if argument == "unprintable":
            raise Malformed("not\r\n250 \x1b \u2028" + "x" * 2_000)
        if argument == "mailbox":
            smtp.Mailbox("a", "b c")  # raises LocalProtocolError
        if not argument:
            raise Malformed("syntax: XASK number")
        return cls(number=int(argument))  # raises ValueError

    def to_wire(self) -> bytes:
        return f"XASK {self.number}\r\n".encode("ascii")


@attrs.frozen
class Tell(Command, ExtensionNotice):
    """A command that is carried out at once."""

    verb: ClassVar[str] = "XTELL"

    argument: str

    def to_wire(self) -> bytes:
        return f"XTELL {self.argument}\r\n".encode()


@attrs.frozen
class Simple(Ask):
    """An Ask of another verb."""

    number: int = attrs.field(default=0, init=False)

    @classmethod
    def parse(cls, argument: str) -> Self:
        return cls()


class Reset(Simple): ...


class Restart(Simple):
    def to_wire(self) -> bytes:
        return b"XRESTART\r\n"


class Close(Simple):
    def to_wire(self) -> bytes:
        return b"XCLOSE\r\n"


class Content(Simple):
    def to_wire(self) -> bytes:
        return b"XDATA\r\n"


class XTls(Simple):
    def to_wire(self) -> bytes:
        return b"XTLS\r\n"


def greeting(view: smtp.View) -> Reply:
    return Reply(220, "", f"{view.settings.host_name} again, after {view.transactions}")


OK: Final = Reply(250, "2.0.0", "fine")
ASK: Final = Verb("XASK", kind=Ask, parse=Ask.parse, states=SAME, accepted=OK, extension="XASK 10", groupable=True)
TELL: Final = Verb("XTELL", kind=Tell, parse=Tell, states=SAME, accepted=OK, asks=False, before_tls=True)
RESET: Final = Verb(
    "XRESET", kind=Reset, parse=Reset.parse, accepted=OK, effect=Effect.RESET,
    states={State.CONNECTED: State.CONNECTED, **dict.fromkeys(ANYWHERE[1:], State.READY)},
)  # fmt: skip
RESTART: Final = Verb(
    "XRESTART", kind=Restart, parse=Restart.parse, accepted=greeting, effect=Effect.RESTART_SESSION, code_fixed=True,
    states=dict.fromkeys(ANYWHERE, State.CONNECTED), extension="XRESTART",
)  # fmt: skip
CLOSE: Final = Verb(
    "XCLOSE", kind=Close, parse=Close.parse, accepted=Reply(221, "2.0.0", "bye"), effect=Effect.CLOSE,
    states=dict.fromkeys((State.REFUSING, *ANYWHERE), State.CLOSED),
)  # fmt: skip
CONTENT: Final = Verb(
    "XDATA", kind=Content, parse=Content.parse, accepted=Reply(354, "", "go"), effect=Effect.BEGIN_CONTENT,
    states={State.RCPT: State.DATA}, code_fixed=True,
)  # fmt: skip
TLS: Final = Verb(
    "XTLS", kind=XTls, parse=XTls.parse, accepted=Reply(220, "", "go"), effect=Effect.BEGIN_TLS,
    states=dict.fromkeys((State.CONNECTED, State.READY), State.TLS),
    check=lambda view, _: Reply(503) if view.tls else None,
)  # fmt: skip
MAIL: Final = Verb(
    "XMAIL", kind=smtp.Mail, parse=smtp.Mail.parse, accepted=OK, effect=Effect.OPEN_TRANSACTION,
    states={State.READY: State.MAIL},
)  # fmt: skip
RCPT: Final = Verb(
    "RCPT", kind=smtp.Rcpt, parse=smtp.Rcpt.parse, accepted=lambda view: Reply(250, "2.1.5", f"{len(view.recipients)}"),
    effect=Effect.ADD_RECIPIENT, states=dict.fromkeys((State.MAIL, State.RCPT), State.RCPT),
)  # fmt: skip
ROWS: Final = (ASK, TELL, RESET, RESTART, CLOSE, CONTENT, TLS, MAIL, RCPT)
SETTINGS: Final = attrs.evolve(SMALL, verbs=ROWS, max_junk_commands=100)


# What a row may be


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "xask"},
        {"name": "X ASK"},
        {"accepted": Reply(550)},
        {"accepted": Reply(354)},
        {"asks": False},  # Ask is no notice
        {"kind": Tell},  # and Tell is no question
        {"kind": smtp.Noop},
        {"kind": smtp.Rcpt},  # whose acceptance adds a recipient
        {"kind": smtp.Data},
        {"kind": type("Alone", (ExtensionQuestion,), {})},  # not a Command
        {"kind": type("Unknown", (Command, Question), {})},  # an application could not expect it
        {"states": {State.READY: State.MAIL}},
        {"states": {State.DATA: State.DATA}},
        {"states": {State.GREETING: State.GREETING}},
        {"states": {State.READY: State.CLOSED}},
        {"effect": Effect.OPEN_TRANSACTION, "states": {State.READY: State.MAIL}},
        {"effect": Effect.BEGIN_CHUNK, "states": {State.RCPT: State.CHUNK}},
        {"effect": Effect.BEGIN_LOGIN, "states": {State.READY: State.AUTH}},
        {"effect": Effect.RESTART_SESSION, "states": {State.READY: State.READY}},
        {"effect": Effect.CLOSE},
    ],
)
def test_verb_row_with_inconsistent_fields_is_rejected(changes: Mapping[str, Any]) -> None:
    """Otherwise a server could raise for what a client sends (architecture.md, invariant 8)."""
    with pytest.raises(LocalProtocolError):
        attrs.evolve(ASK, **changes)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"name": b"XASK"}, "name must be a str, not bytes; use .decode()"),
        ({"kind": "Ask"}, "XASK: kind must be a class derived from Command and ExtensionQuestion[Verdict]"),
        ({"kind": Ask(number=1)}, "XASK: kind must be a class derived from Command"),
        (
            {"kind": type("Both", (Command, ExtensionQuestion, ExtensionNotice), {}), "asks": False},
            "because asks=False",
        ),
        ({"parse": None}, "parse must be a function, not None; use a function such as Etrn.parse"),
        ({"parse": "parse"}, "parse must be a function, not str; "),
        ({"states": [State.READY]}, "states must be a Mapping, not list; use a dict"),
        ({"states": {"READY": State.READY}}, "states: must map each State to a State; use {State.READY: State.READY}"),
        ({"states": {State.READY: 3}}, "states: must map each State to a State; "),
        ({"accepted": None}, 'accepted must be a Reply or a function, not None; use Reply(250, "2.0.0", "ok")'),
        ({"accepted": b"250 ok\r\n"}, "accepted must be a Reply or a function, not bytes; "),
        ({"effect": "nothing"}, "effect must be an Effect, not str; use a member such as Effect.NONE"),
        ({"check": Reply(550)}, "check must be a function or None, not Reply; use a function that returns"),
        ({"extension": b"XASK"}, "extension must be a str or a function or None, not bytes; use a line such as 'ETRN'"),
        ({"enabled": True}, "enabled must be a function or None, not bool; use a function that returns True or False"),
        ({"before_tls": 1}, "before_tls must be a bool, not int; use True or False"),
        ({"groupable": None}, "groupable must be a bool, not None; use True or False"),
        ({"asks": "no"}, "asks must be a bool, not str; use True or False"),
        ({"code_fixed": 0}, "code_fixed must be a bool, not int; use True or False"),
    ],
)
def test_verb_row_with_a_field_of_the_wrong_type_is_rejected(changes: Mapping[str, Any], text: str) -> None:
    with pytest.raises(LocalProtocolError, match=re.escape(text)):
        attrs.evolve(ASK, **changes)


@pytest.mark.parametrize("line", ["xask", "XASK\r\n250 AUTH PLAIN", "X" * 600, "XÄ"])
def test_invalid_ehlo_line_of_a_verb_row_is_rejected(line: str) -> None:
    with pytest.raises(LocalProtocolError):
        smtp.ServerSettings(verbs=(attrs.evolve(ASK, extension=line),))


def test_duplicate_ehlo_keyword_is_rejected() -> None:
    with pytest.raises(LocalProtocolError):
        smtp.ServerSettings(verbs=(ASK,), extra_extensions=("XASK",))


def test_malformed_is_a_value_error_and_a_protocol_error() -> None:
    assert issubclass(Malformed, ValueError)
    assert issubclass(Malformed, ProtocolError)
    assert not issubclass(Malformed, LocalProtocolError | RemoteProtocolError)


# The server


def test_verb_row_is_listed_in_ehlo_reply_and_help() -> None:
    session = serve(b"EHLO c\r\nHELP\r\n", settings=SETTINGS)
    assert {"250-XASK 10", "250-XRESTART"} <= {line.replace("250 ", "250-") for line in session.lines}
    assert "XASK XTELL" in session.lines[-1]


@pytest.mark.parametrize(
    ("line", "reply"),
    [
        (b"XASK", "501 5.5.4 syntax: XASK number"),
        (b"XASK x", "501 5.5.4 invalid argument"),  # a ValueError may quote anything
        (b"XASK mailbox", "501 5.5.4 "),
        (b"XASK unprintable", "501 5.5.4 not??250 ? ?xxx"),
        (b"XASK \xc3\xa9", "500 5.5.2 "),
        (b"xask 5", "250 2.0.0 fine"),
    ],
)
def test_invalid_argument_of_a_verb_row_is_rejected(line: bytes, reply: str) -> None:
    session = ready(line + b"\r\nNOOP\r\n", settings=SETTINGS)
    said, noop = session.lines
    assert said.startswith(reply)
    assert (noop[:4], len(session.of(smtp.CommandRejected))) == ("250 ", 0 if reply[0] == "2" else 1)


def test_application_answers_the_question_of_a_verb_row() -> None:
    session = ready(b"XASK 7\r\n", settings=SETTINGS, answers={Ask: LEFT_OPEN})
    assert session.question == Ask(number=7)
    with pytest.raises(LocalProtocolError):
        session.answer("yes")
    session.answer(Reply(251, "2.1.5", "my own"))
    assert session.lines == ["251 2.1.5 my own"]
    session.receive(b"XASK 8\r\n")
    assert session.question is not None
    session.server.decline(session.question)
    assert session.pull().lines[-1] == "451 4.3.0 later"


def test_code_fixed_applies_if_a_function_returns_the_reply() -> None:
    session = ready(b"XRESTART\r\n", settings=SETTINGS, answers={Restart: Reply(250, "2.0.0", "my own")})
    assert session.lines == ["220 my own"]
    assert session.receive(b"MAIL FROM:<>\r\n").codes[-1] == 503
    assert session.receive(b"XRESTART\r\n").codes[-1] == 220


def test_restart_session_clears_the_identity() -> None:
    session = ready(b"AUTH PLAIN AHRlc3QAMTIzNA==\r\n", settings=attrs.evolve(IN_CLEAR, verbs=ROWS))
    assert session.server.identity == "test"
    assert session.receive(b"XRESTART\r\n").server.identity is None


@pytest.mark.parametrize("line", [b"XRESET", b"XRESTART", b"XCLOSE"])
def test_accepted_reset_restart_or_close_between_chunks_aborts_the_message(line: bytes) -> None:
    """architecture.md, A connection: each message begun with BDAT ends exactly once."""
    chunk = b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nBDAT 2\r\nhi"
    refused = ready(
        chunk + line + b"\r\n", settings=SETTINGS, answers=dict.fromkeys((Reset, Restart, Close), Reply(550))
    )
    assert refused.of(smtp.MessageAborted) == []
    assert refused.receive(b"BDAT 1 LAST\r\n!").content == b"hi!\r\n"
    accepted = ready(chunk + line + b"\r\n", settings=SETTINGS)
    assert accepted.of(smtp.MessageAborted) == [smtp.MessageAborted(reason=smtp.ContentFault.ABANDONED)]


@pytest.mark.parametrize("way", ["answer", "check"])
def test_421_between_chunks_aborts_the_message(way: str) -> None:
    shutting_down = Reply(421, "4.3.2", "enough")
    row = ASK if way == "answer" else attrs.evolve(ASK, check=lambda view, command: shutting_down)
    session = ready(
        b"MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nBDAT 2\r\nhiXASK 1\r\n",
        settings=attrs.evolve(SETTINGS, verbs=(row,)),
        answers={Ask: shutting_down},
    )
    assert session.codes[-1] == 421
    assert len(session.of(smtp.MessageAborted)) == 1
    assert session.closed is not None


@pytest.mark.parametrize("answer", [ACCEPT, Reply(550, "5.0.0", "no")])
def test_junk_command_is_counted_once_for_any_answer(answer: object) -> None:
    settings = attrs.evolve(SETTINGS, max_junk_commands=3)  # EHLO is the first
    session = serve(b"EHLO c\r\n" + b"XASK 1\r\n" * 3, settings=settings, answers={Ask: answer})
    code = 250 if answer is ACCEPT else 550
    assert session.codes == [220, 250, code, code, 421]


def planted(*_: object) -> Any:
    raise KeyError("planted")


@pytest.mark.parametrize("change", [{"check": planted}, {"parse": planted}, {"accepted": planted, "asks": False}])
def test_exception_in_a_verb_row_propagates_to_the_caller(change: Mapping[str, Any]) -> None:
    """It is the application's mistake: ``next_event()`` raises it, and the session can still be ended in order."""
    row = attrs.evolve(TELL, **change)
    session = ready(settings=attrs.evolve(IN_CLEAR, verbs=(row,)))
    with pytest.raises(KeyError, match="planted"):
        session.receive(b"XTELL x\r\n")
    assert session.lines == []
    session.machine.shut_down()
    assert session.pull().codes == [421]
    assert session.closed is not None
    assert session.closed.reason is CloseReason.SHUT_DOWN


def test_exception_while_applying_an_answer_propagates_to_the_caller() -> None:
    row = attrs.evolve(ASK, accepted=planted)
    session = ready(b"XASK 1\r\n", settings=attrs.evolve(IN_CLEAR, verbs=(row,)), answers={Ask: LEFT_OPEN})
    with pytest.raises(KeyError, match="planted"):
        session.answer(ACCEPT)


EXTENSION_LINES: Final = (
    *(f"{row.name}".encode() for row in ROWS),
    *(b"XASK 1", b"xask 22", b"XASK x", b"XASK unprintable", b"XASK mailbox", b"XTELL x", b"XTELL \xc3\xa9"),
    *(b"XMAIL FROM:<a@b>", b"XMAIL FROM:<a@b", b"XDATA x"),
)
lines = st.sampled_from(EXTENSION_LINES) | st.sampled_from(USUAL) | st.sampled_from(LINES)
sessions = st.lists(st.tuples(lines, END_OF_LINE).map(b"".join), max_size=25).map(b"".join)
transactions = (
    b"EHLO c\r\nXMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nXDATA\r\n",
    b"EHLO c\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nBDAT 2\r\nhi",
    b"EHLO c\r\n",
    b"",
)
sessions = st.tuples(st.sampled_from(transactions), sessions).map(b"".join)


@given(sessions | st.binary(max_size=300), fates, st.sampled_from([None, *CloseReason]), st.data())
def test_server_with_application_verb_rows_never_raises(
    data: bytes, fate: list[int], reason: CloseReason | None, choices: st.DataObject
) -> None:
    """architecture.md, invariant 8: every effect, and each accepted content ends exactly once."""
    accepted: list[Any] = []
    session = with_rows(fate, accepted)
    for piece in choices.draw(cuts(data)):
        session.receive(piece)
    if reason is None:
        session.receive(b"")
    else:
        session.machine.shut_down(reason)
        session.pull()
    assert session.closed is not None
    assert whole_replies(session.data) >= 1
    content = False
    for event in session.events:
        if isinstance(event, smtp.MessageComplete | smtp.MessageAborted):
            assert content
            content = False
        elif isinstance(event, MessageChunk):
            assert content
        elif any(event is question for question in accepted):
            assert not content
            content = True
        else:
            assert isinstance(event, Question | Notice)
    assert not content


def with_rows(fate: list[int], accepted: list[Any]) -> Session:
    session = under(fate, SETTINGS, accepted)
    choose: Any = session.answers[smtp.Mail]

    def choose_content(question: object) -> object:
        answer = choose(question)
        if answer is ACCEPT or answer.positive:
            accepted.append(question)
        return answer

    kinds = dict.fromkeys((Ask, Reset, Restart, Close, XTls), choose)
    session.answers = {**session.answers, **kinds, Content: choose_content}
    return session


# The client

CLIENT: Final = smtp.ClientSettings(verbs=(ASK, TELL, RESTART, CLOSE, CONTENT, TLS))
OFFERED: Final = ("XASK 10", "XRESTART", "PIPELINING")


def test_client_sends_command_of_a_verb_row_and_reports_its_reply() -> None:
    command = Ask(number=5)
    session = greeted(*OFFERED, settings=CLIENT).send(command)
    assert session.sends == [b"XASK 5\r\n"]
    session.receive(b"251 2.1.5 mine\r\n")
    assert session.events == [smtp.ReplyReceived(command=command, reply=Reply(251, "2.1.5", "mine"))]


@pytest.mark.parametrize(
    ("settings", "extensions", "command"),
    [
        (smtp.ClientSettings(), OFFERED, Ask(number=5)),  # no such row
        (CLIENT, (), Ask(number=5)),  # not offered
        (CLIENT, OFFERED, Content()),  # not in this state
        (smtp.ClientSettings(verbs=(attrs.evolve(ASK, name="NOOP"),)), OFFERED, smtp.Noop()),  # replaced
        (CLIENT, OFFERED, Tell("x\r\nQUIT")),
        (CLIENT, OFFERED, Tell("é")),  # needs SMTPUTF8
    ],
)
def test_client_rejects_command_that_no_verb_row_allows(
    settings: smtp.ClientSettings, extensions: tuple[str, ...], command: Command
) -> None:
    session = greeted(*extensions, settings=settings)
    with pytest.raises(LocalProtocolError):
        session.send(command)
    assert session.pull().sends == []


def test_client_verb_row_requires_to_wire() -> None:
    with pytest.raises(LocalProtocolError, match="Mute has no to_wire"):
        smtp.ClientSettings(verbs=(attrs.evolve(TELL, kind=type("Mute", (Command, ExtensionNotice), {})),))


def test_only_groupable_verb_row_may_be_followed_before_its_reply() -> None:
    """RFC 2920 section 3.1."""
    session = greeted(*OFFERED, settings=CLIENT).send(Ask(number=1), Ask(number=2), Tell("x"), Ask(number=3))
    assert session.data == b"XASK 1\r\nXASK 2\r\nXTELL x\r\n"
    session.receive(b"250 1\r\n250 2\r\n")
    assert session.sends[2:] == [b"XTELL x\r\n"] or session.data.endswith(b"XTELL x\r\n")
    session.receive(b"250 x\r\n")
    assert session.data.endswith(b"XASK 3\r\n")


def test_restart_session_clears_the_extensions() -> None:
    session = greeted(*OFFERED, settings=CLIENT).send(Restart()).receive(b"220 s\r\n")
    assert session.client.extensions == {}
    with pytest.raises(LocalProtocolError):
        session.send(smtp.Mail(reverse_path=None))
    session.send(smtp.Hello(domain="c")).receive(b"250-s\r\n250 XRESTART\r\n").send(Restart()).receive(b"550 no\r\n")
    assert session.client.extensions == {"XRESTART": ""}
    session.send(smtp.Mail(reverse_path=None))


def test_server_accepting_verb_row_in_wrong_state_raises() -> None:
    row = attrs.evolve(ASK, states={State.MAIL: State.MAIL})
    session = greeted(*OFFERED, settings=smtp.ClientSettings(verbs=(row,)))
    session.send(smtp.Mail(reverse_path=None), Ask(number=1)).receive(b"550 no\r\n")
    with pytest.raises(RemoteProtocolError):
        session.receive(b"250 ok\r\n")


@pytest.mark.parametrize("answer", [ACCEPT, Reply(550, "5.0.0", "no")])
def test_client_and_server_use_the_same_verb_rows(answer: object) -> None:
    """One tuple of rows for both: content, TLS and the end are those of the effects."""
    kinds: dict[type[object], object] = dict.fromkeys((Content, Close, XTls), answer)
    server = serve(settings=attrs.evolve(IN_CLEAR, verbs=ROWS), answers=kinds)
    client = call(settings=CLIENT)
    commands: list[Callable[[], Command]] = [
        lambda: smtp.Hello(domain="c"), lambda: Ask(number=1), XTls, lambda: smtp.Hello(domain="c"),
        lambda: smtp.Mail(reverse_path=None), lambda: smtp.Rcpt(forward_path=smtp.Mailbox("a", "b")), Content,
    ]  # fmt: skip
    converse(client, server)
    client.receive(server.data)
    for make in commands:
        client.client.send(make())
        converse(client, server)
    positive = answer is ACCEPT
    assert len(server.of(TlsStarted)) == positive
    assert (client.client._state, server.server._state) == ((State.DATA,) * 2 if positive else (State.RCPT,) * 2)
    if positive:
        for command in (MessageChunk(data=b".hi\r\n"), smtp.MessageComplete()):
            client.client.send(command)
        converse(client, server)
        assert server.content == b".hi\r\n"
    client.client.send(Close())
    converse(client, server)
    assert (client.closed is not None, server.closed is not None) == (positive, positive)
