"""Properties of every session: generated from the lines of the protocol, split anywhere, answered in any way."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Final
from unittest import mock

import attrs
import pytest
from hypothesis import given, strategies as st

from mailauth import (
    ACCEPT,
    Accept,
    CloseReason,
    Command,
    LocalProtocolError,
    MessageChunk,
    NeedData,
    RemoteProtocolError,
    Send,
    TlsStarted,
    sasl,
    smtp,
)
from mailauth.smtp import _fast_path, server
from mailauth.smtp.commands import LineCommand
from mailauth.smtp.replies import parse_line
from tests.smtp.drive import ENTROPY, IN_CLEAR, SECRETS, Session, call, converse, exact, greeted, without_cuts

LINES: Final = (
    b"EHLO c",
    b"HELO c",
    b"MAIL FROM:<a@b>",
    b"mail from:<> size=5",
    b"MAIL FROM:<@r:a@b> BODY=8BITMIME AUTH=<>",
    b"MAIL FROM:<a@b> SIZE=99999999999",
    b"MAIL FROM:<a@b",
    b"RCPT TO:<c@d>",
    b"rcpt to:<Postmaster>",
    b'RCPT TO:<"c d"@e>',
    b"RCPT TO:<>",
    b"DATA",
    b"data ",
    b"text",
    b".",
    b"..",
    b".text",
    b"",
    b"RSET",
    b"NOOP",
    b"VRFY x",
    b"HELP",
    b"AUTH PLAIN",
    b"AUTH PLAIN AHRlc3QAMTIzNA==",
    b"AUTH PLAIN AGEAYg==",
    b"AUTH LOGIN",
    b"AUTH CRAM-MD5",
    b"AUTH FOO",
    b"dGVzdA==",
    b"MTIzNA==",
    b"*",
    b"=",
    b"FOO",
    b"BDAT 3",
    b"BDAT 0",
    b"BDAT 0 LAST",
    b"BDAT 5 last\r\nabc",
    b"BDAT 6\r\n\r\n.\r",
    b"BDAT 1 LAST\r\n",
    b"BDAT 70000",
    b"BDAT 99999999999",
    b"BDAT x",
    b"RCPT TO:<c@d> NOTIFY=NEVER ORCPT=rfc822;c",
    b"MAIL FROM:<a@b> RET=HDRS ENVID=x",
    b"GET / HTTP/1.1",
    b"\x16\x03\x01",
    b"MAIL FROM:<a@b> BODY=BINARYMIME",
    b"MAIL FROM:<a@b> SMTPUTF8",
    b"MAIL FROM:<\xc3\xa9@\xc3\xbc> smtputf8",
    b"RCPT TO:<\xc3\xa9@\xc3\xbc>",
    b"VRFY \xc3\xa9 SMTPUTF8",
    b"RCPT TO:<\xe2\x80\xa8@b>",
    b"STARTTLS",
    b"NO\nOP",
    b"\r.",
    b"\xff\0",
    b"x" * 3_000,
    b"MAIL  FROM: <a@b>  SIZE=5 ",
    b"MAIL FROM:a@b",
    b"MAIL FROM:<a..b@c_d>",
    b"RCPT TO: <%b@b>\t" % (b"a" * 65),
    b"RCPT TO:<c@d> \t",
    b"EHLO (none)",
    b"HELO \xe9",
    b"AUTH  LOGIN  dGVzdA==  ",
    b"MTIzNA== ",
    b"BDAT  1  LAST \r\n",
)
USUAL: Final = (
    b"EHLO c",
    b"MAIL FROM:<a@b>",
    b"MAIL FROM:<A@B.C> SIZE=5 BODY=8BITMIME",
    b"MAIL FROM:<a@b> BODY=7BIT SIZE=70000",
    b"RCPT TO:<C@D.e>",
    b"DATA",
    b".",
    b".text",
    b"AUTH PLAIN AHRlc3QAMTIzNA==",
    b"BDAT 6\r\ntext",
    b"BDAT 7 LAST\r\n.text",
)
END_OF_LINE: Final = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\n.\r\n", b""])

lines = st.tuples(st.sampled_from(USUAL) | st.sampled_from(LINES), END_OF_LINE).map(b"".join)
sessions = st.lists(lines, max_size=25).map(lambda rest: b"EHLO c\r\n" + b"".join(rest))
usual_transaction = b"MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n"
sessions |= st.lists(lines, max_size=12).map(lambda rest: b"EHLO c\r\n" + usual_transaction + b"".join(rest))

# One byte of fate per question: mostly yes.
fates = st.lists(st.integers(0, 7), min_size=1, max_size=8)
VERDICTS: Final = (
    ACCEPT,
    ACCEPT,
    ACCEPT,
    smtp.Reply(250, "2.0.0", "as you like"),
    smtp.Reply(450, "4.2.0", "not now\nlater"),
    smtp.Reply(550, "5.7.1", "never"),
    ACCEPT,
    smtp.Reply(421, "4.3.2", "enough"),
)
REFUSALS: Final = (ACCEPT, ACCEPT, ACCEPT, *sasl.Refusal)
SMALL: Final = smtp.ServerSettings(
    mechanisms_without_tls=IN_CLEAR.mechanisms_without_tls,
    max_errors=6,
    max_message_size=65_536,
    discard_limit=1_000,
    max_text_line=1_000,
    chunking=True,
    binary_mime=True,
    dsn=True,
    smtputf8=True,
    max_junk_commands=5,
)
BETWEEN_CHUNKS: Final = (smtp.Noop, smtp.Vrfy, smtp.Help, smtp.CommandRejected)
WITH_TLS: Final = smtp.ServerSettings(
    mechanisms_without_tls=IN_CLEAR.mechanisms_without_tls, starttls=True, chunking=True
)


modes = st.booleans()
"""Whether *strict_syntax* is set."""


def under(
    fate: Sequence[int], settings: smtp.ServerSettings, accepted: list[Any] | None = None, *, strict: bool = False
) -> Session:
    """Return a server whose questions are answered by *fate*, repeatedly; *accepted* collects each accepted Data."""
    asked = 0
    if strict:
        settings = attrs.evolve(settings, strict_syntax=True)

    def choose(question: object) -> object:
        nonlocal asked
        asked += 1
        number = fate[asked % len(fate)]
        if isinstance(question, sasl.FetchSecret):
            return (SECRETS["test"], None, sasl.Refusal.TEMPORARY)[number % 3]
        if isinstance(question, sasl.CheckPassword | sasl.Authorize):
            return REFUSALS[number]
        verdict = VERDICTS[number]
        if (
            accepted is not None
            and isinstance(question, smtp.Data)
            and (isinstance(verdict, Accept) or verdict.positive)
        ):
            accepted.append(question)
        return verdict

    kinds = (smtp.Mail, smtp.Rcpt, smtp.Data, smtp.MessageComplete, smtp.StartTls)
    logins = (sasl.CheckPassword, sasl.FetchSecret, sasl.Authorize)
    return Session(smtp.ServerConnection(settings, entropy=ENTROPY), answers=dict.fromkeys((*kinds, *logins), choose))


@st.composite
def cuts(draw: st.DrawFn, data: bytes) -> list[bytes]:
    places = draw(st.lists(st.integers(0, len(data)), max_size=8))
    return [data[a:b] for a, b in pairwise(sorted({0, len(data), *places})) if a < b]


def whole_replies(data: bytes) -> int:
    """Return the number of replies; every line must belong to one."""
    assert data == b"" or data.endswith(b"\r\n")
    rows = [parse_line(row) for row in data.split(b"\r\n")[:-1]]
    return sum(last for _, last, _ in rows)


BARE: Final = {b"220 localhost ESMTP", b"250 localhost", b"250-localhost"}
"""Replies without an enhanced status code, besides the EHLO reply, 334 and 354 (RFC 2034 section 4)."""


@given(sessions, fates, modes)
def test_every_reply_line_has_a_valid_format(data: bytes, fate: list[int], strict: bool) -> None:
    """RFC 5321 sections 4.2 and 4.5.3.1.5, RFC 2034 section 4: printable, at most 512 bytes, each with its code."""
    session = under(fate, SMALL, strict=strict).receive(data, b"")
    bare = BARE | set(SMALL.hello_reply(None).split(b"\r\n"))
    for row in session.data.split(b"\r\n")[:-1]:
        assert len(row) <= 510
        assert re.fullmatch(rb"[2-5][0-9]{2}[ -][\t -~]*", row)
        if row not in bare and row[:1] != b"3":
            assert re.match(rb"([245])[0-9]{2}[ -]\1\.[0-9]\.[0-9]{1,2} [ -~]", row)


@pytest.mark.parametrize(
    "line",
    [
        b"%b",
        b"EHLO %b",
        b"MAIL FROM:<%b>",
        b"MAIL FROM:<a@b> SIZE=%b",
        b"MAIL FROM:<a@b> %b",
        b"MAIL FROM:<a@b> X=%b",
        b"MAIL FROM:<%b",
        b"RCPT TO:<%b>",
        b"AUTH %b",
        b"AUTH PLAIN %b",
        b"BDAT %b",
        b"VRFY %b",
        b"HELP %b",
        b"NOOP %b",
        b"GET %b",
    ],
)
@pytest.mark.parametrize("said", [b"<script>alert(1)</script>", b"\x1b[31mred", b"250 2.0.0 fine", b"z" * 1_500])
@pytest.mark.parametrize("strict", [False, True])
def test_replies_do_not_echo_text_of_the_client(line: bytes, said: bytes, strict: bool) -> None:
    """Replies are logged and displayed: of the client's text they contain at most a keyword in upper case."""
    session = under([0], SMALL, strict=strict).receive(b"EHLO c\r\n" + line % said + b"\r\n")
    assert said not in session.data
    assert not re.search(rb"script|\x1b|fine|z{20}|Z{41}", session.data)


