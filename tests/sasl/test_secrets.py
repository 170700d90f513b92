"""No secret is shown, and none is sent that a server would have to reject (architecture.md, invariant 6)."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest

from mailauth import LocalProtocolError
from mailauth.sasl import (
    ApopClient,
    ClientExchange,
    ClientMechanism,
    Context,
    CramMd5Client,
    LoginClient,
    OauthBearerClient,
    OauthBearerServer,
    PlainClient,
    PlainServer,
    ScramDecoy,
    ScramSha1PlusClient,
    ScramSha256Client,
    ScramSha256Server,
    ServerExchange,
    UserPassClient,
    Xoauth2Client,
    Xoauth2Server,
    encode_base64,
    scram_keys,
)


def test_repr_of_client_mechanisms_contains_no_secret() -> None:
    """architecture.md, invariant 6."""
    secret = b"tanstaaf"
    clients: list[ClientMechanism] = [
        PlainClient(authentication_identity="tim", password=secret),
        LoginClient(authentication_identity="tim", password=secret),
        CramMd5Client(authentication_identity="tim", password=secret),
        UserPassClient(authentication_identity="tim", password=secret),
        ApopClient(authentication_identity="tim", password=secret),
        ScramSha256Client(authentication_identity="tim", password=secret, entropy=secret * 4),
        ScramSha1PlusClient(
            authentication_identity="tim",
            password=secret,
            entropy=secret * 4,
            channel_binding="tls-exporter",
            binding_data=secret,
        ),
        OauthBearerClient(token=secret, authorization_identity="tim"),
        Xoauth2Client(token=secret, authorization_identity="tim"),
    ]
    for client in clients:
        client.respond(None)
        seen = repr(client) + repr(ClientExchange(client))
        assert "tim" in repr(client)
        assert "tanstaaf" not in seen
        assert encode_base64(secret).decode() not in seen
    exchange = ServerExchange(PlainServer(tls=True))
    question = exchange.begin(base64.b64encode(b"\0tim\0" + secret))
    assert "tanstaaf" not in repr(question) + repr(exchange)


def test_repr_of_questions_and_keys_contains_no_secret() -> None:
    """architecture.md, invariant 6."""
    secret, keys = b"tanstaaf", scram_keys(b"tanstaaf", b"salt", 4096)
    decoy = ScramDecoy(key=secret * 2)
    shown: list[object] = [
        OauthBearerServer(tls=True).respond(b"n,,\x01auth=Bearer tanstaaf\x01\x01"),
        Xoauth2Server(tls=True).respond(b"user=tim\x01auth=Bearer tanstaaf\x01\x01"),
        Context(nonce="1.a", host_name="h", tls=True, channel_bindings={"tls-exporter": secret}, scram_decoy=decoy),
        decoy,
        keys,
    ]
    for value in shown:
        assert "tanstaaf" not in repr(value)
        assert repr(keys.stored_key) not in repr(value)
        assert repr(keys.server_key) not in repr(value)
    server = ScramSha256Server(nonce="server", tls=True, decoy=decoy)
    server.respond(b"n,,n=tim,r=abc")
    server.resolve(keys)
    assert repr(keys.stored_key) not in repr(server) + repr(ServerExchange(server))


@pytest.mark.parametrize("make", [PlainClient, LoginClient, UserPassClient])
@pytest.mark.parametrize("password", [b"", b"hunter2\0", b"hunter2\r", b"hunter2\n", b"hunter2" * 147])
def test_client_rejects_invalid_password_without_quoting_it(
    make: Callable[..., ClientMechanism], password: bytes
) -> None:
    """architecture.md, invariant 6; and an argument cannot inject commands."""
    with pytest.raises(LocalProtocolError) as caught:
        make(authentication_identity="tim", password=password)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("make", [CramMd5Client, ApopClient])
@pytest.mark.parametrize("secret", [b"", b"a\0b", b"a\rb", b"a\nb", b"x" * 1025])
def test_client_rejects_invalid_secret(make: Callable[..., ClientMechanism], secret: bytes) -> None:
    with pytest.raises(LocalProtocolError):
        make(authentication_identity="tim", password=secret)


@pytest.mark.parametrize("name", ["", "a\0b", "a\rb", "a\nb", "\x7f", "x" * 256, "\ud800"])
def test_client_rejects_invalid_name(name: str) -> None:
    senders: list[Callable[..., ClientMechanism]] = [PlainClient, LoginClient, UserPassClient]
    for make in senders:
        with pytest.raises(LocalProtocolError):
            make(authentication_identity=name, password=b"secret")
    keyers: list[Callable[..., ClientMechanism]] = [CramMd5Client, ApopClient]
    for keyed in keyers:
        with pytest.raises(LocalProtocolError):
            keyed(authentication_identity=name, password=b"secret")
    if name:
        with pytest.raises(LocalProtocolError):
            PlainClient(authentication_identity="tim", password=b"secret", authorization_identity=name)
