"""SCRAM clients and servers for the tests.  There is one account: the name is user, the password pencil."""

from __future__ import annotations

import base64

from mailauth.sasl import (
    Challenge,
    FetchScramKeys,
    ScramDecoy,
    ScramSha1Client,
    ScramSha256Client,
    ScramSha256PlusClient,
    ScramSha256PlusServer,
    ScramSha256Server,
    Step,
    scram_keys,
)

DECOY = ScramDecoy(key=b"a key that nobody knows")
ENTROPY = b"e" * 32
SALT = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
KEYS = scram_keys(b"pencil", SALT, 4096)
BINDING = b"what the TLS layer exported"


class Rfc5802Client(ScramSha1Client):
    """A client with the nonce of the example."""

    def _make_nonce(self) -> bytes:
        return b"fyko+d2lbbFgONRv9qkxdawL"


class Rfc7677Client(ScramSha256Client):
    """A client with the nonce of the example."""

    def _make_nonce(self) -> bytes:
        return b"rOprNGfwEbeRWgbNEkqO"


def server(*, plus_offered: bool = False) -> ScramSha256Server:
    return ScramSha256Server(nonce="server", tls=True, decoy=DECOY, plus_offered=plus_offered)


def plus_server() -> ScramSha256PlusServer:
    bindings = {"tls-exporter": BINDING}
    return ScramSha256PlusServer(nonce="server", tls=True, decoy=DECOY, channel_bindings=bindings)


def client(name: str = "user", password: bytes = b"pencil", *, acting_as: str = "") -> ScramSha256Client:
    return ScramSha256Client(
        authentication_identity=name, password=password, entropy=ENTROPY, authorization_identity=acting_as
    )


def plus_client(
    binding: str = "tls-exporter", data: bytes = BINDING, password: bytes = b"pencil"
) -> ScramSha256PlusClient:
    return ScramSha256PlusClient(
        authentication_identity="user",
        password=password,
        entropy=ENTROPY,
        channel_binding=binding,
        binding_data=data,
    )


def data(step: Step) -> bytes:
    assert isinstance(step, Challenge)
    return step.data


def proof_for(theirs: ScramSha256Server, ours: ScramSha256Client | ScramSha256PlusClient) -> bytes:
    assert isinstance(theirs.respond(ours.respond(None)), FetchScramKeys)
    return ours.respond(data(theirs.resolve(KEYS)))
