"""Any bytes, split anywhere: both machines return events, and the split does not change them."""

from __future__ import annotations

import base64
from itertools import pairwise
from typing import Any
from unittest import mock

import attrs
import pytest
from hypothesis import example, given, strategies as st

from mailauth import (
    Action,
    BeginTls,
    Closed,
    CloseReason,
    Command,
    LocalProtocolError,
    MessageChunk,
    NeedData,
    Paused,
    Question,
    RemoteProtocolError,
    Send,
    pop3,
    sasl,
)
from mailauth.pop3 import TRANSITIONS, State, _fast_path
from mailauth.pop3.verbs import ROWS
from tests.pop3.drive import OPEN, Application, Event, client, said, server, settle

PLAIN = base64.b64encode(b"\0alice\0wonderland")

lines = st.one_of(
    st.sampled_from(
        [
            *(b"USER alice", b"PASS wonderland", b"PASS x", b"AUTH PLAIN " + PLAIN, b"AUTH PLAIN", PLAIN, b"*", b"="),
            *(
                b"AUTH LOGIN",
                b"AUTH",
                b"APOP alice " + b"0" * 32,
                b"CAPA",
                b"capa",
                b"UTF8",
                b"QUIT",
                b"STLS",
                b"STAT",
                b"LIST",
            ),
            *(
                b"LIST 1",
                b"UIDL",
                b"UIDL 2",
                b"RETR 1",
                b"RETR 2",
                b"RETR 3",
                b"retr 1",
                b"TOP 1 1",
                b"TOP 2  0 ",
                b"UIDL 1\t",
                b"AUTH  PLAIN " + b"x" * 2_000,
                b"PASS " + b"x" * 2_000,
                b"DELE 1",
            ),
            *(b"DELE 2", b"RSET", b"NOOP", b"", b" ", b"RETR", b"RETR 0", b"x" * 300, b"y" * 13_000, b"GET / HTTP/1.1"),
        ]
    ),
    st.binary(max_size=12),
)
streams = st.builds(
    lambda first, rest, ends: first + b"".join(line + end for line, end in zip(rest, ends, strict=False)),
    st.sampled_from([b"", b"AUTH PLAIN " + PLAIN + b"\r\n", b"USER alice\r\nPASS wonderland\r\n"]),
    st.lists(lines, max_size=12),
    st.lists(st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r", b""]), min_size=12, max_size=12),
)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(edges)]


def converse(chunks: list[bytes], application: Application, settings: pop3.ServerSettings = OPEN) -> list[Event]:
    """Return the events of a session over *chunks* and the end of the stream; a TLS handshake fails."""
    connection = server(settings)
    events = settle(connection, application)
    for chunk in [*chunks, b""]:
        if isinstance(events[-1], Closed):
            break
        if isinstance(events[-1], BeginTls):
            connection.receive_data(b"")
            return events + settle(connection, application)
        connection.receive_data(chunk)
        events += settle(connection, application)
    return events


def unsent(events: list[Event]) -> list[Event]:
    return [event for event in events if not isinstance(event, Send | BeginTls)]


@given(
    streams | st.binary(max_size=400), st.lists(st.integers(0, 20_000), max_size=8), st.integers(1, 9), st.booleans()
)
@example(b"STLS\r\nUSER alice\r\n", [3], 4, False)
@example(b"USER alice\r\nPASS wonderland\r\nRETR 1\r\nQUIT\r\n", [13, 40], 2, True)
@example(b"AUTH PLAIN " + b"x" * 300 + b"\r\nTOP 1  0\r\nPASS " + b"x" * 13_000 + b"\r\n", [4, 260, 5_000], 2, False)
def test_events_do_not_depend_on_how_the_stream_is_split(
    data: bytes, places: list[int], piece: int, strict: bool
) -> None:
    """architecture.md, invariant 8: any input ends in Closed; events and bytes are the same for each split.

    Replies to pipelined commands are sent together, so the positions of the Sends are not compared.
    """
    settings = attrs.evolve(OPEN, strict_syntax=strict)
    texts = (b"a\r\n\r\n.b\r\nc", b".\r\n")
    whole = converse([data], Application(*texts, piece=piece), settings)
    pieces = converse(cut(data, places), Application(*texts, piece=piece), settings)
    assert (unsent(whole), said(whole)) == (unsent(pieces), said(pieces))
    assert isinstance(whole[-1], Closed)
    for line in said(whole).split(b"\r\n"):
        assert len(line) <= 510
    octet_by_octet = [data[at : at + 1] for at in range(min(len(data), 200))]
    single = converse([*octet_by_octet, data[200:]], Application(*texts, piece=piece), settings)
    assert (unsent(whole), said(whole)) == (unsent(single), said(single))


