"""Clear text to the next hop: never a login without both options, however STARTTLS fails."""

from __future__ import annotations

import base64
import re
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final, TypeVar

import pytest

from mailauth import sasl
from mailauth_io import server
from mailauth_io.server._next_hop_state import NextHopState
from mailauth_io.server._relay import check_next_hop
from tests.io.next_hops import FAR, LOCAL, logged_in, relay_to, send
from tests.io.scripted_hop import Break, ScriptedHop
from tests.io.server_support import Run, Served, on_both_loops
from tests.io.tls import client_context

pytestmark = on_both_loops

T = TypeVar("T")

PASSWORD: Final = b"hop secret"
LOGIN: Final = server.Login(name="relayuser@far.test", password=PASSWORD)
REQUIRED: Final[dict[str, Any]] = {"ssl_context": client_context()}


def opportunistic() -> dict[str, Any]:
    """Return the fields that ``--relay-tls opportunistic`` sets: any certificate is accepted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return {"ssl_context": context, "tls_required": False}


def relayed(run: Run, hop: ScriptedHop, client: Callable[[Served], T], **options: Any) -> T:
    """Run a server that relays to *hop*, and call *client*."""
    with hop.listening():
        return run(lambda: relay_to(hop.port, client, **options))


def one_message(served: Served) -> list[str]:
    with logged_in(served) as smtp:
        return send(smtp, FAR)


def shows(data: bytes) -> bool:
    """Return whether *data* contains the password, also in base64 at any offset."""
    forms = [base64.b64encode(b"\0" * offset + PASSWORD)[4:-4] for offset in range(3)]
    return any(form in data for form in (PASSWORD, *forms))


BREAKS = [each for each in Break if each is not Break.WRONG_CERTIFICATE]


@pytest.mark.parametrize(
    ("breaks", "mode"),
    [(each, mode) for each in BREAKS for mode in ("required", "opportunistic")]
    + [(Break.WRONG_CERTIFICATE, "required")],
)
def test_login_without_working_tls_sends_no_password_and_no_mail(
    run: Run, breaks: Break, mode: str, caplog: pytest.LogCaptureFixture
) -> None:
    """RFC 3207 section 6: no AUTH, no password and no MAIL is sent; the client gets 451."""
    hop = ScriptedHop(breaks)
    how = REQUIRED if mode == "required" else opportunistic()
    recipient, end = relayed(run, hop, one_message, login=LOGIN, **how)
    assert recipient.startswith("451 4.")
    assert not end.startswith("2")
    assert len(hop.clear) == 1
    (verbs,) = hop.commands()
    assert set(verbs) <= {"EHLO", "STARTTLS", "QUIT"}
    assert not shows(b"".join(hop.clear + hop.inside))
    assert b"".join(hop.inside) == b""
    assert "next hop failed" in caplog.text
    assert PASSWORD.decode() not in caplog.text


@pytest.mark.parametrize("breaks", [Break.CLOSED, Break.ALERT, Break.NOT_OFFERED])
def test_login_never_continues_in_plaintext_after_earlier_tls_failures(run: Run, breaks: Break) -> None:
    """The ten minutes without STARTTLS are for a next hop without a login only."""
    hop = ScriptedHop(breaks)

    def client(served: Served) -> None:
        for _ in range(3):
            assert one_message(served)[0].startswith("451 4.4.1")

    relayed(run, hop, client, login=LOGIN, **opportunistic())
    assert len(hop.clear) == 3
    assert all(set(verbs) <= {"EHLO", "STARTTLS", "QUIT"} for verbs in hop.commands())
    assert b"AUTH" not in b"".join(hop.clear)


def test_local_recipient_is_accepted_if_tls_to_the_next_hop_fails(run: Run) -> None:
    """The remote recipient is rejected, and the local one is accepted."""

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            assert [reply[:3] for reply in send(smtp, FAR, LOCAL)] == ["451", "250", "250"]

    relayed(run, ScriptedHop(Break.CLOSED), client, login=LOGIN, **REQUIRED)


@pytest.mark.parametrize("auth", ["AUTH PLAIN LOGIN CRAM-MD5", "AUTH PLAIN"])
@pytest.mark.parametrize("breaks", [None, Break.NOT_OFFERED])
def test_mechanisms_other_than_scram_are_not_used_without_tls(
    run: Run, auth: str, breaks: Break | None, caplog: pytest.LogCaptureFixture
) -> None:
    """``--relay-tls none`` alone permits only SCRAM, which does not reveal the password."""
    hop = ScriptedHop(breaks, auth)
    recipient, _ = relayed(run, hop, one_message, login=LOGIN, tls_required=False)
    assert recipient.startswith("451 4.4.1")
    assert set(hop.commands()[0]) <= {"EHLO", "QUIT"}
    assert "does not offer SCRAM-SHA-256, SCRAM-SHA-1" in caplog.text


def test_without_tls_scram_is_chosen(run: Run) -> None:
    hop = ScriptedHop(Break.NOT_OFFERED)
    relayed(run, hop, one_message, login=LOGIN, tls_required=False)
    assert b"AUTH SCRAM-SHA-256 " in hop.clear[0]
    assert not shows(hop.clear[0])


def test_password_is_sent_in_plaintext_if_both_options_are_set(run: Run) -> None:
    hop = ScriptedHop(Break.NOT_OFFERED, "AUTH PLAIN")
    replies = relayed(run, hop, one_message, login=LOGIN, tls_required=False, clear_text_login=True)
    assert [reply[:3] for reply in replies] == ["250", "250"]
    assert shows(hop.clear[0])


def test_clear_text_login_is_rejected_with_tls_or_without_login(run: Run) -> None:
    with pytest.raises(ValueError, match="without an ssl_context"):
        server.NextHop(host="h", port=25, login=LOGIN, clear_text_login=True, **REQUIRED)
    with pytest.raises(ValueError, match="needs a login"):
        server.NextHop(host="h", port=25, tls_required=False, clear_text_login=True)
    names = {mechanism.name for mechanism in LOGIN.mechanisms(None)}
    assert names == {"SCRAM-SHA-256", "SCRAM-SHA-1"}
    assert isinstance(LOGIN.mechanisms(None, clear_text=True)[-2], sasl.LoginClient)


BROKEN = [
    Break.CLOSED_AT_ONCE, Break.CLOSED, Break.GARBAGE, Break.ALERT, Break.INJECTED, Break.WRONG_CERTIFICATE,
]  # fmt: skip
"""The failures after which the connection cannot be used."""


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "next hop without TLS" in record.getMessage()]


@pytest.mark.parametrize("breaks", BROKEN)
def test_opportunistic_tls_failure_without_login_falls_back_to_plaintext(
    run: Run, breaks: Break, caplog: pytest.LogCaptureFixture
) -> None:
    """RFC 7435 section 3: over a new connection, once for each transaction, before any mail was sent."""
    hop = ScriptedHop(breaks)
    how = {**REQUIRED, "tls_required": False}  # checks the certificate, so that it breaks
    assert [reply[:3] for reply in relayed(run, hop, one_message, **how)] == ["250", "250"]
    assert hop.commands() == [["EHLO", "STARTTLS"], ["EHLO", "MAIL", "RCPT", "DATA", "QUIT"]]
    (line,) = warnings(caplog)
    assert re.search(r"next_hop=smtp://127\.0\.0\.1:\d+ reason=\S", line)
    assert [record.levelname for record in caplog.records if "next hop" in record.getMessage()] == ["WARNING"]


@pytest.mark.parametrize("breaks", [Break.REFUSED, Break.UNKNOWN, Break.NOT_OFFERED])
def test_unavailable_starttls_continues_in_plaintext_on_same_connection(
    run: Run, breaks: Break, caplog: pytest.LogCaptureFixture
) -> None:
    hop = ScriptedHop(breaks)
    assert [reply[:3] for reply in relayed(run, hop, one_message, **opportunistic())] == ["250", "250"]
    assert len(hop.clear) == 1
    assert warnings(caplog) == []


def test_broken_tls_is_remembered_for_ten_minutes(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """All sessions of the server share this; then TLS is tried again."""
    hop = ScriptedHop(Break.CLOSED)

    def client(served: Served) -> None:
        for seconds in (0.0, 599.0, 1.0, 599.0, 1.0):
            served.clock.now += seconds
            one_message(served)

    relayed(run, hop, client, **opportunistic())
    clear, tls = ["EHLO", "MAIL", "RCPT", "DATA", "QUIT"], ["EHLO", "STARTTLS"]
    assert hop.commands() == [tls, clear, clear, tls, clear, clear, tls, clear]
    assert len(warnings(caplog)) == 3


@pytest.mark.parametrize("breaks", [*BROKEN, Break.GOING_DOWN])
def test_required_tls_does_not_fall_back_to_plaintext(
    run: Run, breaks: Break, caplog: pytest.LogCaptureFixture
) -> None:
    hop = ScriptedHop(breaks)
    recipient, end = relayed(run, hop, one_message, **REQUIRED)
    assert recipient.startswith("451 4.")
    assert not end.startswith("2")
    assert len(hop.clear) == 1
    assert set(hop.commands()[0]) <= {"EHLO", "STARTTLS"}
    assert warnings(caplog) == []


def test_reply_421_to_starttls_gives_451_without_plaintext_fallback(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """421 is not a TLS failure: the next transaction tries STARTTLS again."""
    hop = ScriptedHop(Break.GOING_DOWN)
    assert relayed(run, hop, one_message, **opportunistic())[0].startswith("451 4.3.2")
    assert len(hop.clear) == 1
    assert warnings(caplog) == []


def test_there_is_one_retry_for_a_transaction(run: Run) -> None:
    """If the connection in clear text is lost as well, the reply is 451."""

    class Dying(ScriptedHop):
        def _serve(self, connection: socket.socket, number: int) -> None:
            if number == 0:
                super()._serve(connection, number)

    hop = Dying(Break.CLOSED)
    assert relayed(run, hop, one_message, **opportunistic())[0].startswith("451 4.4.1")
    assert len(hop.clear) == 2


def test_reply_530_to_mail_makes_next_transaction_try_starttls(run: Run) -> None:
    """RFC 3207 section 4: a 530 bounces no mail, and ends the ten minutes without STARTTLS."""
    hop = ScriptedHop(Break.CLOSED, replies={"MAIL": b"530 5.7.0 must issue a STARTTLS command first\r\n"})

    def client(served: Served) -> None:
        for _ in range(2):
            assert one_message(served)[0].startswith("451 4.4.1")

    relayed(run, hop, client, **opportunistic())
    assert hop.commands() == [["EHLO", "STARTTLS"], ["EHLO", "MAIL"]] * 2


def test_check_next_hop_falls_back_to_plaintext_after_tls_failure(run: Run) -> None:
    hop = ScriptedHop(Break.CLOSED)

    async def main() -> str | None:
        next_hop = server.NextHop(host="127.0.0.1", port=hop.port, **opportunistic())
        return await check_next_hop(NextHopState(next_hop), "example.test")

    with hop.listening():
        assert run(main) is None
    assert hop.commands() == [["EHLO", "STARTTLS"], ["EHLO", "QUIT"]]
