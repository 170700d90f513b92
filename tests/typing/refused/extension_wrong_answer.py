"""Wrong answers to the questions of a verb and of a mechanism from outside the library."""

from __future__ import annotations

from mailauth import ACCEPT, Command, ExtensionQuestion, sasl, smtp


class Verify(Command, ExtensionQuestion[smtp.Verdict]):
    @property
    def unavailable(self) -> smtp.Reply:
        return smtp.Reply(252)


class Redeem(ExtensionQuestion[str | sasl.Refusal]):
    @property
    def unavailable(self) -> sasl.Refusal:
        return sasl.Refusal.TEMPORARY


def answer_all(machine: smtp.ServerConnection, verify: Verify, redeem: Redeem) -> None:
    machine.answer(verify, ACCEPT)
    machine.answer(verify, "yes")  # error: [misc]
    machine.answer(verify, sasl.Refusal.TEMPORARY)  # error: [misc]
    machine.answer(redeem, "alice")
    machine.answer(redeem, ACCEPT)  # error: [misc]
    machine.answer(redeem, None)  # error: [misc]
    machine.decline(verify)
    machine.decline(redeem)
