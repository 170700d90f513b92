"""If TLS is required, nothing is sent to the next hop without it, and credentials only go to a verified next hop."""

from __future__ import annotations

import smtplib
import ssl
from typing import Any

import pytest

from mailauth import sasl, smtp
from mailauth_io import server, stores
from tests.io import loops
from tests.io.next_hops import (
    BY_STARTTLS,
    CONTENT,
    FAR,
    IN_CLEAR,
    INSIDE_TLS,
    OFFERS_STARTTLS,
    Double,
    logged_in,
    relaying,
    send,
)
from tests.io.server_support import PASSWORD, TIMEOUT, Run, Served, accounts, on_both_loops
from tests.io.tls import client_context, server_context

pytestmark = on_both_loops

LOGIN = server.Login(name="relayuser@far.test", password=b"hop secret")


def first_reply(run: Run, double: Double, **hop: Any) -> str:
    """Return the reply to the client's RCPT for a remote recipient."""

    def client(served: Served) -> str:
        with logged_in(served) as smtp:
            return send(smtp, FAR)[0]

    return relaying(run, double, client, **hop)


@pytest.mark.parametrize("tls_mode", [BY_STARTTLS, INSIDE_TLS], ids=["STARTTLS", "implicit"])
def test_mail_and_login_are_sent_inside_tls(
    run: Run, tls_mode: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    double = Double()
    assert first_reply(run, double, login=LOGIN, **tls_mode).startswith("250")
    assert double.logins == [("relayuser@far.test", b"hop secret")]
    assert set(double.in_clear) <= {"Connected", "Hello", "StartTls"}
    assert len(double.taken) == 1
    for word in ("hop secret", PASSWORD):
        assert word not in caplog.text
        assert word not in repr(LOGIN)


@pytest.mark.parametrize("login", [LOGIN, None], ids=["login", "no login"])
def test_missing_starttls_gives_451_if_tls_is_required(
    run: Run, login: server.Login | None, caplog: pytest.LogCaptureFixture
) -> None:
    """RFC 3207 section 6."""
    double = Double(settings=smtp.ServerSettings(mechanisms_without_tls=frozenset({"PLAIN"})))
    assert first_reply(run, double, login=login, **BY_STARTTLS).startswith("451 4.4.1")
    assert set(double.heard) == {"Connected", "Hello"} | ({"Quit"} & set(double.heard))
    assert double.logins == []
    assert "TLS is required and not available" in caplog.text


def test_rejected_starttls_gives_451_if_tls_is_required(run: Run) -> None:
    double = Double(deeds={smtp.StartTls: [smtp.Reply(454, "4.7.0", "not now")]})
    assert first_reply(run, double, **BY_STARTTLS).startswith("451 4.4.1")
    assert double.mails == []


@pytest.mark.parametrize("tls_mode", [BY_STARTTLS, INSIDE_TLS], ids=["STARTTLS", "implicit"])
def test_untrusted_certificate_of_next_hop_gives_451(
    run: Run, tls_mode: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """RFC 8314 section 4.1: a next hop without a trusted certificate may be an attacker."""
    double = Double()
    hop = {**tls_mode, "ssl_context": ssl.create_default_context()}
    assert first_reply(run, double, login=LOGIN, **hop).startswith("451 4.4.1")
    assert (double.logins, double.mails) == ([], [])
    assert (
        "the certificate is not valid: unable to get local issuer certificate; use --relay-ca FILE, or" in caplog.text
    )


@pytest.mark.parametrize("settings", [OFFERS_STARTTLS, smtp.ServerSettings()], ids=["offered", "not offered"])
def test_optional_tls_is_used_if_offered(run: Run, settings: smtp.ServerSettings) -> None:
    """RFC 7435: TLS without authentication is better than clear text."""
    double = Double(settings=settings)
    assert first_reply(run, double, ssl_context=client_context(), **IN_CLEAR).startswith("250")
    assert ("Mail" in double.in_clear) == (settings is not OFFERS_STARTTLS)


@pytest.mark.parametrize(("names", "logged"), [(("PLAIN",), "login rejected with 535"), ((), "does not offer")])
def test_failed_login_at_next_hop_gives_451(
    run: Run, names: tuple[str, ...], logged: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The client must not be asked to log in again, and its mail must not bounce."""
    settings = smtp.ServerSettings(starttls=True, mechanisms=sasl.DEFAULT_MECHANISMS.only(*names))
    double = Double(deeds={sasl.CheckPassword: [smtp.Reply(535)]}, settings=settings)
    assert first_reply(run, double, login=LOGIN, **BY_STARTTLS).startswith("451 4.4.1")
    assert double.mails == []
    assert logged in caplog.text
    assert "hop secret" not in caplog.text


@pytest.mark.parametrize("password", [b"", b"two\nlines"], ids=["empty", "two lines"])
def test_login_rejects_password_that_cannot_be_sent(run: Run, password: bytes) -> None:
    with pytest.raises(ValueError, match=r"cannot be sent|must"):
        server.Login(name="relayuser", password=password)


@pytest.mark.parametrize("password", [b"gr\xfcn", "\N{GRINNING FACE}".encode()], ids=["Latin-1", "emoji"])
def test_password_that_scram_cannot_send_needs_tls_or_a_clear_text_login(run: Run, password: bytes) -> None:
    """Without TLS only SCRAM may be used, which prepares the password by SASLprep (RFC 5802 section 2.2)."""
    login = server.Login(name="relayuser", password=password)
    server.NextHop(host="h", port=25, login=login, ssl_context=client_context())
    server.NextHop(host="h", port=25, login=login, tls_required=False, clear_text_login=True)
    with pytest.raises(ValueError, match="SCRAM, the only mechanism that may be used without TLS, cannot send"):
        server.NextHop(host="h", port=25, login=login, tls_required=False)
    with pytest.raises(ValueError, match="SCRAM-SHA-256 cannot send this user name and password"):
        server.NextHop(host="h", port=25, login=login, ssl_context=client_context(), mechanism="SCRAM-SHA-256")


@pytest.mark.parametrize("implicit_tls", [False, True], ids=["STARTTLS", "implicit"])
def test_server_relays_to_another_with_its_own_login(
    run: Run, implicit_tls: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The first server relays with its own login, not with that of its client."""
    caplog.set_level("INFO", "mailauth_io.server")
    outbox = stores.MemoryOutbox()

    def ports(name: str, outbox: stores.Outbox | server.NextHop) -> Any:
        kept = server.Stores(accounts=accounts(), maildrops=stores.MemoryMaildrops(), outbox=outbox)
        return server.serve(server.Config(smtp=0, smtps=0, ssl_context=server_context(), domains=(name,)), kept)

    async def main() -> None:
        async with ports("second.test", outbox) as second:
            hop = server.NextHop(
                host="127.0.0.1", port=second.smtps if implicit_tls else second.smtp, implicit_tls=implicit_tls,
                ssl_context=client_context(), login=server.Login(name="bob", password=b"other"),
            )  # fmt: skip
            async with ports("first.test", hop) as first:
                await loops.current().in_thread(client, first)

    def client(first: server.RunningServer) -> None:
        with smtplib.SMTP_SSL("127.0.0.1", first.smtps or 0, timeout=TIMEOUT, context=client_context()) as smtp:
            smtp.login("alice", PASSWORD)
            assert send(smtp, FAR)[-1].startswith("250")

    run(main)
    (message,) = outbox.messages
    assert message.envelope.recipients == (FAR,)
    received, _, content = message.data.partition(b"Subject:")
    assert b"Subject:" + content == CONTENT
    by = [line.split()[1] for line in received.splitlines() if line.startswith(b"\tby")]
    assert by == [b"second.test", b"first.test"]
    assert received.count(b"with ESMTPSA") == 2
    assert "mechanism=SCRAM-SHA-256 identity=bob" in caplog.text
    assert "reason=IDENTITY by=bob" in caplog.text