@given(sessions, fates, st.booleans(), modes, st.data())
def test_session_is_independent_of_input_splitting(
    data: bytes, fate: list[int], lmtp: bool, strict: bool, choices: st.DataObject
) -> None:
    """architecture.md, invariant 8: the same events, except for the size of chunks, and the same bytes."""
    whole, cut, single = (under(fate, attrs.evolve(SMALL, lmtp=lmtp), strict=strict) for _ in range(3))
    if lmtp:
        data = data.replace(b"EHLO", b"LHLO")
    whole.receive(data, b"")
    cut.receive(*choices.draw(cuts(data)), b"")
    single.receive(*(data[n : n + 1] for n in range(min(len(data), 600))), *filter(None, [data[600:]]), b"")
    for other in (cut, single):
        assert exact(*without_cuts(other.events)) == exact(*without_cuts(whole.events))
        assert other.data == whole.data
        assert other.last == whole.last


@pytest.mark.parametrize("changes", [{}, {"authentication_required": True}, {"eight_bit_mime": False}, {"lmtp": True}])
@given(data=sessions, fate=fates, strict=modes)
def test_fast_path_gives_the_same_events_and_replies(
    data: bytes, fate: list[int], strict: bool, changes: dict[str, Any]
) -> None:
    """Without the fast path, every event, answer and reply is the same."""
    settings = attrs.evolve(SMALL, **{"smtputf8": False, "strict_syntax": strict, **changes})
    if settings.lmtp:
        data = data.replace(b"EHLO", b"LHLO")
    fast = under(fate, settings).receive(data, b"")
    with (
        mock.patch.object(_fast_path, "next_question", return_value=None),
        mock.patch.object(_fast_path, "answer", return_value=False),
        mock.patch.object(server, "_match_common", return_value=None),
    ):
        general = under(fate, settings).receive(data, b"")
    assert (exact(*fast.events), fast.data, fast.last) == (exact(*general.events), general.data, general.last)


