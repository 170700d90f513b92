"""Input that breaks the grammar and has a clear meaning: accepted by default, refused with ``strict_syntax``."""

from __future__ import annotations

import base64
from typing import Any

import attrs
import pytest
from hypothesis import given, strategies as st

from mailauth import ACCEPT, Closed, Command, ExtensionNotice, pop3, sasl
from tests.pop3.drive import OPEN, TLS, Application, Event, ask, in_transaction, said, server, settle, talk

STRICT = attrs.evolve(OPEN, strict_syntax=True)
TEXTS = (b"Subject: a\r\n\r\none\r\ntwo\r\n", b"b\r\n")
PLAIN = base64.b64encode(b"\0alice\0wonderland")
MODES = pytest.mark.parametrize("settings", [OPEN, STRICT], ids=["tolerant", "strict"])


def reply_in_transaction(line: bytes, settings: pop3.ServerSettings) -> bytes:
    connection, application = in_transaction(*TEXTS, settings=settings)
    return ask(connection, application, line)


def reply_before_login(line: bytes, settings: pop3.ServerSettings) -> bytes:
    connection, application = server(settings, TLS), Application(*TEXTS)
    settle(connection, application)
    return ask(connection, application, line)


# Blanks


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        (b"TOP 1  0", b"TOP 1 0"),
        (b"TOP  1   1  ", b"TOP 1 1"),
        (b"TOP 1 1\t", b"TOP 1 1"),
        (b"UIDL 1 ", b"UIDL 1"),
        (b"UIDL  2", b"UIDL 2"),
        (b"UIDL ", b"UIDL"),
        (b"UIDL\t", b"UIDL"),
        (b"LIST   1 \t ", b"LIST 1"),
        (b"RETR  1", b"RETR 1"),
        (b"retr 1\t", b"RETR 1"),
        (b"DELE 2 ", b"DELE 2"),
        (b"STAT  ", b"STAT"),
        (b"STAT\t ", b"STAT"),
        (b"noop\t\t", b"NOOP"),
        (b"RSET ", b"RSET"),
        (b"CAPA \t", b"CAPA"),
    ],
)
def test_blanks_between_words_and_at_the_end_are_ignored(line: bytes, meaning: bytes) -> None:
    wanted = reply_in_transaction(meaning, OPEN)
    assert wanted.startswith(b"+OK")
    assert reply_in_transaction(line, OPEN) == wanted
    assert reply_in_transaction(meaning, STRICT) == wanted
    assert reply_in_transaction(line, STRICT).startswith(b"-ERR")


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        (b"AUTH  PLAIN  " + PLAIN, b"AUTH PLAIN " + PLAIN),
        (b"AUTH PLAIN " + PLAIN + b" \t", b"AUTH PLAIN " + PLAIN),
        (b"AUTH PLAIN ", b"AUTH PLAIN"),
        (b"AUTH ", b"AUTH"),
        (b"AUTH\t", b"AUTH"),
        (b"UTF8 ", b"UTF8"),
        (b"CAPA ", b"CAPA"),
        (b"QUIT\t", b"QUIT"),
    ],
)
def test_blanks_before_the_login_are_ignored(line: bytes, meaning: bytes) -> None:
    wanted = reply_before_login(meaning, OPEN)
    assert wanted.startswith(b"+")
    assert reply_before_login(line, OPEN) == wanted
    assert reply_before_login(meaning, STRICT) == wanted
    assert reply_before_login(line, STRICT).startswith(b"-ERR")


@MODES
@pytest.mark.parametrize(
    "line",
    [
        *(b"TOP 1\t0", b"TOP\t1 0", b"TOP 1 0 0", b"TOP 1  ", b"TOP  ", b"TOP1 0", b"TOP 1 - 0"),
        *(b"UIDL\t1", b"UIDL 1 2", b"UIDL - 1", b"DELE ", b"LIST 1\n", b"LIST 1\r", b"R ETR 1", b"RETR 1\x00"),
        *(b" ", b" STAT", b"\tSTAT", b"STAT\t1", b"STAT\x0b", b"STAT \x0c", b"STAT \xa0", b"RETR 1\xa0"),
    ],
)  # fmt: skip
def test_other_blanks_are_errors_in_both_modes(line: bytes, settings: pop3.ServerSettings) -> None:
    assert reply_in_transaction(line, settings).startswith(b"-ERR")


