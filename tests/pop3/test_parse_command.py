"""``ServerSettings.parse_command()`` reads a line exactly as the server does, which runs here in every state."""

from __future__ import annotations

import re
from typing import Any, Final, Self

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
    Send,
    pop3,
    sasl,
)
from mailauth.pop3.verbs import ROWS
from tests.pop3.drive import OPEN, Application, talk

STATES: Final[dict[str, tuple[bytes, ...]]] = {
    "AUTHORIZATION": (),
    "USER_GIVEN": (b"USER alice\r\n",),
    "TRANSACTION": (b"USER alice\r\n", b"PASS wonderland\r\n"),
}
"""The lines that lead to each state in which a server reads commands."""

OUT_OF_ORDER: Final = "command not valid in this state"
NOT_SYNTAX: Final = re.compile(
    "authentication mechanism not supported|UTF8 not supported|no such message.*|message [0-9]+ already deleted"
)
"""The refusals of a command whose syntax is right, in its own state and with the settings of this test."""


@attrs.frozen(kw_only=True)
class Echo(Command, ExtensionNotice):
    """An added verb, whose parser raises each kind of error."""

    data: bytes

    @classmethod
    def parse(cls, argument: bytes) -> Self:
        if argument.startswith(b"m"):
            raise Malformed("[AUTH] \x1b[31m" + "x" * 500)
        if argument.startswith(b"l"):
            raise LocalProtocolError("data must not begin with l")
        argument.decode("utf-8")  # raises UnicodeDecodeError
        return cls(data=argument)


OK: Final = pop3.Reply(True, "", "ok")
EVERYWHERE: Final = {state: state for state in ROWS["CAPA"].states}
ECHO: Final = pop3.Verb("XECHO", kind=Echo, parse=Echo.parse, states=EVERYWHERE, accepted=OK)
SECRET: Final = attrs.evolve(ECHO, name="XSECRET", secret=True)
STAT: Final = attrs.evolve(ECHO, name="STAT", states=ROWS["STAT"].states)
SETTINGS: Final[dict[str, pop3.ServerSettings]] = {
    "usual": OPEN,
    "added": attrs.evolve(OPEN, verbs=(ECHO, SECRET, STAT), utf8=False, max_command_line=300),
    "few": pop3.ServerSettings(mechanisms=sasl.Mechanisms({"USER": pop3.DEFAULT_MECHANISMS.factories["USER"]}),
                               mechanisms_without_tls=frozenset({"USER"}), stls=True),
}  # fmt: skip


def in_state(state: str, settings: pop3.ServerSettings) -> pop3.ServerConnection:
    connection = pop3.ServerConnection(settings, entropy=bytes(32))
    talk(connection, Application(b"a", b"b"), *STATES[state])
    return connection


def events_of(connection: pop3.ServerConnection, line: bytes) -> list[Any]:
    """Return the events of *line* except Send; a question stays open."""
    connection.receive_data(line + b"\r\n")
    events = []
    while not isinstance(event := connection.next_event(), NeedData | Paused | Closed | BeginTls):
        if not isinstance(event, Send):
            events.append(event)
    return events


def parsed(settings: pop3.ServerSettings, line: bytes) -> Command | None:
    try:
        return settings.parse_command(line)
    except Malformed as raised:
        error = str(raised)
    assert re.fullmatch("[ -~]{1,400}", error)
    return None


def is_login_of(events: list[Any], command: Command) -> bool:
    """Return whether *events* show what the server has read from *command*, a command of a login."""
    match events, command:
        case [sasl.AuthenticationStarted(mechanism="USER"), *_], pop3.User():
            return True  # its name is compared below
        case [sasl.AuthenticationFailed(), sasl.AuthenticationStarted(mechanism="USER"), *_], pop3.User():
            return True
        case [sasl.CheckPassword(password=password)], pop3.Pass(argument=argument):
            return password == argument or not argument.isascii()  # prepared by SASLprep
        case [sasl.AuthenticationFailed()], pop3.Pass(argument=argument):
            return not argument.isascii() or len(argument) > 1_000  # refused by the mechanism
        case [sasl.AuthenticationStarted(mechanism="APOP"), *rest], pop3.Apop(argument=argument):
            name = argument.rpartition(b" ")[0]
            return not isinstance(rest[0], sasl.FetchSecret) or (
                rest[0].authentication_identity.encode() == name or not name.isascii()
            )
        case [sasl.AuthenticationStarted(mechanism=mechanism), *_], pop3.Auth():
            return mechanism == command.mechanism
        case _:
            return False


