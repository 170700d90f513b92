"""examples/sasl_mechanism.py: a mechanism from outside logs in to SMTP and POP3, and each ticket is valid once."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, strategies as st

from examples.sasl_mechanism import MECHANISMS, RedeemTicket, TicketClient, TicketOffice, TicketServer
from mailauth import LocalProtocolError, Malformed, sasl
from tests.examples import programs

TICKET = "a-ticket-of-twenty-characters"


def test_ticket_is_accepted_once_over_smtp_and_pop3() -> None:
    result = programs.run("sasl_mechanism.py")
    assert (result.status, result.err) == (0, "")
    assert result.out.splitlines() == [
        "SMTP: a ticket is accepted, a used one is refused",
        "POP3: a ticket is accepted, a used one is refused",
    ]


def test_a_ticket_is_redeemed_once() -> None:
    office = TicketOffice()
    ticket = office.issue("alice")
    assert office.redeem(ticket) == "alice"
    assert office.redeem(ticket) is sasl.Refusal.BAD_CREDENTIALS
    assert ticket not in repr(RedeemTicket(ticket, tls=False))


@given(st.binary(max_size=200))
def test_server_raises_no_exception_for_any_response(response: bytes) -> None:
    """architecture.md, invariant 8."""
    step = TicketServer(tls=True).respond(response)
    assert step is sasl.Fault.MALFORMED or step == RedeemTicket(response.decode("ascii"), tls=True)


@pytest.mark.parametrize("answer", ["", None, b"alice", True])
def test_invalid_answer_raises_and_leaves_the_question_open(answer: object) -> None:
    exchange = sasl.ServerExchange(TicketServer(tls=True))
    question = exchange.begin(sasl.encode_base64(TICKET.encode()))
    assert question == RedeemTicket(TICKET, tls=True)
    with pytest.raises(LocalProtocolError):
        exchange.answer(answer)
    assert exchange.answer("alice") == sasl.Success(authentication_identity="alice", authorization_identity="alice")


def test_server_sends_an_empty_challenge_without_an_initial_response() -> None:
    assert TicketServer(tls=True).respond(None) == sasl.Challenge()
    assert MECHANISMS.names[0] == "X-TICKET"


def test_a_client_sends_one_response() -> None:
    client = TicketClient(TICKET)
    assert [client.satisfied, client.respond(None), client.satisfied] == [False, TICKET.encode(), True]
    with pytest.raises(Malformed):
        client.respond(b"more")
    with pytest.raises(LocalProtocolError):
        TicketClient("short")


def test_failed_logins_are_delayed_by_address(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("examples.sasl_mechanism.asyncio.sleep", sleep)
    office = TicketOffice()

    async def main() -> None:
        for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.1"):
            await office.delay(address)

    asyncio.run(main())
    assert slept == [0.0, 0.25, 0.0, 0.5]
