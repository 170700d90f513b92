"""Interceptors: each kind of decision on each question, on both loops, over real sockets."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Any

import attrs
import pytest

from mailauth import ACCEPT, Question, pop3, sasl, smtp
from mailauth_io import server, stores
from mailauth_io.adapters import Peer
from mailauth_io.server import DROP, PASS, Decision, Delay, Interceptor, SessionView
from tests.io.intercepting import (
    BUSY,
    MESSAGE,
    NO,
    POP3_STEPS,
    REFUSED,
    SMTP_STEPS,
    UNAVAILABLE,
    Client,
    at,
    begins_with,
    deciding,
    events,
    fail,
    hanging,
    kept_stores,
    on_each_question,
    refusal,
    run_pop3,
    run_session,
    run_smtp,
    used,
)
from tests.io.server_support import (
    Run,
    Served,
    meet,
    on_both_loops,
    run_on_asyncio,
)


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
    reported: list[tuple[Exception, Peer, int]] = []

    def report(error: Exception, peer: Peer) -> None:
        reported.append((error, peer, len(events(caplog, "interceptor failed"))))

    _, reply, done = run_session(run, protocol, kind, ways[way], on_error=report)
    default = "451 4.3.0" if protocol == "SMTP" else "-ERR [SYS/TEMP]"
    assert begins_with(reply, UNAVAILABLE.get((protocol, kind), default))
    assert not done
    (event,) = events(caplog, "interceptor failed")
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.exc_info
    ((error, peer, logged),) = reported
    assert (error, peer.address, logged) == (record.exc_info[1], "127.0.0.1", 1)
    assert event["question"] == kind.__name__
    assert re.match(
        "ZeroDivisionError: a mistake|TimeoutError: no decision|TypeError: the decision", str(event["reason"])
    )


@on_both_loops
def test_exception_in_on_error_is_logged_and_the_question_is_answered(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    def report(error: Exception, peer: Peer) -> None:
        raise LookupError("a mistake in the hook")

    replies, _ = run_smtp(run, at(smtp.Rcpt, fail), on_error=report)
    assert replies["RCPT"].startswith("451 4.3.0")
    (event,) = events(caplog, "error hook failed")
    assert event["reason"] == "LookupError: a mistake in the hook"


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
