"""Our relay with real servers as the next hop: Postfix, Exim, sendmail, Courier and OpenSMTPD.

Skipped if they are not unpacked (``unpack_servers.sh``), which is an error with MAILAUTH_INTEROP=require; also skipped
without root.
"""

from __future__ import annotations

import smtplib
from pathlib import Path
from typing import Any

import pytest

from mailauth_io import server
from tests.interop.client_config import HOST
from tests.interop.peers import DINAH, NAME, PASSWORD, Peer
from tests.interop.smtp_peers import OPENSMTPD, POSTFIX
from tests.interop.smtp_servers import (
    BLOCKED,
    SERVERS,
    Start,
    body_of,
    every_server,
    every_server_with_tls,
    make_message,
)
from tests.io.next_hops import BY_STARTTLS, IN_CLEAR, INSIDE_TLS, LOCAL, logged_in, relay_to, send
from tests.io.server_support import PASSWORD as OUR_PASSWORD, Run, Served, on_both_loops, run_on_asyncio
from tests.io.tls import client_context
from tests.serving import served

SECURE = pytest.mark.parametrize("hop", [BY_STARTTLS, INSIDE_TLS], ids=["starttls", "implicit"])


def port_of(peer: Peer, hop: dict[str, Any]) -> int:
    port = peer.ports.smtps if hop.get("implicit_tls") else peer.ports.smtp
    assert port is not None
    return port


def relayed(served: Served, *recipients: str, body: bytes = b".\r\n..dots\r\nbody\r\n") -> tuple[bytes, list[str]]:
    """Send a message to our server as a client that has logged in; return its mark and the replies."""
    mark, message = make_message(body)
    with logged_in(served) as smtp_client:
        return mark, send(smtp_client, *recipients, content=message)


@on_both_loops
@every_server
def test_mail_is_relayed_in_clear_text(start: Start, run: Run, name: str) -> None:
    """A rejected recipient is rejected at its RCPT, with the reply of the next hop."""
    peer = start(SERVERS[name].recipe)

    def relay(served: Served) -> bytes:
        mark, replies = relayed(served, DINAH, LOCAL, "unknown@far.test")
        assert [reply[:3] for reply in replies] == ["250", "250", "550", "250"]
        return mark

    mark = run(lambda: relay_to(port_of(peer, IN_CLEAR), relay, **IN_CLEAR))
    assert body_of(peer.delivered(mark)) == b".\n..dots\nbody\n"


@on_both_loops
@SECURE
@every_server_with_tls
def test_mail_is_relayed_with_a_login_inside_tls(start: Start, run: Run, name: str, hop: dict[str, Any]) -> None:
    peer = start(SERVERS[name].recipe)
    login = server.Login(name=NAME, password=PASSWORD.encode())

    def relay(served: Served) -> bytes:
        mark, replies = relayed(served, DINAH)
        assert [reply[:3] for reply in replies] == ["250", "250"]
        return mark

    mark = run(lambda: relay_to(port_of(peer, hop), relay, login=login, **hop))
    assert b"ESMTPSA" in peer.delivered(mark).upper()


@every_server_with_tls
def test_wrong_password_at_the_next_hop_gives_451(start: Start, name: str) -> None:
    peer = start(SERVERS[name].recipe)
    login = server.Login(name=NAME, password=b"open poppy")

    def relay(served: Served) -> None:
        assert relayed(served, DINAH)[1][0].startswith("451 4.4.1")

    run_on_asyncio(lambda: relay_to(port_of(peer, BY_STARTTLS), relay, login=login, **BY_STARTTLS))


@pytest.mark.parametrize("name", [name for name, each in SERVERS.items() if each.blocked])
def test_reply_code_of_a_site_is_passed_on_as_a_rejection(start: Start, name: str) -> None:
    peer = start(SERVERS[name].recipe)

    def relay(served: Served) -> None:
        assert relayed(served, BLOCKED.replace("example", "far"), DINAH)[1][0].startswith("554 5.7.1")

    run_on_asyncio(lambda: relay_to(port_of(peer, IN_CLEAR), relay, **IN_CLEAR))


@on_both_loops
def test_next_hop_that_has_closed_an_idle_connection_is_connected_again(start: Start, run: Run) -> None:
    """Postfix sends 421 before it closes.  That is not the reply to the next command."""
    peer = start(POSTFIX)

    def relay(served: Served) -> bytes:
        with logged_in(served) as smtp_client:
            (mark, message), (mark_2, message_2) = make_message(), make_message()
            assert send(smtp_client, DINAH, content=message)[-1].startswith("250")
            closed = peer.log().count("timeout after")
            peer.delivered(mark)
            while peer.log().count("timeout after") == closed:
                peer.wait_for("timeout after")
            assert send(smtp_client, DINAH, content=message_2)[-1].startswith("250")
            return mark_2

    peer.delivered(run(lambda: relay_to(peer.impatient or 0, relay, **IN_CLEAR)))


def test_next_hop_whose_tls_fails_gets_clear_text_only_without_a_login(start: Start) -> None:
    """OpenSMTPD of Debian 12 offers STARTTLS, and ends every handshake with an alert."""
    peer = start(OPENSMTPD)
    opportunistic: dict[str, Any] = {"ssl_context": client_context(), "tls_required": False}

    def relay(served: Served) -> tuple[bytes, list[str]]:
        return relayed(served, DINAH)

    mark, replies = run_on_asyncio(lambda: relay_to(port_of(peer, {}), relay, **opportunistic))
    assert [reply[:3] for reply in replies] == ["250", "250"]
    assert body_of(peer.delivered(mark)) == b".\n..dots\nbody\n"
    login = server.Login(name=NAME, password=PASSWORD.encode())
    _, replies = run_on_asyncio(lambda: relay_to(port_of(peer, {}), relay, login=login, **opportunistic))
    assert replies[0].startswith("451 4.4.1")


def test_mailauth_serve_relays_with_a_login(start: Start, tmp_path: Path) -> None:
    """The options of the command: a URL with a user name, a password file, and the CA."""
    peer = start(POSTFIX)
    mark, message = make_message()
    password = tmp_path / "password"
    password.touch(mode=0o600)
    password.write_text(PASSWORD)
    options = (
        *("--legacy", "--user", f"{NAME}:{OUR_PASSWORD}"),
        *("--relay-to", f"smtps://{NAME}@{HOST}:{peer.ports.smtps}", "--relay-password-file", str(password)),
        *("--relay-ca", str(peer.home / "authority.pem")),
    )
    with (
        served(tmp_path, *options) as ours,
        smtplib.SMTP(HOST, ours.port("smtp"), "client.test", timeout=20) as smtp_client,
    ):
        smtp_client.login(NAME, OUR_PASSWORD)
        assert not smtp_client.sendmail(LOCAL, [DINAH], message)
    assert body_of(peer.delivered(mark)) == b"body\n"
