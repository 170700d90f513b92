"""No secret in any repr of any event, notice, action or exception (architecture.md, invariant 6)."""

from __future__ import annotations

from typing import Final

import attrs
import pytest

from mailauth import ACCEPT, LocalProtocolError, ProtocolError, RemoteProtocolError, Send, sasl, smtp
from tests.smtp.drive import IN_CLEAR, LEFT_OPEN, Session, call, converse, greeted, ready, serve

SECRET: Final = "Ferocious-Kitten-42"
"""It is part of no name and no text of the library."""

WHO: Final = "alice"
BAD: Final = sasl.Refusal.BAD_CREDENTIALS
CLIENTS: Final = (
    sasl.PlainClient(authentication_identity=WHO, password=SECRET.encode()),
    sasl.LoginClient(authentication_identity=WHO, password=SECRET.encode()),
    sasl.CramMd5Client(authentication_identity=WHO, password=SECRET.encode()),
)
TOKENS: Final = (
    SECRET,
    sasl.encode_base64(SECRET.encode()).decode("ascii"),
    sasl.encode_base64(f"\0{WHO}\0{SECRET}".encode()).decode("ascii"),
)


def shown(*things: object) -> str:
    return "\n".join(f"{thing!r}\n{thing!s}" for thing in things)


def hidden(text: str) -> bool:
    return not any(token in text for token in TOKENS)


def of(session: Session) -> str:
    """Return everything that a session returned to its owner, except the bytes to be written."""
    return shown(*(event for event in session.log if not isinstance(event, Send)))


def log_in(client: sasl.ClientMechanism, **answers: object) -> tuple[Session, Session]:
    kinds: dict[str, type[object]] = {"check": sasl.CheckPassword, "fetch": sasl.FetchSecret}
    server = serve(answers={kinds[name]: answer for name, answer in answers.items()})
    mine = call(server.data).send(smtp.Hello(domain="c"))
    server.receive(mine.data)
    mine.receive(server.data.partition(b"\r\n")[2])
    mine.client.authenticate(client)
    converse(mine, server)
    return mine, server


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
@pytest.mark.parametrize("right", [True, False])
def test_login_events_and_reprs_contain_no_secret(client: sasl.ClientMechanism, right: bool) -> None:
    """By every mechanism, accepted or refused: only the question contains the password, and its repr does not."""
    mine, server = log_in(
        client,
        check=lambda question: ACCEPT if right and question.password == SECRET.encode() else BAD,
        fetch=SECRET.encode() if right else b"another",
    )
    assert len(server.of(sasl.Authenticated)) == right
    assert len(mine.of(sasl.Authenticated)) == right
    assert hidden(of(mine))
    assert hidden(of(server))
    assert hidden(shown(client, server.machine, mine.machine))


def test_secret_is_present_in_sent_data_and_question() -> None:
    """Otherwise the searches above would prove nothing."""
    mine, server = log_in(CLIENTS[0])
    assert TOKENS[2].encode("ascii") in mine.data
    assert server.of(sasl.CheckPassword)[0].password == SECRET.encode()


@pytest.mark.parametrize(
    "line",
    [SECRET, TOKENS[1], f"AUTH FOO {TOKENS[2]}", f"AUTH  FOO {TOKENS[2]}", f"PASS {SECRET}", f"AUTH {SECRET}\x01"],
)
def test_secret_sent_as_a_command_is_not_in_events_or_replies(line: str) -> None:
    """A client out of step sends its password as a command: CommandRejected.line contains it, its repr does not."""
    session = ready(line.encode("ascii") + b"\r\n")
    assert len(session.of(smtp.CommandRejected)) == 1
    assert hidden(of(session))
    assert hidden("\n".join(session.lines))


@pytest.mark.parametrize("line", ["AUTH PLAIN", "AUTH LOGIN\r\nYWxpY2U=\r\n", "AUTH CRAM-MD5"])
def test_failed_exchange_events_contain_no_secret(line: str) -> None:
    session = ready(f"{line}\r\n".encode("ascii"), f"{TOKENS[2]}!\r\n".encode("ascii"))
    assert len(session.of(sasl.AuthenticationFailed)) == 1
    assert hidden(of(session))


def test_exception_for_invalid_answer_does_not_quote_it() -> None:
    """An exception names types, not values."""
    session = ready(f"AUTH PLAIN {TOKENS[2]}\r\n".encode("ascii"), answers={sasl.CheckPassword: LEFT_OPEN})
    for answer in (SECRET, SECRET.encode(), smtp.Reply(250, "", SECRET)):
        with pytest.raises(LocalProtocolError) as caught:
            session.answer(answer)
        assert hidden(shown(caught.value))
    session = ready(b"MAIL FROM:<>\r\n", answers={smtp.Mail: LEFT_OPEN})
    with pytest.raises(LocalProtocolError) as caught:
        session.answer(SECRET.encode())
    assert hidden(shown(caught.value))


def test_exception_for_echoed_login_does_not_quote_it() -> None:
    """The exception about the echo would carry the password into a log."""
    session = greeted("AUTH PLAIN")
    session.client.authenticate(CLIENTS[0])
    echo = session.pull().data
    session.machine.receive_data(echo)
    with pytest.raises(RemoteProtocolError) as caught:
        session.pull()
    assert hidden(shown(caught.value, caught.value.__cause__))


@pytest.mark.parametrize("reason", ["421", "shut_down", "end"])
def test_interrupted_login_events_contain_no_secret(reason: str) -> None:
    session = greeted("AUTH PLAIN")
    session.client.authenticate(CLIENTS[0])
    session.pull()
    text = ""
    if reason == "421":
        session.receive(b"421 bye\r\n", b"")
    elif reason == "shut_down":
        session.machine.shut_down()
        session.pull()
        assert session.closed is not None
        assert session.closed.unanswered != ()
    else:
        session.machine.receive_data(b"")
        with pytest.raises(ProtocolError) as caught:
            session.pull()
        text = shown(caught.value)
    assert hidden(text + of(session))


def test_repr_of_server_and_settings_contains_no_secret() -> None:
    """The settings hold the key of the SCRAM decoy, and the server the entropy."""
    decoy = sasl.ScramDecoy(key=SECRET.encode())
    settings = attrs.evolve(IN_CLEAR, mechanisms=sasl.ALL_MECHANISMS, scram_decoy=decoy)
    machine = smtp.ServerConnection(settings, entropy=SECRET.encode().ljust(32))
    assert hidden(shown(machine, settings, decoy))
