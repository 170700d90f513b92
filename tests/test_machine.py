"""The base class of the four connections, tested with SMTP: actions, bounds, order (architecture.md, A connection)."""

from __future__ import annotations

import pytest

from mailauth import (
    ACCEPT,
    BeginTls,
    Closed,
    CloseReason,
    LocalProtocolError,
    NeedData,
    Paused,
    RemoteProtocolError,
    Send,
    Tls,
    sasl,
    smtp,
)
from mailauth._client import ClientMachine
from mailauth._lines import MAX_UNREAD
from mailauth._machine import Machine
from mailauth._server import ServerMachine
from tests.smtp.drive import ENTROPY, IN_CLEAR, LEFT_OPEN, TLS, greeted, ready, serve


def test_need_data_paused_and_closed_are_returned_repeatedly() -> None:
    """architecture.md, A connection: pulling again returns the same event and changes nothing."""
    session = ready()
    assert session.machine.next_event() == session.machine.next_event() == NeedData(timeout=300.0, until=600.0)
    session = ready(b"MAIL FROM:<>\r\n", answers={smtp.Mail: LEFT_OPEN})
    assert session.machine.next_event() == session.machine.next_event() == Paused()
    session = ready(b"QUIT\r\n")
    assert session.machine.next_event() == session.machine.next_event() == Closed(reason=CloseReason.QUIT)


def test_begin_tls_is_returned_once_and_then_paused() -> None:
    session = ready()
    session.starts_tls = False
    session.receive(b"STARTTLS\r\n")
    assert isinstance(session.last, BeginTls)
    assert session.machine.next_event() == session.machine.next_event() == Paused()


def test_a_notice_comes_before_the_send_that_answers_it() -> None:
    """The application can act before the reply is sent."""
    session = ready(b"NOOP\r\nVRFY x\r\n")
    assert [type(event) for event in session.log[:4]] == [smtp.Noop, Send, smtp.Vrfy, Send]


def test_receive_data_raises_while_over_64_kib_are_unread() -> None:
    """architecture.md, invariant 4; a single call may pass any amount."""
    session = ready()
    session.machine.receive_data(b"NOOP\r\n" * 20_000)
    with pytest.raises(LocalProtocolError):
        session.machine.receive_data(b"NOOP\r\n")
    session.pull()
    assert len(session.codes) == 20_000
    session.receive(b"NOOP\r\n")
    assert MAX_UNREAD == 65_536


def test_after_closed_data_is_ignored() -> None:
    session = ready(b"QUIT\r\n")
    for _ in range(100):
        session.machine.receive_data(b"x" * 10_000)
    assert len(session.machine._input) == 0


def test_tls_attribute_is_set_by_construction_or_starttls() -> None:
    """architecture.md, invariant 3."""
    assert serve().server.tls is None
    assert serve(tls=TLS).server.tls == TLS
    assert ready(b"STARTTLS\r\n").server.tls == TLS


@pytest.mark.parametrize("entropy", [b"", bytes(31), bytes(33)])
def test_entropy_of_other_than_32_bytes_is_rejected(entropy: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        smtp.ServerConnection(IN_CLEAR, entropy=entropy)


def test_challenges_differ_between_connections_and_within_one() -> None:
    """architecture.md, A connection: derived from the entropy and a counter."""
    seen = set()
    for entropy in (ENTROPY, bytes(32)):
        server = smtp.ServerConnection(IN_CLEAR, entropy=entropy)
        seen |= {server._nonce() for _ in range(3)}
    assert len(seen) == 6
    assert all(len(nonce) == 32 for nonce in seen)


def test_identity_is_set_by_login_and_cleared_by_starttls() -> None:
    """architecture.md, A connection."""
    session = ready()
    identities = [session.server.identity]
    for line in (b"AUTH PLAIN AHRlc3QAMTIzNA==\r\n", b"STARTTLS\r\n"):
        session.receive(line)
        identities.append(session.server.identity)
    assert identities == [None, "test", None]


def test_protocol_error_is_raised_again_on_each_call() -> None:
    """architecture.md, A connection: the client is finished."""
    session = greeted()
    session.machine.receive_data(b"nonsense\r\n")
    caught = []
    for _ in range(3):
        with pytest.raises(RemoteProtocolError) as raised:
            session.machine.next_event()
        caught.append(str(raised.value))
    assert len(set(caught)) == 1


def test_closed_client_rejects_commands_and_logins() -> None:
    session = greeted("AUTH PLAIN").receive(b"")
    with pytest.raises(LocalProtocolError):
        session.client.send(smtp.Noop())
    with pytest.raises(LocalProtocolError):
        session.client.authenticate(sasl.PlainClient(authentication_identity="a", password=b"b"))


def test_second_tls_started_raises() -> None:
    session = ready(b"STARTTLS\r\n")
    with pytest.raises(LocalProtocolError):
        session.machine.tls_started(Tls(version="TLSv1.2"))
    assert session.server.tls == TLS


def test_connections_subclass_the_machine_and_have_no_dict() -> None:
    """architecture.md, A connection: through a Protocol mypy would infer ``object``."""
    assert issubclass(smtp.ServerConnection, ServerMachine)
    assert issubclass(smtp.ClientConnection, ClientMachine)
    assert issubclass(ServerMachine, Machine)
    assert not hasattr(smtp.ServerConnection(IN_CLEAR, entropy=ENTROPY), "__dict__")
    assert not hasattr(smtp.ClientConnection(), "__dict__")


def test_reply_to_an_answer_is_returned_by_the_next_event() -> None:
    session = serve(answers={smtp.Connected: LEFT_OPEN})
    assert session.question is not None
    session.server.answer(session.question, ACCEPT)
    assert session.machine.next_event() == Send(data=b"220 localhost ESMTP\r\n")
