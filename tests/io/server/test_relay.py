"""Remote mail is relayed to the next hop step by step, and its replies are passed on to the client."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest

from mailauth import pop3, smtp
from mailauth_io import stores
from mailauth_io._workers import CLEANUP
from tests.io.next_hops import CONTENT, FAR, IN_CLEAR, LOCAL, Double, logged_in, relaying, send
from tests.io.server_support import TIMEOUT, Run, Served, on_both_loops

pytestmark = on_both_loops

OK = "250 2.1.5 recipient ok"


def test_message_is_delivered_locally_and_relayed_when_250_is_sent(run: Run) -> None:
    double = Double()

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            replies = send(smtp, LOCAL, FAR)
            assert replies[:2] == [OK, OK]
            assert replies[2].startswith("250 2.0.0 queued as ")
            queue_id = replies[2].rpartition(" ")[2].encode()
            (local,) = served.mail_of("alice")
        (taken,) = double.taken
        assert taken.recipients == (FAR,)
        assert str(taken.mail.reverse_path) == "alice@example.test"
        received, header, content = taken.data.partition(b"Subject:")
        assert header + content == CONTENT
        assert received.startswith(b"Received: from client.test ([127.0.0.1])\r\n")
        assert b" id " + queue_id + b";" in received
        assert local.endswith(received + CONTENT)

    relaying(run, double, client, **IN_CLEAR)
    assert double.heard[-1] == "Quit"


@pytest.mark.parametrize("option", ["RET=HDRS", "ENVID=x", "REQUIRETLS", "SMTPUTF8"])
def test_extensions_that_are_not_passed_on_are_not_offered_to_clients(run: Run, option: str) -> None:
    """RFC 3461 section 4, RFC 8689 section 4 and RFC 6531 section 3.1: a client must not use what is not offered."""
    double = Double()

    def client(served: Served) -> None:
        with logged_in(served, "smtps") as smtp:
            smtp.ehlo("client.test")
            assert not {"dsn", "requiretls", "smtputf8"} & set(smtp.esmtp_features)
            assert smtp.docmd("MAIL", f"FROM:<alice@example.test> {option}")[0] == 555
            smtp.mail("alice@example.test")
            assert smtp.rcpt(FAR, ["NOTIFY=NEVER"])[0] == 555
            assert smtp.rcpt(FAR)[0] == 250

    relaying(run, double, client, **IN_CLEAR)
    assert double.heard.count("Rcpt") == 1


def test_local_mail_causes_no_connection_to_the_next_hop(run: Run) -> None:
    double = Double()

    def client(served: Served) -> None:
        with served.smtp() as smtp:
            assert send(smtp, LOCAL)[-1][:3] == "250"
        assert len(served.mail_of("alice")) == 1

    relaying(run, double, client, **IN_CLEAR)
    assert double.heard == []


def test_unauthorized_relaying_is_rejected_without_contacting_next_hop(run: Run) -> None:
    double = Double()

    def client(served: Served) -> None:
        with served.smtp() as smtp:
            assert send(smtp, FAR)[0][:9] == "550 5.7.1"

    relaying(run, double, client, **IN_CLEAR)
    assert double.heard == []


def test_rejection_of_a_recipient_is_passed_on_in_reply_to_its_rcpt(run: Run) -> None:
    double = Double(
        deeds={smtp.Rcpt: [smtp.Reply(550, "5.1.1", "no dinah\nnot today"), smtp.Reply(452, "", "too many")]}
    )

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            replies = send(smtp, FAR, "bill@far.test", "lory@far.test")
        assert replies[:3] == ["550 5.1.1 no dinah not today", "452 4.0.0 too many", OK]
        assert replies[3][:3] == "250"

    relaying(run, double, client, **IN_CLEAR)
    assert [taken.recipients for taken in double.taken] == [("lory@far.test",)]


def test_duplicate_recipient_is_sent_to_the_next_hop_once(run: Run) -> None:
    double = Double()

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            assert send(smtp, FAR, FAR.replace("far", "FAR"))[:2] == [OK, OK]

    relaying(run, double, client, **IN_CLEAR)
    assert [taken.recipients for taken in double.taken] == [(FAR,)]


def test_rejected_sender_rejects_remote_recipients_but_not_local_ones(run: Run) -> None:
    double = Double(deeds={smtp.Mail: [smtp.Reply(550, "5.7.1", "not from you")]})

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            refused = "550 5.7.1 not from you"
            replies = send(smtp, FAR, LOCAL, "bill@far.test")
            assert replies[:3] == [refused, OK, refused]
            assert replies[3][:3] == "250"
        assert len(served.mail_of("alice")) == 1

    relaying(run, double, client, **IN_CLEAR)
    assert double.heard.count("Mail") == 1
    assert "Rcpt" not in double.heard


def test_bdat_content_is_relayed_unchanged_by_data(run: Run) -> None:
    """RFC 3030: BDAT is not a property of the message.  The next hop does not offer CHUNKING."""
    double = Double()

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            smtp.mail("alice@example.test")
            smtp.rcpt(FAR)
            for size, last in ((len(CONTENT), ""), (0, " LAST")):
                smtp.send(b"BDAT %d%b\r\n%b" % (size, last.encode(), CONTENT[:size]))
                assert smtp.getreply()[0] == 250

    relaying(run, double, client, **IN_CLEAR)
    assert double.heard == ["Connected", "Hello", "Mail", "Rcpt", "Data", "MessageComplete", "Quit"]
    assert double.taken[0].data.endswith(b"\r\n" + CONTENT)


@pytest.mark.parametrize("code", [452, 554])
def test_message_rejected_by_the_next_hop_is_not_stored_locally(run: Run, code: int) -> None:
    reply = smtp.Reply(code, f"{code // 100}.6.0", "not that")
    double = Double(deeds={smtp.MessageComplete: [reply]})

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            assert send(smtp, LOCAL, FAR)[-1] == str(reply)
            assert served.mail_of("alice") == []
            assert send(smtp, LOCAL, FAR)[-1][:3] == "250"
            assert len(served.mail_of("alice")) == 1

    relaying(run, double, client, **IN_CLEAR)
    assert double.connections == len(double.taken) == 1


def test_rejected_data_leaves_no_message_and_rset_precedes_next_transaction(run: Run) -> None:
    double = Double(deeds={smtp.Data: [smtp.Reply(451, "4.3.0", "not now")]})

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            assert send(smtp, LOCAL, FAR)[-1] == "451 4.3.0 not now"
            assert served.mail_of("alice") == []
            assert send(smtp, FAR)[-1][:3] == "250"

    relaying(run, double, client, **IN_CLEAR)
    assert double.heard.count("Connected") == double.heard.count("Rset") == 1


def test_local_copy_stays_staged_until_the_next_hop_replies(run: Run, tmp_path: Path) -> None:
    def at_the_end() -> None:
        maildir = tmp_path / "alice"
        (staged,) = maildir.glob("tmp/*")
        assert staged.read_bytes().endswith(b"end\n")
        assert list(maildir.glob("new/*")) == []
        seen.append(staged)

    seen: list[Path] = []
    double = Double(at_the_end=at_the_end, deeds={smtp.MessageComplete: [smtp.Reply(554, "5.6.0", "no")]})

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            for code, found in (("554", 0), ("250", 1)):
                assert send(smtp, LOCAL, FAR)[-1][:3] == code
                CLEANUP.finish(TIMEOUT)
                assert list((tmp_path / "alice").glob("tmp/*")) == []
                assert len(list((tmp_path / "alice").glob("new/*"))) == found

    relaying(run, double, client, maildrops=stores.MaildirMaildrops(tmp_path), **IN_CLEAR)
    assert len(seen) == 2


class FullDisk:
    """Maildrops that cannot store a message."""

    async def open(self, name: str) -> pop3.Unavailable:
        return pop3.Unavailable.TEMPORARY

    async def stage(self, name: str, head: bytes, content: stores.MessageContent) -> stores.Staged:
        raise OSError(28, "No space left on device")


def test_message_that_cannot_be_staged_locally_is_not_relayed(run: Run) -> None:
    double = Double()

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            assert send(smtp, LOCAL, FAR)[-1][:9] == "451 4.3.0"
            assert double.heard[-1] == "Rcpt"
            assert send(smtp, FAR)[-1][:3] == "250"

    relaying(run, double, client, maildrops=FullDisk(), **IN_CLEAR)
    assert double.heard[double.heard.index("Rcpt") + 1] == "Rset"
    assert len(double.taken) == 1


@attrs.define
class Unseen:
    """Maildrops that stage the first message, and fail to make it visible."""

    real: stores.MemoryMaildrops = attrs.field(factory=stores.MemoryMaildrops)
    failures: int = 1

    async def open(self, name: str) -> stores.OpenedMaildrop | pop3.Unavailable:
        return await self.real.open(name)

    async def stage(self, name: str, head: bytes, content: stores.MessageContent) -> Unseen.Copy:
        return Unseen.Copy(self, await self.real.stage(name, head, content))

    @attrs.frozen
    class Copy:
        maildrops: Unseen
        real: stores.Staged

        async def commit(self) -> None:
            if self.maildrops.failures:
                self.maildrops.failures -= 1
                raise OSError(5, "Input/output error")
            await self.real.commit()

        def discard(self) -> None:
            self.real.discard()


def test_failed_local_commit_after_relaying_gives_451_and_a_duplicate(run: Run) -> None:
    """docs/relay.md: a duplicate is better than a lost message."""
    double = Double()

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            assert send(smtp, LOCAL, FAR)[-1].startswith("451 4.3.0")
            assert served.mail_of("alice") == []
            assert send(smtp, LOCAL, FAR)[-1].startswith("250")
            assert len(served.mail_of("alice")) == 1

    relaying(run, double, client, maildrops=Unseen(), **IN_CLEAR)
    assert len(double.taken) == 2


def test_null_reverse_path_is_passed_on(run: Run) -> None:
    """RFC 5321 section 4.5.5."""
    double = Double()

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            smtp.mail("")
            smtp.rcpt(FAR)
            assert smtp.data(CONTENT)[0] == 250

    relaying(run, double, client, **IN_CLEAR)
    assert double.taken[0].mail.reverse_path is None


def test_size_and_body_are_passed_on_but_auth_parameter_is_not(run: Run) -> None:
    """RFC 1870, RFC 6152.  The AUTH parameter (RFC 4954 section 5) is not passed on."""
    double = Double()

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            options = ("SIZE=1000", "BODY=8BITMIME", "AUTH=alice@example.test")
            assert send(smtp, FAR, options=options, content="Subject: é\r\n".encode())[-1][:3] == "250"

    relaying(run, double, client, **IN_CLEAR)
    (mail,) = double.mails
    assert (mail.size, mail.body, mail.auth) == (1000, smtp.Body.EIGHT_BIT_MIME, None)
    assert "Subject: é\r\n".encode() in double.taken[0].data
    assert double.logins == []
