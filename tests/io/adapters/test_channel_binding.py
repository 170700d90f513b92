"""The channel binding ``tls-server-end-point`` (RFC 5929 section 4), and SCRAM-...-PLUS with it (RFC 5802)."""

from __future__ import annotations

import datetime
import functools
import ssl
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, strategies

from mailauth import ACCEPT, Question, Tls, pop3, sasl, smtp
from mailauth_io.adapters.connection import AsyncClientConnection, AsyncServerConnection
from mailauth_io.adapters.tls.channel_binding import NAME, UNIQUE, BindingContext, channel_bindings, server_end_point
from tests.io import loops
from tests.io.server_support import Run, on_both_loops
from tests.io.tls import authority, client_context, layers

DECOY = sasl.ScramDecoy(key=b"a key for decoys")
KEYS = {name: sasl.scram_keys(b"wonderland", b"salt", 4096, name) for name in ("sha1", "sha256")}
PLUS = sasl.ALL_MECHANISMS.only("SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1")


@functools.cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def builder(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> x509.CertificateBuilder:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    day = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    return (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(2**127 + 1).not_valid_before(day).not_valid_after(day + datetime.timedelta(days=9))
    )  # fmt: skip


def by_rsa(algorithm: hashes.SHA224 | hashes.SHA256 | hashes.SHA384 | hashes.SHA512) -> x509.Certificate:
    return builder(rsa_key()).sign(rsa_key(), algorithm)


def by_pss(algorithm: hashes.SHA256 | hashes.SHA384) -> x509.Certificate:
    filling = padding.PSS(mgf=padding.MGF1(algorithm), salt_length=padding.PSS.DIGEST_LENGTH)
    return builder(rsa_key()).sign(rsa_key(), algorithm, rsa_padding=filling)


def by_ecdsa(algorithm: hashes.SHA224 | hashes.SHA256 | hashes.SHA384 | hashes.SHA512) -> x509.Certificate:
    key = ec.generate_private_key(ec.SECP256R1())
    return builder(key).sign(key, algorithm)


@pytest.mark.parametrize("sign", [by_rsa, by_ecdsa])
@pytest.mark.parametrize("algorithm", [hashes.SHA224(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
def test_binding_uses_the_hash_of_the_signature_algorithm(
    sign: Callable[[hashes.HashAlgorithm], x509.Certificate], algorithm: hashes.HashAlgorithm
) -> None:
    """RFC 5929 section 4.1; the expected digest is computed by another implementation."""
    certificate = sign(algorithm)
    assert server_end_point(certificate.public_bytes(Encoding.DER)) == certificate.fingerprint(algorithm)


@pytest.mark.parametrize("algorithm", [hashes.SHA256(), hashes.SHA384()])
def test_binding_of_rsa_pss_uses_the_hash_in_its_parameters(algorithm: hashes.SHA256 | hashes.SHA384) -> None:
    """RFC 4055 section 3.1."""
    certificate = by_pss(algorithm)
    assert server_end_point(certificate.public_bytes(Encoding.DER)) == certificate.fingerprint(algorithm)


@pytest.mark.parametrize(
    "old",
    ["2a864886f70d010104", "2a864886f70d010105", "2a8648ce3d0401", "2a8648ce380403"],
    ids=["RSA with MD5", "RSA with SHA-1", "ECDSA with SHA-1", "DSA with SHA-1"],
)
def test_binding_uses_sha_256_instead_of_md5_and_sha_1(old: str) -> None:
    """RFC 5929 section 4.1.  No tool signs with them any more, so the test builds only the fields that are read."""
    made = sequence(sequence(b"to be signed") + sequence(element(0x06, bytes.fromhex(old))) + element(0x03, b"\0"))
    digest = hashes.Hash(hashes.SHA256())
    digest.update(made)
    assert server_end_point(made) == digest.finalize()


def test_binding_of_rsa_pss_without_parameters_uses_sha_256() -> None:
    """RFC 4055 section 3.1."""
    algorithm = element(0x06, bytes.fromhex("2a864886f70d01010a")) + sequence(b"")
    made = sequence(sequence(b"to be signed") + sequence(algorithm) + element(0x03, b"\0"))
    digest = hashes.Hash(hashes.SHA256())
    digest.update(made)
    assert server_end_point(made) == digest.finalize()


def element(tag: int, content: bytes) -> bytes:
    return bytes([tag, len(content)]) + content


def sequence(content: bytes) -> bytes:
    return element(0x30, content)


def test_signature_without_a_hash_has_no_binding() -> None:
    """RFC 5929 section 4.1: the binding is undefined."""
    key = ed25519.Ed25519PrivateKey.generate()
    certificate = builder(key).sign(key, None).public_bytes(Encoding.DER)
    assert server_end_point(certificate) is None
    assert channel_bindings(certificate) == {}
    assert channel_bindings(None) == {}


@functools.cache
def some_certificate() -> bytes:
    return by_ecdsa(hashes.SHA256()).public_bytes(Encoding.DER)


@given(
    strategies.binary(max_size=40)
    | strategies.floats(0, 0.999).map(lambda part: some_certificate()[: int(part * len(some_certificate()))])
)
def test_invalid_certificate_has_no_binding(data: bytes) -> None:
    assert server_end_point(data) is None


def binding_context() -> BindingContext:
    made = BindingContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("localhost", "127.0.0.1").configure_cert(made)
    return made


def shaken(server: ssl.SSLContext) -> tuple[Tls, Tls]:
    """Return the properties of a TLS session on the server's and on the client's side."""
    here, there = layers(server)
    return here.tls, there.tls


def test_client_and_server_have_the_same_binding() -> None:
    server, client = shaken(binding_context())
    assert client.channel_bindings == server.channel_bindings
    assert list(server.channel_bindings) == [NAME, UNIQUE]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_unique_differs_between_sessions_and_is_the_same_on_both_sides(version: ssl.TLSVersion) -> None:
    """RFC 5929 section 3.  TLS 1.3 does not define it; OpenSSL returns the client's Finished message."""
    context = binding_context()
    context.minimum_version = context.maximum_version = version
    server, client = shaken(context)
    assert server.version == client.version == version.name.replace("_", ".")
    assert server.channel_bindings[UNIQUE] == client.channel_bindings[UNIQUE]
    assert len(client.channel_bindings[UNIQUE]) >= 12
    assert shaken(context)[0].channel_bindings[UNIQUE] != server.channel_bindings[UNIQUE]


def test_client_has_tls_unique_whatever_the_certificate() -> None:
    made = binding_context()
    authority().issue_cert("localhost", key_type=trustme.KeyType.RSA).configure_cert(made)
    server, client = shaken(made)
    assert UNIQUE in client.channel_bindings
    assert server.channel_bindings == {}


def test_plain_ssl_context_has_no_binding_on_the_server() -> None:
    """So ``mailauth serve`` offers no -PLUS mechanism: a client that uses ``tls-exporter`` would fail."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority().issue_cert("localhost").configure_cert(made)
    assert shaken(made)[0].channel_bindings == {}


def test_context_selected_by_sni_determines_the_binding() -> None:
    """SNI (RFC 6066 section 3) may select another certificate than that of the listening context."""
    first, second = binding_context(), binding_context()

    def choose(session: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        session.context = second

    first.sni_callback = choose
    server, client = shaken(first)
    assert server.channel_bindings == client.channel_bindings
    assert server.channel_bindings.items() >= second.channel_bindings.items()
    assert first.channel_bindings != second.channel_bindings


def test_context_with_two_certificates_has_no_binding() -> None:
    made = binding_context()
    assert made.channel_bindings
    authority().issue_cert("localhost", key_type=trustme.KeyType.RSA).configure_cert(made)
    assert made.channel_bindings == {}


def test_binding_uses_the_first_certificate_of_the_chain(tmp_path: Path) -> None:
    """The file may also contain text and a key; its path may be bytes."""
    issued = authority().issue_cert("localhost")
    path = tmp_path / "chain.pem"
    text = b"A certificate\n" + issued.private_key_pem.bytes() + b"".join(pem.bytes() for pem in issued.cert_chain_pems)
    path.write_bytes(text + authority().cert_pem.bytes())
    made = BindingContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(bytes(path))
    leaf = x509.load_pem_x509_certificate(issued.cert_chain_pems[0].bytes())
    assert made.channel_bindings == {NAME: leaf.fingerprint(hashes.SHA256())}


async def submission(connection: AsyncServerConnection[smtp.ServerEvent]) -> None:
    async for event in connection:
        match event:
            case sasl.FetchScramKeys(authentication_identity=name, hash_name=hash_name) as question:
                connection.answer(question, KEYS[hash_name] if name == "alice" else None)
            case smtp.Connected() | smtp.StartTls() as question:
                connection.answer(question, ACCEPT)
            case Question() as other:
                connection.answer(other, other.unavailable)
            case _:
                pass


async def maildrop(connection: AsyncServerConnection[pop3.ServerEvent]) -> None:
    async for event in connection:
        match event:
            case sasl.FetchScramKeys(authentication_identity=name, hash_name=hash_name) as question:
                connection.answer(question, KEYS[hash_name] if name == "alice" else None)
            case pop3.OpenMaildrop() as opening:
                connection.answer(opening, pop3.Maildrop())
            case pop3.Connected() | pop3.Stls() as question:
                connection.answer(question, ACCEPT)
            case Question() as other:
                connection.answer(other, other.unavailable)
            case _:
                pass


def bound(name: str, tls: Tls | None, password: bytes = b"wonderland", binding: str = NAME) -> sasl.ClientMechanism:
    """Return a client of a -PLUS mechanism, bound to the TLS session *tls*."""
    assert tls is not None
    make = sasl.ScramSha256PlusClient if name == "SCRAM-SHA-256-PLUS" else sasl.ScramSha1PlusClient
    return make(
        authentication_identity="alice", password=password, entropy=bytes(range(32)),
        channel_binding=binding, binding_data=tls.channel_bindings[binding],
    )  # fmt: skip


by_both_hashes = pytest.mark.parametrize("name", ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS"])
on_both_ports = pytest.mark.parametrize("upgrade", [False, True], ids=["implicit", "upgraded"])

Somewhere = AsyncClientConnection[smtp.ClientEvent] | AsyncClientConnection[pop3.ClientEvent]


async def login(client: Somewhere, mechanism: sasl.ClientMechanism) -> bool:
    client.authenticate(mechanism)
    return isinstance(await anext(client), sasl.Authenticated)


@on_both_loops
@by_both_hashes
@on_both_ports
def test_scram_plus_over_smtp_requires_the_correct_binding(run: Run, name: str, upgrade: bool) -> None:
    """RFC 5802 section 6: the correct binding logs in; a wrong one, and a downgrade from -PLUS, do not."""
    settings = smtp.ServerSettings(mechanisms=PLUS, scram_decoy=DECOY, starttls=True)

    async def main() -> None:
        adapter = loops.current().adapter
        async with (
            adapter.serve_smtp(
                submission, settings, ssl_context=binding_context(), implicit_tls=not upgrade
            ) as listener,
            await adapter.connect(
                lambda tls: smtp.ClientConnection(tls=tls),
                *("127.0.0.1", listener.port), ssl_context=client_context(), implicit_tls=not upgrade,
            ) as client,
        ):  # fmt: skip
            await anext(client)
            for command in [smtp.Hello(domain="c"), *([smtp.StartTls(), smtp.Hello(domain="c")] if upgrade else [])]:
                client.send(command)
                await anext(client)
            assert isinstance(client.machine, smtp.ClientConnection)
            assert client.machine.extensions["AUTH"].split() == list(PLUS.names)
            await in_turn(client, name)

    run(main)


@on_both_loops
@by_both_hashes
@on_both_ports
def test_scram_plus_over_pop3_requires_the_correct_binding(run: Run, name: str, upgrade: bool) -> None:
    """The same over POP3 (RFC 5034)."""
    settings = pop3.ServerSettings(mechanisms=PLUS, scram_decoy=DECOY, stls=True)

    async def main() -> None:
        adapter = loops.current().adapter
        async with (
            adapter.serve_pop3(maildrop, settings, ssl_context=binding_context(), implicit_tls=not upgrade) as listener,
            await adapter.connect(
                lambda tls: pop3.ClientConnection(tls=tls),
                *("127.0.0.1", listener.port), ssl_context=client_context(), implicit_tls=not upgrade,
            ) as client,
        ):  # fmt: skip
            await anext(client)
            for command in [*([pop3.Stls()] if upgrade else []), pop3.Capa()]:
                client.send(command)
                await anext(client)
            assert isinstance(client.machine, pop3.ClientConnection)
            assert client.machine.capabilities["SASL"].split() == list(PLUS.names)
            await in_turn(client, name)

    run(main)


async def in_turn(client: Somewhere, name: str) -> None:
    """Try two logins that must fail, and one that must succeed."""
    another = attrs.evolve(client.tls or Tls(version=""), channel_bindings={NAME: bytes(32)})
    assert not await login(client, bound(name, another))
    downgraded = sasl.ScramSha256Client(
        authentication_identity="alice", password=b"wonderland", entropy=bytes(range(32)), could_bind=True
    )
    assert not await login(client, downgraded)
    assert await login(client, bound(name, client.tls, binding=NAME if name == "SCRAM-SHA-256-PLUS" else UNIQUE))