LOGIN = b"AUTH PLAIN " + PLAIN + b"\r\n"
logins = st.sampled_from(
    [
        LOGIN,
        b"CAPA\r\nUSER alice\r\nPASS wonderland\r\n",
        b"USER alice\r\nPASS x\r\nPASS wonderland \r\nUSER alice\r\nCAPA\r\nUSER alice\r\nPASS wonderland\r\n",
        b"PASS wonderland\r\nUSER  alice\r\nPASS wonderland\r\nUSER alice \r\nPASS  wonderland\r\n" + LOGIN,
    ]
)
retrievals = st.lists(
    st.sampled_from(
        [
            *(b"RETR 1", b"RETR 2", b"RETR 3", b"RETR 4", b"retr 1", b"RETR 1 ", b"TOP 1 1", b"DELE 1", b"DELE 2"),
            *(b"dele 3", b"DELE 9", b"LIST 1", b"LIST 3", b"LIST", b"UIDL", b"STAT", b"RSET", b"NOOP", b"QUIT"),
            *(
                b"RETR 0",
                b"RETR 12345678901",
                b"CAPA",
                b"UTF8",
                b"x" * 300,
                b"TOP 1 0",
                b"TOP 2 0",
                b"TOP 3 1",
                b"TOP 9 1",
            ),
            *(b"LIST 9", b"LIST 0", b"TOP 1 12345678901", b"TOP 2 9999", b"UIDL 2", b"PASS wonderland", b"USER alice"),
        ]
    ),
    max_size=12,
).map(lambda found: b"".join(line + b"\r\n" for line in found))


class Insistent(sasl.UserPassServer):
    """USER and PASS, with a challenge after the password ``x``."""

    def respond(self, response: bytes | None) -> sasl.Step:
        return sasl.Challenge(b"again") if response == b"x" else super().respond(response)


INSISTENT = sasl.Mechanisms({**pop3.DEFAULT_MECHANISMS.factories, "USER": lambda context: Insistent(tls=True)})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"utf8": False},
        {"refuse_utf8_headers": True},
        {"strict_syntax": True},
        {"mechanisms_without_tls": frozenset({"PLAIN"})},
        {"mechanisms": INSISTENT},
        {"verbs": (attrs.evolve(ROWS["DELE"], accepted=pop3.Reply(True, "", "marked")),)},
        {
            "verbs": tuple(
                attrs.evolve(ROWS[name], accepted=pop3.Reply(True, "", "x")) for name in ("QUIT", "TOP", "STAT")
            )
        },
    ],
)
@given(
    data=st.builds(bytes.__add__, logins, retrievals) | streams,
    places=st.lists(st.integers(0, 300), max_size=4),
    piece=st.sampled_from([9, 99_999]),
)
@example(data=LOGIN + b"RETR 2\r\nRETR 3\r\nUTF8\r\nRETR 1\r\n", places=[], piece=99_999)
@example(data=b"UTF8\r\n" + LOGIN + b"RETR 2\r\nDELE 2\r\nRETR 2\r\nDELE 2\r\nSTAT\r\n", places=[], piece=99_999)
def test_fast_path_does_not_change_events(changes: dict[str, Any], data: bytes, places: list[int], piece: int) -> None:
    """Without the fast path, every event, answer and reply is the same."""
    settings = attrs.evolve(OPEN, **changes)
    texts = (b"Subject: a\r\n\r\n.b\r\n", "Subject: \xe9\r\n\r\n".encode(), b"x" * 33_000)
    fast = converse(cut(data, places), Application(*texts, piece=piece), settings)
    with (
        mock.patch.object(_fast_path, "handle_command", return_value=None),
        mock.patch.object(_fast_path, "answer", return_value=False),
    ):
        assert fast == converse(cut(data, places), Application(*texts, piece=piece), settings)


