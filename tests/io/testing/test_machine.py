"""The machine of the test kit: without rules it changes nothing, and it knows which input is a command."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import attrs
import pytest
from hypothesis import given, strategies as st

from mailauth import (
    ACCEPT,
    BeginTls,
    Closed,
    Command,
    MessageChunk,
    NeedData,
    Paused,
    Question,
    Send,
    Tls,
    pop3,
    sasl,
    smtp,
)
from mailauth.smtp import Mailbox
from mailauth_io.testing import CLOSE_WITHOUT_NOTIFY, DROP, PASS, STALL, Message, Rule, Transcript, odd_replies
from mailauth_io.testing._machine import Pop3Machine, RecordingMachine, SmtpMachine, mail_parameters
from mailauth_io.testing.rules import Answer, Occurrence, find_answer
from mailauth_io.testing.transcript import ConnectionTranscript
from tests.pop3.drive import Application

ENTROPY: Final = bytes(range(32))
TLS: Final = Tls(version="TLSv1.3")
SMTP: Final = smtp.ServerSettings(
    host_name="mx.test", starttls=True, chunking=True, mechanisms_without_tls=frozenset({"PLAIN", "LOGIN", "CRAM-MD5"})
)
POP3: Final = pop3.ServerSettings(
    host_name="pop.test", stls=True, mechanisms_without_tls=frozenset(pop3.DEFAULT_MECHANISMS.names)
)
PLAIN: Final = b"AUTH PLAIN AGFsaWNlAHdvbmRlcmxhbmQ="

Machine: TypeAlias = smtp.ServerConnection | pop3.ServerConnection | RecordingMachine[Any]


class Journal:
    """Has the rules of one test, and records what the machine reports."""

    def __init__(self, *rules: Rule, starttls_injected: bool = False) -> None:
        self.rules = rules
        self.starttls_injected = starttls_injected
        self.messages: list[Message] = []
        self.clear: list[bytes] = []
        self.occurred: list[object] = []

    def rule_answer(self, occurrence: Occurrence) -> Answer | None:
        self.occurred.append(occurrence.command)
        return find_answer(self.rules, occurrence)

    def message_accepted(self, message: Message) -> None:
        self.messages.append(message)

    def sent_in_clear(self, data: bytes, connection: ConnectionTranscript) -> None:
        self.clear.append(data)

    def grant_of(self, address: str, recipient: smtp.Mailbox) -> str | None:
        return None


@attrs.define
class Connection:
    """The connection of a machine: records whether it was closed."""

    aborted: bool = False

    def abort(self) -> None:
        self.aborted = True


def smtp_machine(*rules: Rule, journal: Journal | None = None, tls: Tls | None = None) -> SmtpMachine:
    machine = SmtpMachine(smtp.ServerConnection(SMTP, entropy=ENTROPY, tls=tls), journal or Journal(*rules))
    machine.attach(Connection(), Transcript().open("smtp", "192.0.2.1"))
    return machine


def pop3_machine(*rules: Rule, journal: Journal | None = None) -> Pop3Machine:
    machine = Pop3Machine(pop3.ServerConnection(POP3, entropy=ENTROPY), journal or Journal(*rules))
    machine.attach(Connection(), Transcript().open("pop3", "192.0.2.1"))
    return machine


class Driver:
    """Passes pieces of input to a machine, and collects its output and its events."""

    def __init__(self, machine: Machine) -> None:
        self.machine: Any = machine
        self.application = Application(b"Subject: one\r\n\r\nfirst\r\n", b"Subject: two\r\n\r\n.second\r\n", piece=9)
        self.output = b""
        self.events: list[object] = []
        self.pull()

    def receive(self, *pieces: bytes) -> Driver:
        for piece in pieces:
            self.machine.receive_data(piece)
            self.pull()
        return self

    def pull(self) -> None:
        while True:
            event = self.machine.next_event()
            match event:
                case Send(data=data):
                    self.output += data
                case BeginTls(data=data):
                    self.output += data
                    self.events.append(event)
                    self.machine.tls_started(TLS)
                case NeedData():
                    return
                case Closed() | Paused():
                    self.events.append(event)
                    return
                case Question():
                    self.events.append(event)
                    answer: Any = ACCEPT
                    if isinstance(self.machine, pop3.ServerConnection | Pop3Machine) or isinstance(
                        event, sasl.CheckPassword | sasl.FetchSecret | sasl.FetchScramKeys | sasl.Authorize
                    ):
                        answer = self.application.usual(event)
                    self.machine.answer(event, answer)
                case _:
                    self.events.append(event)

    @property
    def lines(self) -> list[bytes]:
        return self.output.split(b"\r\n")[:-1]

    @property
    def closed(self) -> bool:
        return isinstance(self.events[-1], Closed) if self.events else False


SMTP_LINES: Final = (
    b"EHLO client.test\r\n", b"HELO client.test\r\n", b"MAIL FROM:<alice@example.org>\r\n",
    b"mail from: bob@example.org SIZE=10\r\n", b"RCPT TO:<carol@example.org>\r\n", b"RCPT TO:<>\r\n", b"DATA\r\n",
    b"Subject: test\r\n\r\n..dot\r\n.\r\n", b".\r\n", b"BDAT 5 LAST\r\nhello", b"BDAT 6\r\nRSET\r\n", b"BDAT x\r\n",
    b"RSET\r\n", b"NOOP\r\n", b"QUIT\r\n", b"STARTTLS\r\n", PLAIN + b"\r\n", b"AUTH LOGIN\r\n", b"AUTH CRAM-MD5\r\n",
    b"YWxpY2U=\r\n", b"d29uZGVybGFuZA==\r\n", b"*\r\n", b"\r\n", b"\n", b"GET / HTTP/1.1\r\n", b"VRFY alice\r\n",
    b"HELP\r\n", b"X" * 700 + b"\r\n", b"\xff\xfe\r\n", b"NOOP\n",
)  # fmt: skip
POP3_LINES: Final = (
    b"USER alice\r\n", b"PASS wonderland\r\n", b"PASS wrong\r\n", b"CAPA\r\n", b"AUTH\r\n", PLAIN + b"\r\n",
    b"AUTH PLAIN\r\n", b"AGFsaWNlAHdvbmRlcmxhbmQ=\r\n", b"*\r\n", b"STLS\r\n", b"STAT\r\n", b"LIST\r\n",
    b"LIST 1\r\n", b"UIDL\r\n", b"RETR 1\r\n", b"RETR 2\r\n", b"RETR 9\r\n", b"TOP 2 1\r\n", b"DELE 1\r\n",
    b"RSET\r\n", b"NOOP\r\n", b"QUIT\r\n", b"\r\n", b"xyz\r\n", b"list\n", b"X" * 700 + b"\r\n",
)  # fmt: skip


def pieces(lines: Sequence[bytes]) -> st.SearchStrategy[list[bytes]]:
    """Input of some of *lines*, most of them in an order that makes sense to a server, cut anywhere."""

    def cut(found: list[bytes], cuts: list[int]) -> list[bytes]:
        data = b"".join(found)
        edges = sorted({0, len(data), *(edge % (len(data) + 1) for edge in cuts)})
        return [data[start:end] for start, end in itertools.pairwise(edges)]

    return st.builds(cut, st.lists(st.sampled_from(lines), max_size=25), st.lists(st.integers(0, 10_000), max_size=6))


def started_with(*lines: bytes) -> st.SearchStrategy[bytes]:
    """One of the starts of a session."""
    return st.sampled_from([b"".join(lines[:count]) for count in range(len(lines) + 1)])


@given(started_with(*SMTP_LINES[:3], SMTP_LINES[4], b"DATA\r\n"), pieces(SMTP_LINES), st.booleans())
def test_smtp_machine_without_rules_changes_nothing(start: bytes, rest: list[bytes], ended: bool) -> None:
    journal = Journal()
    bare, recorded = Driver(smtp.ServerConnection(SMTP, entropy=ENTROPY)), Driver(smtp_machine(journal=journal))
    for driver in (bare, recorded):
        driver.receive(*filter(None, (start, *rest)), *([b""] if ended else []))
    assert recorded.output == bare.output
    assert without_pieces(recorded.events) == without_pieces(bare.events)
    check_commands(journal.occurred, bare.events)


@given(started_with(*POP3_LINES[:2]), pieces(POP3_LINES), st.booleans())
def test_pop3_machine_without_rules_changes_nothing(start: bytes, rest: list[bytes], ended: bool) -> None:
    journal = Journal()
    bare, recorded = Driver(pop3.ServerConnection(POP3, entropy=ENTROPY)), Driver(pop3_machine(journal=journal))
    for driver in (bare, recorded):
        driver.receive(*filter(None, (start, *rest)), *([b""] if ended else []))
    assert recorded.output == bare.output
    assert without_pieces(recorded.events) == without_pieces(bare.events)
    check_commands(journal.occurred, bare.events)


def without_pieces(events: list[object]) -> list[object]:
    """Join the chunks of content: their sizes follow from the pieces in which the input arrives."""
    joined: list[object] = []
    for event in events:
        if isinstance(event, MessageChunk) and joined and isinstance(joined[-1], bytes):
            joined[-1] = joined[-1] + event.data
        else:
            joined.append(event.data if isinstance(event, MessageChunk) else event)
    return joined


def check_commands(occurred: list[object], events: list[object]) -> None:
    """The rules see each command that the server accepts, in order, and those that it rejects or has no event for.

    A line of content or of a login, or the data of a chunk, would be one more.
    """
    accepted = [
        event
        for event in events
        if isinstance(event, Command | smtp.Connected | pop3.Connected)
        and not isinstance(event, MessageChunk | smtp.Data | pop3.Quit)
    ]
    rest = iter(occurred)
    assert all(any(command == other for other in rest) for command in accepted)
    silent = (smtp.Auth, smtp.Bdat, smtp.Data, pop3.Auth, pop3.User, pop3.Pass, pop3.Apop, pop3.Quit)
    rejected = sum(isinstance(event, smtp.CommandRejected | pop3.CommandRejected) for event in events)
    assert len([command for command in occurred if not isinstance(command, silent)]) <= len(accepted) + rejected


# Rules


def test_negative_reply_keeps_the_command_from_the_server() -> None:
    session = Driver(smtp_machine(Rule(smtp.Rcpt, to="bob@far.test").reply(451)))
    session.receive(b"EHLO c.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<bob@far.test>\r\nRCPT TO:<carol@far.test>\r\n")
    assert session.lines[-2:] == [b"451 simulated by the test", b"250 2.1.5 recipient ok"]
    assert [event for event in session.events if isinstance(event, smtp.Rcpt)] == [
        smtp.Rcpt(forward_path=Mailbox("carol", "far.test"))
    ]


def test_answers_are_given_in_turn_and_then_no_more() -> None:
    session = Driver(smtp_machine(Rule(smtp.Noop).reply(451, PASS, b"250 third\r\n")))
    session.receive(b"NOOP\r\n" * 4)
    assert session.lines[1:] == [b"451 simulated by the test", b"250 2.0.0 ok", b"250 third", b"250 2.0.0 ok"]


def test_positive_reply_replaces_a_positive_one_only() -> None:
    session = Driver(smtp_machine(Rule(smtp.Mail).reply(b"250-yes\r\n250 sir\r\n").always()))
    session.receive(b"MAIL FROM:<a@b.test>\r\nEHLO c.test\r\nMAIL FROM:<a@b.test>\r\n")
    assert session.lines[1].startswith(b"503 ")
    assert session.lines[-2:] == [b"250-yes", b"250 sir"]
    assert session.receive(b"RCPT TO:<c@d.test>\r\n").lines[-1] == b"250 2.1.5 recipient ok"


@pytest.mark.parametrize(
    ("step", "line", "reply"),
    [
        (smtp.Hello, b"EHLO c.test\r\n", b"502 5.5.1 no\r\n"),
        (smtp.Auth, PLAIN + b"\r\n", b"454 4.7.0 later\r\n"),
        (smtp.StartTls, b"STARTTLS\r\n", b"454 4.7.0 later\r\n"),
        (smtp.Data, b"DATA\r\n", b"452 full\r\n"),
        (smtp.Rset, b"RSET\r\n", b"500 what\r\n"),
        (smtp.Vrfy, b"VRFY alice\r\n", b"550 who\r\n"),
        (smtp.Help, b"HELP\r\n", b"502 no\r\n"),
        (smtp.Quit, b"QUIT\r\n", b"500 no\r\n"),
    ],
)
def test_rule_for_each_smtp_command(step: type[object], line: bytes, reply: bytes) -> None:
    start = b"EHLO c.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n" if step is smtp.Data else b""
    session = Driver(smtp_machine(Rule(step).reply(reply))).receive(start + line)
    assert session.output.endswith(b"\r\n" + reply)
    assert not session.closed
    assert session.receive(b"NOOP\r\n").lines[-1] == b"250 2.0.0 ok"


@pytest.mark.parametrize(
    ("step", "line"),
    [
        (pop3.Capa, b"CAPA"), (pop3.Stls, b"STLS"), (pop3.User, b"USER alice"), (pop3.Apop, b"APOP alice " + b"0" * 32),
        (pop3.Auth, b"AUTH PLAIN"),
    ],
)  # fmt: skip
def test_rule_for_each_pop3_command_before_the_login(step: type[object], line: bytes) -> None:
    session = Driver(pop3_machine(Rule(step).reply(b"-ERR [SYS/TEMP] later\r\n"))).receive(line + b"\r\n")
    assert session.lines[-1] == b"-ERR [SYS/TEMP] later"
    assert session.receive(b"USER alice\r\nPASS wonderland\r\n").lines[-1].startswith(b"+OK")


@pytest.mark.parametrize(
    ("step", "line"),
    [
        (pop3.Stat, b"STAT"), (pop3.List, b"LIST"), (pop3.Uidl, b"UIDL 1"), (pop3.Retrieve, b"RETR 1"),
        (pop3.Retrieve, b"TOP 1 0"), (pop3.Dele, b"DELE 1"), (pop3.Noop, b"NOOP"), (pop3.Rset, b"RSET"),
        (pop3.Quit, b"QUIT"),
    ],
)  # fmt: skip
def test_rule_for_each_pop3_command_after_the_login(step: type[object], line: bytes) -> None:
    session = Driver(pop3_machine(Rule(step).reply(pop3.Unavailable.TEMPORARY)))
    session.receive(b"USER alice\r\nPASS wonderland\r\n", line + b"\r\n")
    assert session.lines[-1] == b"-ERR [SYS/TEMP] simulated by the test"
    assert session.receive(b"STAT\r\n").lines[-1].startswith(b"+OK 2 ")  # nothing was deleted


def test_reply_to_a_login_waits_for_its_end() -> None:
    session = Driver(smtp_machine(Rule(smtp.Auth, mechanism="LOGIN").reply(b"235 welcome\r\n")))
    session.receive(b"EHLO c.test\r\n", b"AUTH LOGIN\r\n")
    assert session.lines[-1].startswith(b"334 ")
    session.receive(b"YWxpY2U=\r\n", b"d29uZGVybGFuZA==\r\n")
    assert session.lines[-1] == b"235 welcome"
    assert session.machine.identity == "alice"


@pytest.mark.parametrize("answer", [b"+\r\n", odd_replies.pop3.AUTH_PROMPT_WITH_OK])
def test_unusual_challenge_is_the_first_reply_to_a_login(answer: Answer) -> None:
    session = Driver(pop3_machine(Rule(pop3.Auth).reply(answer))).receive(b"AUTH PLAIN\r\n")
    assert session.lines[-1] in (b"+", b"+OK")
    assert session.receive(b"AGFsaWNlAHdvbmRlcmxhbmQ=\r\n").lines[-1].startswith(b"+OK maildrop")


def test_reply_after_an_empty_line_is_positive() -> None:
    journal = Journal(Rule(smtp.MessageComplete).reply(b"\r\n250 mine\r\n"))
    assert Driver(smtp_machine(journal=journal)).receive(*TRANSACTION[:-1]).lines[-2:] == [b"", b"250 mine"]
    assert len(journal.messages) == 1


def test_rule_after_content_that_a_rule_has_rejected() -> None:
    rules = Rule(smtp.MessageComplete).reply(452), Rule(smtp.Noop).reply(b"250 mine\r\n")
    session = Driver(smtp_machine(*rules)).receive(*TRANSACTION[:-1], b"NOOP\r\n")
    assert session.lines[-2:] == [b"452 simulated by the test", b"250 mine"]


def test_replacement_of_a_refused_login_is_not_sent_to_a_later_command() -> None:
    session = Driver(smtp_machine(Rule(smtp.Auth).reply(b"235 welcome\r\n")))
    session.receive(b"EHLO c.test\r\nAUTH PLAIN AGFsaWNlAHdyb25n\r\nNOOP\r\n")
    assert session.lines[-2][:3] == b"535"
    assert session.lines[-1] == b"250 2.0.0 ok"


def test_lines_of_content_are_not_commands() -> None:
    session = Driver(smtp_machine(Rule(smtp.Noop).reply(DROP), Rule(smtp.Quit).reply(DROP)))
    session.receive(
        b"EHLO c.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n", b"NOOP\r\nQUIT\r\n.\r\n",
        b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nBDAT 6\r\nNOOP\r\nBDAT 6 LAST\r\nQUIT\r\n",
    )  # fmt: skip
    assert session.lines[-1][:3] == b"250"
    assert not session.closed


@pytest.mark.parametrize("chunk", [1, 2, 3])
def test_rejected_chunk_is_discarded_and_its_message_lost(chunk: int) -> None:
    journal = Journal(Rule(smtp.Bdat).reply(*[PASS] * (chunk - 1), 452), Rule(smtp.Noop).reply(DROP).optional())
    session = Driver(smtp_machine(journal=journal))
    start = b"MAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n"
    chunks = b"BDAT 8\r\nNOO", b"P\r\n\r\nBDAT 6\r\nNOOP\r\nBDAT 2 LAST\r\nok"
    session.receive(b"EHLO c.test\r\n" + start, *chunks)
    assert [line[:3] for line in session.lines[-3:]] == [b"250"] * (chunk - 1) + [b"452"] + [b"503"] * (3 - chunk)
    assert journal.messages == []
    assert not session.closed
    session.receive(start, *chunks)
    [message] = journal.messages
    assert message.raw == b"NOOP\r\n\r\nNOOP\r\nok\r\n"


def test_rejected_content_is_not_a_message() -> None:
    journal = Journal(Rule(smtp.MessageComplete, to="c@d.test").reply(552))
    session = Driver(smtp_machine(journal=journal))
    for _ in range(2):
        session.receive(b"EHLO c.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n", b"x\r\n.\r\n")
    assert [line[:3] for line in session.lines if line[3:4] == b" " and line[:3] in (b"552", b"354")] == [
        b"354",
        b"552",
        b"354",
    ]
    assert len(journal.messages) == 1
    assert sum(isinstance(event, smtp.MessageAborted) for event in session.events) == 1


@pytest.mark.parametrize("content", [b"552 no\r\n", b"354 go ahead\r\n", b"\0\0\0", b"HTTP/1.1 400\r\n\r\n"])
def test_bytes_that_are_not_a_positive_reply_reject_the_content(content: bytes) -> None:
    journal = Journal(Rule(smtp.MessageComplete).reply(content))
    session = Driver(smtp_machine(journal=journal))
    session.receive(b"EHLO c.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n", b"x\r\n.\r\n")
    assert session.output.endswith(content)
    assert journal.messages == []


@pytest.mark.parametrize("step", [smtp.Connected, smtp.Hello, smtp.Mail, smtp.MessageComplete, smtp.Quit])
def test_drop_closes_without_a_reply(step: type[object]) -> None:
    whole = Driver(smtp_machine())
    session = Driver(smtp_machine(Rule(step).reply(DROP)))
    for line in TRANSACTION:
        whole.receive(line)
        session.receive(line)
    assert session.closed
    assert whole.output.startswith(session.output)
    assert len(session.output) < len(whole.output)


@pytest.mark.parametrize("step", [smtp.Connected, smtp.Hello, smtp.Mail, smtp.MessageComplete, smtp.Quit])
def test_stall_sends_nothing_more_and_ends_with_the_client(step: type[object]) -> None:
    session = Driver(smtp_machine(Rule(step).reply(STALL)))
    for line in TRANSACTION:
        session.receive(line)
    before = session.output
    session.receive(b"NOOP\r\n" * 100_000)
    assert session.output == before
    assert not session.closed
    assert session.receive(b"").closed
    assert "NOOP" not in str(session.machine.transcript)


@pytest.mark.parametrize("line", [b"NOOP\r\n", b"BDAT 4 LAST\r\n"])
def test_stall_ends_with_the_server(line: bytes) -> None:
    step = type(SMTP.parse_command(line[:-2]))
    session = Driver(smtp_machine(Rule(step).reply(STALL))).receive(line)
    session.machine.shut_down()
    session.pull()
    assert session.lines[-1].startswith(b"421 ")
    assert session.closed


@pytest.mark.parametrize(("step", "last"), [(smtp.Quit, b"221 2.0.0 goodbye"), (smtp.Noop, b"250 2.0.0 ok")])
def test_close_without_notify_sends_the_reply_first(step: type[object], last: bytes) -> None:
    machine = smtp_machine(Rule(step).reply(CLOSE_WITHOUT_NOTIFY), tls=TLS)
    connection = Connection()
    machine.attach(connection, machine.transcript)
    session = Driver(machine).receive(b"NOOP\r\nQUIT\r\n")
    assert session.lines[-1] == last
    assert connection.aborted


@pytest.mark.parametrize("step", [smtp.Connected, smtp.Mail, smtp.MessageComplete, smtp.Quit])
def test_421_closes(step: type[object]) -> None:
    session = Driver(smtp_machine(Rule(step).reply(421)))
    for line in TRANSACTION:
        session.receive(line)
    assert session.lines[-1] == b"421 simulated by the test"
    assert session.closed


TRANSACTION: Final = (
    b"EHLO c.test\r\n", b"MAIL FROM:<a@b.test>\r\n", b"RCPT TO:<c@d.test>\r\n", b"DATA\r\n", b"x\r\n.\r\n", b"QUIT\r\n",
)  # fmt: skip


def test_refused_greeting() -> None:
    session = Driver(smtp_machine(Rule(smtp.Connected).reply(b"554 no service\r\n"))).receive(b"EHLO c.test\r\n")
    assert session.lines[0] == b"554 no service"
    assert session.lines[1][:3] == b"503"  # RFC 5321 section 3.1
    session = Driver(pop3_machine(Rule(pop3.Connected).reply(pop3.Unavailable.TEMPORARY)))
    assert session.output == b"-ERR [SYS/TEMP] simulated by the test\r\n"
    assert session.closed


def test_injected_reply_is_sent_before_tls() -> None:
    session = Driver(smtp_machine(journal=Journal(starttls_injected=True))).receive(b"EHLO c.test\r\nSTARTTLS\r\n")
    assert session.lines[-2:] == [b"220 2.0.0 ready to start TLS", b"250 injected before TLS"]


def test_commands_sent_before_tls_are_discarded() -> None:
    machine = smtp_machine(Rule(smtp.Noop).reply(DROP))
    session = Driver(machine).receive(b"EHLO c.test\r\nSTARTTLS\r\nNOOP\r\n")
    assert not session.closed
    assert "discarded 6 bytes that were sent before TLS" in str(machine.transcript)


def test_transcript_of_starttls() -> None:
    machine = smtp_machine(journal=Journal(starttls_injected=True))
    Driver(machine).receive(b"EHLO c.test\r\nSTARTTLS\r\n")
    lines = [str(line) for line in machine.transcript.lines]
    assert lines[lines.index("C: STARTTLS") + 1 :] == [
        "S: 220 2.0.0 ready to start TLS", "S: 250 injected before TLS", "*: TLS started: TLSv1.3",
    ]  # fmt: skip


# Messages


def test_message_has_its_envelope() -> None:
    journal = Journal()
    session = Driver(smtp_machine(journal=journal))
    session.receive(
        b"EHLO c.test\r\n" + PLAIN + b"\r\nMAIL FROM:<a@b.test> SIZE=9 BODY=8BITMIME\r\nRCPT TO:<c@d.test>\r\n"
        b"RCPT TO:<c d@x>\r\nRCPT TO:<e@f.test>\r\nDATA\r\n",
        b"Subject: x\r\n\r\n..dot\r\n.\r\nMAIL FROM:<>\r\nRCPT TO:<c@d.test>\r\n"
        b"BDAT 5\r\none\r\nBDAT 5 LAST\r\ntwo\r\n",
    )
    first, second = journal.messages
    assert first.raw == b"Subject: x\r\n\r\n.dot\r\n"
    assert first.envelope.sender == "a@b.test"
    assert first.envelope.recipients == ("c@d.test", "e@f.test")
    assert first.envelope.parameters == {"SIZE": "9", "BODY": "8BITMIME"}
    assert (first.envelope.identity, first.envelope.mechanism, first.envelope.tls) == ("alice", "PLAIN", None)
    assert (first.envelope.hello, first.envelope.peer) == ("c.test", "192.0.2.1")
    assert second.raw == b"one\r\ntwo\r\n"
    assert (second.envelope.sender, second.envelope.recipients, second.envelope.parameters) == ("", ("c@d.test",), {})


def test_parameters_of_every_kind() -> None:
    mail = smtp.Mail.parse("FROM:<> BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a+20b AUTH=<> REQUIRETLS FUTURE=x")
    assert mail_parameters(mail) == {
        "BODY": "8BITMIME", "SMTPUTF8": None, "RET": "HDRS", "ENVID": "a+20b", "AUTH": "<>", "REQUIRETLS": None,
        "FUTURE": "x",
    }  # fmt: skip


def test_clear_text_is_reported_until_tls() -> None:
    journal = Journal()
    session = Driver(smtp_machine(journal=journal))
    session.receive(b"EHLO c.test\r\nSTARTTLS\r\n")
    session.receive(b"EHLO c.test\r\n" + PLAIN + b"\r\n")
    assert journal.clear == [b"EHLO c.test", b"STARTTLS"]


def test_transcript_of_a_session() -> None:
    machine = smtp_machine()
    session = Driver(machine)
    for line in TRANSACTION:
        session.receive(line)
    assert [str(line) for line in machine.transcript.lines if line.source == "C"] == [
        "C: EHLO c.test", "C: MAIL FROM:<a@b.test>", "C: RCPT TO:<c@d.test>", "C: DATA",
        "C: <content of 3 bytes>", "C: QUIT",
    ]  # fmt: skip
    assert machine.transcript.replies[0] == "220 mx.test ESMTP"
    assert machine.transcript.replies[-1] == "221 2.0.0 goodbye"


@pytest.mark.parametrize(
    ("rule", "shown"),
    [
        (
            None,
            [
                "C: <content of 3 bytes>",
                "S: 250 2.0.0 message accepted",
                "C: NO",
                "*: the client closed the connection",
            ],
        ),
        (452, ["C: <content of 3 bytes>", "*: a rule replies 452", "S: 452 simulated by the test"]),
    ],
)
def test_transcript_of_content(rule: int | None, shown: list[str]) -> None:
    machine = smtp_machine(*([] if rule is None else [Rule(smtp.MessageComplete).reply(rule)]))
    Driver(machine).receive(*TRANSACTION[:-2], b"x", b"\r\n.", b"\r\nNO", b"")
    lines = [str(line) for line in machine.transcript.lines]
    after = lines[lines.index(shown[0]) :]
    assert after[: len(shown)] == shown


def test_transcript_of_content_without_end() -> None:
    machine = smtp_machine()
    Driver(machine).receive(*TRANSACTION[:-2], b"x", b".\r\n", b"")
    assert [str(line) for line in machine.transcript.lines][-2:] == [
        "C: <content of 4 bytes>", "*: the client closed the connection",
    ]  # fmt: skip


@pytest.mark.parametrize(("more", "last"), [(0, b"x99"), (1, b"<1 more lines>")])
def test_transcript_has_a_hundred_lines_of_a_reply(more: int, last: bytes) -> None:
    reply = b"".join(b"250-x%d\r\n" % number for number in range(99 + more)) + b"250 x%d\r\n" % (99 + more)
    machine = smtp_machine(Rule(smtp.Noop).reply(reply))
    Driver(machine).receive(b"NOOP\r\n")
    lines = [line.data for line in machine.transcript.lines if line.source == "S"][1:]
    assert len(lines) == 100 + more
    assert lines[99].startswith((b"250-x99", b"250 x99"))
    assert lines[-1].endswith(last)


def test_transcript_notes_once_that_a_lf_ends_no_line() -> None:
    machine = smtp_machine()
    Driver(machine).receive(b"EHLO c.test\n", b"NOOP\n", b"NOOP\r\nNOOP\n")
    assert str(machine.transcript).count("LF without CR") == 1


@pytest.mark.parametrize("piece", [1_000, 1 << 20])
def test_long_response_is_short_in_the_transcript(piece: int) -> None:
    machine = pop3_machine()
    session = Driver(machine)
    session.application.texts[0] = b"Subject: long\r\n\r\n" + b"line\r\n" * 5_000
    session.application.piece = piece
    session.receive(b"USER alice\r\nPASS wonderland\r\nRETR 1\r\n")
    assert len(machine.transcript.lines) < 200
    assert str(machine.transcript.lines[-1]).endswith(" more bytes>" if piece == 1_000 else " more lines>")
    assert len(str(machine.transcript).splitlines()) < 30


# Input that is no command


@pytest.mark.parametrize("line", [b"NOOP", b"NOOP\r", b"X" * 40_000 + b"NOOP\r\n", b"X" * 32_768 + b"NOOP\r\n"])
def test_part_of_a_line_is_not_a_command(line: bytes) -> None:
    rule = Rule(smtp.Noop).reply(b"250 by the rule\r\n")
    session = Driver(smtp_machine(rule)).receive(b"EHLO c.test\r\n", line[:32_768], line[32_768:], b"")
    assert rule.used == 0
    assert session.lines[-1] != b"250 by the rule"


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_command_after_a_long_line_that_was_split_within_its_end(more: int) -> None:
    rule = Rule(smtp.Noop).reply(b"250 by the rule\r\n")
    session = Driver(smtp_machine(rule)).receive(b"X" * (SMTP.max_command_line + more) + b"\r", b"\nNOOP\r\n")
    assert session.lines[-1] == b"250 by the rule"


def test_response_is_not_a_command() -> None:
    rule = Rule(smtp.Noop).reply(DROP)
    session = Driver(smtp_machine(rule)).receive(b"EHLO c.test\r\nAUTH LOGIN\r\nNOOP\r\n")
    assert session.lines[-1].startswith(b"501 5.5.2 malformed")
    assert rule.used == 0


def test_long_response_is_reported_as_one_line() -> None:
    journal = Journal()
    response = b"x" * (SMTP.max_command_line + 100)
    Driver(smtp_machine(journal=journal)).receive(b"EHLO c.test\r\nAUTH PLAIN\r\n", response, b"x\r\n")
    assert journal.clear[-1] == response + b"x"


def test_first_byte_of_tls_is_answered_at_once() -> None:
    assert Driver(smtp_machine()).receive(b"\x16\x03\x01").closed


def test_long_line_between_chunks_is_answered_at_once() -> None:
    session = Driver(smtp_machine()).receive(b"EHLO c.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nBDAT 0\r\n")
    assert session.receive(b"X" * (SMTP.max_command_line + 2)).closed


def test_input_after_a_command_without_reply_is_discarded() -> None:
    journal = Journal(Rule(smtp.Rcpt, to="e@f.test").reply(STALL))
    session = Driver(smtp_machine(journal=journal))
    session.receive(
        b"EHLO c.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nRCPT TO:<e@f.test>\r\nBDAT 4 LAST\r\nhi\r\n", b""
    )
    assert session.closed
    assert journal.messages == []


@pytest.mark.parametrize("content", [b"abc.\r\n", b".\r\n..\r\n", b"a\r\n.b\r\n", b"\r\n.", b"\r", b"a\nb", b"..\r\n"])
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_end_of_content_is_found_wherever_it_is_split(content: bytes, size: int) -> None:
    data = content + b"\r\n.\r\nNOOP\r\nRSET\r\n"
    rule = Rule(smtp.Noop).reply(b"250 by the rule\r\n").always()
    bare, recorded = Driver(smtp.ServerConnection(SMTP, entropy=ENTROPY)), Driver(smtp_machine(rule))
    for driver in (bare, recorded):
        driver.receive(b"EHLO c.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n")
        driver.receive(*(data[start : start + size] for start in range(0, len(data), size)))
    assert recorded.output.replace(b"by the rule", b"2.0.0 ok") == bare.output
    assert without_pieces(recorded.events) == without_pieces(bare.events)
    assert rule.used == sum(isinstance(event, smtp.Noop) for event in bare.events) > 0


def test_large_content_is_not_passed_on_line_by_line() -> None:
    session = Driver(smtp_machine())
    session.receive(b"EHLO c.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\nDATA\r\n")
    session.receive(b"line\r\n" * 10_000)
    assert sum(isinstance(event, MessageChunk) for event in session.events) < 10
    assert session.receive(b".\r\n").lines[-1][:3] == b"250"


@pytest.mark.parametrize(("answer", "reply"), [(b"250 mine\r\n", b"250 mine"), (CLOSE_WITHOUT_NOTIFY, b"250 2.0.0")])
def test_reply_to_a_chunk_waits_for_its_data(answer: Answer, reply: bytes) -> None:
    journal = Journal(Rule(smtp.Bdat).reply(answer))
    session = Driver(smtp_machine(journal=journal))
    session.receive(b"EHLO c.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n", b"BDAT 4 LAST\r\n")
    assert session.lines[-1][:9] == b"250 2.1.5"
    assert session.receive(b"hi\r\n").lines[-1].startswith(reply)
    assert len(journal.messages) == 1
    assert session.closed is (answer is CLOSE_WITHOUT_NOTIFY)


def test_reply_at_the_end_of_a_session_is_in_the_transcript() -> None:
    session = Driver(smtp_machine()).receive(b"NOOP\r\n")
    session.machine.shut_down()
    session.pull()
    assert session.machine.transcript.replies[-1].startswith("421 4.3.2")


@pytest.mark.parametrize(
    "ended",
    [b"RSET\r\n", b"EHLO c.test\r\n", b"STARTTLS\r\nEHLO c.test\r\n", b"DATA\r\n\0\r\n.\r\n", b"DATA\r\nx\r\n.\r\n"],
)
def test_recipients_belong_to_one_transaction(ended: bytes) -> None:
    rule = Rule(smtp.Data, to="c@d.test").reply(*([PASS] if b"DATA" in ended else []), 451)
    session = Driver(smtp_machine(rule, Rule(smtp.MessageComplete).reply(554)))
    session.receive(b"EHLO c.test\r\nMAIL FROM:<a@b.test>\r\nRCPT TO:<c@d.test>\r\n", *ended.splitlines(keepends=True))
    assert session.receive(b"DATA\r\n").lines[-1][:3] == b"503"


@pytest.mark.parametrize("line", [b"NOOP\r\n", b"EHLO c.test\r\n", b"MAIL FROM:<a@b.test>\r\n", b"QUIT\r\n"])
def test_challenge_replaces_the_reply_to_another_command(line: bytes) -> None:
    step = type(SMTP.parse_command(line[:-2]))
    start = [b"EHLO a.test\r\n"] if step is smtp.Mail else []
    session = Driver(smtp_machine(Rule(step).reply(b"334 what\r\n"))).receive(*start, line)
    assert session.lines[-1] == b"334 what"


@pytest.mark.parametrize(
    ("rule", "line", "reply"),
    [
        (Rule(smtp.Mail).reply(250), b"MAIL FROM:<a@b.test>", b"503"),
        (Rule(smtp.Auth).reply(b"334 \r\n"), b"EHLO c.test\r\n" + PLAIN, b"235"),
        (Rule(smtp.Auth).reply(235), b"EHLO c.test\r\nAUTH PLAIN AGFsaWNlAHdyb25n", b"535"),
    ],
)
def test_transcript_says_that_the_reply_of_a_rule_is_not_sent(rule: Rule, line: bytes, reply: bytes) -> None:
    session = Driver(smtp_machine(rule)).receive(line + b"\r\n")
    assert session.lines[-1][:3] == reply
    assert "the reply of the rule is not sent" in str(session.machine.transcript)


def test_close_after_the_reply_to_starttls() -> None:
    machine = smtp_machine(Rule(smtp.StartTls).reply(CLOSE_WITHOUT_NOTIFY))
    connection = Connection()
    machine.attach(connection, machine.transcript)
    session = Driver(machine).receive(b"EHLO c.test\r\nSTARTTLS\r\n")
    assert session.lines[-1][:3] == b"220"
    assert session.closed
    assert connection.aborted
    assert machine.tls is None


@pytest.mark.parametrize("rule", [None, Rule(smtp.StartTls).reply(DROP), Rule(smtp.StartTls).reply(STALL)])
def test_clear_text_that_is_discarded_is_reported(rule: Rule | None) -> None:
    journal = Journal(*filter(None, [rule]))
    Driver(smtp_machine(journal=journal)).receive(b"EHLO c.test\r\nSTARTTLS\r\n" + PLAIN + b"\r\n")
    assert PLAIN in journal.clear
