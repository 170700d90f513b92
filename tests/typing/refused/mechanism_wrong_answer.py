"""Answers of the wrong type to the questions of SCRAM, tokens and certificates, and to a question from outside."""

from __future__ import annotations

import attrs

from mailauth import ACCEPT, ExtensionQuestion, sasl, smtp


@attrs.frozen
class CheckTicket(ExtensionQuestion[bool]):
    ticket: str

    @property
    def unavailable(self) -> bool:
        return False


def answer(
    machine: smtp.ServerConnection,
    keys: sasl.FetchScramKeys,
    token: sasl.CheckToken,
    owner: sasl.CheckExternal,
    ticket: CheckTicket,
) -> None:
    machine.answer(keys, b"secret")  # error: [misc]
    machine.answer(keys, None)
    machine.answer(token, ACCEPT)  # error: [misc]
    machine.answer(token, "alice")
    machine.answer(owner, None)  # error: [misc]
    machine.answer(owner, sasl.Refusal.BAD_CREDENTIALS)
    machine.answer(ticket, "yes")  # error: [misc]
    machine.answer(ticket, True)
    machine.decline(ticket)
