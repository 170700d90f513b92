"""A client and a server mechanism connected through both exchanges, and an application with test accounts."""

from __future__ import annotations

import hmac
from collections.abc import Mapping

from mailauth import ACCEPT, Accept, ExtensionQuestion
from mailauth.sasl import (
    Authorize,
    Challenge,
    CheckExternal,
    CheckPassword,
    CheckToken,
    ClientExchange,
    ClientMechanism,
    Fault,
    FetchScramKeys,
    FetchSecret,
    Refusal,
    ScramKeys,
    ServerExchange,
    ServerMechanism,
    ServerQuestion,
    Success,
    encode_base64,
    scram_keys,
)


def reply(question: ServerQuestion, secrets: Mapping[str, bytes]) -> Accept | Refusal | ScramKeys | bytes | str | None:
    """Return the answer of an application that knows *secrets*.  No identity may act as another.

    The secret of an account is also its token, and the serial number of its certificate.
    """
    match question:
        case CheckPassword(authentication_identity=who, password=password):
            right = hmac.compare_digest(secrets.get(who, b""), password)
            return ACCEPT if right else Refusal.BAD_CREDENTIALS
        case FetchSecret(authentication_identity=who):
            return secrets.get(who)
        case FetchScramKeys(authentication_identity=who, hash_name=hash_name):
            return scram_keys(secrets[who], b"salt of " + who.encode(), 4096, hash_name) if who in secrets else None
        case CheckToken(token=token):
            return next((who for who, secret in secrets.items() if secret == token), Refusal.BAD_CREDENTIALS)
        case CheckExternal(peer_certificate=certificate):
            serial = str(certificate["serialNumber"]).encode()
            return next((who for who, secret in secrets.items() if secret == serial), Refusal.BAD_CREDENTIALS)
        case Authorize() | ExtensionQuestion():
            return Refusal.NOT_AUTHORIZED


def log_in(client: ClientMechanism, server: ServerMechanism, secrets: Mapping[str, bytes]) -> Success | Refusal | Fault:
    """Return the last Step of a login in base64.

    If the login succeeds, the client must be satisfied at the end and not before.  A client that sends a token is
    satisfied until the server reports that the token was refused.
    """
    ours, theirs = ClientExchange(client), ServerExchange(server)
    step = theirs.begin(ours.begin())
    while not isinstance(step, Success | Refusal | Fault):
        if isinstance(step, Challenge):
            assert not ours.satisfied or step.data.startswith(b"{")
            step = theirs.receive(ours.respond(encode_base64(step.data)))
        else:
            step = theirs.answer(reply(step, secrets))
    assert ours.satisfied or not isinstance(step, Success)
    return step


def log_in_raw(
    client: ClientMechanism, server: ServerMechanism, secrets: Mapping[str, bytes]
) -> Success | Refusal | Fault:
    """Return the last Step of a login without base64, with the same checks."""
    theirs = ServerExchange(server)
    initial = client.respond(None)
    step = theirs.respond(initial if client.client_first else None)
    while not isinstance(step, Success | Refusal | Fault):
        if isinstance(step, Challenge):
            assert not client.satisfied
            step = theirs.respond(client.respond(step.data))
        else:
            step = theirs.answer(reply(step, secrets))
    assert client.satisfied
    return step
