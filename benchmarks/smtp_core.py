"""SMTP in memory, no sockets: one transaction in lock step with all checks on, and content, beside h11's own benchmark.

Only ratios carry over from one machine to another; h11 runs in the same rounds.  ``python benchmarks/smtp_core.py``
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import _h11
from mailauth import ACCEPT, MessageChunk, NeedData, Send, smtp
from mailauth._dots import Stuffer, Unstuffer
from mailauth._lines import LineBuffer

ROUNDS = 15
SETTINGS = smtp.ServerSettings(maximum_transactions=10**9)

LINE = b"sixty-two octets of text, and no dot at the start of any line.\r\n"
LOCK_STEP = (
    b"MAIL FROM:<alice@example.test>\r\n",
    b"RCPT TO:<bob@example.test>\r\n",
    b"DATA\r\n",
    LINE * 16 + b".\r\n",
)

PLAIN = LINE * 1_024
DOTTED = (LINE * 9 + b"." + LINE) * 102


def transaction() -> Callable[[], None]:
    """MAIL, RCPT, DATA, 1 KB and its end: five events, each reply read before the next command is sent."""
    connection = smtp.ServerConnection(SETTINGS, entropy=bytes(32))
    pump(connection, b"EHLO client.example.test\r\n")

    def once() -> None:
        for octets in LOCK_STEP:
            pump(connection, octets)

    return once


def pump(connection: smtp.ServerConnection, octets: bytes) -> None:
    """An application's loop, without what an application does."""
    connection.receive_data(octets)
    while True:
        event = connection.next_event()
        match event:
            case Send() | MessageChunk():
                pass
            case NeedData():
                return
            case smtp.Mail() | smtp.Rcpt() | smtp.Data() | smtp.Connected() as question:
                connection.answer(question, ACCEPT)
            case smtp.MessageComplete() as complete:
                connection.answer(complete, ACCEPT)
            case smtp.MessageAborted() | smtp.Refused():
                raise AssertionError(f"this is not the usual course: {event}")
            case _:
                pass


def seconds(once: Callable[[], None], times: int) -> float:
    begin = time.perf_counter()
    for _ in range(times):
        once()
    return (time.perf_counter() - begin) / times


def unstuff(chunk: bytes) -> Callable[[], None]:
    unstuffer, buffer = Unstuffer(), LineBuffer()

    def once() -> None:
        buffer.feed(chunk)
        unstuffer.take(buffer)

    return once


def stuff(chunk: bytes) -> Callable[[], None]:
    stuffer = Stuffer()
    return lambda: _ignore(stuffer.stuff(chunk))


def _ignore(octets: bytes) -> None:
    pass


def main() -> None:
    ours, theirs = [], []
    once = transaction()
    for _ in range(ROUNDS):
        ours.append(seconds(once, 1_000))
        theirs.append(seconds(_h11.cycle, 300))
    microseconds = statistics.median(ours) * 1e6
    ratio = statistics.median(our / their for our, their in zip(ours, theirs, strict=True))
    print(f"transaction of 1 KB, lock step  {microseconds:6.1f} us   {ratio:.2f} of h11's request and response")
    for name, once, chunk in (
        ("content in, no dots", unstuff(PLAIN), PLAIN),
        ("content in, dots in a tenth of the lines", unstuff(DOTTED), DOTTED),
        ("content out, no dots", stuff(PLAIN), PLAIN),
        ("content out, dots in a tenth of the lines", stuff(DOTTED), DOTTED),
    ):
        speed = statistics.median(len(chunk) / seconds(once, 100) for _ in range(ROUNDS)) / 1e9
        print(f"{name:42} {speed:5.2f} GB/s in chunks of 64 KiB")


if __name__ == "__main__":
    main()
