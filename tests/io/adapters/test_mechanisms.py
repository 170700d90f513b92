"""Servers that offer SCRAM over sockets, on both loops: the settings select the machine."""

from __future__ import annotations

import attrs

from mailauth import ACCEPT, Question, pop3, sasl, smtp
from mailauth_io.adapters.connection import AsyncServerConnection
from tests.io import loops
from tests.io.line_echo import on_both_loops
from tests.io.tls import client_context, server_context

DECOY = sasl.ScramDecoy(key=b"a key for decoys")
KEYS = sasl.scram_keys(b"wonderland", b"salt", 4096)
SCRAM = sasl.ALL_MECHANISMS.only("SCRAM-SHA-256")
ALICE = sasl.ScramSha256Client(authentication_identity="alice", password=b"wonderland", entropy=bytes(range(32)))


async def submission(connection: AsyncServerConnection[smtp.ServerEvent]) -> None:
    async for event in connection:
        match event:
            case sasl.FetchScramKeys(authentication_identity=name) as question:
                connection.answer(question, KEYS if name == "alice" else None)
            case smtp.Connected() as connected:
                connection.answer(connected, ACCEPT)
            case Question() as other:
                connection.answer(other, other.unavailable)
            case _:
                pass


async def maildrop(connection: AsyncServerConnection[pop3.ServerEvent]) -> None:
    async for event in connection:
        match event:
            case sasl.FetchScramKeys(authentication_identity=name) as question:
                connection.answer(question, KEYS if name == "alice" else None)
            case pop3.OpenMaildrop() as opening:
                connection.answer(opening, pop3.Maildrop())
            case pop3.Connected() as connected:
                connection.answer(connected, ACCEPT)
            case Question() as other:
                connection.answer(other, other.unavailable)
            case _:
                pass


@on_both_loops
async def test_scram_over_smtp(loop: loops.Loop) -> None:
    """RFC 7677 inside implicit TLS; a wrong password fails."""
    settings = smtp.ServerSettings(mechanisms=SCRAM, scram_decoy=DECOY)
    async with loop.adapter.serve_smtp(
        submission, settings, ssl_context=server_context(), implicit_tls=True
    ) as listener:
        for client, end in (
            (attrs.evolve(ALICE, password=b"looking-glass"), smtp.AuthenticationRejected),
            (ALICE, sasl.Authenticated),
        ):
            async with await loop.adapter.connect(
                lambda tls: smtp.ClientConnection(tls=tls),
                "127.0.0.1",
                listener.port,
                ssl_context=client_context(),
                implicit_tls=True,
            ) as connection:
                await anext(connection)
                connection.send(smtp.Hello(domain="client.example.org"))
                await anext(connection)
                connection.authenticate(client)
                assert isinstance(await anext(connection), end)


@on_both_loops
async def test_scram_over_pop3(loop: loops.Loop) -> None:
    """RFC 5034 with RFC 7677; allowed without TLS if the settings name it."""
    settings = pop3.ServerSettings(mechanisms=SCRAM, mechanisms_without_tls=frozenset(SCRAM.names), scram_decoy=DECOY)
    async with (
        loop.adapter.serve_pop3(maildrop, settings) as listener,
        await loop.adapter.connect(pop3.ClientConnection(), "127.0.0.1", listener.port) as connection,
    ):
        await anext(connection)
        connection.send(pop3.Capa())
        await anext(connection)
        connection.authenticate(ALICE)
        assert isinstance(await anext(connection), sasl.Authenticated)
