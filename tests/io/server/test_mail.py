"""A message from its submission by SMTP to its retrieval by POP3: what is added, removed and kept."""

from __future__ import annotations

import logging
import re
import smtplib

import pytest

from mailauth_io import server, stores
from tests.io.gone_clients import ends_of_sessions
from tests.io.server_support import PASSWORD, TIMEOUT, Run, Served, accounts, meet, on_both_loops

pytestmark = on_both_loops


@pytest.mark.parametrize(
    ("port", "login", "keyword"),
    [
        ("smtp", False, "ESMTP"),
        ("smtp", True, "ESMTPA"),
        ("starttls", False, "ESMTPS"),
        ("smtps", False, "ESMTPS"),
        ("starttls", True, "ESMTPSA"),
        ("smtps", True, "ESMTPSA"),
    ],
)
def test_received_field_gives_protocol_of_the_session(run: Run, port: str, login: bool, keyword: str) -> None:
    """RFC 3848, RFC 5321 section 4.4."""

    def client(served: Served) -> None:
        with served.smtp(port) as smtp:
            if login:
                smtp.login("alice", PASSWORD)
            smtp.sendmail("sender@far.test", ["alice@example.test"], "Subject: x\r\n\r\nbody")
        (text,) = served.mail_of("alice")
        assert re.fullmatch(
            rb"Return-Path: <sender@far\.test>\r\n"
            rb"Received: from client\.test \(\[127\.0\.0\.1\]\)\r\n"
            rb"\tby example\.test with " + keyword.encode() + rb" id [0-9a-f]{12}-1;\r\n"
            rb"\t[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d \+0000\r\n"
            rb"Subject: x\r\n\r\nbody\r\n",
            text,
        )

    meet(run, client, legacy=True)


def test_received_protocol_after_helo_is_smtp(run: Run) -> None:
    def client(served: Served) -> None:
        with served.smtp() as smtp:
            smtp.helo("old.test")
            smtp.mail("")
            smtp.rcpt("alice@example.test")
            smtp.data("Subject: x\r\n\r\nbody")
        (text,) = served.mail_of("alice")
        assert text.startswith(b"Return-Path: <>\r\nReceived: from old.test ([127.0.0.1])\r\n")
        assert b"with SMTP id" in text

    meet(run, client)


def test_reply_received_field_and_log_have_the_same_queue_id(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "mailauth_io.server")

    def client(served: Served) -> str:
        with served.smtp() as smtp:
            smtp.mail("sender@far.test")
            smtp.rcpt("alice@example.test")
            code, text = smtp.data("Subject: x\r\n\r\nbody")
        assert code == 250
        (stored,) = served.mail_of("alice")
        queue_id = text.decode().removeprefix("2.0.0 queued as ")
        assert f" id {queue_id};".encode() in stored
        return queue_id

    queue_id = meet(run, client)
    (record,) = [record for record in caplog.records if queue_id in record.getMessage()]
    assert "127.0.0.1" in record.getMessage()
    assert "LOCAL" in record.getMessage()


def test_two_messages_of_one_session_have_two_queue_ids(run: Run) -> None:
    def client(served: Served) -> None:
        replies = set()
        with served.smtp() as smtp:
            for _ in range(2):
                smtp.mail("sender@far.test")
                smtp.rcpt("alice@example.test")
                replies.add(smtp.data("x")[1])
        assert len(replies) == 2
        assert len(served.mail_of("alice")) == 2

    meet(run, client)


def test_return_path_of_incoming_message_is_removed(run: Run) -> None:
    def client(served: Served) -> None:
        with served.smtp() as smtp:
            text = "Subject: x\r\nreturn-PATH: <forged@far.test>\r\n\tfolded\r\nTo: y\r\n\r\nReturn-Path: body\r\n"
            smtp.sendmail("sender@far.test", ["alice@example.test"], text)
        (stored,) = served.mail_of("alice")
        assert b"forged" not in stored
        assert stored.count(b"Return-Path:") == 2
        assert stored.endswith(b"Subject: x\r\nTo: y\r\n\r\nReturn-Path: body\r\n")

    meet(run, client)


