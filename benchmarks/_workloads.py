"""The columns of the tables: which recording is replayed, how often, and on how many connections at once."""

from __future__ import annotations

import contextlib
from typing import Final

import attrs

from _load import Client, Server, play, play_sessions
from _messages import DOTTED_MEGABYTE, HUNDRED_KILOBYTES, MEGABYTE, stuffed
from _traffic import Reply, Step, commands, read, split, with_content

Steps = tuple[Step, ...]


@attrs.frozen(kw_only=True)
class Sessions:
    """Complete sessions, each on its own connection, from the greeting to the reply to QUIT."""

    recordings: tuple[str, ...]
    """The recordings, replayed one after another."""
    at_once: int
    rounds: int
    starttls: bool = False
    """Whether the client sends STARTTLS after EHLO, and then EHLO again."""
    resume: bool = False
    """Whether TLS resumes a session, instead of a full handshake."""

    @property
    def deletes(self) -> bool:
        """Whether a client deletes messages."""
        return any(b"DELE" in commands(step) for name in self.recordings for step in read(name).steps)

    def measure(self, server: Server, scale: float) -> float:
        """Return microseconds for each session."""
        steps = [read(name).steps for name in self.recordings]
        if self.starttls:
            steps = [with_starttls(each) for each in steps]
        batch = [steps[number % len(steps)] for number in range(max(len(steps), round(self.at_once * min(1, scale))))]
        rounds = max(1, round(self.rounds * scale))
        play_sessions(server, batch)
        before = server.used()
        for _ in range(rounds):
            play_sessions(server, batch, resume=self.resume)
        return (server.used() - before) / (rounds * len(batch))


@attrs.frozen(kw_only=True)
class Repeated:
    """The same steps repeated, on connections that are opened before the measurement and closed after it."""

    before: Steps
    repeated: Steps
    after: Steps = ()
    messages: int = 1
    """The number of messages in *repeated*."""
    at_once: int
    rounds: int

    @property
    def deletes(self) -> bool:
        """Whether a client deletes messages."""
        return False

    def measure(self, server: Server, scale: float) -> float:
        """Return microseconds for each message."""
        number = max(1, round(self.at_once * min(1, scale)))
        rounds = max(1, round(self.rounds * scale))
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(contextlib.closing(Client(server))) for _ in range(number)]
            play(clients, self.before)
            play(clients, self.repeated)
            before = server.used()
            for _ in range(rounds):
                play(clients, self.repeated)
            cost = (server.used() - before) / (rounds * number * self.messages)
            play(clients, self.after)
        return cost


Workload = Sessions | Repeated


def with_starttls(steps: Steps) -> Steps:
    """Return an SMTP session with STARTTLS after EHLO, as smtplib sends it."""
    greeting, ehlo, *rest = steps
    return (greeting, ehlo, Step(b"STARTTLS\r\n", (Reply.SUCCESS,), starts_tls=True), ehlo, *rest)


def transaction(name: str, *, rset: bool = True) -> tuple[Steps, Steps]:
    """Return what an SMTP client sends before its first message, and what it sends for each of the following messages.

    A relay sends RSET before each message; *rset* False omits it.
    """
    before, transactions, _ = split(read(name))
    repeated = transactions[-1]
    if not rset:
        repeated = tuple(step for step in repeated if commands(step) != [b"RSET"])
    return before, repeated


def repeated(name: str, rounds: int, *, at_once: int = 20, text: bytes | None = None) -> Repeated:
    """Return the messages of one connection; *text* replaces the recorded content."""
    before, steps = transaction(name)
    if text is not None:
        steps = with_content(steps, text)
    return Repeated(before=before, repeated=steps, at_once=at_once, rounds=rounds)


def all_pipelined(name: str, rounds: int) -> Repeated:
    """Return the lines of a client that waits only where RFC 2920 section 3.1 requires it: each content is followed in
    the same segment by the envelope of the next message.  There is no RSET between messages."""
    before, (envelope, content) = transaction(name, rset=False)
    both = Step(content.sent + envelope.sent, content.replies + envelope.replies)
    return Repeated(before=(*before, envelope), repeated=(both,), after=(content,), at_once=20, rounds=rounds)


