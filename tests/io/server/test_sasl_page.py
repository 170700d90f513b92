"""The programs in docs/sasl.md work; the token store with the server, on both loops and by both protocols."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import attrs
import pytest

from examples.sasl_mechanism import MECHANISMS, TicketClient, TicketOffice
from mailauth import pop3, sasl, smtp
from mailauth_io import server
from mailauth_io.on_asyncio import serve_pop3, serve_smtp
from tests.io.logins import Login, by_both_protocols, refused
from tests.io.server_support import Run, at_once, on_both_loops, run_on_asyncio
from tests.io.tls import authority, client_context, layers, server_context

PAGE = (Path(__file__).parents[3] / "docs" / "sasl.md").read_text(encoding="utf-8")


PROGRAMS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def run_program(number: int) -> dict[str, Any]:
    """Run a program of the page, and return its names."""
    names: dict[str, Any] = {}
    exec(PROGRAMS[number], names)
    return names


def test_rule_for_the_next_mechanism_in_the_documentation_is_followed() -> None:
    found = sasl.password_mechanisms("alice", b"wonderland", entropy=bytes(32), tls=None, clear_text=True)
    scram, plain = (next(each for each in found if each.name == name) for name in ("SCRAM-SHA-256", "PLAIN"))
    next_mechanisms = run_program(0)["next_mechanisms"]
    assert next_mechanisms((scram, plain), scram, smtp.Reply(535, "5.7.8", "no"), 1) == (plain,)
    assert next_mechanisms((scram, plain), scram, smtp.Reply(454, "4.7.0", "later"), 1) == ()


def test_mechanisms_in_the_documentation_are_offered_with_their_prompt() -> None:
    mechanisms = run_program(1)["mechanisms"]
    settings = smtp.ServerSettings(mechanisms=mechanisms, scram_decoy=sasl.ScramDecoy(key=bytes(16)))
    assert settings.mechanisms.names == ("SCRAM-SHA-256", "PLAIN", "LOGIN")
    login = mechanisms.create("LOGIN", sasl.Context(nonce="n", host_name="mx.example", tls=True))
    assert login.respond(None) == sasl.Challenge(b"User Name")


@on_both_loops
@by_both_protocols
def test_token_store_in_the_documentation_accepts_its_tokens_only(run: Run, login: Login) -> None:
    names = run_program(2)
    owners = {hashlib.sha256(token).digest(): name for token, name in ((b"one", "alice"), (b"two", "bob"))}
    config, kept = names["settings"](names["TokenAccounts"](owners), server_context())

    async def main() -> list[str]:
        ports = attrs.evolve(config, smtp=0, smtps=0, pop3=0, pop3s=0)
        async with server.serve(ports, kept, sleep=at_once) as running:
            return [
                await login(running, client_context(), mechanism, False)
                for mechanism in (
                    sasl.OauthBearerClient(token=b"one"),
                    sasl.Xoauth2Client(token=b"two", authorization_identity="bob"),
                    sasl.Xoauth2Client(token=b"two", authorization_identity="alice"),
                    sasl.OauthBearerClient(token=b"three"),
                    sasl.PlainClient(authentication_identity="alice", password=b"one"),
                )
            ]

    assert run(main) == ["ok", "ok", refused(login), refused(login), "not offered"]


def test_anonymous_mechanism_in_the_documentation_logs_a_guest_in() -> None:
    """The program ends with assertions."""
    exchange = run_program(3)["exchange"]
    assert exchange.mechanism == "ANONYMOUS"


@pytest.mark.parametrize("protocol", ["smtp", "pop3"])
def test_client_in_the_documentation_logs_in_with_another_mechanism_after_tls(protocol: str) -> None:
    log_in = run_program(4)[f"log_in_to_{protocol}"]
    office = TicketOffice()
    ticket = office.issue("alice")

    async def main() -> list[bool]:
        if protocol == "smtp":
            smtp_settings = smtp.ServerSettings(mechanisms=MECHANISMS, starttls=True)
            serving = serve_smtp(office.smtp_session, smtp_settings, ssl_context=server_context())
        else:
            pop3_settings = pop3.ServerSettings(mechanisms=MECHANISMS, stls=True)
            serving = serve_pop3(office.pop3_session, pop3_settings, ssl_context=server_context())
        async with serving as listener:
            return [await log_in("localhost", listener.port, client_context(), TicketClient(ticket)) for _ in range(2)]

    assert run_on_asyncio(main) == [True, False]


def test_plus_client_in_the_documentation_is_bound_to_the_connection() -> None:
    """A man in the middle has another certificate, so the same login fails through it."""
    names = run_program(5)
    authority().issue_cert("localhost").configure_cert(names["context"])
    here, there = layers(names["context"])
    keys = sasl.scram_keys(b"wonderland", salt=b"salt", iterations=4096, hash_name="sha256")
    for bindings, succeeds in ((there.tls.channel_bindings, True), ({names["NAME"]: b"other"}, False)):
        client = names["plus_client"](bindings)
        server_side = sasl.ScramSha256PlusServer(
            nonce="n", tls=True, decoy=sasl.ScramDecoy(key=bytes(16)), channel_bindings=here.tls.channel_bindings
        )
        assert isinstance(server_side.respond(client.respond(None)), sasl.FetchScramKeys)
        challenge = server_side.resolve(keys)
        assert isinstance(challenge, sasl.Challenge)
        result = server_side.respond(client.respond(challenge.data))
        assert isinstance(result, sasl.Success) is succeeds


def test_every_program_is_run() -> None:
    assert len(PROGRAMS) == 6
