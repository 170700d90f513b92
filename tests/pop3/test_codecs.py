"""Parsing and serializing of commands, replies, unique-ids and timestamps."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, strategies as st

from mailauth import LocalProtocolError, pop3
from mailauth.errors import Malformed
from mailauth.pop3._fast_path import COMMON, HANDLERS
from mailauth.pop3._grammar import find_timestamp
from mailauth.pop3.commands import Apop, Auth, LineCommand, Pass, User
from mailauth.pop3.replies import parse_status
from mailauth.pop3.verbs import ROWS, TRANSITIONS

numbers = st.integers(1, 9_999_999_999)
counts = st.integers(0, 9_999_999_999)
data = st.binary(min_size=1, max_size=60).filter(lambda found: not set(b"\r\n\0") & set(found))
commands: st.SearchStrategy[LineCommand] = st.one_of(
    st.sampled_from([pop3.Capa(), pop3.Stls(), pop3.Utf8(), pop3.Stat(), pop3.Noop(), pop3.Rset(), pop3.Quit()]),
    st.builds(pop3.List, number=st.none() | numbers),
    st.builds(pop3.Uidl, number=st.none() | numbers),
    st.builds(pop3.Dele, number=numbers),
    st.builds(pop3.Retrieve, number=numbers, lines=st.none() | counts),
    st.builds(User, argument=data),
    st.builds(Pass, argument=data),
    st.builds(Apop, argument=st.builds(lambda name: name + b" " + b"0" * 32, data)),
    st.builds(
        Auth,
        mechanism=st.from_regex(r"[A-Z0-9_-]{1,20}", fullmatch=True),
        initial_response=st.none() | st.just(b"=") | st.from_regex(rb"[A-Za-z0-9+/]{4,40}", fullmatch=True),
    ),
    st.just(Auth(mechanism=None)),
)


def parse(line: bytes) -> LineCommand:
    verb, _, argument = line.partition(b" ")
    command: LineCommand = ROWS[verb.upper().decode()].parse(argument)
    return command


@given(commands)
def test_commands_are_serialized_and_parsed_unchanged(command: LineCommand) -> None:
    wire = command.to_wire()
    assert wire.endswith(b"\r\n")
    assert b"\r" not in wire[:-2]
    assert b"\n" not in wire[:-2]
    assert parse(wire[:-2]) == command


@given(commands)
def test_fast_path_finds_the_row_and_the_argument_of_a_line(command: LineCommand) -> None:
    wire = command.to_wire()
    found = COMMON.fullmatch(wire)
    if found is None:
        assert not isinstance(command, pop3.Dele | pop3.Stat | pop3.Retrieve | pop3.List | pop3.Quit | pop3.Capa)
    else:
        group = found.lastindex
        assert group is not None
        row, _, _ = HANDLERS[group - 1]
        verb, _, argument = wire[:-2].partition(b" ")
        assert (row.name.encode(), found[group]) == (verb, argument or verb)


def test_verbs_are_case_insensitive() -> None:
    """RFC 1939 section 3."""
    assert parse(b"ReTr 7") == pop3.Retrieve(number=7)


@pytest.mark.parametrize(
    "line",
    [
        *(b"RETR", b"RETR 0", b"RETR -1", b"RETR +1", b"RETR 1 2", b"RETR x", b"RETR 1\xb2", b"RETR 12345678901"),
        *(b"RETR \xd9\xa1", b"RETR 0x1", b"RETR 1.0", b"DELE", b"DELE 1 1", b"LIST 0", b"LIST 1 2", b"UIDL x"),
        *(b"TOP", b"TOP 1", b"TOP 1 ", b"TOP 1 -1", b"TOP 0 1", b"TOP 1  1", b"TOP 1 1 1"),
        *(b"STAT 1", b"NOOP x", b"RSET 1", b"QUIT now", b"CAPA x", b"STLS x"),
        *(b"USER", b"USER ", b"PASS", b"PASS ", b"APOP", b"AUTH PLAIN ", b"AUTH a_mechanism_of_21_chars"),
    ],
)
def test_invalid_arguments_are_rejected(line: bytes) -> None:
    """RFC 1939 section 3: only ASCII digits, in range."""
    with pytest.raises(Malformed):
        parse(line)


def test_password_keeps_its_spaces() -> None:
    """RFC 1939 section 7, PASS: all bytes after the first space are the password."""
    assert parse(b"PASS  two  words ") == Pass(argument=b" two  words ")


@pytest.mark.parametrize("number", [0, -1, 10_000_000_000])
def test_commands_reject_message_number_out_of_range(number: int) -> None:
    for make in (pop3.Dele, pop3.List, pop3.Uidl, pop3.Retrieve):
        with pytest.raises(LocalProtocolError):
            make(number=number)


def test_retrieve_rejects_negative_line_count() -> None:
    with pytest.raises(LocalProtocolError):
        pop3.Retrieve(number=1, lines=-1)


@pytest.mark.parametrize("data", [b"", b"a\r\nDELE 1", b"a\n", b"\r", b"a\0b"])
def test_arguments_reject_empty_data_line_ends_and_nul(data: bytes) -> None:
    for kind in (User, Pass, Apop):
        with pytest.raises(LocalProtocolError, match="argument"):
            kind(argument=data)
        with pytest.raises(Malformed):
            kind.parse(data)


def test_reprs_contain_no_secret() -> None:
    for command in (
        Pass(argument=b"s3cret"),
        Apop(argument=b"s3cret"),
        Auth(mechanism="PLAIN", initial_response=b"s3cret"),
    ):
        assert "s3cret" not in repr(command)
    assert "s3cret" not in repr(pop3.Content(data=b"s3cret"))
    refused = pop3.CommandRejected(verb="", line=b"s3cret", reply=pop3.Reply(False))
    assert "s3cret" not in repr(refused)


# Replies

texts = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=80)


@st.composite
def replies(draw: st.DrawFn) -> pop3.Reply:
    code = draw(st.sampled_from(["", "", "IN-USE", "AUTH", "SYS/TEMP", "X/y/z"]))
    text = draw(texts)
    if not code and re.match(r"\[[!-~]+\]", text):
        text = f"- {text}"
    return pop3.Reply(draw(st.booleans()), code, text)


@given(replies())
@example(pop3.Reply(True, "", ""))
@example(pop3.Reply(True, "", " two blanks"))
@example(pop3.Reply(False, "AUTH", ""))
@example(pop3.Reply(False, "AUTH", "[AUTH] twice"))
def test_replies_are_serialized_and_parsed_unchanged(reply: pop3.Reply) -> None:
    assert parse_status(reply.to_wire()[:-2]) == reply


def test_reply_line_has_at_most_512_bytes() -> None:
    """RFC 1939 section 3."""
    wire = pop3.Reply(True, "", "x" * 600, ("y" * 600, "." * 600)).to_wire()
    assert [len(line) for line in wire.split(b"\r\n")] == [510, 510, 510, 1, 0]


def test_reply_lines_are_dot_stuffed() -> None:
    """RFC 1939 section 3: byte-stuffing and the final dot."""
    assert pop3.Reply(True, "", "", (".", "", "a")).to_wire() == b"+OK\r\n..\r\n\r\na\r\n.\r\n"


@pytest.mark.parametrize("text", ["a\r\nb", "a\n", "\0", "caf\xe9"])
def test_reply_rejects_control_and_non_ascii_characters(text: str) -> None:
    with pytest.raises(LocalProtocolError):
        pop3.Reply(True, "", text)
    with pytest.raises(LocalProtocolError):
        pop3.Reply(True, "", "", (text,))


@pytest.mark.parametrize("code", ["a]b", "a b", "/", "a/", "\n"])
def test_invalid_response_code_is_rejected(code: str) -> None:
    """RFC 2449 section 3."""
    with pytest.raises(LocalProtocolError):
        pop3.Reply(False, code, "text")


def test_reply_text_that_resembles_response_code_is_rejected() -> None:
    with pytest.raises(LocalProtocolError):
        pop3.Reply(False, "", "[IN-USE] not really")


@given(st.binary(max_size=60))
def test_any_status_line_is_parsed_or_malformed(line: bytes) -> None:
    for data in (line, b"+OK " + line, b"-ERR [" + line):
        try:
            reply = parse_status(data)
        except Malformed:
            assert not data.startswith((b"+OK ", b"-ERR "))
        else:
            reply.to_wire()


# Unique-ids and timestamps


@pytest.mark.parametrize("unique_id", ["!", "~" * 70, "whqtswO00WBw418f9t5JxYwZ"])
def test_valid_unique_id_is_accepted(unique_id: str) -> None:
    """RFC 1939 section 7, UIDL."""
    assert pop3.Message(size=1, unique_id=unique_id).unique_id == unique_id


@pytest.mark.parametrize("unique_id", ["", "a b", "~" * 71, "a\r\n", "a\n", "\x7f", "\xe9", "\0"])
def test_invalid_unique_id_is_rejected(unique_id: str) -> None:
    with pytest.raises(LocalProtocolError):
        pop3.Message(size=1, unique_id=unique_id)


def test_duplicate_unique_id_and_negative_size_are_rejected() -> None:
    with pytest.raises(LocalProtocolError):
        pop3.Message(size=-1, unique_id="a")
    twin = pop3.Message(size=1, unique_id="a")
    with pytest.raises(LocalProtocolError):
        pop3.Maildrop(messages=(twin, twin))


@pytest.mark.parametrize(
    ("greeting", "timestamp"),
    [
        (b"+OK POP3 ready <1896.697170952@dbc.mtview.ca.us>", b"<1896.697170952@dbc.mtview.ca.us>"),
        (b"+OK <a@b> ready", b"<a@b>"),
        (b"+OK ready", None),
        (b"+OK <> ready", None),
        (b"+OK <no-at-sign>", None),
        (b"+OK <a@b> <c@d>", None),
        (b"+OK <a@b@c>", None),
        (b"+OK <a b@c>", None),
        (b"+OK <a\x80@b>", None),
        (b"+OK <a\0@b>", None),
    ],
)
def test_only_a_strict_msg_id_is_parsed_as_timestamp(greeting: bytes, timestamp: bytes | None) -> None:
    """CVE-2007-1558: the bytes of MD5 collisions are not allowed in a msg-id."""
    assert find_timestamp(greeting) == timestamp


def test_transitions_match_the_verb_rows() -> None:
    assert {verb for _, verb in TRANSITIONS} == set(ROWS)
    assert all(ROWS[verb].states[state] is after for (state, verb), after in TRANSITIONS.items())
