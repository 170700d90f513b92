"""Interceptors: each kind of decision on each question, on both loops, over real sockets."""

from __future__ import annotations

import base64
import contextlib
import logging
import re
import smtplib
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any

import anyio
import attrs
import pytest

from mailauth import ACCEPT, Question, pop3, sasl, smtp
from mailauth_io import server, stores
from mailauth_io.logs import Event
from mailauth_io.server import DROP, PASS, Decision, Delay, Interceptor, SessionView
from tests.io import loops
from tests.io.server_support import (
    PASSWORD,
    TIMEOUT,
    Run,
    Served,
    accounts,
    meet,
    on_both_loops,
    run_on_asyncio,
)
from tests.io.tls import client_context

MESSAGE = b"Subject: test\r\n\r\nDown the rabbit-hole.\r\n"
BUSY = smtp.Reply(450, "4.7.1", "not now")
NO = smtp.Reply(554, "5.7.1", "not you")

SMTP_STEPS: dict[type[Question[Any]], str] = {
    smtp.Connected: "greeting",
    smtp.StartTls: "STARTTLS",
    sasl.CheckPassword: "AUTH",
    smtp.Mail: "MAIL",
    smtp.Rcpt: "RCPT",
    smtp.Data: "DATA",
    smtp.MessageComplete: "content",
}
"""Each question of a session of ``submit()``, and the step whose reply depends on it."""

POP3_STEPS: dict[type[Question[Any]], str] = {
    pop3.Connected: "greeting",
    pop3.Stls: "STLS",
    sasl.CheckPassword: "PASS",
    pop3.OpenMaildrop: "PASS",
    pop3.Retrieve: "RETR",
    pop3.RetrieveMore: "RETR",
    pop3.Update: "QUIT",
}
"""The same for ``collect()``."""


class Client:
    """A raw client that records the reply to each step, and ``closed`` for a connection that was closed."""

    def __init__(self, port: int | None, *, tls: bool = False) -> None:
        assert port is not None
        self.connection: socket.socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
        self.replies: dict[str, str] = {}
        if tls:
            self.start_tls()
        else:
            self.file = self.connection.makefile("rb")

    def start_tls(self) -> None:
        self.connection = client_context().wrap_socket(self.connection, server_hostname="localhost")
        self.file = self.connection.makefile("rb")

    def line(self) -> str:
        try:
            return self.file.readline().decode() or "closed"
        except (ConnectionError, ssl.SSLError):
            return "closed"

    def step(self, name: str, text: bytes = b"", *, goes_on: str = "[23]") -> bool:
        """Send *text*, record the last line of the reply, and return whether the session goes on."""
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            self.connection.sendall(text)
        while re.match("[0-9]{3}-", reply := self.line()):
            pass
        self.replies[name] = reply.strip()
        return re.match(goes_on, reply) is not None

    def close(self) -> dict[str, str]:
        self.file.close()
        self.connection.close()
        return self.replies


def plain(name: str = "alice", password: str = PASSWORD) -> bytes:
    return base64.b64encode(f"\0{name}\0{password}".encode())


def submit(served: Served, recipients: Sequence[str] = ("bob@example.test",)) -> dict[str, str]:
    """Log in after STARTTLS and send MESSAGE; stop at the first negative reply.  Return the replies by step."""
    client = Client(served.ports.smtp)
    for name, text in (
        ("greeting", b""),
        ("EHLO", b"EHLO client.test\r\n"),
        ("STARTTLS", b"STARTTLS\r\n"),
        ("EHLO", b"EHLO client.test\r\n"),
        ("AUTH", b"AUTH PLAIN %s\r\n" % plain()),
        ("MAIL", b"MAIL FROM:<alice@example.test>\r\n"),
        *(("RCPT", f"RCPT TO:<{recipient}>\r\n".encode()) for recipient in recipients),
        ("DATA", b"DATA\r\n"),
        ("content", MESSAGE + b".\r\n"),
        ("QUIT", b"QUIT\r\n"),
    ):
        if not client.step(name, text):
            break
        if name == "STARTTLS":
            client.start_tls()
    return client.close()