@given(sessions | st.binary(max_size=300), fates, st.sampled_from([None, *CloseReason]), modes, st.data())
def test_any_data_gives_valid_events_and_replies_until_closed(
    data: bytes, fate: list[int], reason: CloseReason | None, strict: bool, choices: st.DataObject
) -> None:
    """architecture.md, invariant 8: each accepted Data ends exactly once."""
    accepted: list[Any] = []
    session = under(fate, WITH_TLS, accepted, strict=strict)
    for piece in choices.draw(cuts(data)):
        session.receive(piece)
        assert len(session.machine._input) <= 12_290
    if reason is None:
        session.receive(b"")
    else:
        session.machine.shut_down(reason)
        session.pull()
    assert session.closed is not None
    assert whole_replies(session.data) >= 1
    assert all(event.data for event in session.log if isinstance(event, Send))
    content = False
    for event in session.events:
        if isinstance(event, MessageChunk):
            assert content
        elif isinstance(event, smtp.MessageComplete | smtp.MessageAborted):
            assert content
            content = False
        elif not (content and isinstance(event, BETWEEN_CHUNKS)):
            assert not content
            content = any(event is question for question in accepted)
    assert not content
    if session.server.identity is not None:
        assert any(isinstance(event, sasl.Authenticated) for event in session.events)
        assert not isinstance(session.events[-1], TlsStarted)


@given(sessions, fates)
def test_session_is_deterministic(data: bytes, fate: list[int]) -> None:
    """architecture.md, A connection: the same entropy gives the same bytes."""
    first, again = (under(fate, WITH_TLS).receive(data, b"") for _ in range(2))
    assert first.log == again.log


# The client

