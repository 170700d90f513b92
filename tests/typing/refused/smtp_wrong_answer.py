"""Each answer has a type that its question does not accept."""

from __future__ import annotations

from mailauth import ACCEPT, sasl, smtp


def answer(
    machine: smtp.ServerConnection,
    mail: smtp.Mail,
    rcpt: smtp.Rcpt,
    complete: smtp.MessageComplete,
    password: sasl.CheckPassword,
    secret: sasl.FetchSecret,
) -> None:
    machine.answer(mail, sasl.Refusal.TEMPORARY)  # error: [misc]
    machine.answer(rcpt, True)  # error: [misc]
    machine.answer(rcpt, smtp.PerRecipient((ACCEPT,)))  # error: [misc]
    machine.answer(complete, smtp.PerRecipient((ACCEPT,)))
    machine.answer(password, smtp.Reply(535, "5.7.8", "no"))  # error: [misc]
    machine.answer(password, sasl.Fault.CANCELLED)  # error: [misc]
    machine.answer(secret, "secret")  # error: [misc]
    machine.answer(secret, b"secret")