def compare(settings: pop3.ServerSettings, line: bytes) -> int:
    """Compare ``parse_command()`` with the servers in all states: the order of commands comes before their syntax.

    So the line has a syntax error if no state accepts its syntax.  Return the number of events that were compared.
    """
    command = parsed(settings, line)
    compared = 0
    syntax_is_right = False
    for state in STATES:
        events = events_of(in_state(state, settings), line)
        rejected = [event.reply.text for event in events if isinstance(event, pop3.CommandRejected)]
        assert len(rejected) <= 1
        if rejected:
            syntax_is_right |= NOT_SYNTAX.fullmatch(rejected[0]) is not None
            continue
        syntax_is_right = True
        assert command is not None, (state, events)
        compared += 1
        assert events[:1] == [command] or is_login_of(events, command), (state, command, events)
    assert syntax_is_right is (command is not None), command
    return compared


FRAGMENTS: Final = (
    *(b" ", b"  ", b"\t", b"\0", b"\r", b"\n", b"\x7f", b"\xff", "é".encode(), b"0", b"1", b"2", b"9" * 10, b"-", b"["),
    *(b"USER ", b"PASS ", b"APOP ", b"AUTH ", b"TOP ", b"list ", b"XECHO ", b"XSECRET ", b"a" * 40, b"PLAIN", b"="),
)
VALID: Final = (
    *(b"USER alice", b"USER  a b ", b"user \xc3\xa9", b"USER \xff", b"PASS wonderland", b"PASS  a  b \t", b"pass \xff"),
    *(
        b"APOP alice c4c9334bac560ecc979e58001b3e22fb",
        b"APOP x",
        b"apop a b  ",
        b"AUTH",
        b"AUTH PLAIN",
        b"AUTH  LOGIN ",
    ),
    *(b"auth plain AGFsaWNlAHdvbmRlcmxhbmQ=", b"AUTH PLAIN =", b"AUTH X-NONE", b"AUTH\t", b"CAPA", b"capa ", b"STLS"),
    *(
        b"UTF8",
        b"UTF8 x",
        b"STAT",
        b"STAT\t \t",
        b"LIST",
        b"LIST 1",
        b"list  9\t",
        b"UIDL",
        b"UIDL 2",
        b"UIDL 0",
        b"UIDL ",
    ),
    *(b"RETR 1", b"retr  2", b"RETR 3", b"RETR", b"RETR 12345678901", b"TOP 1 0", b"TOP  2   5 ", b"TOP 1", b"TOP 1 x"),
    *(b"DELE 1", b"DELE 9", b"dele 2 ", b"RSET", b"NOOP", b"noop ", b"QUIT", b"quit\t", b"QUIT now"),
    *(b"XECHO", b"xecho  a  b \t", b"XECHO \xff", b"XECHO malformed", b"XECHO local", b"XSECRET  a  b \t", b"XSECRET "),
    *(b"", b" ", b"GET / HTTP/1.1", b"POST\t", b"FOO", b"LANG fr"),
)
valid = st.sampled_from(VALID)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """Draw a line of VALID with one to three changes."""
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
    line = draw(st.sampled_from([b"PASS ", b"pass", b"AUTH PLAIN ", b"USER ", b"NOOP ", b"FOO ", b"XECHO "]))
    filler = draw(st.sampled_from([b"x", b" "]))
    return line.ljust(draw(st.sampled_from([255, 300, sasl.MAX_LINE])) - 2 + draw(st.integers(-1, 1)), filler)


