"""Measure SMTP in memory, without sockets: a message of 1 KB with all checks, and content alone, compared with h11.

The lines are those of recorded clients (benchmarks/traffic/), and the application answers with a queue id.  h11 handles
one HTTP request and its response in the same rounds; on another machine only the ratios are similar.

  python benchmarks/smtp_core.py [--quick]
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Final

import _h11
from _messages import KILOBYTE, stuffed
from _results import Results, add_options
from _workloads import RELAY, transaction
from mailauth import ACCEPT, Accept, MessageChunk, NeedData, Send, smtp
from mailauth._dots import Stuffer, Unstuffer
from mailauth._lines import LineBuffer

SETTINGS: Final = smtp.ServerSettings(max_transactions=10**9)
BARE: Final = (
    b"MAIL FROM:<alice@example.test>\r\n",
    b"RCPT TO:<bob@example.test>\r\n",
    b"DATA\r\n",
    stuffed(KILOBYTE),
)
LINE: Final = b"sixty-two octets of text, and no dot at the start of any line.\r\n"
PLAIN: Final = LINE * 1_024
DOTTED: Final = (LINE * 9 + b"." + LINE) * 102

FinalReply = Callable[[], Accept | smtp.Reply]


def recorded(name: str) -> tuple[bytes, ...]:
    """Return the segments that a client sent for a message on a connection it had used before."""
    return tuple(step.sent for step in transaction(name)[1])


def body_first(segments: Sequence[bytes]) -> tuple[bytes, ...]:
    """Return the same with the two parameters of MAIL in the other order, as some clients send them."""
    return tuple(segment.replace(b" SIZE=1208 BODY=8BITMIME", b" BODY=8BITMIME SIZE=1208") for segment in segments)


def queue_ids() -> FinalReply:
    """Return a function that makes a final reply with a new queue id each time."""
    numbers = itertools.count(0xABC123)
    return lambda: smtp.Reply(250, "2.0.0", f"queued as {next(numbers):X}")


def messages(segments: Sequence[bytes], final_reply: FinalReply) -> Callable[[], None]:
    """Send one message after another in one session, each segment after the replies to the one before."""
    connection = smtp.ServerConnection(SETTINGS, entropy=bytes(32))
    pump(connection, b"EHLO client.example.test\r\n", final_reply)

    def once() -> None:
        for segment in segments:
            pump(connection, segment, final_reply)

    return once


def pump(connection: smtp.ServerConnection, data: bytes, final_reply: FinalReply) -> None:
    """Run an application's event loop, without the work of an application."""
    connection.receive_data(data)
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
                connection.answer(complete, final_reply())
            case smtp.MessageAborted() | smtp.CommandRejected():
                raise AssertionError(f"command rejected: {event}")
            case _:
                pass


def seconds(once: Callable[[], None], times: int) -> float:
    begin = time.process_time()
    for _ in range(times):
        once()
    return (time.process_time() - begin) / times


def unstuff(chunk: bytes) -> Callable[[], None]:
    unstuffer, buffer = Unstuffer(), LineBuffer()

    def once() -> None:
        buffer.feed(chunk)
        unstuffer.take(buffer)

    return once


def stuff(chunk: bytes) -> Callable[[], None]:
    stuffer = Stuffer()
    return lambda: _ignore(stuffer.stuff(chunk))


def _ignore(data: bytes) -> None:
    pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    options = parser.parse_args()
    results = Results()
    rounds, times = (1, 20) if options.quick else (15, 500)
    rows: dict[str, Callable[[], None]] = {
        "smtplib: SIZE, one command at a time": messages(recorded("smtp-smtplib-many"), queue_ids()),
        "Postfix: SIZE and BODY, pipelined, RSET": messages(recorded(RELAY), queue_ids()),
        "the same, BODY before SIZE": messages(body_first(recorded(RELAY)), queue_ids()),
        "bare MAIL, and ACCEPT instead of a queue id (unlike real servers)": messages(BARE, lambda: ACCEPT),
    }
    took: dict[str, list[float]] = {name: [] for name in rows}
    of_h11: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(rounds):
        for name, once in rows.items():
            took[name].append(seconds(once, times))
            of_h11[name].append(took[name][-1] / seconds(_h11.cycle, times // 2))
    print("| SMTP in memory: a message of 1 KB | microseconds | / h11's request and response |\n| --- | --: | --: |")
    for name in rows:
        print(f"| {name} | {statistics.median(took[name]) * 1e6:.0f} | {statistics.median(of_h11[name]):.2f} |")
        results.add("SMTP in memory", name, {"/ h11": statistics.median(of_h11[name])})
    print("\n| content in chunks of 64 KiB | GB/s |\n| --- | --: |")
    for name, once, chunk in (
        ("received, no dots", unstuff(PLAIN), PLAIN),
        ("received, dots in a tenth of the lines", unstuff(DOTTED), DOTTED),
        ("sent, no dots", stuff(PLAIN), PLAIN),
        ("sent, dots in a tenth of the lines", stuff(DOTTED), DOTTED),
    ):
        speed = statistics.median(len(chunk) / seconds(once, max(10, times // 5)) for _ in range(rounds)) / 1e9
        print(f"| {name} | {speed:.2f} |")
    results.write(options.values)


if __name__ == "__main__":
    main()
