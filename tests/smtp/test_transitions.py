"""TRANSITIONS, pair by pair on both sides: every pair in the table is reached, every other one refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs
import pytest

from mailauth import ACCEPT, Command, LocalProtocolError, TlsStarted, sasl, smtp
from mailauth.smtp.commands import LineCommand
from mailauth.smtp.states import State
from mailauth.smtp.verbs import TRANSITIONS, VERBS
from tests.smtp.drive import IN_CLEAR, Session, call, converse, serve

COMMANDS: Final[Mapping[str, Command]] = {
    "EHLO": smtp.Hello(domain="c"),
    "NOOP": smtp.Noop(),
    "HELP": smtp.Help(),
    "VRFY": smtp.Vrfy(argument="x"),
    "RSET": smtp.Rset(),
    "QUIT": smtp.Quit(),
    "STARTTLS": smtp.StartTls(),
    "MAIL": smtp.Mail(reverse_path=None),
    "RCPT": smtp.Rcpt(forward_path=smtp.Mailbox("a", "b")),
    "DATA": smtp.Data(),
    ".": smtp.MessageComplete(),
}
CHUNKS: Final[Mapping[str, bytes]] = {
    **{verb: command.to_wire() for verb, command in COMMANDS.items() if isinstance(command, LineCommand)},
    "BDAT": b"BDAT 1\r\nx",
    ".": b"BDAT 0 LAST\r\n",
}
"""Commands of a client that sends content by BDAT; a client has no state for it."""
PATHS: Final[Mapping[State, tuple[str, ...]]] = {
    State.REFUSING: (),
    State.CONNECTED: (),
    State.READY: ("EHLO",),
    State.MAIL: ("EHLO", "MAIL"),
    State.RCPT: ("EHLO", "MAIL", "RCPT"),
    State.DATA: ("EHLO", "MAIL", "RCPT", "DATA"),
}
"""How to reach each state in which a client may send a command."""

BY_CHUNKS: Final = frozenset({State.CHUNK, State.CHUNKS})
"""The states in which content is sent by BDAT."""

PLAIN: Final = sasl.PlainClient(authentication_identity="test", password=b"1234")


def pair(state: State) -> tuple[Session, Session]:
    """Return a client and a server in *state*."""
    greeting = smtp.Reply(554, "", "no") if state is State.REFUSING else ACCEPT
    client, server = call(), serve(answers={smtp.Connected: greeting})
    converse(client, server)
    client.receive(server.data)
    for verb in PATHS[state]:
        client.client.send(COMMANDS[verb])
        converse(client, server)
    assert (client.client._state, server.server._state) == (state, state)
    client.forget()
    server.forget()
    return client, server


@pytest.mark.parametrize(
    ("state", "verb"), [pair for pair in TRANSITIONS if not BY_CHUNKS & {pair[0], TRANSITIONS[pair]}], ids=str
)
def test_client_and_server_follow_each_transition_of_the_table(state: State, verb: str) -> None:
    """architecture.md, A connection: one table is the single source for both sides."""
    client, server = pair(state)
    if verb == "AUTH":
        client.client.authenticate(PLAIN)
    else:
        client.client.send(COMMANDS[verb])
    converse(client, server)
    after = TRANSITIONS[state, verb]
    if after is State.CLOSED:
        assert client.closed is not None
        assert server.closed is not None
    elif after is State.TLS:
        assert len(server.of(TlsStarted)) == 1
        assert (client.client._state, server.server._state) == (State.CONNECTED, State.CONNECTED)
    elif after is State.AUTH:
        assert len(server.of(sasl.AuthenticationStarted)) == 1
        assert (client.client._state, server.server._state) == (State.READY, State.READY)
    else:
        assert (client.client._state, server.server._state) == (after, after)


@pytest.mark.parametrize(
    ("state", "verb"), [(s, v) for s in PATHS for v in COMMANDS if (s, v) not in TRANSITIONS], ids=str
)
def test_missing_transition_raises_in_the_client_and_is_503_from_the_server(state: State, verb: str) -> None:
    """RFC 5321 section 4.1.4."""
    client, server = pair(state)
    with pytest.raises(LocalProtocolError):
        client.client.send(COMMANDS[verb])
    assert client.pull().sends == []
    if state is not State.DATA and verb != ".":  # in DATA all input is content, and the dot is not a command
        command = COMMANDS[verb]
        assert isinstance(command, LineCommand)
        server.receive(command.to_wire())
        assert server.codes == [503]
        assert server.server._state == state


@pytest.mark.parametrize("verb", [*CHUNKS, "MAIL", "RCPT", "DATA", "STARTTLS"])
@pytest.mark.parametrize("state", [State.RCPT, State.CHUNKS])
def test_server_follows_the_transition_table_for_bdat(state: State, verb: str) -> None:
    """RFC 3030 section 2."""
    server = serve(b"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<a@b>\r\n", settings=attrs.evolve(IN_CLEAR, chunking=True))
    if state is State.CHUNKS:
        server.receive(CHUNKS["BDAT"])
    assert server.server._state is state
    server.forget().receive(CHUNKS[verb])
    after = TRANSITIONS.get((state, "BDAT" if (state, verb) == (State.RCPT, ".") else verb))
    if (state, verb) == (State.RCPT, "."):
        after = State.READY  # one chunk, and the last
    if after is State.CHUNK:
        after = State.CHUNKS  # the data was received with the command
    if after is None:
        assert server.codes == [503]
        assert server.server._state is state
    elif after is State.CLOSED:
        assert server.closed is not None
    else:
        assert server.server._state is after


def test_transition_table_matches_the_verb_rows() -> None:
    """architecture.md, A connection: the rows of the verbs are the single source of the table."""
    of_rows = {(state, row.name): after for row in VERBS for state, after in row.states.items()}
    of_rows = {pair: after for pair, after in of_rows.items() if pair[1] not in ("HELO", "LHLO")}
    assert {pair: after for pair, after in TRANSITIONS.items() if pair[1] != "."} == of_rows
