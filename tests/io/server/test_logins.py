"""Logins other than clear-text passwords, by the library's own clients, on both loops."""

from __future__ import annotations

import secrets
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import ClassVar

import pytest
import trustme

from mailauth import RemoteProtocolError, sasl
from mailauth_io import server, stores
from mailauth_io.stores import Account, MemoryAccounts, write_credential
from mailauth_io.stores.credentials import read_credential
from tests.io.logins import (
    Login,
    by_both_protocols,
    context,
    on_both_ports,
    pop3_login,
    refused,
    server_context,
    smtp_login,
)
from tests.io.server_support import PASSWORD, Run, at_once, on_both_loops, run_on_asyncio

TOKEN = "t0ken"
TOKENS = [("alice", TOKEN.encode())]


def meet(
    run: Run,
    accounts: MemoryAccounts,
    client: Callable[[server.RunningServer], Awaitable[None]],
    *,
    tokens: bool = False,
    certificates: bool = False,
) -> None:
    config = server.Config(smtp=0, smtps=0, pop3=0, pop3s=0, ssl_context=server_context())
    kept = server.Stores(
        accounts=accounts,
        maildrops=stores.MemoryMaildrops(),
        outbox=stores.MemoryOutbox(),
        tokens=accounts if tokens else None,
        certificates=accounts if certificates else None,
    )

    async def main() -> None:
        async with server.serve(config, kept, sleep=at_once) as ports:
            await client(ports)

    run(main)


def scram(name: str, password: str = PASSWORD) -> sasl.ScramSha256Client:
    return sasl.ScramSha256Client(
        authentication_identity=name, password=password.encode(), entropy=secrets.token_bytes(16)
    )


def scram_sha_1(name: str) -> sasl.ScramSha1Client:
    return sasl.ScramSha1Client(
        authentication_identity=name, password=PASSWORD.encode(), entropy=secrets.token_bytes(16)
    )


@on_both_loops
@by_both_protocols
@on_both_ports
def test_scram_sha_256_accepts_stored_keys_and_plain_passwords(run: Run, login: Login, upgrade: bool) -> None:
    """RFC 5802: both sides prove that they know the password.  An unknown name fails like a wrong password."""
    stored = Account(
        name="bob", credential=read_credential(write_credential("SCRAM-SHA-256", PASSWORD.encode()).encode())
    )
    accounts = MemoryAccounts(
        [stored, stores.from_password("alice", PASSWORD.encode())], domains=frozenset({"example.test"})
    )

    async def client(ports: server.RunningServer) -> None:
        for name in ("alice", "bob", "Bob@example.test"):
            assert await login(ports, context(), scram(name), upgrade) == "ok"
        for name in ("nobody", "alice@far.test"):
            assert await login(ports, context(), scram(name), upgrade) == refused(login)
        assert await login(ports, context(), scram("bob", "wrong"), upgrade) == refused(login)
        assert await login(ports, context(), scram_sha_1("alice"), upgrade) == "not offered"  # bob has no such keys

    meet(run, accounts, client)


@on_both_loops
@by_both_protocols
def test_scram_sha_1_is_offered_with_plain_passwords_without_plus_variants(run: Run, login: Login) -> None:
    """RFC 5802.  The -PLUS variants are never offered: Python has no ``tls-exporter``."""

    async def client(ports: server.RunningServer) -> None:
        assert await login(ports, context(), scram_sha_1("alice"), False) == "ok"
        for plus in (sasl.ScramSha1PlusClient, sasl.ScramSha256PlusClient):
            bound = plus(
                authentication_identity="alice", password=b"x", entropy=bytes(16),
                channel_binding="tls-exporter", binding_data=b"x",
            )  # fmt: skip
            assert await login(ports, context(), bound, False) == "not offered"

    meet(run, MemoryAccounts({"alice": PASSWORD.encode()}), client)


@on_both_loops
@by_both_protocols
@on_both_ports
def test_token_logs_in_only_to_its_own_account(run: Run, login: Login, upgrade: bool) -> None:
    """RFC 7628: the requested identity must be that of the token.  A failure is reported after the JSON."""
    accounts = MemoryAccounts({"alice": b"one", "bob": b"two"}, tokens=TOKENS, domains=frozenset({"example.test"}))

    async def client(ports: server.RunningServer) -> None:
        async def oauthbearer(token: str, identity: str = "") -> str:
            mechanism = sasl.OauthBearerClient(token=token.encode(), authorization_identity=identity)
            return await login(ports, context(), mechanism, upgrade)

        async def xoauth2(token: str, identity: str) -> str:
            mechanism = sasl.Xoauth2Client(token=token.encode(), authorization_identity=identity)
            return await login(ports, context(), mechanism, upgrade)

        assert await oauthbearer(TOKEN) == "ok"
        for ask in (oauthbearer, xoauth2):
            assert await ask(TOKEN, "alice@example.test") == "ok"
            assert await ask(TOKEN, "bob") == refused(login)
            assert await ask("other", "alice") == refused(login)

    meet(run, accounts, client, tokens=True)