@given(streams)
def test_every_started_login_ends_exactly_once(data: bytes) -> None:
    open_logins = 0
    for event in converse([data], Application(b"a")):
        if isinstance(event, sasl.AuthenticationStarted):
            open_logins += 1
        elif isinstance(event, sasl.Authenticated | sasl.AuthenticationFailed):
            open_logins -= 1
        assert open_logins in (0, 1)
    assert open_logins == 0


def unavailable(connection: pop3.ServerConnection, question: Question[Any]) -> None:
    connection.answer(question, question.unavailable)


@given(streams)
def test_every_question_accepts_its_unavailable_answer(data: bytes) -> None:
    connection = server()
    connection.receive_data(data)
    connection.receive_data(b"")
    while not isinstance(event := connection.next_event(), Closed):
        assert not isinstance(event, NeedData | Paused)
        if isinstance(event, BeginTls):
            connection.receive_data(b"")
        elif isinstance(event, Question):
            unavailable(connection, event)


@given(streams, st.integers(0, 40), st.sampled_from([CloseReason.SHUT_DOWN, CloseReason.TIMED_OUT]))
def test_shut_down_is_possible_at_any_time(data: bytes, when: int, reason: CloseReason) -> None:
    application = Application(b"a\r\n", b"b\r\n", piece=1)
    connection = server()
    connection.receive_data(data)
    committed_after = False
    for turn in range(100_000):
        if turn == when:
            connection.shut_down(reason)
            committed_after = True
        event = connection.next_event()
        if isinstance(event, Closed) or (isinstance(event, NeedData | BeginTls) and turn > when):
            break
        if isinstance(event, NeedData | BeginTls):
            continue
        if isinstance(event, Question):
            assert not (committed_after and turn > when and isinstance(event, pop3.Update))
            application.answer(connection, event)
    assert isinstance(event, Closed)


WAY: dict[State, list[bytes]] = {
    State.AUTHORIZATION: [],
    State.USER_GIVEN: [b"USER alice"],
    State.TRANSACTION: [b"AUTH PLAIN " + PLAIN],
}
ARGUMENTS = {
    "USER": b" alice",
    "PASS": b" wonderland",
    "AUTH": b" PLAIN",
    "APOP": b" alice " + b"0" * 32,
    "RETR": b" 1",
    "TOP": b" 1 1",
    "DELE": b" 1",
}
VERBS = sorted({verb for _, verb in TRANSITIONS})


@pytest.mark.parametrize("state", WAY)
@pytest.mark.parametrize("verb", VERBS)
def test_only_transitions_in_the_table_are_accepted(state: State, verb: str) -> None:
    """RFC 1939 sections 4 to 7, RFC 2595 section 4: a pair that is not in TRANSITIONS is -ERR and changes nothing."""
    connection, application = server(), Application(b"a\r\n")
    settle(connection, application)
    for line in WAY[state]:
        connection.receive_data(line + b"\r\n")
        settle(connection, application)
    connection.receive_data(verb.encode() + ARGUMENTS.get(verb, b"") + b"\r\n")
    events = settle(connection, application)
    refused = [event for event in events if isinstance(event, pop3.CommandRejected)]
    after = TRANSITIONS.get((state, verb))
    assert bool(refused) == (after is None)
    if after is None:
        assert [event.verb for event in refused] == [verb]
    assert reached(connection, application, events) is (after or state) or verb == "APOP"


def reached(connection: pop3.ServerConnection, application: Application, events: list[Event]) -> State:
    """Return the state as a client can observe it."""
    if isinstance(events[-1], BeginTls):
        return State.TLS
    if isinstance(events[-1], Closed):
        return State.UPDATE if connection.identity else State.CLOSED
    connection.receive_data(b"PASS wonderland\r\n")
    answer = said(settle(connection, application))
    if b"base64" in answer:
        return State.AUTH
    if answer.startswith(b"+OK"):
        return State.USER_GIVEN
    return State.TRANSACTION if connection.identity else State.AUTHORIZATION


