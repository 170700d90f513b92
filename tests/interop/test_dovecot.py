"""The client machines with a real Dovecot: each of its mechanisms, on both loops; and the accounts file in both.

Skipped without Dovecot 2.3; an error with MAILAUTH_INTEROP=require.  It runs on the loopback interface, unprivileged.
"""

from __future__ import annotations

import secrets
import ssl
import subprocess
from collections.abc import Callable, Iterator

import pytest

from mailauth import sasl
from mailauth_io.cli.main import SCHEMES
from tests.interop.dovecot import Dovecot, dovecot, token
from tests.io.logins import Login, by_both_protocols, on_both_ports, pop3_login, refused, smtp_login
from tests.io.server_support import Run, on_both_loops, run_on_asyncio
from tests.serving import command, environment

PASSWORD, ASCII, WRONG = "p\u00e4ss w\u00f6rd", "open sesame", "open poppy"


@pytest.fixture(scope="module")
def server() -> Iterator[Dovecot]:
    """A Dovecot whose accounts are named after their schemes; the password of ``ascii`` is ASCII."""
    lines = [passwd(scheme.lower(), scheme) for scheme in SCHEMES]
    with dovecot("".join([*lines, f"ascii:{{PLAIN}}{ASCII}\n"])) as running:
        yield running