@on_both_loops
@by_both_protocols
def test_token_mechanisms_are_not_offered_without_tokens(run: Run, login: Login) -> None:
    async def client(ports: server.RunningServer) -> None:
        for mechanism in (
            sasl.OauthBearerClient(token=TOKEN.encode()),
            sasl.Xoauth2Client(token=TOKEN.encode(), authorization_identity="alice"),
        ):
            assert await login(ports, context(), mechanism, False) == "not offered"

    meet(run, MemoryAccounts({"alice": b"one"}), client)


CERTIFICATE_NAMES = [("email:a@example.test", "alice"), ("CN:Both", "alice"), ("CN:Both", "bob"), ("DNS:b.test", "bob")]


@on_both_loops
@by_both_protocols
@on_both_ports
def test_external_logs_in_to_accounts_mapped_from_certificate_names(run: Run, login: Login, upgrade: bool) -> None:
    """RFC 4422 appendix A.  EXTERNAL is only offered to clients with a certificate."""
    accounts = MemoryAccounts({"alice": b"one", "bob": b"two"}, certificate_names=CERTIFICATE_NAMES)

    async def client(ports: server.RunningServer) -> None:
        async def external(tls: ssl.SSLContext, identity: str = "") -> str:
            return await login(ports, tls, sasl.ExternalClient(authorization_identity=identity), upgrade)

        alice, both = context("a@example.test"), context("x@example.test", common_name="Both")
        assert await external(context()) == "not offered"
        assert await external(alice) == "ok"
        assert await external(alice, "alice@example.test") == "ok"
        assert await external(alice, "bob") == refused(login)
        assert await external(context("B.test")) == "ok"
        assert await external(context("a.example.test")) == refused(login)
        assert await external(both) == refused(login)
        assert await external(both, "bob") == "ok"
        assert await external(both, "carol") == refused(login)

    meet(run, accounts, client, certificates=True)


@on_both_loops
@by_both_protocols
def test_client_certificate_of_unknown_ca_gets_no_session(run: Run, login: Login) -> None:
    """The handshake fails if the client's certificate cannot be verified; with TLS 1.3, the client notices later."""
    accounts = MemoryAccounts({"alice": b"one"}, certificate_names=CERTIFICATE_NAMES[:1])

    async def client(ports: server.RunningServer) -> None:
        forged = context("a@example.test", issuer=trustme.CA())
        with pytest.raises((OSError, RemoteProtocolError)):
            await login(ports, forged, sasl.ExternalClient(), False)

    meet(run, accounts, client, certificates=True)


@on_both_loops
@by_both_protocols
def test_external_is_not_offered_without_certificate_mapping(run: Run, login: Login) -> None:
    async def client(ports: server.RunningServer) -> None:
        assert await login(ports, context("a@example.test"), sasl.ExternalClient(), False) == "not offered"

    meet(run, MemoryAccounts({"alice": b"one"}), client)


COMPOSED, DECOMPOSED, COMPATIBLE = "p\u00e4ss o\ufb03ce", "pa\u0308ss office", "p\u00e4ss\u00a0of\u00ad\ufb01ce"
"""One password as three keyboards may send it.  SASLprep maps them to the same string (RFC 4013 section 2)."""


def kept(scheme: str, password: str) -> MemoryAccounts:
    """Return the account of alice with a credential of ``mailauth passwd``, or with a password given by ``--user``."""
    if scheme == "--user":
        return MemoryAccounts([stores.from_password("alice", password.encode())])
    credential = read_credential(write_credential(scheme, password.encode()).encode())
    return MemoryAccounts([Account(name="alice", credential=credential)])


