"""``ServerSettings.parse_command()`` reads a line exactly as the server does, which runs here in every state."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Final, Self

import attrs
import pytest
from hypothesis import example, given, strategies as st

from mailauth import (
    BeginTls,
    Closed,
    Command,
    ExtensionNotice,
    LocalProtocolError,
    Malformed,
    NeedData,
    Paused,
    sasl,
    smtp,
)
from mailauth.smtp.verbs import ROWS
from tests.smtp.drive import IN_CLEAR, Session, exact, serve
from tests.smtp.test_codecs import commands
from tests.smtp.test_properties import LINES, USUAL

STATES: Final[dict[str, tuple[bytes, ...]]] = {
    "CONNECTED": (),
    "READY": (b"EHLO c",),
    "MAIL": (b"EHLO c", b"MAIL FROM:<a@b> SMTPUTF8"),
    "RCPT": (b"EHLO c", b"MAIL FROM:<a@b> SMTPUTF8", b"RCPT TO:<c@d>"),
    "CHUNKS": (b"EHLO c", b"MAIL FROM:<a@b> SMTPUTF8", b"RCPT TO:<c@d>", b"BDAT 0"),
}
"""The lines that lead to each state in which a server reads commands."""

SYNTAX: Final = frozenset({500, 501, 502})
NOT_SMTP: Final = smtp.Reply(421, "4.7.0", "this is an SMTP server, closing connection")


@attrs.frozen(kw_only=True)
class Echo(Command, ExtensionNotice):
    """An added verb, whose parser raises each kind of error."""

    verb: ClassVar[str] = "XECHO"

    text: str

    @classmethod
    def parse(cls, argument: str) -> Self:
        if argument.startswith("m"):
            raise Malformed("\x1b[31m" + "x" * 500)
        if argument.startswith("l"):
            raise LocalProtocolError("text must not begin with l")
        if argument.startswith("v"):
            raise ValueError(argument)
        return cls(text=argument)


@attrs.frozen(kw_only=True)
class OtherRset(smtp.NoArgumentCommand, ExtensionNotice):
    """Replaces a verb of the library that the fast path reads."""

    verb: ClassVar[str] = "RSET"

    @classmethod
    def parse(cls, argument: str) -> Self:
        if argument != "now":
            raise Malformed("syntax: RSET now")
        return cls()


ECHO: Final = smtp.Verb(
    "XECHO", kind=Echo, parse=Echo.parse, states={state: state for state in ROWS["NOOP"].states},
    accepted=smtp.Reply(250, "2.0.0", "ok"), asks=False,
)  # fmt: skip
RSET: Final = smtp.Verb(
    "RSET", kind=OtherRset, parse=OtherRset.parse, states=ECHO.states, accepted=ECHO.accepted, asks=False
)
SETTINGS: Final[dict[str, smtp.ServerSettings]] = {
    "all": attrs.evolve(IN_CLEAR, chunking=True, binary_mime=True, smtputf8=True, dsn=True, verbs=(ECHO,)),
    "none": attrs.evolve(IN_CLEAR, mechanisms=sasl.ALL_MECHANISMS, scram_decoy=sasl.ScramDecoy(key=bytes(32))),
    "lmtp": attrs.evolve(IN_CLEAR, lmtp=True, chunking=True),
    "replaced": attrs.evolve(IN_CLEAR, verbs=(RSET, ECHO), max_command_line=1_024),
}


def in_state(state: str, settings: smtp.ServerSettings) -> Session | None:
    """Return a server in *state*, with nothing collected; None if *settings* do not lead there."""
    if state == "CHUNKS" and not settings.chunking:
        return None
    hello = b"LHLO c" if settings.lmtp else b"EHLO c"
    session = serve(settings=settings)
    for line in STATES[state]:
        line = hello if line == b"EHLO c" else line
        session.receive((line if settings.smtputf8 else line.removesuffix(b" SMTPUTF8")) + b"\r\n")
    assert session.of(smtp.CommandRejected) == []
    return session.forget()


def events_of(session: Session, line: bytes) -> list[Any]:
    """Return the events of *line*; a question stays open."""
    session.machine.receive_data(line + b"\r\n")
    events = []
    while not isinstance(event := session.machine.next_event(), NeedData | Paused | Closed | BeginTls):
        events.append(event)
    return events


def parsed(settings: smtp.ServerSettings, line: bytes) -> Command | None:
    try:
        return settings.parse_command(line)
    except Malformed as raised:
        error = str(raised)
    assert re.fullmatch("[ -~]{1,400}", error)
    return None


def compare(settings: smtp.ServerSettings, line: bytes) -> int:
    """Compare ``parse_command()`` with the servers in all states, where syntax comes before the order of commands.

    Return the number of events that were compared.
    """
    command = parsed(settings, line)
    compared = 0
    for state in STATES:
        session = in_state(state, settings)
        if session is None:
            continue
        events = events_of(session, line)
        replies = [event.reply for event in events if isinstance(event, smtp.CommandRejected)]
        is_syntax_error = any(reply.code in SYNTAX or reply == NOT_SMTP for reply in replies)
        assert is_syntax_error is (command is None), (state, command, events)
        for event in events:
            if isinstance(command, smtp.Bdat):
                continue  # see test_bdat_has_the_size_that_the_server_reads
            if isinstance(event, sasl.AuthenticationStarted):
                assert isinstance(command, smtp.Auth)
                assert event.mechanism == command.mechanism
            elif isinstance(event, Command):
                assert exact(event) == exact(command), state
            else:
                continue
            compared += 1
    return compared


FRAGMENTS: Final = (
    *(b" ", b"  ", b"\t", b"<", b">", b":", b"@", b'"', b"\\", b".", b"=", b"\0", b"\r", b"\n", b"\x7f", b"\xff"),
    *("é".encode(), b" SMTPUTF8", "\u2028".encode(), b" SIZE=1", b" BODY=8BITMIME", b" X=1", b"a" * 70, b"LAST"),
    *(b"EHLO ", b"RCPT TO:", b"mail from:", b"LHLO ", b"HELO ", b"XECHO ", b"RSET now", b"\x16\x03\x01", b"AUTH "),
)
OTHERS: Final = (
    *(b"XECHO", b"XECHO ", b"XECHO  hello  \t", b"xecho malformed", b"XECHO local", b"XECHO value", b"RSET now"),
    *(b"LHLO c", b"LHLO c ", b"TURN", b"ETRN x", b"expn staff", b"post / HTTP/1.1", b"STARTTLS now", b"HELP me"),
    *(
        b"BDAT 99999999999999999999",
        b"BDAT 100000000000000000000",
        b"BDAT -1",
        b"AUTH",
        b"AUTH PLAIN =",
        b"AUTH PLAIN !",
    ),
    *(b"AUTH PLAIN !", b"RCPT TO:<a@b> NOTIFY=NEVER,DELAY", b"MAIL FROM:<a@b> SIZE=1 SIZE=2", b"RSET x", b"QUIT now"),
)
valid = st.one_of(
    commands.map(lambda command: command.to_wire()[:-2]),
    st.sampled_from([line.partition(b"\r\n")[0] for line in (*LINES, *USUAL, *OTHERS)]),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Draw a valid line with one to three changes."""
    line = draw(valid)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(line)))
        end = min(len(line), start + draw(st.integers(0, 3)))
        piece = draw(st.sampled_from(FRAGMENTS) | st.just(line[start:end].swapcase()) | st.just(b""))
        line = line[:start] + piece + line[end:]
    return line