def collect(served: Served) -> dict[str, str]:
    """Log in after STLS, retrieve and delete a message of several pieces; stop at the first negative reply."""
    client = Client(served.ports.pop3)
    for name, text in (
        ("greeting", b""),
        ("STLS", b"STLS\r\n"),
        ("USER", b"USER alice\r\n"),
        ("PASS", f"PASS {PASSWORD}\r\n".encode()),
        ("RETR", b"RETR 1\r\n"),
        ("DELE", b"DELE 1\r\n"),
        ("QUIT", b"QUIT\r\n"),
    ):
        if not client.step(name, text, goes_on=r"\+OK"):
            break
        if name == "STLS":
            client.start_tls()
        if name == "RETR":
            while (line := client.line()) not in (".\r\n", "closed"):
                pass
            if line == "closed":
                client.replies["RETR"] = "closed"
                break
    return client.close()


def at(kind: type[Question[Any]], decide: Callable[[], Decision]) -> server.InterceptorFunction:
    """Return an interceptor that decides on the questions of the class *kind*."""

    async def interceptor(view: SessionView, question: Question[Any]) -> Decision:
        return decide() if isinstance(question, kind) else PASS

    return interceptor


def deciding(kind: type[Question[Any]], decision: Decision) -> server.InterceptorFunction:
    return at(kind, lambda: decision)


def fail() -> Decision:
    raise ZeroDivisionError("a mistake in an interceptor")


def hanging(kind: type[Question[Any]]) -> Interceptor:
    async def hang(view: SessionView, question: Question[Any]) -> Decision:
        if isinstance(question, kind):
            await anyio.sleep_forever()
        return PASS

    return Interceptor(hang, timeout=0.01)


def kept_stores() -> server.Stores:
    return server.Stores(
        accounts=accounts(), maildrops=stores.MemoryMaildrops(), outbox=stores.MemoryOutbox(), budget=stores.Budget()
    )


def used(kept: server.Stores) -> int:
    """Return the bytes that stored messages use, after the server has stopped; more would be a leak."""
    return kept.budget.size - kept.budget.free


def run_smtp(
    run: Run,
    *interceptors: Interceptor | server.InterceptorFunction,
    recipients: Sequence[str] = ("bob@example.test",),
    **options: Any,
) -> tuple[dict[str, str], int]:
    """Return the replies to ``submit()``, and the bytes of the stored mail."""
    kept = kept_stores()
    replies = meet(run, lambda served: submit(served, recipients), kept=kept, interceptors=interceptors, **options)
    return replies, used(kept)


def run_pop3(
    run: Run, *interceptors: Interceptor | server.InterceptorFunction, **options: Any
) -> tuple[dict[str, str], int]:
    """Return the replies to ``collect()``, and the bytes of the mail that is left."""
    kept = kept_stores()

    async def fill() -> None:
        content = stores.MessageContent.of(b"Subject: long\r\n\r\n" + b"down the rabbit-hole\r\n" * 8_000, kept.budget)
        copy = await kept.maildrops.stage("alice", b"", content)
        await copy.commit()
        content.release()

    anyio.run(fill)
    replies = meet(run, collect, kept=kept, interceptors=interceptors, **options)
    return replies, used(kept)


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[dict[str, object]]:
    return [record.msg.fields for record in caplog.records if isinstance(record.msg, Event) and record.msg.name == name]


def refusal(protocol: str, kind: type[Question[Any]]) -> server.Answer:
    """Return a permanent refusal of a question."""
    if issubclass(kind, sasl.CheckPassword):
        return sasl.Refusal.BAD_CREDENTIALS
    return NO if protocol == "SMTP" else pop3.Unavailable.PERMANENT


REFUSED: dict[tuple[str, type[Question[Any]]], str] = {
    ("SMTP", sasl.CheckPassword): "535 5.7.8",
    ("POP3", sasl.CheckPassword): "-ERR [AUTH]",
    ("POP3", pop3.RetrieveMore): "closed",
}
UNAVAILABLE: dict[tuple[str, type[Question[Any]]], str] = {
    ("SMTP", sasl.CheckPassword): "454 4.7.0",
    ("SMTP", smtp.Connected): "421 4.3.2",
    ("POP3", pop3.RetrieveMore): "closed",
}
QUESTIONS = [
    *(pytest.param("SMTP", kind, id=f"SMTP-{kind.__name__}") for kind in SMTP_STEPS),
    *(pytest.param("POP3", kind, id=f"POP3-{kind.__name__}") for kind in POP3_STEPS),
]
on_each_question = pytest.mark.parametrize(("protocol", "kind"), QUESTIONS)


