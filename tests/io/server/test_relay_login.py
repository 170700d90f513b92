"""The login at a next hop that refuses a mechanism which it offers."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Any, Final, TypeVar

import pytest

from mailauth import sasl
from mailauth_io import server
from mailauth_io.server._next_hop_state import LoginHistory, NextHopState
from mailauth_io.server.next_hop import MECHANISMS
from tests.io.next_hops import FAR, logged_in, relay_to, send
from tests.io.scripted_hop import ScriptedHop
from tests.io.server_support import Run, Served, on_both_loops
from tests.io.tls import client_context

pytestmark = on_both_loops

T = TypeVar("T")

LOGIN: Final = server.Login(name="relayuser@far.test", password=b"hop secret")
IN_CLEAR: Final[dict[str, Any]] = {"login": LOGIN, "tls_required": False, "clear_text_login": True}
INSIDE_TLS: Final[dict[str, Any]] = {"login": LOGIN, "ssl_context": client_context()}
ALL: Final = "AUTH LOGIN PLAIN CRAM-MD5 SCRAM-SHA-1 SCRAM-SHA-256"


def relayed(run: Run, hop: ScriptedHop, client: Callable[[Served], T], **options: Any) -> T:
    """Run a server that relays to *hop*, and call *client*."""
    with hop.listening():
        return run(lambda: relay_to(hop.port, client, **options))


def one_message(served: Served) -> str:
    """Send a message in a session of its own; return the first three digits and the text of the reply to RCPT."""
    with logged_in(served) as smtp:
        return send(smtp, FAR)[0]


def messages(*seconds: float) -> Callable[[Served], list[str]]:
    """Return a client that sends a message after each of *seconds*, and returns the codes of the replies to RCPT."""

    def client(served: Served) -> list[str]:
        codes: list[str] = []
        for each in seconds:
            served.clock.now += each
            codes.append(one_message(served)[:3])
        return codes

    return client


REFUSALS: Final = [
    b"504 5.5.4 unknown\r\n",
    b"504 5.7.4 Unrecognized authentication type\r\n",  # Exchange
    b"534-5.7.9 Application-specific password required. Learn more at\r\n534 5.7.9  https://far.test/\r\n",  # Gmail
    b"535 5.7.3 Authentication unsuccessful\r\n",  # Exchange, for CRAM-MD5 among others
    b"535 Incorrect authentication data\r\n",  # Exim
]


@pytest.mark.parametrize("reply", REFUSALS)
def test_next_mechanism_is_tried_if_the_strongest_is_refused(
    run: Run, reply: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A provider that offers CRAM-MD5 and SCRAM, and has only hashes of the passwords, can check neither."""
    hop = ScriptedHop(
        auth="AUTH PLAIN CRAM-MD5 SCRAM-SHA-256", replies={"AUTH SCRAM-SHA-256": reply, "AUTH CRAM-MD5": reply}
    )
    assert relayed(run, hop, messages(0), **IN_CLEAR) == ["250"]
    assert hop.logins() == [["SCRAM-SHA-256", "CRAM-MD5", "PLAIN"]]
    assert len(hop.messages) == 1
    (line,) = [record.getMessage() for record in caplog.records if "refused a mechanism" in record.getMessage()]
    assert "refused=SCRAM-SHA-256,CRAM-MD5 mechanism=PLAIN" in line
    assert "secret" not in caplog.text


def test_next_mechanism_is_tried_inside_tls(run: Run) -> None:
    hop = ScriptedHop(None, "AUTH PLAIN SCRAM-SHA-256")
    assert relayed(run, hop, messages(0), **INSIDE_TLS) == ["250"]
    assert hop.logins() == [["SCRAM-SHA-256", "PLAIN"]]
    assert b"AUTH" not in hop.clear[0]


OTHERS: Final = [
    b"454 4.7.0 try later\r\n",
    b"432 4.7.12 password must be changed\r\n",
    b"421 4.3.2 going down\r\n",
    b"451 4.3.0 error\r\n",
    b"500 5.5.6 line too long\r\n",
    b"501 5.5.2 cannot decode\r\n",
    b"503 5.5.1 not now\r\n",
    b"538 5.7.11 encryption required\r\n",
    b"550 5.7.1 no\r\n",
    b"235 2.7.0 ok\r\n",
    b"334 AAAA\r\n",
    b"nonsense\r\n",
    b"",
]
"""Replies that say nothing about the mechanism, a success that SCRAM does not believe, and a lost connection."""