lines = (valid | mutated() | padded() | st.binary(max_size=30)).filter(lambda line: b"\r\n" not in line)


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("strict", [False, True], ids=["tolerant", "strict"])
@given(line=lines)
@example(line=b"PASS " + b"x" * 300)
@example(line=b"NOOP ")
@example(line=b"UTF8\t")
@example(line=b"TOP 1  0")
@example(line=b"XSECRET  a ")
@example(line=b"XECHO  a ")
@example(line=b"XECHO \xff")
@example(line=b"XECHO malformed")
@example(line=b"XECHO local")
@example(line=b"RETR 1\0")
@example(line=b"USER alice\0")
@example(line=b"PASS a\r")
@example(line=b"DELE 9")
def test_line_is_malformed_exactly_if_the_server_rejects_its_syntax(
    settings: pop3.ServerSettings, strict: bool, line: bytes
) -> None:
    """Otherwise the command is equal to the event of the server, in each state that has one."""
    compare(attrs.evolve(settings, strict_syntax=strict), line)


def test_event_of_each_verb_is_compared() -> None:
    """Otherwise the test above could compare nothing."""
    arguments = {"USER": "alice", "PASS": "wonderland", "APOP": "alice " + "0" * 32, "AUTH": "PLAIN", "TOP": "1 0"}
    arguments |= dict.fromkeys(("RETR", "DELE"), "1")
    for verb in ROWS:
        line = f"{verb} {arguments.get(verb, '')}".rstrip()
        assert compare(OPEN, line.encode("ascii")) > 0, line


@pytest.mark.parametrize("strict", [False, True], ids=["tolerant", "strict"])
@given(name=st.text(st.characters(codec="ascii", categories=["L", "N", "P", "Zs"]), min_size=1, max_size=30))
def test_argument_of_user_is_the_name_that_the_server_reads(strict: bool, name: str) -> None:
    settings = attrs.evolve(OPEN, strict_syntax=strict)
    line = b"USER " + name.encode("ascii")
    assert settings.parse_command(line) == pop3.User(argument=name.encode("ascii"))
    connection = in_state("AUTHORIZATION", settings)
    events_of(connection, line)
    (question,) = events_of(connection, b"PASS x")
    assert question.authentication_identity == name


def test_initial_response_is_the_one_that_the_server_decodes() -> None:
    line = b"auth  plain  AGFsaWNlAHdvbmRlcmxhbmQ= \t"
    assert OPEN.parse_command(line) == pop3.Auth(mechanism="PLAIN", initial_response=b"AGFsaWNlAHdvbmRlcmxhbmQ=")
    question = events_of(in_state("AUTHORIZATION", OPEN), line)[-1]
    assert (question.authentication_identity, question.password) == ("alice", b"wonderland")


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (b"NOOP " + b"x" * 249, "command line too long"),
        (b"PASS " + b"x" * (sasl.MAX_LINE - 6), "command line too long"),
        (b"FOO", "unknown command"),
        (b"GET / HTTP/1.1", "unknown command"),
        (b"RETR 0", "message numbers start at 1"),
    ],
)
def test_error_says_what_is_wrong(line: bytes, text: str) -> None:
    with pytest.raises(Malformed) as caught:
        OPEN.parse_command(line)
    assert str(caught.value) == text


@pytest.mark.parametrize("line", [b"NOOP\r\n", b"PASS a\r\nQUIT", b"\r\n"])
def test_line_with_its_line_end_is_a_mistake_of_the_caller(line: bytes) -> None:
    with pytest.raises(LocalProtocolError, match="line must be one line without its CRLF"):
        OPEN.parse_command(line)


def test_mistake_of_the_author_of_a_row_is_raised() -> None:
    def fail(argument: bytes) -> Echo:
        raise KeyError(argument)

    settings = attrs.evolve(OPEN, verbs=(attrs.evolve(ECHO, parse=fail),))
    with pytest.raises(KeyError):
        settings.parse_command(b"XECHO x")