def passwd(name: str, scheme: str) -> str:
    """Return a line that ``mailauth passwd`` writes."""
    done = subprocess.run(
        command("passwd", name, "--scheme", scheme),
        input=f"{PASSWORD}\n", capture_output=True, encoding="utf-8", timeout=60, env=environment(),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


Make = Callable[[str], sasl.ClientMechanism]
"""Makes a mechanism from its secret, for the account ``plain``, which supports every mechanism."""

MAKE: dict[str, Make] = {
    "PLAIN": lambda secret: sasl.PlainClient(authentication_identity="plain", password=secret.encode()),
    "LOGIN": lambda secret: sasl.LoginClient(authentication_identity="plain", password=secret.encode()),
    "CRAM-MD5": lambda secret: sasl.CramMd5Client(authentication_identity="plain", password=secret.encode()),
    "SCRAM-SHA-1": lambda secret: sasl.ScramSha1Client(
        authentication_identity="plain", password=secret.encode(), entropy=secrets.token_bytes(16)
    ),
    "SCRAM-SHA-256": lambda secret: sasl.ScramSha256Client(
        authentication_identity="plain", password=secret.encode(), entropy=secrets.token_bytes(16)
    ),
}
POP3_ONLY: dict[str, Make] = {
    "USER": lambda secret: sasl.UserPassClient(authentication_identity="ascii", password=secret.encode()),
    "APOP": lambda secret: sasl.ApopClient(authentication_identity="ascii", password=secret.encode()),
}
BY_TOKEN: dict[str, Callable[[bytes], sasl.ClientMechanism]] = {
    "OAUTHBEARER": lambda data: sasl.OauthBearerClient(token=data, authorization_identity="plain"),
    "XOAUTH2": lambda data: sasl.Xoauth2Client(token=data, authorization_identity="plain"),
}


def context(server: Dovecot, common_name: str | None = None) -> ssl.SSLContext:
    """The TLS context of a client, with a certificate for *common_name* if given."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.authority.configure_trust(made)
    if common_name is not None:
        server.authority.issue_cert("client.test", common_name=common_name).configure_cert(made)
    return made


@on_both_loops
@by_both_protocols
@on_both_ports
@pytest.mark.parametrize("name", MAKE)
def test_our_clients_log_in_by_password(server: Dovecot, run: Run, login: Login, upgrade: bool, name: str) -> None:
    async def main() -> None:
        assert await login(server.ports, context(server), MAKE[name](PASSWORD), upgrade) == "ok"

    run(main)


@on_both_loops
@on_both_ports
@pytest.mark.parametrize("name", POP3_ONLY)
def test_our_pop3_client_logs_in_with_user_and_apop(server: Dovecot, run: Run, upgrade: bool, name: str) -> None:
    """RFC 1939 section 7.  A non-ASCII password would require UTF8 (RFC 6856 section 2.2), which Dovecot lacks."""

    async def main() -> None:
        assert await pop3_login(server.ports, context(server), POP3_ONLY[name](ASCII), upgrade) == "ok"

    run(main)


@on_both_loops
@by_both_protocols
@on_both_ports
@pytest.mark.parametrize("name", BY_TOKEN)
def test_our_clients_log_in_by_token(server: Dovecot, run: Run, login: Login, upgrade: bool, name: str) -> None:
    """RFC 7628."""

    async def main() -> None:
        assert await login(server.ports, context(server), BY_TOKEN[name](token("plain")), upgrade) == "ok"

    run(main)


@on_both_loops
@by_both_protocols
@on_both_ports
def test_our_clients_log_in_by_certificate(server: Dovecot, run: Run, login: Login, upgrade: bool) -> None:
    """RFC 4422 appendix A."""

    async def main() -> None:
        assert await login(server.ports, context(server, "plain"), sasl.ExternalClient(), upgrade) == "ok"

    run(main)


# Dovecot delays a failed login by half a second, so these tests do not run in every combination.


@by_both_protocols
@pytest.mark.parametrize("name", MAKE)
def test_wrong_password_is_rejected(server: Dovecot, login: Login, name: str) -> None:
    """The client detects it in Dovecot's reply."""

    async def main() -> None:
        assert await login(server.ports, context(server), MAKE[name](WRONG), False) == refused(login)

    run_on_asyncio(main)


@by_both_protocols
@pytest.mark.parametrize("name", BY_TOKEN)
def test_forged_token_is_rejected_with_a_json_error(server: Dovecot, login: Login, name: str) -> None:
    """RFC 7628 section 3.2.2: the client keeps the error it received."""
    forged = BY_TOKEN[name](token("plain", key=b"another key"))

    async def main() -> None:
        assert await login(server.ports, context(server), forged, False) == refused(login)

    run_on_asyncio(main)
    assert isinstance(forged, sasl.OauthBearerClient | sasl.Xoauth2Client)
    assert b'"status"' in (forged.failure or b"")


@by_both_protocols
def test_external_without_a_certificate_is_rejected(server: Dovecot, login: Login) -> None:
    """Dovecot offers it to all clients."""

    async def main() -> None:
        assert await login(server.ports, context(server), sasl.ExternalClient(), False) == refused(login)

    run_on_asyncio(main)


@on_both_loops
@by_both_protocols
def test_scram_login_with_our_stored_keys_succeeds(server: Dovecot, run: Run, login: Login) -> None:
    """RFC 7677: Dovecot proves its identity with the ServerKey in the file."""

    scram = sasl.ScramSha256Client(
        authentication_identity="scram-sha-256", password=PASSWORD.encode(), entropy=secrets.token_bytes(16)
    )

    async def main() -> None:
        assert await login(server.ports, context(server), scram, False) == "ok"

    run(main)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_dovecot_authenticates_with_our_accounts_file(server: Dovecot, scheme: str) -> None:
    """``doveadm auth test`` queries the running server."""
    assert server.auth_test(scheme.lower(), PASSWORD)
    assert not server.auth_test(scheme.lower(), WRONG)


@on_both_loops
def test_mechanism_that_dovecot_does_not_offer_is_not_tried(server: Dovecot, run: Run) -> None:
    """Dovecot does not support the -PLUS form."""
    bound = sasl.ScramSha256PlusClient(
        authentication_identity="plain", password=b"x", entropy=bytes(16),
        channel_binding="tls-server-end-point", binding_data=bytes(32),
    )  # fmt: skip

    async def main() -> None:
        for login in (smtp_login, pop3_login):
            assert await login(server.ports, context(server), bound, False) == "not offered"

    run(main)
