"""POP3 in memory, no sockets: a RETR of 1 KB, sessions, a long listing, and content, beside h11's own benchmark.

A *session* here is from the machine's making to Closed: greeting, login by USER and PASS, STAT, RETR, DELE, QUIT with
its commit.  A *TRANSACTION* is the part of it behind the login, STAT, LIST 1, RETR 1 and QUIT in one piece, on machines
that were made and logged in before the clock started.  Every application builds its answers anew, as a store would.

Only ratios carry over from one machine to another; h11 runs in the same rounds.  ``python benchmarks/pop3_core.py``
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import _h11
from mailauth import ACCEPT, Closed, NeedData, Notice, Send, Tls, pop3, sasl

ROUNDS = 15
ENTROPY = bytes(32)
TLS = Tls(version="TLSv1.3")
SETTINGS = pop3.ServerSettings(host_name="pop.example.test")
WITHOUT_APOP = pop3.ServerSettings(mechanisms=pop3.DEFAULT_MECHANISMS.only("USER", "PLAIN"))

TEXT = (b"Subject: a message\r\n\r\n" + b"sixty-two octets of text, and no dot at the start of any line\r\n" * 16)[
    :1024
]
TEXT = TEXT[:-2] + b"\r\n"
MAILDROP = pop3.Maildrop(messages=(pop3.Message(size=len(TEXT), unique_id="1"),))

PREPARATIONS: dict[Callable[[], None], Callable[[int], None]] = {}
"""What has to be done, outside the time that counts, before a number of calls."""

MEGABYTE = b"sixty-two octets of text, and no dot at the start of any line\r\n" * 16_384
DOTTED = (b"x" * 62 + b"\r\n") * 9 + b"." + b"x" * 61 + b"\r\n"
DOTTED_MEGABYTE = DOTTED * (len(MEGABYTE) // len(DOTTED))


def settle(connection: pop3.ServerConnection, maildrop: pop3.Maildrop = MAILDROP) -> None:
    """Pull, and answer everything, until the machine wants octets or is closed."""
    while True:
        event = connection.next_event()
        match event:
            case Send() | Notice():
                pass
            case NeedData() | Closed():
                return
            case pop3.Retrieve() as q:
                connection.answer(q, pop3.Content(octets=TEXT))
            case pop3.OpenMaildrop() as q:
                connection.answer(q, maildrop)
            case sasl.CheckPassword() as q:
                connection.answer(q, ACCEPT)
            case pop3.Connected() | pop3.Update() as q:
                connection.answer(q, ACCEPT)
            case _:
                raise AssertionError(event)


def logged_in(maildrop: pop3.Maildrop = MAILDROP) -> pop3.ServerConnection:
    connection = pop3.ServerConnection(WITHOUT_APOP, entropy=ENTROPY, tls=TLS)
    settle(connection)
    connection.receive_data(b"USER alice\r\nPASS secret\r\n")
    settle(connection, maildrop)
    return connection


def retr() -> Callable[[], None]:
    connection = logged_in()

    def once() -> None:
        connection.receive_data(b"RETR 1\r\n")
        event = connection.next_event()
        assert isinstance(event, pop3.Retrieve)
        connection.answer(event, pop3.Content(octets=TEXT))
        assert isinstance(connection.next_event(), Send)
        assert isinstance(connection.next_event(), NeedData)

    return once


def session(settings: pop3.ServerSettings, *, lock_step: bool) -> Callable[[], None]:
    lines = (b"USER alice\r\n", b"PASS secret\r\n", b"STAT\r\n", b"RETR 1\r\n", b"DELE 1\r\n", b"QUIT\r\n")
    pieces = lines if lock_step else (b"".join(lines),)

    def once() -> None:
        connection = pop3.ServerConnection(settings, entropy=ENTROPY, tls=TLS)
        settle(connection)
        for piece in pieces:
            connection.receive_data(piece)
            settle(connection)

    return once


def transaction() -> Callable[[], None]:
    """Each call uses up one of the sessions that were made ready for it."""
    ready: list[pop3.ServerConnection] = []

    def once() -> None:
        connection = ready.pop()
        connection.receive_data(b"STAT\r\nLIST 1\r\nRETR 1\r\nQUIT\r\n")
        settle(connection)

    def prepare(times: int) -> None:
        ready.extend(logged_in() for _ in range(times))

    PREPARATIONS[once] = prepare
    return once


def login() -> Callable[[], None]:
    def once() -> None:
        logged_in()

    return once


def five() -> Callable[[], None]:
    connection = logged_in()

    def once() -> None:
        connection.receive_data(b"STAT\r\nRETR 1\r\nDELE 1\r\nRSET\r\nNOOP\r\n")
        settle(connection)

    return once


def content(octets: bytes) -> Callable[[], None]:
    connection = logged_in()
    chunks = [octets[start : start + 65_536] for start in range(0, len(octets), 65_536)]

    def once() -> None:
        connection.receive_data(b"RETR 1\r\n")
        at = 0
        while True:
            match connection.next_event():
                case pop3.Retrieve() | pop3.RetrieveMore() as q:
                    connection.answer(q, pop3.Content(octets=chunks[at], last=at == len(chunks) - 1))
                    at += 1
                case NeedData():
                    return

    return once


def listing() -> Callable[[], None]:
    messages = tuple(pop3.Message(size=number, unique_id=f"{number:032x}") for number in range(10_000))
    connection = logged_in(pop3.Maildrop(messages=messages))

    def once() -> None:
        connection.receive_data(b"UIDL\r\n")
        settle(connection)

    return once


def seconds(once: Callable[[], None], times: int) -> float:
    if once in PREPARATIONS:
        PREPARATIONS[once](times)
    start = time.process_time()
    for _ in range(times):
        once()
    return (time.process_time() - start) / times


def main() -> None:
    rows: dict[str, tuple[Callable[[], None], int]] = {
        "RETR of 1 KB": (retr(), 4_000),
        "five commands, pipelined": (five(), 1_000),
        "TRANSACTION: STAT LIST RETR QUIT": (transaction(), 200),  # as many machines as the caches hold
        "greeting and login alone": (login(), 400),
        "session, lock step": (session(WITHOUT_APOP, lock_step=True), 300),
        "session, pipelined": (session(WITHOUT_APOP, lock_step=False), 300),
        "session, lock step, APOP offered": (session(SETTINGS, lock_step=True), 300),
        "UIDL of 10,000": (listing(), 2),
        "1 MB, no dots": (content(MEGABYTE), 20),
        "1 MB, every tenth line stuffed": (content(DOTTED_MEGABYTE), 20),
    }
    took: dict[str, list[float]] = {name: [] for name in rows}
    of_h11: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(ROUNDS):
        for name, (once, times) in rows.items():
            took[name].append(seconds(once, times))
            of_h11[name].append(took[name][-1] / seconds(_h11.cycle, 100))
    print(f"{'':36}{'us':>10}{'of h11':>10}{'GB/s':>8}")
    for name in rows:
        median = statistics.median(took[name])
        rate = f"{len(MEGABYTE) / median / 1e9:8.2f}" if name.startswith("1 MB") else ""
        print(f"{name:36}{median * 1e6:10.2f}{statistics.median(of_h11[name]):10.3f}{rate}")


if __name__ == "__main__":
    main()
