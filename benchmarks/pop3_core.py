"""Measure POP3 in memory, without sockets: recorded sessions, single commands, and content, compared with h11.

A session lasts from the creation of the connection to Closed, including the login.  The application answers from memory
and lists the maildrop again at each login, as a store does.  h11 handles one HTTP request and its response in the same
rounds; on another machine only the ratios are similar.

  python benchmarks/pop3_core.py [--quick]
"""

from __future__ import annotations

import argparse
import hashlib
import re
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final

import attrs

import _h11
from _messages import DOTTED_MEGABYTE, MAILDROPS, MEGABYTE, PASSWORD
from _results import Results, add_options
from _traffic import DIGEST, read
from _workloads import POP3, Repeated
from mailauth import ACCEPT, Closed, NeedData, Notice, Send, pop3, sasl

ENTROPY: Final = bytes(32)
SETTINGS: Final = pop3.ServerSettings(host_name="mail.example.test", mechanisms_without_tls=frozenset({"USER", "APOP"}))
PIECE: Final = 65_536


@attrs.frozen
class Texts:
    """The maildrop of one user: its messages and the text of each."""

    messages: tuple[pop3.Message, ...]
    contents: tuple[bytes, ...]

    @classmethod
    def of(cls, contents: tuple[bytes, ...]) -> Texts:
        numbered = enumerate(contents, 1)
        return cls(
            tuple(pop3.Message(size=len(text), unique_id=f"{number:032x}") for number, text in numbered), contents
        )


TEXTS: Final = {name: Texts.of(contents) for name, contents in MAILDROPS.items()}


class Session:
    """A connection and the application that answers its questions."""

    def __init__(self, texts: Texts | None = None) -> None:
        self._texts = texts or TEXTS["bob"]
        self._fixed = texts is not None
        self.connection = pop3.ServerConnection(SETTINGS, entropy=ENTROPY)
        self.greeting = self.settle()

    def say(self, data: bytes) -> bytes:
        self.connection.receive_data(data)
        return self.settle()

    def settle(self) -> bytes:
        """Process all events until the connection needs data or is closed; return the bytes sent first."""
        connection = self.connection
        sent = b""
        while True:
            event = connection.next_event()
            match event:
                case Send():
                    sent = sent or event.data
                case NeedData() | Closed():
                    return sent
                case pop3.CommandRejected():
                    if event.verb:
                        raise AssertionError(event)
                case Notice():
                    pass
                case pop3.Retrieve() as q:
                    connection.answer(q, self._piece(q.number, 0))
                case pop3.RetrieveMore() as q:
                    connection.answer(q, self._piece(q.number, q.offset))
                case pop3.OpenMaildrop() as q:
                    if not self._fixed:
                        self._texts = TEXTS[q.identity]
                    connection.answer(q, pop3.Maildrop(messages=self._texts.messages))
                case sasl.CheckPassword() as q:
                    connection.answer(q, ACCEPT)
                case sasl.FetchSecret() as q:
                    connection.answer(q, PASSWORD)
                case pop3.Connected() | pop3.Update() as q:
                    connection.answer(q, ACCEPT)
                case _:
                    raise AssertionError(event)

    def _piece(self, number: int, offset: int) -> pop3.Content:
        text = self._texts.contents[number - 1]
        return pop3.Content(data=text[offset : offset + PIECE], last=offset + PIECE >= len(text))


def session(name: str) -> Callable[[], None]:
    """A recorded session, segment by segment."""
    timestamp = re.search(rb"<.*>", Session().greeting)
    assert timestamp is not None
    digest = hashlib.md5(timestamp[0] + PASSWORD, usedforsecurity=False).hexdigest().encode("ascii")
    segments = [step.sent.replace(DIGEST, digest) for step in read(name).steps if step.sent]

    def once() -> None:
        session = Session()
        for segment in segments:
            if not session.say(segment).startswith(b"+OK") and segment != b"LAST\r\n":
                raise AssertionError(segment)

    return once


def repeated(column: str) -> Callable[[], None]:
    """The repeated part of a column of ``adapters.py``, in a session opened before."""
    workload = POP3[column]
    assert isinstance(workload, Repeated)
    session = Session()
    for step in workload.before[1:]:  # the first step waits for the greeting
        session.say(step.sent)
    return said(session, [step.sent for step in workload.repeated])


def said(session: Session, segments: Sequence[bytes]) -> Callable[[], None]:
    def once() -> None:
        for segment in segments:
            if not session.say(segment).startswith(b"+OK"):
                raise AssertionError(segment)

    return once


def logged_in(command: bytes, texts: Texts) -> Callable[[], None]:
    """One command in a session whose maildrop contains *texts*."""
    session = Session(texts)
    session.say(b"USER alice\r\n")
    session.say(b"PASS wonderland\r\n")
    return said(session, [command])


def seconds(once: Callable[[], None], times: int) -> float:
    start = time.process_time()
    for _ in range(times):
        once()
    return (time.process_time() - start) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    options = parser.parse_args()
    results = Results()
    quick: bool = options.quick
    ten_thousand = Texts(
        tuple(pop3.Message(size=number, unique_id=f"{number:032x}") for number in range(10_000)), (b"",) * 10_000
    )
    rows: dict[str, tuple[Callable[[], None], int]] = {
        "RETR of 1 KB": (repeated("RETR, lock step"), 2_000),
        "ten RETR of 1 KB, pipelined (mpop)": (repeated("RETR, ten in flight"), 200),
        "session with USER and one message (poplib)": (session("pop3-poplib"), 200),
        "session with APOP and one message (poplib)": (session("pop3-poplib-apop"), 200),
        "session with one message (fetchmail)": (session("pop3-fetchmail"), 200),
        "poll of an empty maildrop (fetchmail)": (session("pop3-fetchmail-empty"), 200),
        "session with a maildrop of 1,000 (getmail)": (session("pop3-getmail"), 10),
        "UIDL of 10,000": (logged_in(b"UIDL\r\n", ten_thousand), 2),
        "RETR of 1 MB, no dots": (logged_in(b"RETR 1\r\n", Texts.of((MEGABYTE,))), 20),
        "RETR of 1 MB, dots in a tenth of the lines": (logged_in(b"RETR 1\r\n", Texts.of((DOTTED_MEGABYTE,))), 20),
    }
    took: dict[str, list[float]] = {name: [] for name in rows}
    of_h11: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(1 if quick else 15):
        for name, (once, times) in rows.items():
            took[name].append(seconds(once, 1 if quick else times))
            of_h11[name].append(took[name][-1] / seconds(_h11.cycle, 5 if quick else 100))
    print("| POP3 in memory | microseconds | / h11's request and response |\n| --- | --: | --: |")
    for name in rows:
        print(f"| {name} | {statistics.median(took[name]) * 1e6:,.0f} | {statistics.median(of_h11[name]):.2f} |")
        results.add("POP3 in memory", name, {"/ h11": statistics.median(of_h11[name])})
    results.write(options.values)


if __name__ == "__main__":
    main()
