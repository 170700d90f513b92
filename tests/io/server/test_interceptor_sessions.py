"""Interceptors and the rest of a session: relaying, the view, delays, and closed connections."""

from __future__ import annotations

import errno
import logging
import re
import socket
from collections.abc import Callable
from typing import Any, TypeVar

import anyio
import attrs
import pytest

from mailauth import ACCEPT, Question, sasl, smtp
from mailauth.grants import Lookup
from mailauth_io import server, stores
from mailauth_io.server import DROP, PASS, Decision, Delay, Interceptor, SessionView
from tests.io import loops
from tests.io.intercepting import (
    MESSAGE,
    NO,
    Client,
    deciding,
    events,
    kept_stores,
    run_smtp,
    used,
)
from tests.io.server_support import (
    PASSWORD,
    TIMEOUT,
    Run,
    Served,
    authenticate,
    meet,
    on_both_loops,
)

T = TypeVar("T")

# Relaying


@on_both_loops
@pytest.mark.parametrize("may_relay", [False, True])
def test_only_may_relay_accepts_a_denied_recipient(run: Run, may_relay: bool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    kept = kept_stores()

    def client(served: Served) -> tuple[int, int]:
        with served.smtp() as remote:
            remote.mail("someone@far.test")
            codes = remote.rcpt("bob@far.test")[0], remote.rcpt("nobody@example.test")[0]
            if may_relay:
                assert remote.data(MESSAGE)[0] == 250
        return codes

    interceptor = Interceptor(deciding(smtp.Rcpt, ACCEPT), may_relay=may_relay)
    assert meet(run, client, kept=kept, interceptors=[interceptor]) == (250 if may_relay else 550, 550)
    assert isinstance(kept.outbox, stores.MemoryOutbox)
    assert [message.envelope.recipients for message in kept.outbox.messages] == [("bob@far.test",)] * may_relay
    assert [event["reason"] for event in events(caplog, "message")] == ["INTERCEPTOR"] * may_relay
    refused = [event["reason"] for event in events(caplog, "recipient refused")]
    assert refused == ["LOCAL"] if may_relay else ["NO_GRANT", "LOCAL"]


@on_both_loops
def test_may_relay_needs_a_positive_answer(run: Run) -> None:
    def client(served: Served) -> bool:
        return served.may_relay()

    assert not meet(run, client, interceptors=[Interceptor(deciding(smtp.Mail, ACCEPT), may_relay=True)])


# The view


@on_both_loops
def test_view_shows_the_transaction_so_far(run: Run) -> None:
    views: dict[str, SessionView] = {}

    async def look(view: SessionView, question: Question[Any]) -> Decision:
        views[type(question).__name__] = view
        return NO if isinstance(question, smtp.Rcpt) and question.forward_path.local_part == "carol" else PASS

    def client(served: Served) -> None:
        with served.smtp() as remote:
            assert remote.sock is not None
            port = remote.sock.getsockname()[1]
            assert [remote.mail("a@far.test")[0], remote.rset()[0], remote.mail("b@far.test")[0]] == [250] * 3
            for name in ("bob", "carol", "alice"):
                remote.rcpt(f"{name}@example.test")
            remote.data(MESSAGE)
            assert views["Connected"].peer.port == port
        with served.smtp("starttls"):
            pass

    meet(run, client, interceptors=[look])
    assert views["Connected"].protocol == "SMTP"
    assert views["StartTls"].hello == smtp.Hello(domain="client.test")
    mail, complete = views["Mail"], views["MessageComplete"]
    assert (mail.mail, mail.recipients, mail.identity, mail.tls) == (None, (), None, None)
    assert str(complete.mail and complete.mail.reverse_path) == "b@far.test"
    assert [str(rcpt.forward_path) for rcpt in complete.recipients] == ["bob@example.test", "alice@example.test"]
    assert re.fullmatch("[0-9a-f]{12}", complete.connection_id)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        complete.identity = "root"  # type: ignore[misc]


@on_both_loops
def test_view_after_starttls_has_no_hello_and_no_identity(run: Run) -> None:
    views: list[SessionView] = []

    async def look(view: SessionView, question: Question[Any]) -> Decision:
        if isinstance(question, sasl.CheckPassword | smtp.Mail):
            views.append(view)
        return PASS

    replies, _ = run_smtp(run, look)
    assert "QUIT" in replies
    login, mail = views
    assert login.tls is not None
    assert (login.identity, mail.identity) == (None, "alice")
    assert mail.hello == smtp.Hello(domain="client.test")


# Grants


class CountedGrants(stores.MemoryGrants):
    """Grants that count lookups, and whose lookups fail if their numbers are in *failing*."""

    def __init__(self, *failing: int) -> None:
        super().__init__()
        self.failing = failing
        self.lookups = 0

    async def find(self, address: str) -> Lookup:
        self.lookups += 1
        if self.lookups in self.failing:
            raise OSError(errno.EIO, "the store does not answer")
        return await super().find(address)


def run_with_grants(
    run: Run, client: Callable[[Served], T], grants: CountedGrants, *interceptors: server.InterceptorFunction
) -> T:
    return meet(run, client, kept=attrs.evolve(kept_stores(), grants=grants), interceptors=interceptors)


@attrs.frozen
class GrantRecorder:
    """An interceptor that records ``view.grant`` at each question."""

    seen: list[tuple[str, str | None]] = attrs.field(factory=list[Any])

    def __call__(self, view: SessionView, question: Question[Any]) -> Decision:
        self.seen.append((type(question).__name__, view.grant))
        return PASS


@on_both_loops
def test_view_shows_the_grant_at_the_questions_of_a_transaction(run: Run) -> None:
    """At each RCPT, local or remote, it is the result of one lookup, which the relay policy uses too."""
    grants, recorder = CountedGrants(), GrantRecorder()

    def client(served: Served) -> None:
        with served.smtp() as stranger:
            assert stranger.sendmail("a@far.test", ["bob@example.test"], MESSAGE) == {}
        served.log_in(name="Alice@Example.test").quit()
        lookups = grants.lookups
        with served.smtp("starttls") as remote:
            assert remote.sendmail("a@far.test", ["bob@example.test", "dinah@far.test"], MESSAGE) == {}
            assert grants.lookups == lookups + 3
            authenticate(remote, "PLAIN")
            assert remote.sendmail("a@far.test", ["dinah@far.test"], MESSAGE) == {}
            assert grants.lookups == lookups + 3

    run_with_grants(run, client, grants, recorder)
    transaction = ["Mail", "Rcpt", "Data", "MessageComplete"]
    assert recorder.seen == [
        ("Connected", None), *((name, None) for name in transaction),
        ("Connected", None), ("CheckPassword", None), ("OpenMaildrop", None),
        ("Connected", None), ("StartTls", None), ("Mail", "alice"), ("Rcpt", "alice"), ("Rcpt", "alice"),
        ("Data", "alice"), ("MessageComplete", "alice"),
        ("CheckPassword", None), *((name, None) for name in transaction),
    ]  # fmt: skip


@on_both_loops
def test_grants_are_looked_up_for_remote_recipients_only_without_interceptors(run: Run) -> None:
    grants = CountedGrants()

    def client(served: Served) -> int:
        with served.smtp() as remote:
            assert remote.mail("a@far.test")[0] == 250
            assert remote.rcpt("bob@example.test")[0] == 250
            assert grants.lookups == 0
            return remote.rcpt("dinah@far.test")[0]

    assert run_with_grants(run, client, grants) == 550
    assert grants.lookups == 1


@on_both_loops
def test_view_has_no_grant_if_the_store_fails_and_remote_recipients_get_451(run: Run) -> None:
    """So no remote recipient is accepted for which an interceptor has not seen the grant."""
    grants, recorder = CountedGrants(1, 2, 3), GrantRecorder()

    def client(served: Served) -> None:
        served.log_in().quit()
        with served.smtp() as remote:
            assert remote.mail("a@far.test")[0] == 250
            assert [remote.rcpt(f"{name}.test")[0] for name in ("bob@example", "dinah@far")] == [250, 451]
            assert remote.rcpt("dinah@far.test")[0] == 250

    run_with_grants(run, client, grants, recorder)
    assert recorder.seen[-4:] == [("Mail", None), ("Rcpt", None), ("Rcpt", None), ("Rcpt", "alice")]
    assert grants.lookups == 4


@on_both_loops
def test_interceptor_that_may_relay_does_not_depend_on_the_grants(run: Run) -> None:
    grants = CountedGrants(1, 2)

    def client(served: Served) -> None:
        with served.smtp() as remote:
            assert [remote.mail("a@far.test")[0], remote.rcpt("dinah@far.test")[0]] == [250, 250]

    kept = attrs.evolve(kept_stores(), grants=grants)
    meet(run, client, kept=kept, interceptors=[Interceptor(deciding(smtp.Rcpt, ACCEPT), may_relay=True)])
    assert grants.lookups == 2


@on_both_loops
def test_view_shows_the_last_grant_of_the_transaction(run: Run) -> None:
    """A recipient that was accepted by a grant stays accepted after the grant is revoked."""
    grants, recorder = CountedGrants(), GrantRecorder()

    async def revoke(view: SessionView, question: Question[Any]) -> Decision:
        if isinstance(question, smtp.Rcpt):
            await grants.revoke_address(view.peer.address)
        return PASS

    def client(served: Served) -> None:
        served.log_in().quit()
        with served.smtp() as remote:
            refused = remote.sendmail("a@far.test", ["dinah@far.test", "edith@far.test"], MESSAGE)
            assert list(refused) == ["edith@far.test"]
            assert remote.sendmail("a@far.test", ["bob@example.test"], MESSAGE) == {}

    run_with_grants(run, client, grants, recorder, revoke)
    asked = [name for name, _ in recorder.seen[-9:]]
    assert asked == ["Mail", "Rcpt", "Rcpt", "Data", "MessageComplete", "Mail", "Rcpt", "Data", "MessageComplete"]
    assert [grant for _, grant in recorder.seen[-9:]] == ["alice"] * 5 + [None] * 4


# Delays


@on_both_loops
def test_shutdown_ends_a_delay(run: Run) -> None:
    kept = kept_stores()
    slept: list[float] = []

    async def main() -> str:
        begun, stopping = anyio.Event(), anyio.Event()

        async def sleep(seconds: float) -> None:
            slept.append(seconds)
            begun.set()
            await stopping.wait()

        config = server.Config(smtp=0)
        interceptors = [deciding(smtp.Connected, Delay(600.0))]
        async with server.serve(config, kept, sleep=sleep, interceptors=interceptors) as running:
            assert running.smtp is not None
            client = await loops.current().in_thread(socket.create_connection, ("127.0.0.1", running.smtp), TIMEOUT)
            await begun.wait()
            stopping.set()  # the server stops before the task of the session runs
        with client:
            return await loops.current().in_thread(read_all, client)

    assert run(main).startswith("421 ")
    assert len(slept) == 1


def read_all(client: socket.socket) -> str:
    with client.makefile("rb") as file:
        return file.read().decode()


@on_both_loops
def test_disconnected_client_ends_a_delay(run: Run) -> None:
    slept: list[float] = []

    async def main() -> None:
        begun, gone, second = anyio.Event(), anyio.Event(), anyio.Event()

        async def sleep(seconds: float) -> None:
            slept.append(seconds)
            begun.set()
            await gone.wait()

        def decide(view: SessionView, question: Question[Any]) -> Decision:
            if begun.is_set():
                second.set()
                return PASS
            return Delay(600.0)

        kept = kept_stores()
        async with server.serve(server.Config(smtp=0), kept, sleep=sleep, interceptors=[decide]) as running:
            assert running.smtp is not None
            address = ("127.0.0.1", running.smtp)
            client = await loops.current().in_thread(socket.create_connection, address, TIMEOUT)
            await begun.wait()
            client.close()
            gone.set()
            other = await loops.current().in_thread(socket.create_connection, address, TIMEOUT)
            await second.wait()
            other.close()

    run(main)
    assert len(slept) == 1


@on_both_loops
def test_pipelined_commands_after_drop_are_not_read(run: Run) -> None:
    """A message that the client has already sent is not delivered."""
    kept = kept_stores()

    def client(served: Served) -> str:
        raw = Client(served.ports.smtp)
        raw.step("greeting")
        raw.step(
            "all",
            b"EHLO c\r\nMAIL FROM:<a@far.test>\r\nRCPT TO:<bob@example.test>\r\nRSET\r\nMAIL FROM:<b@far.test>\r\n"
            b"RCPT TO:<bob@example.test>\r\nDATA\r\n" + MESSAGE + b".\r\nQUIT\r\n",
        )
        while raw.line() != "closed":
            pass
        raw.close()
        return "closed"

    meet(run, client, kept=kept, interceptors=[deciding(smtp.Mail, DROP)])
    assert used(kept) == 0


@on_both_loops
def test_log_of_a_taken_message_tells_whose_it_is_and_for_whom(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """By a login and by a grant; the queue id is that of the Received line, and no other message has it."""
    caplog.set_level(logging.INFO)
    lines: list[bytes] = []

    def take(view: SessionView, question: Question[Any]) -> Decision:
        if isinstance(question, smtp.MessageComplete) and view.message is not None:
            lines.append(view.message.received_line)
            return ACCEPT
        return PASS

    def client(served: Served) -> None:
        served.log_in(name="bob", password="other").quit()
        with served.smtp("smtps") as remote:
            for _ in range(2):
                assert remote.sendmail("a@far.test", ["dinah@far.test", "lory@far.test"], MESSAGE) == {}
            remote.login("alice", PASSWORD)
            assert remote.sendmail("a@far.test", ["alice@example.test"], MESSAGE) == {}

    meet(run, client, interceptors=[take])
    taken = events(caplog, "intercepted")
    assert [[each[key] for key in ("sender", "recipients", "size", "identity", "grant")] for each in taken] == [
        ["a@far.test", "dinah@far.test,lory@far.test", len(MESSAGE), None, "bob"],
        ["a@far.test", "dinah@far.test,lory@far.test", len(MESSAGE), None, "bob"],
        ["a@far.test", "alice@example.test", len(MESSAGE), "alice", None],
    ]
    ids = [str(each["queue_id"]) for each in taken]
    assert len(set(ids)) == 3
    for line, queue_id in zip(lines, ids, strict=True):
        assert line.startswith(b"Received: from client.test ([127.0.0.1])\r\n\tby example.test with ESMTPS")
        assert f" id {queue_id};\r\n".encode() in line
        assert line.endswith(b"\r\n")


@on_both_loops
@pytest.mark.parametrize(
    ("header", "reply"),
    [(b"Received: x\r\n" * 101, "554 5.4.6"), (b"X: " + b"y" * 2**20 + b"\r\n", "552 5.3.4")],
    ids=["loop", "long header"],
)
def test_message_refused_for_its_header_is_shown_to_no_interceptor(run: Run, header: bytes, reply: str) -> None:
    """RFC 5321 section 6.3: an interceptor may send it on."""
    asked: list[Question[Any]] = []

    def take(view: SessionView, question: Question[Any]) -> Decision:
        asked.append(question)
        return ACCEPT if isinstance(question, smtp.MessageComplete) else PASS

    def client(served: Served) -> None:
        with served.smtp() as remote:
            remote.mail("a@far.test")
            remote.rcpt("alice@example.test")
            code, text = remote.data(header + MESSAGE)
            assert f"{code} {text.decode()}".startswith(reply)

    meet(run, client, interceptors=[take])
    assert smtp.MessageComplete not in map(type, asked)
