"""Each answer is of a type that its question does not take."""

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
    machine.answer(mail, sasl.Refusal.TEMPORARY)  # error: [arg-type]
    machine.answer(rcpt, True)  # error: [arg-type]
    machine.answer(rcpt, smtp.PerRecipient((ACCEPT,)))  # error: [arg-type]
    machine.answer(complete, smtp.PerRecipient((ACCEPT,)))
    machine.answer(password, smtp.Reply(535, "5.7.8", "no"))  # error: [arg-type]
    machine.answer(password, sasl.Fault.CANCELLED)  # error: [arg-type]
    machine.answer(secret, "secret")  # error: [arg-type]
    machine.answer(secret, b"secret")