@pytest.mark.parametrize("blank", [" ", "\t"], ids=["space", "tab"])
@pytest.mark.parametrize("chunked", [False, True], ids=["DATA", "BDAT"])
def test_received_field_is_not_continued_by_the_content(run: Run, blank: str, chunked: bool) -> None:
    """RFC 5322 section 2.2.3: the first line would be part of it.  It becomes the body, as with Postfix."""
    text = f"{blank}with ESMTPSA; Tue, 01 Jan 2019 00:00:00 +0000\r\nReturn-Path: <x@far.test>\r\n\r\nbody\r\n".encode()

    def client(served: Served) -> None:
        with served.smtp() as smtp:
            smtp.login("alice", PASSWORD)
            smtp.mail("sender@far.test")
            smtp.rcpt("alice@example.test")
            smtp.rcpt("eve@far.test")
            if chunked:
                smtp.send(b"BDAT 1\r\n" + text[:1] + b"BDAT %d LAST\r\n" % len(text[1:]) + text[1:])
                assert smtp.getreply()[0] == 250
                assert smtp.getreply()[0] == 250
            else:
                assert smtp.data(text)[0] == 250
        (stored,) = served.mail_of("alice")
        (relayed,) = served.outbox.messages
        assert stored.endswith(b" +0000\r\n\r\n" + text)
        assert relayed.data.endswith(b" +0000\r\n\r\n" + text)

    meet(run, client, legacy=True)


@pytest.mark.parametrize(("lines", "code"), [(100, 250), (101, 554)])
def test_more_than_100_received_fields_are_rejected_as_a_loop(run: Run, lines: int, code: int) -> None:
    """RFC 5321 section 6.3."""

    def client(served: Served) -> None:
        with served.smtp() as smtp:
            smtp.mail("sender@far.test")
            smtp.rcpt("alice@example.test")
            got, text = smtp.data("RECEIVED: x\r\n" * lines + "\r\nReceived: body\r\n")
        assert got == code
        assert text.startswith(b"2.0.0" if code == 250 else b"5.4.6")
        assert len(served.mail_of("alice")) == (code == 250)

    meet(run, client)


@pytest.mark.parametrize(("above", "code"), [(b"", 552), (b"\r\n", 250)], ids=["header", "body"])
def test_too_long_header_section_is_rejected(run: Run, above: bytes, code: int) -> None:
    """552 5.3.4 (RFC 3463 section 3.4): a permanent error, because a retry would fail again."""

    def client(served: Served) -> None:
        with served.smtp() as smtp:
            smtp.mail("sender@far.test")
            smtp.rcpt("alice@example.test")
            got, text = smtp.data(above + b"Subject: x\r\n" * 100_000)
        assert got == code
        assert text.startswith(b"2.0.0" if code == 250 else b"5.3.4")
        assert len(served.mail_of("alice")) == (code == 250)

    meet(run, client)


def test_duplicate_recipients_get_one_copy(run: Run) -> None:
    def client(served: Served) -> None:
        paths = ["alice@example.test", "ALICE@EXAMPLE.TEST", "alice@example.org"]
        relayed = ["dave@far.test", "dave@FAR.test", "Dave@far.test"]  # remote local parts are case-sensitive
        with served.smtp("smtps") as smtp:
            smtp.login("alice", PASSWORD)
            assert smtp.sendmail("sender@far.test", paths + relayed, "x") == {}
        assert len(served.mail_of("alice")) == 1
        (message,) = served.outbox.messages
        assert message.envelope.recipients == ("dave@far.test", "Dave@far.test")
        assert b"ESMTPSA" in message.data

    meet(run, client)


