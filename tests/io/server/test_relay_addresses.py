"""A next hop with several addresses: which of them are tried, and for how long."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

import anyio
import pytest

from mailauth import smtp
from mailauth_io import server
from mailauth_io.server import _next_hop_session, _relay
from tests.io import loops
from tests.io.next_hops import (
    BY_STARTTLS,
    FAR,
    IN_CLEAR,
    INSIDE_TLS,
    Double,
    Fault,
    logged_in,
    relay_to,
    relaying,
    send,
)
from tests.io.scripted_hop import Break, ScriptedHop
from tests.io.server_support import Run, Served, on_both_loops
from tests.io.tls import client_context, server_context

pytestmark = on_both_loops

HELLO: Final = b"220 far.test ESMTP\r\n"


@pytest.mark.parametrize("implicit_tls", [False, True])
def test_next_address_is_tried_when_one_is_unavailable(
    run: Run, implicit_tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 5321 section 5.1.  The certificate must be valid for the name of the next hop, not for the address."""
    monkeypatch.setattr(_next_hop_session, "resolve", lambda host, port: ["127.0.0.9", "127.0.0.1"])
    double = Double()

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            assert send(smtp, FAR)[-1].startswith("250")

    options = {"ssl_context": client_context(), "implicit_tls": True} if implicit_tls else IN_CLEAR
    relaying(run, double, client, **options)
    assert double.connections == 1


@pytest.mark.parametrize(
    ("greeting", "replies"),
    [
        (b"421 4.3.2 busy\r\n", {}),
        (b"554 no SMTP service here\r\n", {}),
        (b"220-far.test\r\n521 5.7.1 blocked\r\n", {}),
        (b"", {}),
        (b"SSH-2.0-x\r\n", {}),
        (HELLO, {"EHLO": b"421 4.3.2 busy\r\n"}),
        (HELLO, {"EHLO": b"550 no\r\n", "HELO": b"550 no\r\n"}),
        (HELLO, {"EHLO": b""}),
    ],
)
def test_next_address_is_tried_when_one_rejects_the_session(
    run: Run, monkeypatch: pytest.MonkeyPatch, greeting: bytes, replies: dict[str, bytes]
) -> None:
    """RFC 5321 section 5.1: another address may be another server.  Mail is sent to one of them only."""
    monkeypatch.setattr(_next_hop_session, "resolve", lambda host, port: ["127.0.0.9", "127.0.0.1"])
    double = Double()

    def client(served: Served) -> None:
        assert isinstance(served.stores.outbox, server.NextHop)
        first = ScriptedHop(host="127.0.0.9", port=served.stores.outbox.port, greeting=greeting, replies=replies)
        with first.listening(), logged_in(served) as smtp:
            assert send(smtp, FAR)[-1].startswith("250")
        assert len(first.clear) == 1
        assert b"MAIL" not in first.clear[0]

    relaying(run, double, client, **IN_CLEAR)
    assert len(double.taken) == 1


@pytest.mark.parametrize("addresses", [["127.0.0.9", "127.0.0.1"], ["127.0.0.1", "127.0.0.9"]])
def test_rejection_is_reported_if_no_address_accepts_the_session(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, addresses: list[str]
) -> None:
    """It says more than the refused connection to the other address."""
    monkeypatch.setattr(_next_hop_session, "resolve", lambda host, port: addresses)
    hop = ScriptedHop(greeting=b"421 4.3.2 busy\r\n")

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            assert send(smtp, FAR)[0] == "451 4.3.2 busy"

    with hop.listening():
        run(lambda: relay_to(hop.port, client, **IN_CLEAR))
    assert "421 4.3.2 busy" in caplog.text
    assert "refused" not in caplog.text.lower()


def test_next_address_is_not_tried_when_one_rejects_the_mail(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_next_hop_session, "resolve", lambda host, port: ["127.0.0.9", "127.0.0.1"])
    double = Double()

    def client(served: Served) -> None:
        assert isinstance(served.stores.outbox, server.NextHop)
        replies = {"MAIL": b"451 4.7.1 greylisted\r\n"}
        first = ScriptedHop(host="127.0.0.9", port=served.stores.outbox.port, replies=replies)
        with first.listening(), logged_in(served) as smtp:
            assert send(smtp, FAR)[0] == "451 4.7.1 greylisted"

    relaying(run, double, client, **IN_CLEAR)
    assert double.connections == 0


