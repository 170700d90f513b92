"""A client and a server mechanism wired back to back through both exchanges, and an application with one account."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from mailauth import ACCEPT, Accept
from mailauth.sasl import (
    Authorize,
    Challenge,
    CheckPassword,
    ClientExchange,
    ClientMechanism,
    Fault,
    FetchSecret,
    Refusal,
    ServerExchange,
    ServerMechanism,
    Step,
    Success,
    encode_base64,
)


def reply(step: Step, secrets: Mapping[str, bytes]) -> Accept | Refusal | bytes | None:
    """What an application that knows *secrets* answers; nobody may act as another."""
    match step:
        case CheckPassword(authentication_identity=who, password=password):
            right = hmac.compare_digest(secrets.get(who, b""), password)
            return ACCEPT if right else Refusal.BAD_CREDENTIALS
        case FetchSecret(authentication_identity=who):
            return secrets.get(who)
        case Authorize():
            return Refusal.NOT_AUTHORIZED
    raise AssertionError(f"{step} is no question")


def log_in(client: ClientMechanism, server: ServerMechanism, secrets: Mapping[str, bytes]) -> Success | Refusal | Fault:
    """The last Step of a login over base64 lines; the client must be satisfied exactly at the end."""
    ours, theirs = ClientExchange(client), ServerExchange(server)
    step = theirs.begin(ours.begin())
    while not isinstance(step, Success | Refusal | Fault):
        if isinstance(step, Challenge):
            assert not ours.satisfied
            step = theirs.receive(ours.respond(encode_base64(step.octets)))
        else:
            step = theirs.answer(reply(step, secrets))
    assert ours.satisfied
    return step


def log_in_raw(
    client: ClientMechanism, server: ServerMechanism, secrets: Mapping[str, bytes]
) -> Success | Refusal | Fault:
    """The same for the forms without base64."""
    theirs = ServerExchange(server)
    initial = client.respond(None)
    step = theirs.respond(initial if client.client_first else None)
    while not isinstance(step, Success | Refusal | Fault):
        if isinstance(step, Challenge):
            assert not client.satisfied
            step = theirs.respond(client.respond(step.octets))
        else:
            step = theirs.answer(reply(step, secrets))
    assert client.satisfied
    return step