REPLY_LINES: Final = st.sampled_from(
    [
        b"250 ok\r\n",
        b"250-two\r\n250 lines\r\n",
        b"250-half\r\n",
        b"354 go\r\n",
        b"334 YWJj\r\n",
        b"334 \r\n",
        b"235 2.7.0 in\r\n",
        b"535 no\r\n",
        b"550 5.1.1 no\r\n",
        b"503 order\r\n",
        b"421 bye\r\n",
        b"220 go\r\n",
        b"221 bye\r\n",
        b"garbage\r\n",
        b"250 bare\n",
        b"\r\n",
        b"250\r\n",
    ]
)
A: Final = smtp.Mailbox("a", "b")
MAIL: Final = smtp.Mail(reverse_path=A)
RCPT: Final = smtp.Rcpt(forward_path=A)
COMMANDS: Final = (
    smtp.Mail(reverse_path=A, size=100),
    smtp.Rcpt(forward_path=A),
    smtp.Rcpt(forward_path=smtp.Mailbox("c", "d")),
    smtp.Data(),
    MessageChunk(data=b".dots\r\n.\r"),
    MessageChunk(data=b"\n.\r\n"),
    MessageChunk(data=b"plain"),
    smtp.MessageComplete(),
    smtp.Rset(),
    smtp.Noop(argument="x"),
    smtp.Vrfy(argument="x"),
    smtp.Help(),
    smtp.Hello(domain="again"),
    smtp.Mail(reverse_path=smtp.Mailbox("é", "ü"), smtputf8=True),
    smtp.Rcpt(forward_path=smtp.Mailbox("é d", "e"), notify=frozenset({smtp.Notify.NEVER})),
    smtp.Vrfy(argument="é", smtputf8=True),
)
LOGINS: Final = (
    sasl.PlainClient(authentication_identity="test", password=b"1234"),
    sasl.LoginClient(authentication_identity="test", password=b"wrong"),
    sasl.CramMd5Client(authentication_identity="test", password=b"1234"),
)
programs = st.lists(st.sampled_from((*COMMANDS, *COMMANDS[:4], *LOGINS)), max_size=12)


def attempt(session: Session, step: Command | sasl.ClientMechanism) -> bool:
    """Return whether the machine allowed the command."""
    try:
        if isinstance(step, Command):
            session.client.send(step)
        else:
            session.client.authenticate(step)
    except LocalProtocolError:
        return False
    return True


@given(programs, st.booleans(), st.lists(REPLY_LINES, max_size=12).map(b"".join) | st.binary(max_size=60), st.data())
def test_client_returns_events_or_one_exception_for_any_data(
    steps: list[Any], pipelining: bool, data: bytes, choices: st.DataObject
) -> None:
    """architecture.md, invariant 8: however the input is split."""
    outcomes = []
    for pieces in ([data] if data else [], choices.draw(cuts(data))):
        session = greeted("AUTH PLAIN LOGIN CRAM-MD5", "SIZE", "CHUNKING", *(["PIPELINING"] if pipelining else []))
        for step in steps:
            attempt(session, step)
        error = None
        try:
            session.pull().receive(*pieces, b"")
        except RemoteProtocolError as raised:
            error = str(raised)
            with pytest.raises(RemoteProtocolError):
                session.machine.next_event()
        else:
            assert session.closed is not None
        outcomes.append((session.events, session.data, error))
    (events, said, error), (other_events, other_said, other_error) = outcomes
    assert (events, error) == (other_events, other_error)
    # An error comes before what was still to be written.
    assert said == other_said or (error is not None and (said.startswith(other_said) or other_said.startswith(said)))


