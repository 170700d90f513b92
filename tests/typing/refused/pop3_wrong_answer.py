"""Each answer has a type that its question does not accept; the last branch joins questions of two answer types."""

from __future__ import annotations

from mailauth import ACCEPT, pop3, sasl


def answer(
    machine: pop3.ServerConnection,
    maildrop: pop3.OpenMaildrop,
    retrieve: pop3.Retrieve,
    update: pop3.Update,
    either: sasl.CheckPassword | sasl.FetchSecret,
) -> None:
    machine.answer(maildrop, ACCEPT)  # error: [misc]
    machine.answer(maildrop, sasl.Refusal.TEMPORARY)  # error: [misc]
    machine.answer(retrieve, b"octets")  # error: [misc]
    machine.answer(retrieve, pop3.Unavailable.TEMPORARY)
    machine.answer(update, pop3.Maildrop())  # error: [misc]
    machine.answer(either, ACCEPT)  # error: [misc]
