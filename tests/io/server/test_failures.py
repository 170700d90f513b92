"""Failures of stores and lost connections: temporary errors, log lines, and released resources."""

from __future__ import annotations

import base64
import logging
import poplib
import re
import smtplib
import sqlite3
import threading
from collections.abc import Callable, Collection, Set
from typing import TypeVar
from unittest import mock

import attrs
import pytest

from mailauth import LocalProtocolError, pop3
from mailauth_io import server, stores
from mailauth_io.logs import Event, shown
from mailauth_io.server._log import log_failure
from tests.io.server_support import PASSWORD, TIMEOUT, Run, Served, accounts, authenticate, meet, on_both_loops

pytestmark = on_both_loops

T = TypeVar("T")


@attrs.define
class Broken:
    """Raises an exception in the given methods."""

    methods: set[str] = attrs.field(factory=set)
    error: Exception = attrs.field(factory=lambda: RuntimeError("no row"))

    def check(self, method: str) -> None:
        if method in self.methods:
            raise self.error


@attrs.define
class Accounts:
    broken: Broken
    real: stores.MemoryAccounts = attrs.field(factory=accounts)

    async def refresh(self, *, at_once: bool = False) -> stores.Changes | None:
        self.broken.check("refresh")
        return await self.real.refresh(at_once=at_once)

    async def find(self, name: str) -> stores.Account | None:
        self.broken.check("find")
        return await self.real.find(name)

    def credentials(self) -> Collection[stores.Credential]:
        return self.real.credentials()

    async def token_owner(self, token: bytes) -> str | None:
        self.broken.check("token_owner")
        return await self.real.token_owner(token)

    async def certificate_owners(self, names: Set[str]) -> frozenset[str]:
        self.broken.check("certificate_owners")
        return await self.real.certificate_owners(names)


@attrs.define
class Opened:
    broken: Broken
    real: stores.OpenedMaildrop
    closed: threading.Event

    @property
    def messages(self) -> tuple[pop3.Message, ...]:
        self.broken.check("messages")
        return self.real.messages

    async def read(self, number: int, offset: int = 0) -> pop3.Content:
        self.broken.check("read" if offset == 0 else "read more")
        return await self.real.read(number, offset)

    async def update(self, deleted: frozenset[int]) -> None:
        self.broken.check("update")
        await self.real.update(deleted)

    def close(self) -> None:
        self.real.close()
        self.closed.set()


@attrs.define
class Maildrops:
    broken: Broken
    real: stores.MemoryMaildrops = attrs.field(factory=stores.MemoryMaildrops)
    closed: threading.Event = attrs.field(factory=threading.Event)

    async def open(self, name: str) -> stores.OpenedMaildrop | pop3.Unavailable:
        self.broken.check("open")
        opened = await self.real.open(name)
        return opened if isinstance(opened, pop3.Unavailable) else Opened(self.broken, opened, self.closed)

    async def stage(self, name: str, head: bytes, content: stores.MessageContent) -> stores.Staged:
        self.broken.check("stage")
        return await self.real.stage(name, head, content)


class Budget(stores.Budget):
    """A budget that signals when all memory is released."""

    def __init__(self) -> None:
        super().__init__()
        self.whole = threading.Event()

    def release(self, size: int) -> None:
        super().release(size)
        if self.free == self.size:
            self.whole.set()


@attrs.define
class Behind:
    """The stores of a server, all of which can fail."""

    broken: Broken = attrs.field(factory=Broken)
    budget: Budget = attrs.field(factory=Budget)
    maildrops: Maildrops = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.maildrops = Maildrops(self.broken)

    def meet(self, run: Run, client: Callable[[Served], T]) -> T:
        kept = server.Stores(
            accounts=Accounts(self.broken), maildrops=self.maildrops, outbox=stores.MemoryOutbox(), budget=self.budget
        )
        return meet(run, client, kept=kept)


def deliver(served: Served, text: str | bytes = "Subject: x\r\n\r\nbody") -> None:
    with served.smtp() as smtp:
        assert smtp.sendmail("sender@far.test", ["alice@example.test"], text) == {}