@MODES
@pytest.mark.parametrize(
    "line", [b"AUTH\tPLAIN", b"AUTH PLAIN " + PLAIN[:8] + b" " + PLAIN[8:], b"AUTH PLAIN\t" + PLAIN, b"A UTH"]
)
def test_blanks_inside_base64_and_tabs_are_errors_in_both_modes(line: bytes, settings: pop3.ServerSettings) -> None:
    assert reply_before_login(line, settings).startswith(b"-ERR")


class Spaced(Application):
    """Has the user `` alice `` with a password of blanks."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, bytes]] = []

    def usual(self, question: object) -> object:
        match question:
            case sasl.CheckPassword(authentication_identity=name, password=password):
                self.asked.append((name, password))
                return ACCEPT
            case sasl.FetchSecret(authentication_identity=name):
                self.asked.append((name, b""))
                return b""
            case _:
                return super().usual(question)


@MODES
@pytest.mark.parametrize(
    ("name", "password"),
    [(b" alice", b" x"), (b"alice  ", b"x  "), (b"a  b", b"  x  y\t"), (b"a", b" "), (b"a", b"\t"), (b" ", b"\tx")],
)
def test_every_blank_in_a_name_and_a_password_is_data(
    name: bytes, password: bytes, settings: pop3.ServerSettings
) -> None:
    """RFC 1939 section 7, PASS: all that follows the one space is the password."""
    connection, application = server(settings, TLS), Spaced()
    talk(connection, application, b"USER " + name + b"\r\nPASS " + password + b"\r\n")
    assert application.asked == [(name.decode(), password)]


@MODES
def test_blanks_in_the_argument_of_apop_are_data(settings: pop3.ServerSettings) -> None:
    for argument, name in ((b"  alice " + b"0" * 32, "  alice"), (b"al  ice " + b"0" * 32, "al  ice")):
        connection, application = server(settings, TLS), Spaced()
        talk(connection, application, b"APOP " + argument + b"\r\n")
        assert application.asked == [(name, b"")]
    connection, application = server(settings, TLS), Spaced()
    talk(connection, application, b"APOP alice " + b"0" * 32 + b" \r\n")
    assert application.asked == []


@attrs.frozen(kw_only=True)
class Xtnd(Command, ExtensionNotice):
    """A command of an application, with any argument."""

    argument: bytes

    @classmethod
    def parse(cls, argument: bytes) -> Xtnd:
        return cls(argument=argument)


@pytest.mark.parametrize(
    ("strict", "secret", "argument"),
    [(False, False, b"a  b"), (False, True, b"  a  b \t"), (True, False, b"  a  b \t"), (True, True, b"  a  b \t")],
)
def test_added_verb_gets_the_text_between_the_outer_blanks(strict: bool, secret: bool, argument: bytes) -> None:
    row = pop3.Verb(
        "XTND", kind=Xtnd, parse=Xtnd.parse, states={pop3.State.TRANSACTION: pop3.State.TRANSACTION},
        accepted=pop3.Reply(True, "", "ok"), secret=secret,
    )  # fmt: skip
    connection, application = in_transaction(settings=attrs.evolve(OPEN, verbs=(row,), strict_syntax=strict))
    events = talk(connection, application, b"XTND   a  b \t\r\n")
    assert Xtnd(argument=argument) in events


COMMANDS = st.sampled_from(
    [b"TOP", b"UIDL", b"LIST", b"RETR", b"DELE", b"STAT", b"NOOP", b"RSET", b"CAPA", b"USER", b"PASS", b"APOP", b"AUTH"]
)
WORDS = st.lists(
    st.sampled_from([b" ", b"  ", b"\t", b"1", b"2", b"0", b"-", b"alice", b"PLAIN", PLAIN, b"\xa0", b"="]), max_size=6
).map(b"".join)


@given(COMMANDS, WORDS, st.booleans())
def test_tolerant_and_strict_server_agree_where_both_accept(verb: bytes, rest: bytes, logged_in: bool) -> None:
    events: list[list[Event]] = []
    for settings in (OPEN, STRICT):
        connection, application = server(settings, TLS), Application(*TEXTS)
        before = b"AUTH PLAIN " + PLAIN + b"\r\n" if logged_in else b"USER alice\r\n" if verb == b"PASS" else b""
        talk(connection, application, before)
        events.append(talk(connection, application, verb + rest + b"\r\n"))
    if not any(isinstance(event, pop3.CommandRejected | sasl.AuthenticationFailed) for event in events[1]):
        assert events[0] == events[1]


# Long lines


def framed(length: int, begin: bytes, fill: bytes = b"x") -> bytes:
    """A line of *length* bytes with CRLF."""
    return begin + fill * (length - len(begin) - 2)


class ByToken(Application):
    """Has a user with a long token."""

    def __init__(self, token: bytes) -> None:
        super().__init__()
        self.token = token

    def usual(self, question: object) -> object:
        if isinstance(question, sasl.CheckToken):
            return "alice" if question.token == self.token else sasl.Refusal.BAD_CREDENTIALS
        return super().usual(question)


XOAUTH2 = pop3.ServerSettings(mechanisms=pop3.ALL_MECHANISMS.only("XOAUTH2"))


@pytest.mark.parametrize("size", [200, 850, 1_200, 2_048, 8_192])
@pytest.mark.parametrize("verb", [b"AUTH", b"auth"])
def test_token_in_one_line_is_judged(verb: bytes, size: int) -> None:
    token = b"t" * size
    message = base64.b64encode(b"user=alice\1auth=Bearer " + token + b"\1\1")
    connection, application = server(XOAUTH2, TLS), ByToken(token)
    settle(connection, application)
    line = verb + b" XOAUTH2 " + message
    assert ask(connection, application, line).startswith(b"+OK")
    connection, application = server(attrs.evolve(XOAUTH2, strict_syntax=True), TLS), ByToken(token)
    settle(connection, application)
    expected = b"+OK" if len(line) <= 253 else b"-ERR command line too long"
    assert ask(connection, application, line).startswith(expected)


def test_long_initial_response_of_plain_is_judged() -> None:
    password = b"x" * 1_024
    long = base64.b64encode(b"\0alice\0" + password)
    connection, application = server(OPEN, TLS), Spaced()
    settle(connection, application)
    assert ask(connection, application, b"AUTH PLAIN " + long).startswith(b"+OK")
    assert application.asked == [("alice", password)]


@pytest.mark.parametrize("begin", [b"AUTH PLAIN ", b"auth plain ", b"PASS ", b"pass ", b"AUTH "])
def test_lines_of_auth_and_pass_have_up_to_12288_bytes(begin: bytes) -> None:
    """The limit is that of the responses in an AUTH exchange (``sasl.MAX_LINE``)."""
    assert sasl.MAX_LINE >= 12_288 + 2
    for length, settings, too_long in (
        (sasl.MAX_LINE, OPEN, False),
        (sasl.MAX_LINE + 1, OPEN, True),
        (100_000, OPEN, True),
        (255, STRICT, False),
        (256, STRICT, True),
        (12_288, STRICT, True),
    ):
        answer = reply_before_login(framed(length, begin), settings)
        assert answer.startswith(b"-ERR")
        assert (answer == b"-ERR command line too long\r\n") == too_long


@MODES
@pytest.mark.parametrize("begin", [b"USER ", b"APOP ", b"CAPA ", b"AUTHX ", b"AUTH\t", b"PASS\t", b" AUTH ", b"", b"x"])
def test_other_lines_have_up_to_255_bytes(begin: bytes, settings: pop3.ServerSettings) -> None:
    assert reply_before_login(framed(256, begin), settings) == b"-ERR command line too long\r\n"


@MODES
@pytest.mark.parametrize("begin", [b"AUTH ", b"PASS ", b"RETR "])
def test_lines_after_the_login_have_up_to_255_bytes(begin: bytes, settings: pop3.ServerSettings) -> None:
    assert reply_in_transaction(framed(256, begin), settings) == b"-ERR command line too long\r\n"


def test_larger_max_command_line_is_kept() -> None:
    for strict in (False, True):
        settings = attrs.evolve(OPEN, max_command_line=20_000, strict_syntax=strict)
        assert reply_before_login(framed(20_000, b"PASS "), settings).startswith(b"-ERR command not valid")
        assert reply_before_login(framed(20_001, b"PASS "), settings).startswith(b"-ERR command line too long")


@pytest.mark.parametrize(
    "password",
    [b"x" * 1_025, b"x" * 12_000, "\ufdfa".encode() * 90, "\xe9".encode() * 513, b"\xff" * 2_000],
    ids=["1025", "12000", "grows", "UTF-8", "not UTF-8"],
)
def test_password_over_1024_bytes_is_a_counted_failed_login(password: bytes) -> None:
    """The length counts after SASLprep too: U+FDFA becomes 33 bytes."""
    connection, application = server(OPEN, TLS), Spaced()
    settle(connection, application)
    for attempt in range(3):
        events = talk(connection, application, b"USER alice\r\nPASS " + password + b"\r\n")
        assert [type(event) for event in events if isinstance(event, sasl.AuthenticationFailed)]
        assert isinstance(events[-1], Closed) == (attempt == 2)  # max_failed_logins
    assert application.asked == []


@pytest.mark.parametrize("password", [b"x" * 1_024, "\xe9".encode() * 512, b" " + b"y" * 300])
def test_password_of_up_to_1024_bytes_is_checked(password: bytes) -> None:
    connection, application = server(OPEN, TLS), Spaced()
    settle(connection, application)
    assert ask(connection, application, b"USER alice", b"PASS " + password).endswith(b"octets)\r\n")
    assert application.asked == [("alice", password)]


@pytest.mark.parametrize("size", [1, 4, 5, 6, 100, 255, 4_000])
def test_long_line_does_not_depend_on_how_it_is_split(size: int) -> None:
    data = framed(5_000, b"AUTH PLAIN ") + b"\r\n" + framed(300, b"USER ") + b"\r\nUSER alice\r\nPASS wonderland\r\n"
    whole = server(OPEN, TLS)
    pieces = server(OPEN, TLS)
    expected = said(talk(whole, Application(), data))
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    assert said(talk(pieces, Application(), *chunks)) == expected
    assert expected.count(b"-ERR") == 2


# Messages with a UTF-8 header


UTF8_HEADER = "Subject: gr\xfc\xdfe\r\n\r\n.b\r\n".encode()


@pytest.mark.parametrize("piece", [20, 1_000])
@pytest.mark.parametrize("changes", [{}, {"refuse_utf8_headers": True}, {"strict_syntax": True}, {"utf8": False}])
def test_message_with_utf8_header_is_sent_as_it_is_unless_refused(changes: dict[str, Any], piece: int) -> None:
    """LIST and STAT have the size of what RETR sends."""
    connection, application = in_transaction(UTF8_HEADER, settings=attrs.evolve(OPEN, **changes), piece=piece)
    assert ask(connection, application, b"LIST 1") == b"+OK 1 %d\r\n" % len(UTF8_HEADER)
    refused = bool({"refuse_utf8_headers", "strict_syntax"} & set(changes))
    for line, text in ((b"RETR 1", UTF8_HEADER), (b"TOP 1 9", UTF8_HEADER), (b"TOP 1 0", UTF8_HEADER[:-4])):
        answer = ask(connection, application, line)
        if refused:
            assert answer.startswith(b"-ERR [UTF8] ")
        else:
            assert answer == b"+OK message follows\r\n" + text.replace(b"\r\n.", b"\r\n..") + b".\r\n"


def test_settings_to_refuse_utf8_headers_have_no_effect_without_utf8() -> None:
    settings = attrs.evolve(OPEN, utf8=False, refuse_utf8_headers=True, strict_syntax=True)
    connection, application = in_transaction(UTF8_HEADER, settings=settings)
    assert ask(connection, application, b"RETR 1").startswith(b"+OK")
