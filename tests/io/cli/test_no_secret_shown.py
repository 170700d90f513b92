"""No secret in the repr of a value made from options and files of ``mailauth serve`` (architecture.md, invariant 6)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from mailauth import LocalProtocolError, sasl
from mailauth_io import logs, server, stores
from mailauth_io.cli import config, main as cli, parsers
from mailauth_io.server.state import ServerState
from mailauth_io.stores.credentials import read_credential
from mailauth_io.stores.redis_address import RedisAddress
from tests.io.server_support import Clock, Run, on_both_loops
from tests.test_secret_properties import SECRET, showing


@on_both_loops
def test_neither_settings_nor_accounts_show_a_secret(run: Run, tmp_path: Path) -> None:
    """Passwords, hashes, derived keys and tokens."""
    path = tmp_path / "users"
    path.touch(mode=0o600)
    lines = [f"{scheme.lower()}:{stores.write_credential(scheme, SECRET)}\n" for scheme in ("PLAIN", "SCRAM-SHA-256")]
    path.write_text("".join(lines))
    text = SECRET.decode()
    parsers = ["serve", "--user", f"alice:{text}", "--token", f"alice:{text}", "--accounts", str(path)]
    settings = cli.settings_of(cli.build_parser().parse_args(parsers))
    serving = config.read(settings)
    server_state = ServerState.of(serving.config, serving.stores, Clock())
    accounts = server_state.authenticator

    async def main() -> None:
        for name in ("alice", "plain", "scram-sha-256"):
            assert await accounts.check_password(name, SECRET)
            keys = await accounts.scram_keys(name, "sha256")
            assert repr(keys.stored_key) not in repr(keys)
            assert repr(keys.server_key) not in repr(keys)
        assert await accounts.token_owner(SECRET) == "alice"
        assert not showing(settings, serving, server_state)

    run(main)
    hashed = lines[1].partition("}")[2].split(",")[-1].strip()
    assert not showing(settings, serving, server_state, secrets=[hashed])


SECRETS = [
    SECRET + b"\0",
    SECRET + b"\r\n",
    SECRET + b"\xff",
    SECRET + "\ufffd".encode(),
    SECRET + "\u05d0".encode(),
    SECRET * 60,
]
"""Each is invalid somewhere: NUL, a line end, invalid UTF-8, two that SASLprep prohibits, and one that is too long."""

TAKERS: dict[str, Callable[[bytes], object]] = {
    "PLAIN": lambda secret: sasl.PlainClient(authentication_identity="alice", password=secret).respond(None),
    "LOGIN": lambda secret: sasl.LoginClient(authentication_identity="alice", password=secret),
    "USER": lambda secret: sasl.UserPassClient(authentication_identity="alice", password=secret),
    "CRAM-MD5": lambda secret: sasl.CramMd5Client(authentication_identity="alice", password=secret),
    "APOP": lambda secret: sasl.ApopClient(authentication_identity="alice", password=secret),
    "SCRAM": lambda secret: sasl.ScramSha256Client(
        authentication_identity="alice", password=secret, entropy=bytes(32), could_bind=False
    ),
    "keys of SCRAM": lambda secret: sasl.scram_keys(secret, b"salt", 4096),
    "OAUTHBEARER": lambda secret: sasl.OauthBearerClient(token=secret),
    "XOAUTH2": lambda secret: sasl.Xoauth2Client(token=secret, authorization_identity="alice"),
    "every mechanism": lambda secret: sasl.password_mechanisms(
        "alice", secret, entropy=bytes(32), tls=None, clear_text=True
    ),
    "next hop": lambda secret: server.Login(name="alice", password=secret),
    "a hash": lambda secret: stores.write_credential("PLAIN", secret),
    "keys of a file": lambda secret: stores.write_credential("SCRAM-SHA-256", secret),
    "a field of a file": lambda secret: read_credential(b"{PLAIN:" + secret),
    "a scheme of a file": lambda secret: read_credential(b"{SCRAM-SHA-256}" + secret),
    "an account": lambda secret: stores.MemoryAccounts({"": secret}),
    "a word": lambda secret: parsers.user(secret.decode("latin-1")),
    "a token": lambda secret: parsers.token("alice:" + secret.decode("latin-1")),
    "a URL": lambda secret: parsers.next_hop(f"smtp://alice:{secret.decode('latin-1')}@host:25"),
    "Redis": lambda secret: RedisAddress.read(f"redis://host:{secret.decode('latin-1')}"),
    "Redis by a word": lambda secret: parsers.grants_location(f"redis://host:{secret.decode('latin-1')}"),
}
"""Functions that take a secret and may raise an exception about it."""


@pytest.mark.parametrize("taker", TAKERS.values(), ids=TAKERS)
def test_exception_tracebacks_do_not_show_secrets(taker: Callable[[bytes], object]) -> None:
    """A failed session is logged with the message and traceback of its exception and of the causes."""
    raised = 0
    for secret in SECRETS:
        try:
            taker(secret)
        except (LocalProtocolError, ValueError, stores.AccountsError) as error:
            record = logging.LogRecord("x", logging.ERROR, "", 0, logs.Event("session failed", {}), (), None)
            record.exc_info = (type(error), error, error.__traceback__)
            text = logs.JsonFormatter().format(record) + logs.describe_error(error)
            assert "Kitten" not in text
            raised += 1
    assert raised