def retrieved(name: str, rounds: int, *, at_once: int = 20) -> Repeated:
    """Return a session as recorded up to its first RETR, which is then repeated."""
    steps = read(name).steps
    first = next(number for number, step in enumerate(steps) if commands(step)[:1] == [b"RETR"])
    return Repeated(before=steps[:first], repeated=(steps[first],), at_once=at_once, rounds=rounds)


def retrieved_in_flight(name: str, rounds: int) -> Repeated:
    """Return all RETR of a client that pipelines them, in the segments that it sent."""
    steps = read(name).steps
    retrieving = [number for number, step in enumerate(steps) if commands(step)[:1] == [b"RETR"]]
    repeated = steps[retrieving[0] : retrieving[-1] + 1]
    messages = sum(len(step.replies) for step in repeated)
    return Repeated(before=steps[: retrieving[0]], repeated=repeated, messages=messages, at_once=10, rounds=rounds)


RELAY: Final = "smtp-postfix-many"

SMTP: Final[dict[str, Workload]] = {
    "one per session": Sessions(recordings=("smtp-smtplib-device",), at_once=20, rounds=10),
    "AUTH PLAIN + one": Sessions(recordings=("smtp-smtplib-auth", "smtp-curl-auth"), at_once=20, rounds=10),
    "lock step": repeated("smtp-smtplib-many", 25),
    "pipelined group": repeated(RELAY, 25),
    "all pipelined": all_pipelined(RELAY, 25),
    "20 recipients": repeated("smtp-postfix-list", 8, at_once=10),
    "100 KB": repeated(RELAY, 8, at_once=10, text=stuffed(HUNDRED_KILOBYTES)),
    "1 MB": repeated(RELAY, 3, at_once=4, text=stuffed(MEGABYTE)),
    "1 MB, stuffed": repeated(RELAY, 3, at_once=4, text=stuffed(DOTTED_MEGABYTE)),
}
POP3: Final[dict[str, Workload]] = {
    "USER session": Sessions(recordings=("pop3-poplib",), at_once=20, rounds=10),
    "APOP session": Sessions(recordings=("pop3-poplib-apop",), at_once=20, rounds=10),
    "fetchmail session": Sessions(recordings=("pop3-fetchmail",), at_once=20, rounds=10),
    "empty poll": Sessions(recordings=("pop3-fetchmail-empty",), at_once=20, rounds=10),
    "RETR, lock step": retrieved("pop3-poplib", 60),
    "RETR, ten in flight": retrieved_in_flight("pop3-mpop", 20),
    "maildrop of 1,000": Sessions(recordings=("pop3-getmail",), at_once=4, rounds=4),
    "RETR of 10 MB": retrieved("pop3-poplib-large", 4, at_once=2),
}

SUBMISSION: Final = "smtp-smtplib-auth"
TLS: Final[dict[tuple[str, str], Workload]] = {
    ("starttls", "SMTP with STARTTLS"): Sessions(recordings=(SUBMISSION,), at_once=10, rounds=5, starttls=True),
    ("starttls", "the same, resumed"): Sessions(
        recordings=(SUBMISSION,), at_once=10, rounds=5, starttls=True, resume=True
    ),
    ("smtps", "SMTPS"): Sessions(recordings=(SUBMISSION,), at_once=10, rounds=5),
    ("smtps", "SMTPS, resumed"): Sessions(recordings=(SUBMISSION,), at_once=10, rounds=5, resume=True),
    ("pop3s", "POP3S"): Sessions(recordings=("pop3-poplib",), at_once=10, rounds=5),
    ("pop3s", "POP3S, resumed"): Sessions(recordings=("pop3-poplib",), at_once=10, rounds=5, resume=True),
}
"""By what is served, and the column.  The SMTP sessions are submissions with AUTH PLAIN and one message."""