@st.composite
def padded(draw: st.DrawFn) -> bytes:
    """Draw a line whose length is near one of the limits."""
    line = draw(st.sampled_from([b"NOOP ", b"MAIL FROM:<a@b> X=", b"FOO", b"AUTH PLAIN ", b"NOOP"]))
    filler = draw(st.sampled_from([b"x", b" "]))
    return line.ljust(draw(st.sampled_from([1_024, 2_048])) - 2 + draw(st.integers(-1, 1)), filler)


lines = (valid | mutated() | padded() | st.binary(max_size=40)).filter(lambda line: b"\r\n" not in line)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("strict", [False, True], ids=["tolerant", "strict"])
@given(line=lines)
@example(line=b"")
@example(line=b" ")
@example(line=b"NOOP ")
@example(line=b"NOOP\t")
@example(line=b"DATA ")
@example(line=b"NOOP\0")
@example(line=b"XECHO malformed")
@example(line=b"XECHO local")
@example(line=b"XECHO value")
@example(line=b"EHLO \xff")
@example(line=b"RCPT TO:<\xc3\xa9@b>")
@example(line=b"GET / HTTP/1.1")
@example(line=b"EXPN staff")
@example(line=b"RSET now")
@example(line=b"MAIL FROM:<a@b> X=1")
@example(line=b"MAIL FROM:a@b")
def test_line_is_malformed_exactly_if_the_server_rejects_its_syntax(
    settings: smtp.ServerSettings, strict: bool, line: bytes
) -> None:
    """Otherwise the command is equal to the event of the server, in each state that has one."""
    compare(attrs.evolve(settings, strict_syntax=strict), line)


