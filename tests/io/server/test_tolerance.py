"""What the server does with mail whose envelope only a tolerant parser accepts (docs/tolerance.md, SMTP server)."""

from __future__ import annotations

import email
import email.policy
import logging
import smtplib

import pytest

from mailauth_io import server, stores
from tests.io.next_hops import CONTENT, IN_CLEAR, Double, logged_in, relaying
from tests.io.server_support import PASSWORD, Run, Served, meet, on_both_loops

pytestmark = on_both_loops

both_modes = pytest.mark.parametrize("strict_syntax", [False, True], ids=["tolerant", "strict"])


def say(client: smtplib.SMTP, *lines: str) -> list[int]:
    """Send *lines* as they are, and return the codes of the replies."""
    return [client.docmd(line)[0] for line in lines]


def message(client: smtplib.SMTP, sender: str, *recipients: str) -> list[int]:
    """Send a message; return the replies to RCPT and to the content."""
    assert say(client, f"MAIL FROM:<{sender}>") == [250]
    codes = say(client, *(f"RCPT TO:<{recipient}>" for recipient in recipients))
    return [*codes, client.data(CONTENT)[0]]


def test_odd_mailboxes_are_relayed_as_received_and_once(run: Run) -> None:
    """The next hop gets one recipient for each meaning, in the first spelling."""
    double = Double()
    long = "bounce+" + "x" * 100 + "=example.org"

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            recipients = ("a..b@Carrier.test", '"a..b"@carrier.TEST', "a.b@carrier.test", "ab.@mail_1.test")
            assert message(smtp, f"{long}@far.test", *recipients) == [250] * 5
            assert message(smtp, "c..@far.test", '"a..b"@carrier.test', "a..b@carrier.test") == [250] * 3

    relaying(run, double, client, **IN_CLEAR)
    first, second = double.taken
    assert first.mail.to_wire() == f"MAIL FROM:<{long}@far.test>\r\n".encode()
    assert second.mail.to_wire() == b"MAIL FROM:<c..@far.test>\r\n"
    assert first.recipients == ("a..b@Carrier.test", "a.b@carrier.test", "ab.@mail_1.test")
    assert second.recipients == ('"a..b"@carrier.test',)


def test_outbox_gets_mailboxes_as_received(run: Run) -> None:
    def client(served: Served) -> None:
        with served.smtp("smtps") as smtp:
            smtp.login("alice", PASSWORD)
            assert message(smtp, "c..@far.test", "a..b@Carrier.test", '"a..b"@carrier.test') == [250] * 3
        (kept,) = served.outbox.messages
        assert kept.envelope.reverse_path == "c..@far.test"
        assert kept.envelope.recipients == ("a..b@Carrier.test",)

    meet(run, client)


def test_local_mail_is_delivered_by_the_meaning_of_its_address(run: Run) -> None:
    """Quoted or not, it is the same account; other dots name another one, and no account has a longer name than 64."""
    accounts = stores.MemoryAccounts({"a..b": PASSWORD.encode(), "ab.": PASSWORD.encode(), "alice": PASSWORD.encode()})
    kept = server.Stores(accounts=accounts, maildrops=stores.MemoryMaildrops(), outbox=stores.MemoryOutbox())

    def client(served: Served) -> None:
        with served.smtp() as smtp:
            paths = ("a..b@example.test", '"a..b"@example.org', "A..B@example.test", '"a.\\.b"@example.test')
            assert message(smtp, "c..@far.test", *paths, "ab.@example.test") == [250] * 6
            others = (
                "a.b@example.test",
                "a...b@example.test",
                ".a..b@example.test",
                "ab@example.test",
                "ab..@example.org",
            )
            long = "alice" + "e" * 60
            assert say(smtp, "MAIL FROM:<>", *(f"RCPT TO:<{each}>" for each in (*others, f"{long}@example.test"))) == [
                *(250, 550, 550, 550, 550, 550, 550)
            ]
        for name in ("a..b", "ab."):
            (text,) = served.mail_of(name)
            assert text.startswith(b'Return-Path: <"c.."@far.test>\r\nReceived: from client.test (')

    meet(run, client, kept=kept, postmaster=None)


@both_modes
@pytest.mark.parametrize(
    "path",
    [
        *("alice..@far.test", '"alice@far.test"@example.test', "alice%far.test@example.test", "a!b..@example.test"),
        *("alice@example_.test", "alice@_.example.test", "alice..@example.test.far_.test", "<alice@example.test"),
    ],
)
def test_odd_recipient_without_a_login_is_not_relayed(run: Run, path: str, strict_syntax: bool) -> None:
    def client(served: Served) -> None:
        with served.smtp() as smtp:
            assert say(smtp, "MAIL FROM:<>") == [250]
            assert say(smtp, f"RCPT TO:<{path}>")[0] in (550, 501)
            assert say(smtp, f"RCPT TO: {path}")[0] in (550, 501)

    meet(run, client, strict_syntax=strict_syntax)


def test_any_client_name_is_accepted_logged_and_traced(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    def client(served: Served) -> None:
        with served.smtp() as smtp:
            for name in (b"(none)", b"J\xfcrgen's PC) by x; ("):
                smtp.send(b"EHLO " + name + b"\r\n")
                assert smtp.getreply()[0] == 250
                assert message(smtp, "a@far.test", "alice@example.test") == [250, 250]
        one, two = served.mail_of("alice")
        assert b"\r\nReceived: from [127.0.0.1] (helo==28none=29)\r\n\tby example.test with ESMTP id " in one
        encoded = b"helo=J=FCrgen=27s=20PC=29=20by=20x=3B=20=28"
        assert b"\r\nReceived: from [127.0.0.1] (" + encoded + b")\r\n\tby example.test with ESMTP id " in two
        parsed = email.message_from_bytes(two, policy=email.policy.SMTP)
        assert len(parsed.get_all("received", [])) == 1

    with caplog.at_level(logging.INFO):
        meet(run, client)
    logged = [record.getMessage() for record in caplog.records if "hello=" in record.getMessage()]
    assert [
        "hello=(none)" in line or "hello=J\\udcfcrgen's\\x20PC)\\x20by\\x20x;\\x20(" in line for line in logged
    ] == [True] * 2


def test_strict_syntax_restores_the_refusals(run: Run) -> None:
    def client(served: Served) -> None:
        with served.smtp() as smtp:
            lines = ("EHLO (none)", "MAIL FROM: <a@b.test>", "MAIL FROM:a@b.test", "MAIL FROM:<a..b@c.test>", "NOOP ")
            assert say(smtp, *lines) == [501] * 5
            assert say(smtp, "MAIL FROM:<a@b.test>", "RCPT TO:<alice@example.test>") == [250, 250]

    meet(run, client, strict_syntax=True)