@given(
    st.lists(programs, max_size=4),
    st.booleans(),
    st.booleans(),
    st.lists(st.integers(0, 6), min_size=1, max_size=8),
    modes,
)
def test_client_and_server_agree_on_commands_replies_and_content(
    groups: list[list[Any]], pipelining: bool, smtputf8: bool, fate: list[int], strict: bool
) -> None:
    """Client and server connected: both see the same commands, replies and content, byte for byte."""
    settings = smtp.ServerSettings(
        pipelining=pipelining,
        mechanisms_without_tls=IN_CLEAR.mechanisms_without_tls,
        starttls=True,
        smtputf8=smtputf8,
        dsn=smtputf8,
    )
    server = under(fate, settings, strict=strict).pull()
    client = Session(smtp.ClientConnection()).pull()
    client.receive(server.data)
    sent: list[Command] = []
    for group in ([smtp.Hello(domain="c")], *groups):
        for step in group:
            if attempt(client, step) and isinstance(step, Command):
                sent.append(step)
        converse(client, server)
    client.machine.shut_down()
    converse(client, server)

    assert client.closed is not None
    replied = [event.command for event in client.of(smtp.ReplyReceived) if event.command is not None]
    assert replied == [command for command in sent if not isinstance(command, MessageChunk)][: len(replied)]
    # Every command arrived as it was sent, or was refused by its verb, in the same order.
    commands = [command for command in sent if isinstance(command, LineCommand)]
    heard = [
        event
        for event in server.events
        if (isinstance(event, LineCommand) and not isinstance(event, smtp.Quit))
        or (isinstance(event, smtp.CommandRejected) and event.verb != "AUTH")
    ]
    assert len(heard) == len(commands) or 421 in server.codes
    for command, event in zip(commands, heard, strict=False):
        assert event == command or (isinstance(event, smtp.CommandRejected) and event.verb == command.verb)
    passed = [command for command in sent if isinstance(command, MessageChunk | smtp.MessageComplete)]
    assert whole_messages(passed) == whole_messages(
        [event for event in server.events if isinstance(event, MessageChunk | smtp.MessageComplete)]
    )
    assert [event.reply.code for event in client.of(smtp.ReplyReceived, smtp.AuthenticationRejected)] == [
        code for code in server.codes if code not in (334, 235)
    ][: len(client.of(smtp.ReplyReceived, smtp.AuthenticationRejected))]
    assert client.of(sasl.Authenticated) == [
        sasl.Authenticated(mechanism=event.mechanism) for event in server.of(sasl.Authenticated)
    ]


def whole_messages(events: Sequence[Command]) -> list[bytes]:
    """Return the content of each completed message, with the CRLF at its end."""
    messages: list[bytes] = []
    content = b""
    for event in events:
        if isinstance(event, MessageChunk):
            content += event.data
        else:
            messages.append(content if content.endswith(b"\r\n") or not content else content + b"\r\n")
            content = b""
    return messages


@pytest.mark.parametrize(
    ("commands", "data", "timeout"),
    [
        ((), b"", 300.0),
        ((smtp.Hello(domain="c"),), b"", 300.0),
        ((smtp.StartTls(),), b"", 300.0),
        ((smtp.Noop(),), b"", 300.0),
        ((smtp.Vrfy(argument="a"),), b"", 300.0),
        ((smtp.Rset(),), b"", 300.0),
        ((smtp.Quit(),), b"", 300.0),
        ((MAIL,), b"", 300.0),
        ((MAIL,), b"250 ok\r\n", 300.0),
        ((MAIL, RCPT), b"250 ok\r\n", 300.0),
        ((MAIL, RCPT), b"250 ok\r\n250 ok\r\n", 300.0),
        ((MAIL, RCPT, smtp.Data()), b"", 300.0),
        ((MAIL, RCPT, smtp.Data()), b"250 ok\r\n", 300.0),
        ((MAIL, RCPT, smtp.Data()), b"250 ok\r\n250 ok\r\n", 120.0),
    ],
)
def test_client_timeout_depends_on_the_state(commands: tuple[Command, ...], data: bytes, timeout: float) -> None:
    """RFC 5321 section 4.5.3.2: minutes; an adapter needs no table of its own."""
    assert call().last == NeedData(timeout=300.0)
    session = greeted("PIPELINING", "STARTTLS").send(*commands)
    if data:
        session.receive(data)
    assert session.last == NeedData(timeout=timeout)


def test_client_timeout_for_content_is_that_of_its_last_line() -> None:
    """RFC 5321 section 4.5.3.2.6: ten minutes for the reply to the content, by DATA or BDAT."""
    session = greeted("PIPELINING").send(MAIL, RCPT, smtp.Data()).receive(b"250 ok\r\n250 ok\r\n354 go\r\n")
    assert session.last == NeedData(timeout=300.0)
    session.send(smtp.MessageComplete())
    assert session.last == NeedData(timeout=600.0)
    session.receive(b"250 ok\r\n")
    assert session.last == NeedData(timeout=300.0)
    session = greeted("PIPELINING", "CHUNKING").send(MAIL, RCPT).receive(b"250 ok\r\n250 ok\r\n")
    session.send(MessageChunk(data=b"a\r\n"), smtp.MessageComplete())
    assert session.data.endswith(b"BDAT 3\r\na\r\nBDAT 0 LAST\r\n")
    assert session.last == NeedData(timeout=300.0)
    session.receive(b"250 ok\r\n")
    assert session.last == NeedData(timeout=600.0)
