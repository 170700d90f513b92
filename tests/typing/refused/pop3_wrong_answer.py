"""Each answer is of a type that its question does not take; the last arm joins questions of two answer types."""

from __future__ import annotations

from mailauth import ACCEPT, pop3, sasl


def answer(
    machine: pop3.ServerConnection,
    maildrop: pop3.OpenMaildrop,
    retrieve: pop3.Retrieve,
    update: pop3.Update,
    either: sasl.CheckPassword | sasl.FetchSecret,
) -> None:
    machine.answer(maildrop, ACCEPT)  # error: [arg-type]
    machine.answer(maildrop, sasl.Refusal.TEMPORARY)  # error: [arg-type]
    machine.answer(retrieve, b"octets")  # error: [arg-type]
    machine.answer(retrieve, pop3.Unavailable.TEMPORARY)
    machine.answer(update, pop3.Maildrop(()))  # error: [arg-type]
    machine.answer(either, ACCEPT)  # error: [arg-type]