def test_local_part_is_quoted_in_the_envelope_only_if_necessary(run: Run) -> None:
    """RFC 5321 section 4.1.2: unquoted it would be a different or an invalid address."""

    def client(served: Served) -> None:
        with served.smtp("smtps") as smtp:
            smtp.login("alice", PASSWORD)
            smtp.docmd("MAIL", r'FROM:<"a > b"@far.test>')
            for path in (r'"x\@ y"@FAR.test', r'"plain"@far.test'):
                assert smtp.docmd("RCPT", f"TO:<{path}>")[0] == 250
            smtp.data("x")
        (message,) = served.outbox.messages
        assert message.envelope.reverse_path == '"a > b"@far.test'
        assert message.envelope.recipients == ('"x@ y"@FAR.test', "plain@far.test")

    meet(run, client)


@pytest.mark.parametrize("path", ["postmaster", "PostMaster", "postmaster@example.test", "POSTMASTER@EXAMPLE.ORG"])
def test_postmaster_mail_goes_to_the_configured_mailbox(run: Run, path: str) -> None:
    """RFC 5321 section 4.5.1."""

    def client(served: Served) -> None:
        with served.smtp() as smtp:
            smtp.mail("")
            assert smtp.docmd("RCPT", f"TO:<{path}>")[0] == 250
            smtp.data("x")
        pop3 = served.log_in(name="bob", password="other")
        assert pop3.stat()[0] == 1
        pop3.quit()

    meet(run, client, postmaster="BOB@example.org")


@pytest.mark.parametrize(
    "path",
    ["postmaster", "PostMaster", "postmaster@example.test", '"PostMaster"@EXAMPLE.ORG', '"post\\master"@example.org'],
)
@pytest.mark.parametrize("configured", ["bob", None])
def test_account_named_postmaster_gets_its_mail(run: Run, path: str, configured: str | None) -> None:
    """The configured account is for servers without such an account."""
    kept = server.Stores(
        accounts=stores.MemoryAccounts({"bob": b"other", "Postmaster": b"mine"}),
        maildrops=stores.MemoryMaildrops(),
        outbox=stores.MemoryOutbox(),
    )

    def client(served: Served) -> None:
        with served.smtp() as smtp:
            smtp.mail("")
            assert smtp.docmd("RCPT", f"TO:<{path}>")[0] == 250
            smtp.data("x")
        assert (len(served.mail_of("postmaster", "mine")), len(served.mail_of("bob", "other"))) == (1, 0)

    meet(run, client, kept=kept, postmaster=configured)


def test_postmaster_is_rejected_if_not_configured(run: Run) -> None:
    def client(served: Served) -> None:
        with served.smtp() as smtp:
            smtp.mail("")
            assert smtp.docmd("RCPT", "TO:<postmaster>")[0] == 550

    meet(run, client, postmaster=None)


def test_eight_bit_content_is_unchanged_with_any_body_parameter(run: Run) -> None:
    def client(served: Served) -> None:
        with served.smtp() as smtp:
            for options in ([], ["BODY=7BIT"], ["BODY=8BITMIME"]):
                smtp.sendmail("sender@far.test", ["alice@example.test"], b"S: \xff\r\n\r\n\x80\xfe\r\n", options)
        assert [text[-12:] for text in served.mail_of("alice")] == [b"S: \xff\r\n\r\n\x80\xfe\r\n"[-12:]] * 3

    meet(run, client)


