"""Show that the cost grows no faster than the input: the time for each byte, command, recipient, grant or message.

Everything runs in memory: the machines, the grants table and the store of maildrops, with ordinary input and with
hostile input.  Each row has two sizes or more.  The last column divides the cost per unit at the largest size by the
lowest cost per unit at a smaller one; more than 1.5 is marked with an exclamation mark.

  python benchmarks/linear.py [--quick]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import time
from collections.abc import Callable, Sequence
from typing import Final

import attrs

from _results import Results, add_options, short
from grants import fill, ipv4
from mailauth import ACCEPT, MessageChunk, NeedData, Send, pop3, sasl, smtp
from mailauth_io.stores import MemoryMaildrops

PIECE: Final = 65_536
MOST: Final = 1.5
"""The growth that is marked."""
RUNS: Final = 3

ENVELOPE: Final = b"MAIL FROM:<alice@example.test> SIZE=1000 BODY=8BITMIME\r\nRCPT TO:<bob@example.test>\r\nDATA\r\n"
TEXT: Final = b"A line of text with sixty-two characters and no dot before it\r\n"
MESSAGE: Final = TEXT * 16

SMTP: Final = smtp.ServerSettings(
    host_name="mail.example.test",
    chunking=True,
    max_junk_commands=10**9,
    max_transactions=10**9,
    max_message_size=10**9,
    max_recipients=10**6,
)
POP3: Final = pop3.ServerSettings(host_name="mail.example.test", mechanisms_without_tls=frozenset({"USER"}))

Run = Callable[[], None]


@attrs.frozen
class Row:
    """One row of the table."""

    input: str
    unit: str
    sizes: Sequence[int]
    prepare: Callable[[int], Run]
    """Called with a size; returns the function whose time is measured."""


def pump(connection: smtp.ServerConnection, data: bytes) -> None:
    """Pass *data* to a server, and answer all questions."""
    connection.receive_data(data)
    while True:
        match connection.next_event():
            case NeedData():
                return
            case Send() | MessageChunk():
                pass
            case smtp.MessageAborted() | smtp.CommandRejected() as event:
                raise AssertionError(f"rejected: {event}")
            case smtp.MessageComplete() as complete:
                connection.answer(complete, smtp.Reply(250, "2.0.0", "queued as ABC123"))
            case smtp.Connected() | smtp.Mail() | smtp.Rcpt() | smtp.Data() as question:
                connection.answer(question, ACCEPT)
            case _:
                pass


def session(*data: bytes) -> smtp.ServerConnection:
    """Return an SMTP session to which EHLO and *data* were sent."""
    connection = smtp.ServerConnection(SMTP, entropy=bytes(32))
    for each in (b"EHLO client.example.test\r\n", *data):
        pump(connection, each)
    return connection


def pieces(data: bytes, size: int = PIECE) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def sending(connection: smtp.ServerConnection, segments: Sequence[bytes]) -> Run:
    def run() -> None:
        for segment in segments:
            pump(connection, segment)

    return run


def commands(number: int) -> Run:
    """Pipelined transactions; the lines of one with its content count as four commands."""
    return sending(session(), pieces((ENVELOPE + MESSAGE + b".\r\n") * max(1, number // 4)))


def recipients(number: int) -> Run:
    lines = b"".join(b"RCPT TO:<user%d@example.test>\r\n" % each for each in range(number))
    return sending(session(b"MAIL FROM:<alice@example.test> SIZE=1000\r\n"), pieces(lines))


def content(line: bytes = TEXT, piece: int = PIECE) -> Callable[[int], Run]:
    """Content of the given number of bytes, of the same line again and again, in pieces of *piece* bytes."""

    def prepare(size: int) -> Run:
        data = line * max(1, size // len(line))
        return sending(session(ENVELOPE), [*pieces(data, piece), b".\r\n"])

    return prepare


def split_after_cr(size: int) -> Run:
    """Content in which each piece ends between CR and LF."""
    count = max(2, size // len(TEXT))
    return sending(session(ENVELOPE), [TEXT[:-1], *[b"\n" + TEXT[:-1]] * (count - 1), b"\n.\r\n"])


def one_byte_chunks(number: int) -> Run:
    """BDAT with one byte, and again."""
    started = session(b"MAIL FROM:<alice@example.test>\r\nRCPT TO:<bob@example.test>\r\n")
    return sending(started, [*pieces(b"BDAT 1\r\nx" * number), b"BDAT 0 LAST\r\n"])


def command_by_bytes(number: int) -> Run:
    """Commands, one byte in each segment."""
    return sending(session(), [bytes((byte,)) for byte in b"NOOP text\r\n" * max(1, number // 11)])


def grants(number: int) -> Run:
    """Each grant is made, and found again."""

    def run() -> None:
        table = fill(number, number)
        for each in range(number):
            table.find(ipv4(each), number / 1000)

    return run


def maildrop(number: int) -> pop3.Maildrop:
    messages = (pop3.Message(size=1_000 + each, unique_id=f"{each:032x}") for each in range(number))
    return pop3.Maildrop(messages=tuple(messages))


def say(connection: pop3.ServerConnection, data: bytes, found: pop3.Maildrop) -> None:
    connection.receive_data(data)
    while True:
        match connection.next_event():
            case NeedData():
                return
            case pop3.OpenMaildrop() as opening:
                connection.answer(opening, found)
            case pop3.Connected() as connected:
                connection.answer(connected, ACCEPT)
            case sasl.CheckPassword() as check:
                connection.answer(check, ACCEPT)
            case pop3.CommandRejected() as event:
                raise AssertionError(f"rejected: {event}")
            case _:
                pass


def login(number: int) -> Run:
    """USER and PASS; the application makes the list of messages, as a store does."""
    connection = pop3.ServerConnection(POP3, entropy=bytes(32))
    return lambda: say(connection, b"USER alice\r\nPASS wonderland\r\n", maildrop(number))


def command(line: bytes) -> Callable[[int], Run]:
    """A command in a session with the given number of messages."""

    def prepare(number: int) -> Run:
        connection = pop3.ServerConnection(POP3, entropy=bytes(32))
        found = maildrop(number)
        say(connection, b"USER alice\r\nPASS wonderland\r\n", found)
        return lambda: say(connection, line, found)

    return prepare


def store(number: int) -> Run:
    """The store in memory opens a maildrop."""
    maildrops = MemoryMaildrops()
    for _ in range(number):
        maildrops.add("alice", b"Subject: test\r\n\r\ntext\r\n")

    async def open_and_close() -> None:
        opened = await maildrops.open("alice")
        assert not isinstance(opened, pop3.Unavailable)
        assert len(opened.messages) == number
        opened.close()

    return lambda: asyncio.run(open_and_close())


MESSAGES: Final = (1_000, 10_000, 100_000)
ROWS: Final = (
    Row("content", "byte", (1_000, 100_000, 5_000_000, 50_000_000), content(TEXT)),
    Row("pipelined commands", "command", (4, 100, 1_000, 10_000), commands),
    Row("recipients", "recipient", (1, 10, 100, 1_000), recipients),
    Row("grants: a login and a lookup", "grant", (10_000, 100_000, 1_000_000), grants),
    Row("POP3 login", "message", MESSAGES, login),
    Row("LIST", "message", MESSAGES, command(b"LIST\r\n")),
    Row("UIDL", "message", MESSAGES, command(b"UIDL\r\n")),
    Row("maildrop in memory is opened", "message", MESSAGES, store),
    Row("hostile: empty lines", "byte", (2_000, 200_000, 2_000_000), content(b"\r\n")),
    Row("hostile: a dot before each line", "byte", (3_000, 300_000, 3_000_000), content(b"..\r\n")),
    Row("hostile: only dots", "byte", (3_000, 300_000, 3_000_000), content(b"." * 990 + b"\r\n")),
    Row("hostile: each piece ends after CR", "byte", (10_000, 100_000, 1_000_000), split_after_cr),
    Row("hostile: BDAT of one byte", "chunk", (100, 1_000, 20_000), one_byte_chunks),
    Row("hostile: content, one byte at a time", "byte", (1_000, 10_000, 200_000), content(piece=1)),
    Row("hostile: commands, one byte at a time", "byte", (1_000, 10_000, 100_000), command_by_bytes),
)


def nanoseconds(row: Row, size: int) -> float:
    """Return the CPU time for each unit: the lowest of a few runs."""
    took = []
    gc.collect()
    gc.disable()  # the collector would examine all grants several times, at random moments
    try:
        for _ in range(RUNS if size < 1_000_000 else 1):
            times = max(1, min(20, 50_000 // size))
            runs = [row.prepare(size) for _ in range(times)]
            start = time.process_time()
            for run in runs:
                run()
            took.append((time.process_time() - start) / times / size)
    finally:
        gc.enable()
    return min(took) * 1e9


def growth(costs: Sequence[float]) -> float:
    """Return the cost per unit at the largest size, divided by the lowest one at a smaller size."""
    return costs[-1] / min(costs[:-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    options = parser.parse_args()
    results = Results()
    print("| in memory | sizes | nanoseconds per unit | growth |\n| --- | --- | --- | --: |")
    for row in ROWS:
        sizes = [max(1, size // 100) for size in row.sizes[:2]] if options.quick else row.sizes
        costs = [nanoseconds(row, size) for size in sizes]
        results.add("linear", row.input, {str(size): cost for size, cost in zip(sizes, costs, strict=True)})
        shown = f"{short(growth(costs))}{' !' if growth(costs) > MOST else ''}"
        listed = " / ".join(f"{size:,}" for size in sizes)
        per_unit = " / ".join(short(cost) for cost in costs)
        print(f"| {row.input} | {listed} {row.unit}s | {per_unit} | {shown} |", flush=True)
    results.write(options.values)


if __name__ == "__main__":
    main()