@pytest.mark.parametrize(
    ("name", "verbs"),
    [
        ("all", "EHLO HELO MAIL RCPT DATA RSET NOOP VRFY HELP QUIT STARTTLS AUTH XECHO"),
        ("lmtp", "LHLO MAIL RCPT DATA RSET NOOP VRFY HELP QUIT STARTTLS AUTH"),
        ("replaced", "RSET XECHO"),
    ],
)
def test_event_of_each_verb_is_compared(name: str, verbs: str) -> None:
    """Otherwise the test above could compare nothing."""
    arguments = {"MAIL": "FROM:<a@b>", "RCPT": "TO:<a@b>", "AUTH": "LOGIN", "VRFY": "x", "XECHO": "x"}
    arguments |= dict.fromkeys(("EHLO", "HELO", "LHLO"), "c")
    if name == "replaced":
        arguments["RSET"] = "now"
    for verb in verbs.split():
        line = f"{verb} {arguments.get(verb, '')}".rstrip()
        assert compare(SETTINGS[name], line.encode("ascii")) > 0, line


@given(size=st.integers(0, 200), last=st.booleans())
def test_bdat_has_the_size_that_the_server_reads(size: int, last: bool) -> None:
    settings = SETTINGS["all"]
    line = b"BDAT %d%s" % (size, b" last" if last else b"")
    assert settings.parse_command(line) == smtp.Bdat(size=size, last=last)
    session = in_state("RCPT", settings)
    assert session is not None
    session.receive(line + b"\r\n" + b"x" * size + b"NOOP\r\n")
    assert session.content.removesuffix(b"\r\n") == b"x" * size
    assert session.events[-1] == smtp.Noop()
    assert bool(session.of(smtp.MessageComplete)) is last


def test_initial_response_is_the_one_that_the_server_decodes() -> None:
    line = b"auth  plain  AHRlc3QAMTIzNA== \t"
    command = IN_CLEAR.parse_command(line)
    assert command == smtp.Auth(mechanism="PLAIN", initial_response=b"AHRlc3QAMTIzNA==")
    session = in_state("READY", IN_CLEAR)
    assert session is not None
    question = events_of(session, line)[-1]
    assert (question.authentication_identity, question.password) == ("test", b"1234")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"x" * 2_047, "line too long"),
        (b"NO\nOP", "a command must be printable ASCII"),
        (b"FOO", "command not recognized"),
        (b"BDAT 3", "command not recognized"),
        (b"GET / HTTP/1.1", "command not recognized"),
        (b"MAIL <a@b>", "syntax: MAIL FROM:<address>"),
    ],
)
def test_error_says_what_is_wrong(line: bytes, text: str) -> None:
    with pytest.raises(Malformed) as caught:
        IN_CLEAR.parse_command(line)
    assert str(caught.value) == text


@pytest.mark.parametrize("line", [b"NOOP\r\n", b"NOOP\r\nQUIT", b"\r\n"])
def test_line_with_its_line_end_is_a_mistake_of_the_caller(line: bytes) -> None:
    with pytest.raises(LocalProtocolError, match="line must be one line without its CRLF"):
        IN_CLEAR.parse_command(line)


def test_mistake_of_the_author_of_a_row_is_raised() -> None:
    def fail(argument: str) -> Echo:
        raise KeyError(argument)

    settings = attrs.evolve(IN_CLEAR, verbs=(attrs.evolve(ECHO, parse=fail),))
    with pytest.raises(KeyError):
        settings.parse_command(b"XECHO x")