def test_bdat_content_is_delivered_unchanged_except_for_final_crlf(run: Run) -> None:
    """RFC 3030: to the maildrop and to the outbox, with dots unchanged; a missing final CRLF is added."""
    pieces = [b"S: x\r\n\r\n.\r\n..\r", b"\n" + b"line\r\n" * 30_000, b"end"]

    def client(served: Served) -> None:
        with served.smtp("smtps") as smtp:
            smtp.login("alice", PASSWORD)
            assert smtp.has_extn("chunking")
            smtp.mail("sender@far.test")
            assert [smtp.rcpt(to)[0] for to in ("alice@example.test", "dave@far.test")] == [250, 250]
            for piece in pieces:
                smtp.send(b"BDAT %d%b\r\n%b" % (len(piece), b" LAST" * (piece is pieces[-1]), piece))
                assert smtp.getreply()[0] == 250
        body = b"".join(pieces).partition(b"\r\n\r\n")[2] + b"\r\n"
        (stored,) = served.mail_of("alice")
        (relayed,) = served.outbox.messages
        assert stored.partition(b"\r\n\r\n")[2] == body
        assert relayed.data.partition(b"\r\n\r\n")[2] == body

    meet(run, client)


def test_large_message_is_delivered_unchanged_to_every_store(run: Run) -> None:
    body = b"".join(b"." * (number % 3) + b"line %d\r\n" % number for number in range(60_000))

    def client(served: Served) -> None:
        with served.smtp("smtps") as smtp:
            smtp.login("alice", PASSWORD)
            smtp.sendmail("sender@far.test", ["alice@example.test", "dave@far.test"], b"S: x\r\n\r\n" + body)
        (stored,) = served.mail_of("alice")
        (relayed,) = served.outbox.messages
        assert stored.partition(b"\r\n\r\n")[2] == body
        assert relayed.data.partition(b"\r\n\r\n")[2] == body

    meet(run, client)


@pytest.mark.parametrize("announced", [False, True])
def test_message_over_the_memory_budget_gets_452_and_is_released(run: Run, announced: bool) -> None:
    """452 4.3.1: at MAIL if the client declares the size, else when the message is complete."""
    budget = stores.Budget(100_000)
    kept = server.Stores(
        accounts=accounts(), maildrops=stores.MemoryMaildrops(), outbox=stores.MemoryOutbox(), budget=budget
    )

    def client(served: Served) -> None:
        with served.smtp() as smtp:
            code, text = smtp.mail("sender@far.test", ["SIZE=200000"] if announced else [])
            if not announced:
                smtp.rcpt("alice@example.test")
                code, text = smtp.data(b"x" * 70 + b"\r\n" * 100_000)
            assert (code, text[:5]) == (452, b"4.3.1")
            assert budget.free == budget.size
            assert smtp.sendmail("sender@far.test", ["alice@example.test"], "small") == {}
        assert budget.free < budget.size
        pop3 = served.log_in()
        assert pop3.stat()[0] == 1
        pop3.dele(1)
        pop3.quit()
        assert budget.free == budget.size

    meet(run, client, kept=kept)


def test_one_address_cannot_use_the_whole_memory_budget(run: Run) -> None:
    """architecture.md, invariant 4: an address with incomplete messages gets 452; other clients can deliver."""
    kept = server.Stores(
        accounts=accounts(),
        maildrops=stores.MemoryMaildrops(),
        outbox=stores.MemoryOutbox(),
        budget=stores.Budget(400_000),
    )
    chunk = b"x" * 70 + b"\r\n" * 26_000

    def begin(smtp: smtplib.SMTP, name: str, *, last: bool) -> int:
        smtp.mail("sender@far.test")
        smtp.rcpt(f"{name}@example.test")
        smtp.send(b"BDAT %d%s\r\n" % (len(chunk), b" LAST" if last else b"") + chunk)
        return smtp.getreply()[0]

    def client(served: Served) -> None:
        with served.smtp() as first, served.smtp() as second:
            assert begin(first, "alice", last=False) == 250
            assert begin(second, "bob", last=True) == 452
            with smtplib.SMTP("127.0.0.1", served.ports.smtp or 0, source_address=("127.0.0.2", 0)) as other:
                other.ehlo()
                assert begin(other, "carol", last=True) == 250
            assert first.docmd("BDAT", "0 LAST")[0] == 250
            assert begin(second, "bob", last=True) == 250

    meet(run, client, kept=kept, max_message_size=100_000)