@pytest.mark.parametrize("mechanism", ["PLAIN", "CRAM-MD5"])
def test_smtp_login_gets_454_if_the_accounts_fail(run: Run, mechanism: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "mailauth_io.server")
    backend = Behind()

    def client(served: Served) -> None:
        backend.broken.methods = {"find"}
        with served.smtp("smtps") as smtp:
            with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
                authenticate(smtp, mechanism)
            assert refused.value.smtp_code == 454
            backend.broken.methods = set()
            assert authenticate(smtp, mechanism) == 235

    backend.meet(run, client)
    assert re.search(r'part=accounts reason="RuntimeError: no row" at="test_failures.py:[0-9]+ ', caplog.text)
    assert ", in check\n    raise self.error\nRuntimeError: no row" in caplog.text
    assert PASSWORD not in caplog.text


def test_pop3_login_gets_sys_temp_if_the_accounts_fail(run: Run) -> None:
    backend = Behind()

    def client(served: Served) -> None:
        backend.broken.methods = {"find"}
        with pytest.raises(poplib.error_proto, match=r"-ERR \[SYS/TEMP\]"):
            served.log_in()
        assert not served.may_relay()

    backend.meet(run, client)


def test_rcpt_gets_451_if_the_accounts_fail(run: Run) -> None:
    backend = Behind()

    def client(served: Served) -> None:
        backend.broken.methods = {"find"}
        with served.smtp() as smtp:
            smtp.mail("sender@far.test")
            code, text = smtp.rcpt("alice@example.test")
            assert (code, b"RuntimeError" in text) == (451, False)

    backend.meet(run, client)