@pytest.mark.parametrize("reply", OTHERS)
def test_no_other_mechanism_is_tried_after_other_replies(
    run: Run, reply: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    hop = ScriptedHop(auth=ALL, replies={"AUTH SCRAM-SHA-256": reply, "*": b"501 5.5.2 cancelled\r\n"})
    assert relayed(run, hop, messages(0), **IN_CLEAR) == ["451"]
    assert hop.logins() == [["SCRAM-SHA-256"]]
    assert hop.messages == []
    assert "next hop failed" in caplog.text


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-256", "CRAM-MD5"])
def test_no_other_mechanism_is_tried_after_this_server_has_cancelled_the_login(run: Run, mechanism: str) -> None:
    """The next hop sent an invalid challenge.  Its 535 to the cancellation is no reason to show it the password."""
    hop = ScriptedHop(
        auth=f"AUTH PLAIN {mechanism}", replies={f"AUTH {mechanism}": b"334 r=\r\n", "*": b"535 5.7.8 no\r\n"}
    )
    assert relayed(run, hop, messages(0), **IN_CLEAR) == ["451"]
    assert hop.logins() == [[mechanism]]
    assert b"*\r\n" in hop.clear[0]


def test_at_most_two_more_mechanisms_are_tried_on_a_connection(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    hop = ScriptedHop(auth=ALL)
    assert relayed(run, hop, messages(0), **IN_CLEAR) == ["451"]
    assert hop.logins() == [["SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5"]]
    assert "login rejected with 535 5.7.8 (SCRAM-SHA-256, SCRAM-SHA-1, CRAM-MD5)" in caplog.text
    assert hop.messages == []


def test_only_one_mechanism_is_tried_for_15_minutes_after_all_were_refused(run: Run) -> None:
    """Many failed logins would block the address of this server.  All sessions share this; a refusal in that time does
    not prolong it, since a busy relay would then never try the others again."""
    hop = ScriptedHop(auth="AUTH CRAM-MD5 SCRAM-SHA-1")
    assert relayed(run, hop, messages(0, 1, 898, 1, 899), **IN_CLEAR) == ["451"] * 5
    assert [len(names) for names in hop.logins()] == [2, 1, 1, 2, 1]


@pytest.mark.parametrize("reply", [b"421 4.7.0 too many errors\r\n", b"454 4.7.0 later\r\n", b""])
def test_end_of_the_session_after_a_refusal_starts_the_15_minutes(run: Run, reply: bytes) -> None:
    """Postfix and Exim close the connection after some failed logins."""
    hop = ScriptedHop(auth="AUTH PLAIN CRAM-MD5 SCRAM-SHA-1", replies={"AUTH CRAM-MD5": reply})
    assert relayed(run, hop, messages(0, 899, 1), **IN_CLEAR) == ["451"] * 3
    assert [len(names) for names in hop.logins()] == [2, 1, 2]


def test_temporary_failure_does_not_start_the_15_minutes(run: Run) -> None:
    hop = ScriptedHop(auth="AUTH PLAIN SCRAM-SHA-1", replies={"AUTH SCRAM-SHA-1": b"454 4.7.0 later\r\n"})

    def client(served: Served) -> None:
        assert one_message(served).startswith("451")
        hop.replies.clear()
        assert one_message(served).startswith("250")

    relayed(run, hop, client, **IN_CLEAR)
    assert hop.logins() == [["SCRAM-SHA-1"], ["SCRAM-SHA-1", "PLAIN"]]


def test_mechanism_that_worked_is_tried_first_by_every_session(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    hop = ScriptedHop(auth="AUTH PLAIN CRAM-MD5 SCRAM-SHA-256")
    assert relayed(run, hop, messages(0, 1, 1_000_000), **IN_CLEAR) == ["250"] * 3
    assert hop.logins() == [["SCRAM-SHA-256", "CRAM-MD5", "PLAIN"], ["PLAIN"], ["PLAIN"]]
    assert caplog.text.count("refused a mechanism") == 1


def test_what_worked_is_remembered_by_one_server(run: Run) -> None:
    hop = server.NextHop(host="h", port=25, **IN_CLEAR)
    first, second = (NextHopState(hop) for _ in range(2))
    assert first.login_history == second.login_history == LoginHistory()
    assert first.login_history is not second.login_history


def test_stronger_mechanism_that_is_new_is_tried_before_the_one_that_worked(run: Run) -> None:
    hop = ScriptedHop(auth="AUTH PLAIN CRAM-MD5")

    def client(served: Served) -> None:
        assert one_message(served).startswith("250")
        hop.auth = "AUTH PLAIN CRAM-MD5 SCRAM-SHA-256"
        for _ in range(2):
            assert one_message(served).startswith("250")

    relayed(run, hop, client, **IN_CLEAR)
    assert hop.logins() == [["CRAM-MD5", "PLAIN"], ["SCRAM-SHA-256", "PLAIN"], ["PLAIN"]]


def test_others_are_tried_if_the_one_that_worked_is_refused_later(run: Run) -> None:
    hop = ScriptedHop(auth="AUTH PLAIN CRAM-MD5")

    def client(served: Served) -> list[str]:
        codes = [one_message(served)[:3]]
        hop.replies["AUTH PLAIN"] = b"504 5.5.4 disabled\r\n"
        codes += [one_message(served)[:3] for _ in range(2)]
        return codes

    assert relayed(run, hop, client, **IN_CLEAR) == ["250", "451", "451"]
    assert hop.logins() == [["CRAM-MD5", "PLAIN"], ["PLAIN", "CRAM-MD5"], ["PLAIN"]]


def test_without_tls_only_scram_is_tried_after_scram(run: Run) -> None:
    """``--relay-tls none`` alone would never have chosen another mechanism."""
    hop = ScriptedHop(auth=ALL)
    assert relayed(run, hop, messages(0), login=LOGIN, tls_required=False) == ["451"]
    assert hop.logins() == [["SCRAM-SHA-256", "SCRAM-SHA-1"]]


BOUND: Final = "AUTH PLAIN SCRAM-SHA-256 SCRAM-SHA-1 SCRAM-SHA-256-PLUS"


def flags(hop: ScriptedHop) -> list[str]:
    """Return the part of each SCRAM initial response that names the channel binding."""
    found = re.findall(rb"AUTH SCRAM\S+ (\S+)", b"".join(hop.inside))
    return [base64.b64decode(each).split(b",")[0].decode() for each in found]


def test_login_with_channel_binding_is_never_followed_by_one_without(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """RFC 5802 section 6: a man in the middle refuses the login that he cannot relay."""
    hop = ScriptedHop(None, BOUND)
    assert relayed(run, hop, messages(0), **INSIDE_TLS) == ["451"]
    (names,) = hop.logins()
    assert set(names) == {"SCRAM-SHA-256-PLUS"}
    assert set(flags(hop)) == {"p=tls-server-end-point", "p=tls-unique"}
    assert len(names) == 2
    assert "use --relay-mechanism SCRAM-SHA-256" in caplog.text


def test_memory_of_refusals_does_not_skip_channel_binding(run: Run) -> None:
    hop = ScriptedHop(None, "AUTH PLAIN SCRAM-SHA-256")

    def client(served: Served) -> None:
        assert one_message(served).startswith("250")
        hop.auth = BOUND
        assert one_message(served).startswith("451")

    relayed(run, hop, client, **INSIDE_TLS)
    assert hop.logins()[0] == ["SCRAM-SHA-256", "PLAIN"]
    assert set(hop.logins()[1]) == {"SCRAM-SHA-256-PLUS"}


@pytest.mark.parametrize("name", ["PLAIN", "LOGIN", "SCRAM-SHA-256", "SCRAM-SHA-256-PLUS"])
def test_named_mechanism_is_the_only_one(run: Run, name: str) -> None:
    """``--relay-mechanism``.  SCRAM without -PLUS then says that this server does not support channel binding."""
    hop = ScriptedHop(None, f"{BOUND} LOGIN", replies={"AUTH PLAIN": b"535 5.7.8 no\r\n"})
    assert relayed(run, hop, messages(0), mechanism=name, **INSIDE_TLS) == ["451"]
    assert set(hop.logins()[0]) == {name}
    if name == "SCRAM-SHA-256":
        assert flags(hop) == ["n"]


def test_named_mechanism_that_is_not_offered_gives_451(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    hop = ScriptedHop(None, "AUTH PLAIN LOGIN")
    assert relayed(run, hop, messages(0), mechanism="SCRAM-SHA-1", **INSIDE_TLS) == ["451"]
    assert hop.logins() == [[]]
    assert "the server does not offer SCRAM-SHA-1" in caplog.text


def test_mechanism_that_cannot_be_used_is_rejected(run: Run) -> None:
    for name in MECHANISMS:
        server.NextHop(host="h", port=25, mechanism=name, **INSIDE_TLS)
    for fields, says in (
        ({**INSIDE_TLS, "mechanism": "APOP"}, "mechanism must be"),
        ({**INSIDE_TLS, "mechanism": "plain"}, "mechanism must be"),
        ({"ssl_context": client_context(), "mechanism": "PLAIN"}, "needs a login"),
        ({"tls_required": False, "login": LOGIN, "mechanism": "PLAIN"}, "needs clear_text_login=True"),
        ({**IN_CLEAR, "mechanism": "SCRAM-SHA-1-PLUS"}, "use SCRAM-SHA-1"),
    ):
        with pytest.raises(ValueError, match=says):
            server.NextHop(host="h", port=25, **fields)


def test_sort_puts_refused_mechanisms_last(run: Run) -> None:
    history = LoginHistory()
    found = LOGIN.mechanisms(None, clear_text=True)
    scram, plain = found[0], next(each for each in found if isinstance(each, sasl.PlainClient))
    history.record_success(plain, [scram])
    assert history.sort(found)[-1] is scram
    assert sorted(each.name for each in history.sort(found)) == sorted(each.name for each in found)