def test_data_gets_452_if_the_memory_budget_is_exhausted(run: Run) -> None:
    """It has room for a recipient."""
    kept = server.Stores(
        accounts=accounts(), maildrops=stores.MemoryMaildrops(), outbox=stores.MemoryOutbox(), budget=stores.Budget(700)
    )

    def client(served: Served) -> None:
        with served.smtp() as smtp:
            smtp.mail("sender@far.test")
            smtp.rcpt("alice@example.test")
            assert smtp.docmd("DATA")[0] == 452

    meet(run, client, kept=kept)


def test_too_large_message_is_rejected_and_its_memory_is_released(run: Run) -> None:
    def client(served: Served) -> None:
        with served.smtp() as smtp:
            assert smtp.esmtp_features["size"] == "65536"
            smtp.mail("sender@far.test")
            smtp.rcpt("alice@example.test")
            assert smtp.data(b"x" * 70 + b"\r\n" * 40_000)[0] == 552
            smtp.rset()  # the memory of the recipients is counted until the next command
            budget = served.stores.budget
            assert budget.free == budget.size

    meet(run, client, max_message_size=65536)


def test_only_quit_deletes_messages(run: Run) -> None:
    """RFC 1939 section 6: a session that ends without QUIT deletes nothing; RSET undoes DELE."""

    def client(served: Served) -> None:
        with served.smtp() as smtp:
            for text in ("one", "two", "three"):
                smtp.sendmail("sender@far.test", ["alice@example.test"], text)
        with ends_of_sessions("pop3") as ends:
            lost = served.log_in("pop3s")
            lost.dele(1)
            lost.close()
            assert ends.acquire(timeout=TIMEOUT)
        first = served.log_in("pop3s")
        assert first.stat()[0] == 3
        first.dele(1)
        first.rset()
        first.quit()
        second = served.log_in("pop3s")
        assert second.stat()[0] == 3
        second.dele(2)
        second.quit()
        third = served.log_in("pop3s")
        assert third.stat()[0] == 2
        assert third.top(2, 0)[1][0] == b"Return-Path: <sender@far.test>"
        assert [third.retr(number)[1][-1] for number in (1, 2)] == [b"one", b"three"]
        third.quit()

    meet(run, client)


def test_white_space_after_a_command_is_accepted(run: Run) -> None:
    """RFC 5321 section 4.1.1.  So is a space before the path, which section 3.3 forbids."""

    def client(served: Served) -> None:
        with served.smtp("smtp") as smtp:
            smtp.ehlo()
            assert smtp.docmd("MAIL FROM:<a@far.test> ")[0] == 250
            assert smtp.docmd("RSET \t")[0] == 250
            assert smtp.docmd("MAIL FROM: <a@far.test>")[0] == 250

    meet(run, client)


@pytest.mark.parametrize("port", ["smtp", "smtps"])
def test_ehlo_offers_supported_extensions_and_mail_rejects_others(run: Run, port: str) -> None:
    """RFC 5321 section 2.2: what a maildrop or a next hop cannot support is neither offered nor accepted."""

    def client(served: Served) -> None:
        with served.smtp(port) as smtp:
            smtp.ehlo()
            offered = {"size", "8bitmime", "pipelining", "enhancedstatuscodes", "chunking"}
            assert set(smtp.esmtp_features) == offered | ({"starttls"} if port == "smtp" else {"auth"})
            for parameter in ("SMTPUTF8", "RET=FULL", "REQUIRETLS", "BODY=BINARYMIME", "MT-PRIORITY=1"):
                assert smtp.docmd(f"MAIL FROM:<a@far.test> {parameter}")[0] == 555
            assert smtp.docmd("MAIL FROM:<a@far.test> BODY=8BITMIME SIZE=10 AUTH=<>")[0] == 250

    meet(run, client)