# Client

answers = st.lists(
    st.one_of(
        st.sampled_from(
            [
                *(
                    b"+OK",
                    b"+OK text",
                    b"-ERR",
                    b"-ERR [AUTH] no",
                    b".",
                    b"..",
                    b".x",
                    b"1 2",
                    b"PIPELINING",
                    b"SASL PLAIN",
                ),
                *(b"+ ", b"+", b"+ c2VydmVy", b"+ !", b"USER", b"STLS", b"", b"x" * 3000),
            ]
        ),
        st.binary(max_size=10),
    ),
    max_size=14,
).map(lambda found: b"".join(line + b"\r\n" for line in found))
plans = st.lists(
    st.sampled_from(
        [
            *(pop3.Capa(), pop3.Stls(), pop3.Stat(), pop3.List(), pop3.Uidl(), pop3.Uidl(number=1), pop3.Noop()),
            *(pop3.Retrieve(number=1), pop3.Retrieve(number=1, lines=2), pop3.Dele(number=1), pop3.Rset(), pop3.Quit()),
            *("USER", "PLAIN", "APOP"),
        ]
    ),
    max_size=8,
)


def act(connection: pop3.ClientConnection, step: Command | str) -> None:
    try:
        match step:
            case "USER":
                connection.authenticate(sasl.UserPassClient(authentication_identity="alice", password=b"p"))
            case "APOP":
                connection.authenticate(sasl.ApopClient(authentication_identity="alice", password=b"p"))
            case "PLAIN":
                connection.authenticate(sasl.PlainClient(authentication_identity="alice", password=b"p"))
            case Command():
                connection.send(step)
    except LocalProtocolError:
        pass


def meet(chunks: list[bytes], plan: list[Command | str]) -> list[pop3.ClientEvent | Action | str]:
    """Run a client that sends *plan* where allowed, against a server that sends *chunks* whatever it receives."""
    connection = client()
    for step in plan:
        act(connection, step)
    events: list[pop3.ClientEvent | Action | str] = []
    waiting = [*chunks, b""]
    try:
        while not events or not isinstance(events[-1], Closed):
            event = connection.next_event()
            if isinstance(event, NeedData):
                connection.receive_data(waiting.pop(0))
            elif isinstance(event, BeginTls):
                connection.receive_data(b"")
            else:
                events.append(event)
    except RemoteProtocolError:
        events.append("the server is at fault")
        with pytest.raises(RemoteProtocolError):
            connection.next_event()
    return events


def plain(events: list[pop3.ClientEvent | Action | str]) -> list[object]:
    """Return *events* without Sends and with adjacent chunks joined."""
    found: list[object] = []
    for event in events:
        if isinstance(event, MessageChunk) and found and isinstance(found[-1], MessageChunk):
            found[-1] = MessageChunk(data=found[-1].data + event.data)
        elif not isinstance(event, Send):
            found.append(event)
    return found


@given(answers | st.binary(max_size=200), plans, st.lists(st.integers(0, 4_000), max_size=6))
def test_any_server_data_gives_events_or_remote_protocol_error(
    data: bytes, plan: list[Command | str], places: list[int]
) -> None:
    """architecture.md, invariant 8 for the client, except for data after the reply to STLS."""
    whole = meet([data], plan)
    assert isinstance(whole[-1], Closed | str)
    if pop3.Stls() not in plan:
        assert plain(whole) == plain(meet(cut(data, places), plan))


@given(st.lists(streams, max_size=3), streams)
def test_settings_are_shared_and_hold_no_state_of_a_session(others: list[bytes], data: bytes) -> None:
    """A session does not depend on the earlier sessions with the same settings."""
    settings = attrs.evolve(OPEN)
    for other in others:
        converse([other], Application(b"a", b"b"), settings)
    alone = converse([data], Application(b"a", b"b"), attrs.evolve(OPEN))
    assert converse([data], Application(b"a", b"b"), settings) == alone
    assert settings == OPEN