def test_message_gets_451_if_it_cannot_be_stored(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    backend = Behind()

    def client(served: Served) -> None:
        backend.broken.methods = {"stage"}
        with served.smtp() as smtp:
            smtp.mail("sender@far.test")
            smtp.rcpt("alice@example.test")
            assert smtp.data("x")[0] == 451
            assert backend.budget.free == backend.budget.size
            backend.broken.methods = set()
            assert smtp.sendmail("sender@far.test", ["alice@example.test"], "x") == {}

    backend.meet(run, client)
    assert 'part=maildrops reason="RuntimeError: no row" at=' in caplog.text
    assert ", in check\n    raise self.error\n" in caplog.text


def test_pop3_login_gets_sys_temp_if_the_maildrop_cannot_be_opened(run: Run) -> None:
    backend = Behind(broken=Broken({"open"}))

    def client(served: Served) -> None:
        with pytest.raises(poplib.error_proto, match=r"-ERR \[SYS/TEMP\]"):
            served.log_in()
        assert served.may_relay()  # the login was successful

    backend.meet(run, client)


def test_maildrop_is_unlocked_if_its_message_list_fails(run: Run) -> None:
    backend = Behind(broken=Broken({"messages"}))

    def client(served: Served) -> None:
        session = served.pop3("pop3s")
        for answer in (b"-ERR [SYS/TEMP]", b"+OK maildrop ha"):
            session.user("alice")
            session.sock.sendall(f"PASS {PASSWORD}\r\n".encode())
            assert session.file.readline()[:15] == answer
            backend.broken.methods = set()
        session.quit()

    backend.meet(run, client)


def test_retr_read_error_gives_err_or_closes_without_final_dot(run: Run) -> None:
    """An incomplete message must not look complete: the connection closes without the final dot."""
    backend = Behind()

    def client(served: Served) -> None:
        deliver(served, b"S: x\r\n\r\n" + b"line\r\n" * 50_000)
        backend.broken.methods = {"read"}
        session = served.log_in()
        with pytest.raises(poplib.error_proto, match="-ERR"):
            session.retr(1)
        backend.broken.methods = {"read more"}
        with pytest.raises(poplib.error_proto, match="EOF"):
            session.retr(1)
        session.close()

    backend.meet(run, client)


def test_quit_returns_err_if_deletion_fails(run: Run) -> None:
    """RFC 1939 section 6: -ERR at QUIT, some messages not removed."""
    backend = Behind()

    def client(served: Served) -> None:
        deliver(served)
        backend.broken.methods = {"update"}
        session = served.log_in()
        session.dele(1)
        with pytest.raises(poplib.error_proto, match="-ERR"):
            session.quit()
        session.close()
        assert backend.maildrops.closed.wait(TIMEOUT)
        assert len(served.mail_of("alice")) == 1

    backend.meet(run, client)


def test_dropped_connection_closes_maildrop_and_deletes_nothing(run: Run) -> None:
    backend = Behind()

    def client(served: Served) -> None:
        deliver(served)
        session = served.log_in()
        session.dele(1)
        session.close()
        assert backend.maildrops.closed.wait(TIMEOUT)
        assert len(served.mail_of("alice")) == 1

    backend.meet(run, client)


def test_maildrop_is_unlocked_immediately_after_quit(run: Run) -> None:
    """A client that receives the +OK may log in again without an IN-USE error."""

    def client(served: Served) -> None:
        deliver(served)
        for _ in range(10):
            served.log_in().quit()
        session = served.log_in()
        session.dele(1)
        session.quit()
        served.log_in().quit()

    Behind().meet(run, client)


@pytest.mark.parametrize("said", ["half\r\n", "half\r\n" * 40_000, "whole\r\n.\r"])
def test_connection_dropped_during_data_leaves_no_message(run: Run, said: str) -> None:
    backend = Behind()

    def client(served: Served) -> None:
        smtp = served.smtp()
        smtp.mail("sender@far.test")
        smtp.rcpt("alice@example.test")
        smtp.docmd("DATA")
        smtp.send(said)
        smtp.close()
        assert backend.budget.whole.wait(TIMEOUT)
        assert served.mail_of("alice") == []

    backend.meet(run, client)


def test_a_message_acknowledged_is_kept_without_quit(run: Run) -> None:
    def client(served: Served) -> None:
        smtp = served.smtp()
        smtp.sendmail("sender@far.test", ["alice@example.test"], "x")
        smtp.close()
        assert len(served.mail_of("alice")) == 1

    Behind().meet(run, client)


def test_no_secret_and_no_raw_client_text_reaches_the_log(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    name = "al \xefce\\" + "\xe9" * 100

    def client(served: Served) -> None:
        with served.smtp("smtps") as smtp:
            for who, password in ((name, PASSWORD), ("alice", PASSWORD + "!"), ("alice", PASSWORD)):
                response = base64.b64encode(f"\0{who}\0{password}".encode()).decode()
                smtp.docmd("AUTH", f"PLAIN {response}")
            smtp.docmd(PASSWORD)
            smtp.mail("alice@example.test")
            smtp.docmd("RCPT", r'TO:<"a b\\c"@far.test>')
            smtp.docmd("RCPT", r'TO:<"a b\\c"@example.test>')
        session = served.pop3("pop3s")
        session.sock.sendall(f"PASS {PASSWORD}\r\nAPOP alice {PASSWORD}\r\n".encode())
        assert [session.file.readline()[:4] for _ in range(2)] == [b"-ERR", b"-ERR"]
        session.user("alice")
        session.pass_(PASSWORD)
        session.quit()

    Behind().meet(run, client)
    assert "mechanism=PLAIN identity=alice" in caplog.text
    assert r"al\x20\xefce\\\xe9\xe9" in caplog.text
    assert r'recipient=\x22a\x20b\\\\c\x22@example.test reason=LOCAL reply="550 5.1.1 ' in caplog.text
    assert max(len(word.partition("=")[2]) for word in caplog.text.split()) == 256
    for secret in (PASSWORD, base64.b64encode(PASSWORD.encode()).decode().rstrip("="), "\xef", "\xe9"):
        assert secret not in caplog.text


@pytest.mark.parametrize("text", ["\n" * 500, "\u20ac" * 500, "\U0001f600" * 500, "a b", "", "plain"])
def test_logged_client_text_is_short_printable_and_without_spaces(run: Run, text: str) -> None:
    async def main() -> None:
        escaped = shown(text)
        assert 1 <= len(escaped) <= 256
        assert escaped.isascii()
        assert escaped.isprintable()
        assert " " not in escaped

    run(main)


@pytest.mark.parametrize(
    ("part", "error", "reason", "with_traceback"),
    [
        ("maildrops", OSError(28, "No space left on device"), '"OSError: No space left on device"', False),
        ("maildrops", RuntimeError("a mistake"), '"RuntimeError: a mistake"', True),
        ("maildrops", LocalProtocolError("no unique-id"), '"LocalProtocolError: no unique-id"', True),
        ("grants", stores.GrantsError("no write-ahead log"), '"GrantsError: no write-ahead log"', False),
        ("grants", sqlite3.OperationalError("database is locked"), "OperationalError", False),
        ("accounts", RuntimeError("open sesame"), "RuntimeError", False),
        ("accounts", TimeoutError(), "TimeoutError", False),
    ],
)
def test_store_failure_is_logged_with_traceback_only_for_bugs(
    run: Run, part: str, error: Exception, reason: str, with_traceback: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Only bugs have a traceback.  Failures that clients can cause, or that may quote a secret, have none."""

    async def main() -> None:
        try:
            raise error
        except Exception as raised:
            log_failure("0a1b", part, raised)

    run(main)
    (record,) = caplog.records
    assert record.getMessage().startswith(f"store failed connection=0a1b part={part} reason={reason}")
    assert (record.exc_info is not None) is with_traceback
    assert ("at=" in record.getMessage()) is isinstance(error, (RuntimeError, LocalProtocolError))
    assert "open sesame" not in caplog.text


@pytest.mark.parametrize("level", [logging.DEBUG, logging.ERROR])
@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (sqlite3.OperationalError("no such table: mail"), '"OperationalError: no such table: mail"'),
        (OSError(28, "No space left on device"), '"OSError: [Errno 28] No space left on device"'),
        (stores.CredentialError("unknown scheme"), '"CredentialError: unknown scheme"'),
        (KeyError("alice"), "\"KeyError: 'alice'\""),
    ],
)
@pytest.mark.parametrize("part", ["accounts", "maildrops", "outbox", "grants"])
def test_failure_of_an_applications_store_is_logged_with_message_and_traceback(
    run: Run, part: str, error: Exception, reason: str, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    """architecture.md, invariant 13: nothing else tells its author what is wrong."""
    caplog.set_level(level, "mailauth_io.server")

    async def main() -> None:
        try:
            raise error
        except Exception as raised:
            log_failure("0a1b", part, raised, None, stores.MemoryOutbox(), Maildrops(Broken()))

    run(main)
    (record,) = caplog.records
    text = f"store failed connection=0a1b part={part} reason={reason} at="
    assert record.getMessage().replace("\\'", "'").startswith(text)
    assert record.exc_info is not None


def test_busy_hashing_has_no_traceback_for_any_store(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Clients can cause it as often as they like."""

    async def main() -> None:
        log_failure("0a1b", "accounts", stores.HashingBusy(), Accounts(Broken()))

    run(main)
    (record,) = caplog.records
    assert record.getMessage() == "store failed connection=0a1b part=accounts reason=HashingBusy"
    assert record.exc_info is None


@pytest.mark.parametrize("part", ["accounts", "grants"])
def test_failure_is_logged_for_the_store_that_failed(run: Run, part: str, caplog: pytest.LogCaptureFixture) -> None:
    """The accounts are refreshed before a grant is looked up.  The store of grants is of this package."""
    broken = Broken({"refresh"} if part == "accounts" else set())
    grants = stores.MemoryGrants()
    if part == "grants":
        grants.find = mock.AsyncMock(side_effect=RuntimeError("a secret"))  # type: ignore[method-assign]
    kept = server.Stores(
        accounts=Accounts(broken), maildrops=stores.MemoryMaildrops(), outbox=stores.MemoryOutbox(), grants=grants
    )

    def client(served: Served) -> None:
        with served.smtp() as smtp:
            smtp.mail("sender@far.test")
            assert smtp.rcpt("dinah@far.test")[0] == 451

    meet(run, client, kept=kept, postmaster=None)
    assert f" part={part} reason=" in caplog.records[0].getMessage()


def test_a_rejected_command_is_logged_with_its_verb_if_the_server_knows_it(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "mailauth_io.server")

    def client(served: Served) -> None:
        with served.smtp() as smtp:
            smtp.docmd("FOO")
            smtp.docmd("DATA")
        reader = served.pop3()
        with pytest.raises(poplib.error_proto):
            reader.rpop("alice")  # not a command of this server
        with pytest.raises(poplib.error_proto):
            reader.stat()
        reader.quit()

    meet(run, client)
    events = [record.msg for record in caplog.records if isinstance(record.msg, Event)]
    rejected = [event.fields for event in events if event.name == "command refused"]
    assert [(fields["protocol"], fields["verb"]) for fields in rejected] == [
        ("SMTP", None),
        ("SMTP", "DATA"),
        ("POP3", None),
        ("POP3", "STAT"),
    ]
    assert "verb= " not in caplog.text