def two_servers(run: Run, first: Double, second: Double, client: Callable[[Served], object], **options: Any) -> None:
    """Call ``relay_to`` with a next hop that has the address of *first* and then that of *second*."""

    async def main() -> None:
        serve = loops.current().adapter.serve_smtp
        tls: dict[str, Any] = {"ssl_context": server_context(), "implicit_tls": options.get("implicit_tls", False)}
        async with (
            serve(second.session, second.settings, grace=0.1, **tls) as listener,
            serve(first.session, first.settings, host="127.0.0.9", port=listener.port, grace=0.1, **tls),
        ):
            await relay_to(listener.port, client, **options)

    run(main)


@pytest.mark.parametrize("step", [smtp.Connected, smtp.Hello, smtp.StartTls])
def test_next_address_is_tried_when_one_is_silent(
    run: Run, monkeypatch: pytest.MonkeyPatch, step: type[object]
) -> None:
    """The last one may take the rest of the 270 seconds."""
    monkeypatch.setattr(_next_hop_session, "resolve", lambda host, port: ["127.0.0.9", "127.0.0.1"])
    silent, double = Double(deeds={step: [Fault.FALL_SILENT]}), Double()

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            assert send(smtp, FAR)[-1].startswith("250")

    two_servers(run, silent, double, client, timeouts=server.Timeouts(connect=0.5), **BY_STARTTLS)
    assert (len(double.taken), silent.mails) == (1, [])


def test_next_address_is_tried_when_one_is_silent_in_the_tls_handshake(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_next_hop_session, "resolve", lambda host, port: ["127.0.0.9", "127.0.0.1"])
    double = Double()

    def client(served: Served) -> None:
        assert isinstance(served.stores.outbox, server.NextHop)
        with socket.create_server(("127.0.0.9", served.stores.outbox.port)), logged_in(served) as smtp:
            assert send(smtp, FAR)[-1].startswith("250")

    relaying(run, double, client, timeouts=server.Timeouts(connect=0.5), **INSIDE_TLS)
    assert len(double.taken) == 1


def test_last_address_is_not_limited_by_the_time_for_the_others(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC 5321 section 4.5.3.2.1: a greeting may take long."""
    limits: list[float | None] = []

    def noted(seconds: float | None) -> AbstractContextManager[object]:
        limits.append(seconds)
        return anyio.fail_after(seconds)

    for module in (_relay, _next_hop_session):
        monkeypatch.setattr(module, "fail_after", noted)
    monkeypatch.setattr(_next_hop_session, "resolve", lambda host, port: ["127.0.0.9", "127.0.0.8", "127.0.0.1"])

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            assert send(smtp, FAR)[-1].startswith("250")

    relaying(run, Double(), client, **IN_CLEAR)
    assert limits[:4] == [270.0, 30.0, 30.0, None]


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("breaks", [Break.CLOSED, Break.GARBAGE, Break.WRONG_CERTIFICATE])
def test_next_address_is_tried_when_starttls_fails_at_one(
    run: Run, monkeypatch: pytest.MonkeyPatch, required: bool, breaks: Break
) -> None:
    """No mail is sent in clear text if another address has TLS."""
    monkeypatch.setattr(_next_hop_session, "resolve", lambda host, port: ["127.0.0.9", "127.0.0.1"])
    double = Double()

    def client(served: Served) -> None:
        assert isinstance(served.stores.outbox, server.NextHop)
        first = ScriptedHop(breaks, host="127.0.0.9", port=served.stores.outbox.port)
        with first.listening(), logged_in(served) as smtp:
            assert send(smtp, FAR)[-1].startswith("250")
        assert first.commands() == [["EHLO", "STARTTLS"]]

    relaying(run, double, client, tls_required=required, **BY_STARTTLS)
    assert double.in_clear == ["Connected", "Hello", "StartTls"]
    assert len(double.taken) == 1


@pytest.mark.parametrize("addresses", [["127.0.0.9", "127.0.0.1"], ["127.0.0.1", "127.0.0.9"]])
def test_clear_text_is_used_if_starttls_fails_and_the_other_addresses_are_unavailable(
    run: Run, monkeypatch: pytest.MonkeyPatch, addresses: list[str]
) -> None:
    monkeypatch.setattr(_next_hop_session, "resolve", lambda host, port: addresses)
    hop = ScriptedHop(Break.CLOSED)

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            assert send(smtp, FAR)[-1].startswith("250")

    with hop.listening():
        run(lambda: relay_to(hop.port, client, tls_required=False, **BY_STARTTLS))
    assert [commands[:3] for commands in hop.commands()] == [["EHLO", "STARTTLS"], ["EHLO", "MAIL", "RCPT"]]