def run_session(
    run: Run,
    protocol: str,
    kind: type[Question[Any]],
    *interceptors: Interceptor | server.InterceptorFunction,
    **options: Any,
) -> tuple[dict[str, str], str, bool]:
    """Return the replies, the reply to the step of *kind*, and whether the mail was delivered, or deleted."""
    if protocol == "SMTP":
        replies, size = run_smtp(run, *interceptors, **options)
        return replies, replies[SMTP_STEPS[kind]], size > 0
    replies, size = run_pop3(run, *interceptors, **options)
    return replies, replies[POP3_STEPS[kind]], size == 0


def begins_with(reply: str, expected: str) -> bool:
    """Return whether *reply* is *expected*; a greeting has no enhanced status code (RFC 2034 section 4)."""
    return reply.startswith((expected, expected[:3] + " ")) if expected[0].isdigit() else reply.startswith(expected)


@on_both_loops
@on_each_question
def test_negative_answer_is_sent_and_the_server_does_nothing(
    run: Run, protocol: str, kind: type[Question[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    _, reply, done = run_session(run, protocol, kind, deciding(kind, refusal(protocol, kind)))
    default = "554 5.7.1" if protocol == "SMTP" else "-ERR [SYS/PERM]"
    assert begins_with(reply, REFUSED.get((protocol, kind), default))
    assert not done
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
    (event,) = events(caplog, "intercepted")
    assert (event["question"], event["decision"]) != (None, None)


@on_both_loops
@on_each_question
def test_drop_closes_the_connection_without_a_reply(
    run: Run, protocol: str, kind: type[Question[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    _, reply, done = run_session(run, protocol, kind, deciding(kind, DROP))
    assert reply == "closed"
    assert not done
    assert [event["decision"] for event in events(caplog, "intercepted")] == ["DROP"]
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


@on_both_loops
@on_each_question
@pytest.mark.parametrize("way", ["raises", "hangs", "wrong type", "nothing"])
def test_failing_interceptor_makes_the_question_unavailable(
    run: Run, protocol: str, kind: type[Question[Any]], way: str, caplog: pytest.LogCaptureFixture
) -> None:
    wrong: Any = None if way == "nothing" else sasl.ScramKeys
    ways: dict[str, Interceptor | server.InterceptorFunction] = {
        "raises": at(kind, fail),
        "hangs": hanging(kind),
        "wrong type": deciding(kind, wrong),
        "nothing": deciding(kind, wrong),
    }
    _, reply, done = run_session(run, protocol, kind, ways[way])
    default = "451 4.3.0" if protocol == "SMTP" else "-ERR [SYS/TEMP]"
    assert begins_with(reply, UNAVAILABLE.get((protocol, kind), default))
    assert not done
    (event,) = events(caplog, "interceptor failed")
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info
    assert event["question"] == kind.__name__
    assert re.match(
        "ZeroDivisionError: a mistake|TimeoutError: no decision|TypeError: the decision", str(event["reason"])
    )


@on_both_loops
@on_each_question
@pytest.mark.parametrize("decision", [PASS, Delay(0.5), Delay(2.5, then=ACCEPT), ACCEPT], ids=str)
def test_positive_decision_lets_the_server_answer(
    run: Run, protocol: str, kind: type[Question[Any]], decision: Decision, caplog: pytest.LogCaptureFixture
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    replies, _, done = run_session(run, protocol, kind, deciding(kind, decision), sleep=sleep)
    taken = kind is smtp.MessageComplete and decision not in (PASS, Delay(0.5))
    assert done is not taken
    assert "QUIT" in replies
    if isinstance(decision, Delay):
        times = 1 if kind is not pop3.RetrieveMore else round(sum(slept) / decision.seconds)
        assert sum(slept) == decision.seconds * times > 0
    else:
        assert slept == []
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


@on_both_loops
@on_each_question
def test_refusal_after_a_delay_is_sent(run: Run, protocol: str, kind: type[Question[Any]]) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    interceptor = deciding(kind, Delay(2.5, then=refusal(protocol, kind)))
    _, reply, done = run_session(run, protocol, kind, interceptor, sleep=sleep)
    default = "554 5.7.1" if protocol == "SMTP" else "-ERR [SYS/PERM]"
    assert begins_with(reply, REFUSED.get((protocol, kind), default))
    assert not done
    assert slept == [1.0, 1.0, 0.5]


@on_both_loops
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (smtp.Connected, "220 example.test welcome"),
        (smtp.StartTls, "220 welcome"),
        (smtp.Mail, "250 2.0.0 welcome"),
        (smtp.Rcpt, "250 2.0.0 welcome"),
        (smtp.Data, "354 welcome"),
    ],
)
def test_text_of_a_positive_reply_is_sent(run: Run, kind: type[Question[Any]], expected: str) -> None:
    replies, size = run_smtp(run, deciding(kind, smtp.Reply(250, "2.0.0", "welcome")))
    assert replies[SMTP_STEPS[kind]] == expected
    assert size > 0


@on_both_loops
@pytest.mark.parametrize("answer", [ACCEPT, smtp.Reply(250, "2.0.0", "thank you")])
def test_positive_answer_to_a_complete_message_takes_it(run: Run, answer: Decision) -> None:
    """The server delivers nothing; the interceptor has seen the message."""
    taken: list[bytes] = []

    async def take(view: SessionView, question: Question[Any]) -> Decision:
        if not isinstance(question, smtp.MessageComplete):
            assert view.message is None
            return PASS
        assert view.message is not None
        assert view.message.size == len(MESSAGE)
        assert "bytes" in repr(view.message)
        taken.append(view.message.content())
        return answer

    replies, size = run_smtp(run, take)
    assert replies["content"].startswith("250 2.0.0 thank you" if answer is not ACCEPT else "250 2.0.0")
    assert (taken, size) == ([MESSAGE], 0)
    assert "QUIT" in replies


@on_both_loops
def test_positive_answer_does_not_override_a_refusal_of_the_server(run: Run) -> None:
    accept_all = [deciding(kind, ACCEPT) for kind in (smtp.Mail, smtp.Rcpt, smtp.Data)]

    def client(served: Served) -> None:
        with served.smtp() as remote:
            assert remote.mail("a@far.test")[0] == 250
            assert remote.rcpt("nobody@example.test")[0] == 550
            assert remote.rcpt("someone@far.test")[0] == 550
        with served.smtp() as large:
            assert large.docmd("MAIL", "FROM:<a@far.test> SIZE=2000000")[0] == 452

    kept = attrs.evolve(kept_stores(), budget=stores.Budget(1_000_000))
    meet(run, client, kept=kept, interceptors=accept_all)


@on_both_loops
def test_refused_recipient_gets_no_mail(run: Run) -> None:
    refuse_carol = at_recipient("carol", NO)
    kept = kept_stores()

    def client(served: Served) -> None:
        with served.smtp() as remote:
            refused = remote.sendmail("a@far.test", ["bob@example.test", "carol@example.test"], MESSAGE)
            assert list(refused) == ["carol@example.test"]
        assert len(served.mail_of("bob", "other")) == 1
        assert served.mail_of("carol", "third") == []

    meet(run, client, kept=kept, interceptors=[refuse_carol])


def at_recipient(name: str, decision: Decision) -> server.InterceptorFunction:
    def interceptor(view: SessionView, question: Question[Any]) -> Decision:
        return decision if isinstance(question, smtp.Rcpt) and question.forward_path.local_part == name else PASS

    return interceptor


@on_both_loops
@pytest.mark.parametrize("answer", [ACCEPT, NO], ids=str)
def test_memory_of_a_refused_or_taken_message_is_released_at_once(run: Run, answer: Decision) -> None:
    kept = kept_stores()
    free: list[int] = []

    def decide(view: SessionView, question: Question[Any]) -> Decision:
        free.append(kept.budget.free)
        return answer if isinstance(question, smtp.MessageComplete) else PASS

    def client(served: Served) -> None:
        with served.smtp() as remote:
            for _ in range(2):
                assert [remote.mail("a@far.test")[0], remote.rcpt("bob@example.test")[0]] == [250, 250]
                assert remote.data(MESSAGE)[0] == (250 if answer is ACCEPT else 554)

    meet(run, client, kept=kept, interceptors=[decide])
    first, second = free[1:5], free[5:]
    assert first == second
    assert used(kept) == 0


@on_both_loops
def test_refused_chunk_is_discarded(run: Run) -> None:
    """The data of BDAT arrives whatever the answer is (RFC 3030 section 2)."""
    kept = kept_stores()

    def client(served: Served) -> list[int]:
        with served.smtp() as remote:
            remote.mail("a@far.test")
            remote.rcpt("bob@example.test")
            remote.send(b"BDAT %d LAST\r\n" % len(MESSAGE) + MESSAGE)
            return [remote.getreply()[0], remote.noop()[0]]

    assert meet(run, client, kept=kept, interceptors=[deciding(smtp.Data, NO)]) == [554, 250]
    assert used(kept) == 0


# Order


@on_both_loops
def test_first_decision_other_than_pass_counts(run: Run) -> None:
    asked: list[str] = []

    def named(name: str, decision: Decision) -> server.InterceptorFunction:
        async def interceptor(view: SessionView, question: Question[Any]) -> Decision:
            if not isinstance(question, smtp.Rcpt):
                return PASS
            asked.append(name)
            return decision

        return interceptor

    interceptors = [named("a", PASS), named("b", Delay(0.1)), named("c", BUSY), named("d", NO)]
    replies, size = run_smtp(run, *interceptors)
    assert asked == ["a", "b", "c"]
    assert replies["RCPT"] == str(BUSY)
    assert size == 0


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


# Logins and secrets


@on_both_loops
@pytest.mark.parametrize("secrets", [False, True])
@pytest.mark.parametrize("protocol", ["SMTP", "POP3"])
def test_interceptor_sees_passwords_only_with_secrets(
    run: Run, protocol: str, secrets: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    seen: list[sasl.CheckPassword] = []
    shown: list[str] = []

    async def look(view: SessionView, question: Question[Any]) -> Decision:
        shown.append(repr((view, question)))
        if isinstance(question, sasl.CheckPassword):
            seen.append(question)
        return PASS

    _, _, done = run_session(run, protocol, sasl.CheckPassword, Interceptor(look, secrets=secrets))
    assert done
    ((identity, password),) = [(question.authentication_identity, question.password) for question in seen]
    assert (identity, password) == ("alice", PASSWORD.encode() if secrets else b"")
    encoded = plain().decode()
    for text in (*shown, *(record.getMessage() for record in caplog.records)):
        assert PASSWORD not in text
        assert encoded not in text


@on_both_loops
@pytest.mark.parametrize("secrets", [False, True])
def test_exception_that_quotes_a_password_is_not_logged(
    run: Run, secrets: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)

    async def quote(view: SessionView, question: Question[Any]) -> Decision:
        if isinstance(question, sasl.CheckPassword):
            raise LookupError(f"wrong: {question.password!r}")
        return PASS

    replies, _ = run_smtp(run, Interceptor(quote, secrets=secrets))
    assert replies["AUTH"].startswith("454 4.7.0")
    (event,) = events(caplog, "interceptor failed")
    assert event["reason"] == ("LookupError" if secrets else "LookupError: wrong: b''")
    assert "test_interceptors.py" in str(event["at"])
    formatter = logging.Formatter()
    assert not [record for record in caplog.records if PASSWORD in formatter.format(record)]


@on_both_loops
@pytest.mark.parametrize("secrets", [False, True])
@pytest.mark.parametrize("mechanism", ["OAUTHBEARER", "XOAUTH2"])
def test_interceptor_answers_bearer_tokens(run: Run, secrets: bool, mechanism: str) -> None:
    """The answer is the identity.  A refusal is counted and delayed once."""
    seen: list[bytes] = []
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def check(view: SessionView, question: Question[Any]) -> Decision:
        if not isinstance(question, sasl.CheckToken):
            return PASS
        seen.append(question.token)
        return "alice" if len(seen) > 2 else sasl.Refusal.TOO_WEAK

    bearer = {
        "OAUTHBEARER": b"n,,\x01auth=Bearer se-cret\x01\x01",
        "XOAUTH2": b"user=alice\x01auth=Bearer se-cret\x01\x01",
    }[mechanism]

    def client(served: Served) -> list[int]:
        codes = []
        with served.smtp("smtps") as remote:
            for _ in range(3):
                code, _ = remote.docmd("AUTH", f"{mechanism} {base64.b64encode(bearer).decode()}")
                codes.append(remote.docmd("AQ==" if mechanism == "OAUTHBEARER" else "")[0] if code == 334 else code)
        return codes

    kept = attrs.evolve(kept_stores(), tokens=stores.MemoryAccounts({}))
    codes = meet(run, client, kept=kept, interceptors=[Interceptor(check, secrets=secrets)], sleep=sleep)
    assert codes[0] // 100 == codes[1] // 100 == 5
    assert codes[2] == 235
    assert seen == [b"se-cret" if secrets else b""] * 3
    assert len(slept) == 1  # the first failure has no delay


@on_both_loops
def test_interceptor_provides_the_secret_for_cram_md5(run: Run) -> None:
    def client(served: Served) -> int:
        with served.smtp("smtps") as remote:
            remote.user, remote.password = "stranger", "told to nobody"
            return remote.auth("CRAM-MD5", remote.auth_cram_md5)[0]

    assert meet(run, client, interceptors=[deciding(sasl.FetchSecret, b"told to nobody")]) == 235


@pytest.mark.parametrize("decision", [sasl.Refusal.BAD_CREDENTIALS, DROP], ids=str)
@on_both_loops
def test_refused_login_is_logged_counted_and_delayed(
    run: Run, decision: Decision, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    def client(served: Served) -> None:
        for _ in range(3):
            submit(served)

    meet(run, client, interceptors=[deciding(sasl.CheckPassword, decision)], sleep=sleep)
    reason = "ENDED" if decision is DROP else "BAD_CREDENTIALS"
    assert [(event["identity"], event["reason"]) for event in events(caplog, "login failed")] == [("alice", reason)] * 3
    assert len(slept) == (0 if decision is DROP else 2)  # a closed connection has no reply to delay


@on_both_loops
def test_dropped_logins_are_counted(run: Run) -> None:
    """The next login from the same address is delayed as after failed ones."""
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    def client(served: Served) -> None:
        submit(served)
        for mechanism, data in (("XOAUTH2", b"user=alice\x01auth=Bearer t\x01\x01"), ("CRAM-MD5", b"")):
            with served.smtp("smtps") as remote, contextlib.suppress(smtplib.SMTPServerDisconnected):
                remote.docmd("AUTH", f"{mechanism} {base64.b64encode(data).decode()}".rstrip())
                remote.docmd(base64.b64encode(b"alice " + b"0" * 32).decode())
        with served.smtp("smtps") as remote:
            assert remote.docmd("AUTH", f"PLAIN {plain(password='wrong').decode()}")[0] == 535

    kept = attrs.evolve(kept_stores(), tokens=stores.MemoryAccounts({}))
    decisions: list[Decision] = [DROP, PASS]
    interceptors = [
        at(sasl.CheckPassword, lambda: decisions.pop(0)),
        deciding(sasl.CheckToken, DROP),
        deciding(sasl.FetchSecret, DROP),
    ]
    meet(run, client, kept=kept, interceptors=interceptors, sleep=sleep)
    assert slept == [1.0]  # half of the maximum, after three failures


@on_both_loops
def test_accepted_login_of_an_unknown_name_opens_a_maildrop_and_makes_no_grant(run: Run) -> None:
    def client(served: Served) -> bool:
        pop = served.log_in(name="no one here", password="anything")
        assert pop.stat() == (0, 0)
        pop.quit()
        return served.may_relay()

    assert not meet(run, client, interceptors=[deciding(sasl.CheckPassword, ACCEPT)])


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


# Arguments


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: Delay(601), "seconds must be at most 600 seconds, not 601"),
        (lambda: Delay(-1), "seconds must be finite and 0 or more, not -1"),
        (lambda: Delay(float("nan")), "seconds must be finite and 0 or more, not nan"),
        (lambda: Delay(1, then=Delay(1)), "then must not be a Delay"),  # type: ignore[arg-type]
        (lambda: Interceptor(deciding(smtp.Rcpt, PASS), timeout=0), "timeout"),
        (lambda: Interceptor(deciding(smtp.Rcpt, PASS), timeout=61), "timeout must be at most 60 seconds, not 61"),
        (lambda: Interceptor(Client), r"must not be the class Client; use Client\(...\)"),  # type: ignore[arg-type]
        (lambda: Interceptor("greylist"), "function must be a function, not str"),  # type: ignore[arg-type]
    ],
)
def test_invalid_values_are_rejected(build: Callable[[], object], text: str) -> None:
    with pytest.raises((TypeError, ValueError), match=text):
        build()


@pytest.mark.parametrize(
    ("kind", "decision", "text"),
    [
        (smtp.Rcpt, smtp.Reply(354, "", "go on"), "354 cannot answer a question"),
        (smtp.Rcpt, smtp.Reply(450, "5.0.0", "no"), "does not match its code"),
        (
            smtp.Rcpt,
            pop3.Unavailable.TEMPORARY,
            "must be PASS, DROP, a Delay, ACCEPT or an smtp.Reply; not Unavailable",
        ),
        (smtp.Rcpt, Delay(1, then=sasl.Refusal.TEMPORARY), "ACCEPT or an smtp.Reply; not Refusal"),
        (sasl.CheckPassword, b"secret", "ACCEPT or a sasl.Refusal; not bytes"),
    ],
    ids=str,
)
def test_wrong_answer_is_logged_with_the_right_types(
    kind: type[Question[Any]], decision: Decision, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    run_smtp(run_on_asyncio, deciding(kind, decision))
    (event,) = events(caplog, "interceptor failed")
    assert text in str(event["reason"])


def test_wrong_scram_keys_and_empty_identities_are_rejected(caplog: pytest.LogCaptureFixture) -> None:
    keys = sasl.scram_keys(b"secret", salt=b"salt", iterations=4096, hash_name="sha1")
    first = base64.b64encode(b"n,,n=alice,r=nonce").decode()

    def client(served: Served) -> list[int]:
        with served.smtp("smtps") as remote:
            wrong = remote.docmd("AUTH", f"SCRAM-SHA-256 {first}")[0]
            bearer = base64.b64encode(b"user=alice\x01auth=Bearer t\x01\x01").decode()
            return [wrong, remote.docmd("AUTH", f"XOAUTH2 {bearer}")[0]]

    kept = attrs.evolve(kept_stores(), tokens=stores.MemoryAccounts({}))
    interceptors = [deciding(sasl.FetchScramKeys, keys), deciding(sasl.CheckToken, "")]
    assert meet(run_on_asyncio, client, kept=kept, interceptors=interceptors) == [454, 454]
    reasons = [str(event["reason"]) for event in events(caplog, "interceptor failed")]
    assert "must have 32 bytes" in reasons[0]
    assert "must not be empty" in reasons[1]


@pytest.mark.parametrize("kind", [kind for kind in POP3_STEPS if kind is not sasl.CheckPassword])
@pytest.mark.parametrize("reason", pop3.Unavailable)
def test_every_reason_answers_every_pop3_question(
    kind: type[Question[Any]], reason: pop3.Unavailable, caplog: pytest.LogCaptureFixture
) -> None:
    replies, size = run_pop3(run_on_asyncio, deciding(kind, reason))
    expected = "closed" if kind is pop3.RetrieveMore else f"-ERR [{reason.value}]"
    assert replies[POP3_STEPS[kind]].startswith(expected)
    assert size > 0
    assert not [record for record in caplog.records if record.levelno > logging.INFO]
