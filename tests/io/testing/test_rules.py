"""Rules by themselves: what they match, which answers they give, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st

from mailauth import pop3, smtp
from mailauth.smtp import Mailbox
from mailauth_io.testing import CLOSE_WITHOUT_NOTIFY, DROP, PASS, STALL, Rule, odd_replies
from mailauth_io.testing.rules import POP3_STEPS, SMTP_STEPS, Occurrence, find_answer

RCPT = smtp.Rcpt(forward_path=Mailbox("Bob", "Far.test"))


def at(command: object, sender: str | None = None, *recipients: str) -> Occurrence:
    return Occurrence(command=command, sender=sender, recipients=recipients)


@pytest.mark.parametrize(
    ("fields", "matches"),
    [
        ({}, True),
        ({"to": "bob@far.test"}, True),
        ({"to": "<BOB@FAR.TEST>"}, True),
        ({"to": '"bob"@far.test'}, True),
        ({"to": "carol@far.test"}, False),
        ({"forward_path": "bob@far.test"}, True),
        ({"forward_path": Mailbox("Bob", "far.test")}, True),
        ({"sender": "alice@example.org"}, True),
        ({"sender": ""}, False),
        ({"to": "bob@far.test", "sender": "dinah@example.org"}, False),
        ({"where": lambda rcpt: rcpt.forward_path.domain == "Far.test"}, True),
        ({"where": lambda rcpt: False}, False),
    ],
)
def test_fields_are_compared_as_a_test_writes_them(fields: dict[str, Any], matches: bool) -> None:
    rule = Rule(smtp.Rcpt, **fields).reply(451)
    assert find_answer([rule], at(RCPT, "alice@example.org", "Bob@Far.test")) == (451 if matches else None)


def test_null_sender_is_matched_by_an_empty_text() -> None:
    assert find_answer([Rule(smtp.Mail, sender="").reply(550)], at(smtp.Mail(reverse_path=None), "")) == 550


def test_command_outside_of_a_transaction_has_no_sender() -> None:
    assert find_answer([Rule(smtp.Rcpt, sender="").reply(550)], at(RCPT, None, "bob@far.test")) is None


def test_recipient_of_the_content_is_one_of_those_accepted() -> None:
    rule = Rule(smtp.MessageComplete, to="c@d.test").reply(552).always()
    assert find_answer([rule], at(smtp.MessageComplete(), "a@b.test", "x@y.test", "c@d.test")) == 552
    assert find_answer([rule], at(smtp.MessageComplete(), "a@b.test", "x@y.test")) is None


def test_fields_of_pop3_commands() -> None:
    assert find_answer([Rule(pop3.Retrieve, number=2).reply(b"-ERR no\r\n")], at(pop3.Retrieve(number=1))) is None
    assert (
        find_answer([Rule(pop3.User, argument="alice").reply(b"-ERR no\r\n")], at(pop3.User(argument=b"alice")))
        is not None
    )
    assert find_answer([Rule(pop3.User, argument="alice").reply(DROP)], at(pop3.User(argument=b"Alice"))) is None
    top = Rule(pop3.Retrieve, where=lambda retrieve: retrieve.lines is not None).reply(b"-ERR no\r\n")
    assert find_answer([top], at(pop3.Retrieve(number=1))) is None
    assert find_answer([top], at(pop3.Retrieve(number=1, lines=0))) is not None


@given(st.lists(st.integers(400, 459), min_size=1, max_size=5), st.integers(1, 4), st.integers(0, 25))
def test_answers_are_repeated_as_a_whole(codes: list[int], times: int, calls: int) -> None:
    rule = Rule(smtp.Noop).reply(*codes).times(times)
    answers = [find_answer([rule], at(smtp.Noop())) for _ in range(calls)]
    expected = codes * times
    assert [answer for answer in answers if answer is not None] == expected[:calls]
    assert (rule.problem is None) == (calls >= len(expected))


def test_rule_after_another_rule_says_what_it_would_have_needed() -> None:
    first, other, same = (
        Rule(smtp.Help).reply(451),
        Rule(smtp.Help, argument="x").reply(452),
        Rule(smtp.Help).reply(453),
    )
    assert find_answer([first, other, same], at(smtp.Help(argument="y"))) == 451
    assert str(other.problem).endswith("was never used: HELP was reached once, with argument='y'")
    assert str(same.problem).endswith("was never used: HELP was reached once, and another rule replied")
    assert find_answer([Rule(smtp.Noop).reply(450), same], at(smtp.Noop())) == 450
    find_answer([other], at(smtp.Help(argument="z")))
    assert str(other.problem).endswith("was never used: HELP was reached 2 times, the last time with argument='z'")
    assert str(same.problem).endswith("was never used: HELP was reached once, and another rule replied")
    find_answer([first], at(smtp.Help()))
    assert first.used == 1


def test_rule_without_end() -> None:
    rule = Rule(smtp.Noop).reply(451, PASS).always()
    assert rule.problem == "on(smtp.Noop).reply(451, PASS).always() was never used: no session reached NOOP"
    assert [find_answer([rule], at(smtp.Noop())) for _ in range(4)] == [451, PASS, 451, PASS]
    assert rule.problem is None


@pytest.mark.parametrize(
    ("rule", "calls", "problem"),
    [
        (Rule(smtp.Noop).reply(451), 0, "on(smtp.Noop).reply(451) was never used: no session reached NOOP"),
        (Rule(smtp.Noop).reply(451, 451, PASS), 1, "on(smtp.Noop).reply(451, 451, PASS) was used 1 of 3 times"),
        (Rule(smtp.Noop).reply(451).times(3), 2, "on(smtp.Noop).reply(451).times(3) was used 2 of 3 times"),
        (Rule(smtp.Noop).reply(451).times(3).optional(), 2, None),
        (Rule(smtp.Noop).reply(DROP).optional(), 0, None),
        (Rule(smtp.Noop), 1, "on(smtp.Noop) has no answer: call reply()"),
        (
            Rule(smtp.Noop, where=lambda noop: {}[noop]).reply(451),
            1,
            "on(smtp.Noop, where=<lambda>).reply(451): where() failed: KeyError: Noop(argument='')",
        ),
    ],
)
def test_problem_of_a_rule(rule: Rule, calls: int, problem: str | None) -> None:
    for _ in range(calls):
        find_answer([rule], at(smtp.Noop()))
    assert rule.problem == problem


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (
            Rule(smtp.Rcpt, to="a@b.test").reply(smtp.Reply(451, "4.3.0", "later")),
            "on(smtp.Rcpt, to='a@b.test').reply('451 4.3.0 later')",
        ),
        (Rule(pop3.Pass).reply(pop3.Unavailable.IN_USE, STALL), "on(pop3.Pass).reply(pop3.Unavailable.IN_USE, STALL)"),
        (
            Rule(pop3.Quit).reply(b"+OK\r\n", CLOSE_WITHOUT_NOTIFY).times(2),
            "on(pop3.Quit).reply(b'+OK\\r\\n', CLOSE_WITHOUT_NOTIFY).times(2)",
        ),
    ],
)
def test_rule_is_shown_as_it_was_written(rule: Rule, text: str) -> None:
    assert str(rule) == repr(rule) == text


@pytest.mark.parametrize(
    ("step", "fields", "error"),
    [
        (smtp.Reply, {}, "step must be a class of mailauth.smtp or mailauth.pop3"),
        ("RCPT", {}, "step must be a class of mailauth.smtp or mailauth.pop3"),
        (smtp.Rcpt, {"recipient": "a@b.test"}, "Rcpt has no field 'recipient'; use forward_path, notify"),
        (smtp.Quit, {"to": "a@b.test"}, "Quit has no field 'to'; use where"),
        (smtp.Mail, {"to": "a@b.test"}, "Mail has no field 'to'"),
        (smtp.Rcpt, {"to": b"a@b.test"}, "to must be an address such as 'bob@example.org', not b'a@b.test'"),
        (smtp.Rcpt, {"where": "far.test"}, "where must be a function"),
    ],
)
def test_wrong_rule(step: Any, fields: dict[str, Any], error: str) -> None:
    with pytest.raises(TypeError, match=error.replace("(", r"\(")):
        Rule(step, **fields)


@pytest.mark.parametrize(
    ("step", "answers", "error"),
    [
        (smtp.Rcpt, (), "reply() needs an answer"),
        (smtp.Rcpt, ("451",), "must be a code such as 451, an smtp.Reply, bytes"),
        (smtp.Rcpt, (True,), "must be a code such as 451"),
        (smtp.Rcpt, (None,), "must be a code such as 451"),
        (smtp.Rcpt, (pop3.Unavailable.IN_USE,), "must be a code such as 451"),
        (pop3.Stat, (451,), "must be a pop3.Reply, a pop3.Unavailable, bytes"),
        (pop3.Stat, (odd_replies.smtp.GREETING_WITHOUT_TEXT,), "is a reply of SMTP, but Stat is a step of POP3"),
        (smtp.Rcpt, (b"",), "must not be empty; use STALL"),
        (smtp.Rcpt, (99,), "pass bytes to send a reply that no server should send"),
        (smtp.Rcpt, (571,), "pass bytes to send a reply that no server should send"),
    ],
)
def test_wrong_answer(step: Any, answers: tuple[Any, ...], error: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        Rule(step).reply(*answers)
    assert error in str(caught.value)


def test_second_reply_is_an_error() -> None:
    with pytest.raises(ValueError, match="already has an answer"):
        Rule(smtp.Noop).reply(451).reply(452)


@pytest.mark.parametrize("number", [0, -1, "2", True, 1.0])
def test_wrong_number_of_times(number: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="number must be"):
        Rule(smtp.Noop).reply(451).times(number)


def test_times_needs_a_reply() -> None:
    with pytest.raises(ValueError, match="call reply"):
        Rule(smtp.Noop).always()


def test_every_command_is_a_step() -> None:
    """A verb that is added to the core needs a step here."""
    for settings, steps in ((smtp.ServerSettings(), SMTP_STEPS), (pop3.ServerSettings(), POP3_STEPS)):
        arguments = {
            "MAIL": "FROM:<>", "RCPT": "TO:<a@b.test>", "EHLO": "x", "HELO": "x", "LHLO": "x", "AUTH": "PLAIN",
            "BDAT": "1", "VRFY": "a", "USER": "a", "PASS": "a", "APOP": f"a {'0' * 32}", "RETR": "1", "TOP": "1 1",
            "DELE": "1",
        }  # fmt: skip
        for verb in settings.table:
            line = f"{verb} {arguments.get(verb, '')}".strip().encode()
            assert type(settings.parse_command(line)) in steps, verb