@on_both_loops
@by_both_protocols
@pytest.mark.parametrize("scheme", ["--user", "PLAIN", "SCRAM-SHA-256"])
def test_non_ascii_password_is_accepted_by_every_mechanism(run: Run, login: Login, scheme: str) -> None:
    """PLAIN sends it prepared (RFC 4616 section 2), LOGIN as it was typed, and SCRAM does not send it."""
    accounts = kept(scheme, COMPOSED)

    async def client(ports: server.RunningServer) -> None:
        for typed in (COMPOSED, DECOMPOSED, COMPATIBLE):
            data = typed.encode()
            mechanisms: list[sasl.ClientMechanism] = [
                sasl.PlainClient(authentication_identity="alice", password=data),
                sasl.LoginClient(authentication_identity="alice", password=data),
            ]
            if stores.Proof.SCRAM_SHA_256 in server.Authenticator(accounts).proofs:
                mechanisms.append(scram("alice", typed))
            for mechanism in mechanisms:
                assert await login(ports, context(), mechanism, False) == "ok", (typed, mechanism)
        for wrong in ("pass office", "p\u00e4ss Office"):
            other = sasl.LoginClient(authentication_identity="alice", password=wrong.encode())
            assert await login(ports, context(), other, False) == refused(login)

    meet(run, accounts, client)


@pytest.mark.parametrize("typed", [COMPOSED, DECOMPOSED, COMPATIBLE])
def test_non_ascii_password_matches_its_argon2id_hash(typed: str) -> None:
    """As sent by PLAIN and by LOGIN."""
    accounts = server.Authenticator(kept("ARGON2ID", COMPOSED))

    async def main() -> None:
        for password in {typed.encode(), sasl.saslprep(typed).encode()}:
            assert await accounts.check_password("alice", password)

    run_on_asyncio(main)


@on_both_loops
@by_both_protocols
@pytest.mark.parametrize("written", [DECOMPOSED, COMPATIBLE])
def test_stored_password_is_prepared_with_saslprep(run: Run, login: Login, written: str) -> None:
    """RFC 4013 section 2: the stored and the received password are both prepared."""

    async def client(ports: server.RunningServer) -> None:
        data = COMPOSED.encode()
        plain = sasl.PlainClient(authentication_identity="alice", password=data)
        raw = sasl.LoginClient(authentication_identity="alice", password=data)
        for mechanism in (plain, raw, scram("alice", COMPOSED)):
            assert await login(ports, context(), mechanism, False) == "ok"

    meet(run, kept("--user", written), client)


@on_both_loops
@by_both_protocols
def test_non_utf8_password_is_accepted_by_login_mechanism(run: Run, login: Login) -> None:
    """No RFC defines the encoding of LOGIN.  Such a password has no prepared form and is compared as it is."""
    data = "p\u00e4ss".encode("latin-1")

    async def client(ports: server.RunningServer) -> None:
        for password, end in ((data, "ok"), ("p\u00e4ss".encode(), refused(login))):
            mechanism = sasl.LoginClient(authentication_identity="alice", password=password)
            assert await login(ports, context(), mechanism, False) == end

    meet(run, MemoryAccounts([stores.from_password("alice", data)]), client)


class RawPlain:
    """A client of PLAIN that sends a password in any encoding, as old clients do."""

    name: ClassVar[str] = "PLAIN"
    client_first: ClassVar[bool] = True
    satisfied = True

    def __init__(self, password: bytes) -> None:
        self.password = password

    def respond(self, challenge: bytes | None) -> bytes:
        return b"\0alice\0" + self.password


@on_both_loops
def test_latin_1_password_works_with_each_offered_mechanism_that_can_carry_it(run: Run, tmp_path: Path) -> None:
    """The client must send the same bytes; SCRAM is not offered."""
    path = tmp_path / "users"
    path.touch(mode=0o600)
    path.write_bytes(b"alice:{PLAIN}gr\xfcn\n")
    accounts = MemoryAccounts(file=stores.AccountsFile(path))

    async def client(ports: server.RunningServer) -> None:
        for password, right in ((b"gr\xfcn", True), (b"gr\xfcN", False)):
            raw: list[sasl.ClientMechanism] = [
                RawPlain(password),
                sasl.LoginClient(authentication_identity="alice", password=password),
                sasl.CramMd5Client(authentication_identity="alice", password=password),
            ]
            user = sasl.UserPassClient(authentication_identity="alice", password=password)
            for login, mechanisms in ((smtp_login, raw), (pop3_login, [*raw, user])):
                for mechanism in mechanisms:
                    expected = "ok" if right else refused(login)
                    assert await login(ports, context(), mechanism, False) == expected, mechanism.name
        assert await smtp_login(ports, context(), scram("alice"), False) == "not offered"

    meet(run, accounts, client)
