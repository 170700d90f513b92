"""A test double: an SMTP server that fails once at each given step, and otherwise works.

    python examples/faults.py RCPT=451 MESSAGE=close

Each argument is one fault: the step at which it happens, and either a reply code or "close".  The program starts the
double, sends a message to it by smtplib until this succeeds, and prints the exception that each fault causes.  The exit
status is 0 if the message was delivered exactly once.

In your own tests, use ``Double`` as ``run`` does, with your client instead of ``send``.
"""

import argparse
import asyncio
import re
import smtplib
import sys
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from mailauth import ACCEPT, MessageChunk, Question, smtp
from mailauth_io.on_asyncio import AsyncServerConnection, serve_smtp

STEPS = {
    "GREETING": smtp.Connected,
    "MAIL": smtp.Mail,
    "RCPT": smtp.Rcpt,
    "DATA": smtp.Data,
    "MESSAGE": smtp.MessageComplete,
}


class Fault(NamedTuple):
    step: type[object]
    reply: smtp.Reply | None
    """None: close the connection without a reply."""


class Double:
    """Accepts every message, but each of *faults* happens once, at the first occurrence of its step."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self.faults = list(faults)
        self.messages: list[bytes] = []

    def fault_at(self, event: smtp.ServerEvent) -> Fault | None:
        for fault in self.faults:
            if isinstance(event, fault.step):
                self.faults.remove(fault)
                return fault
        return None

    async def session(self, connection: AsyncServerConnection[smtp.ServerEvent]) -> None:
        content = bytearray()
        async for event in connection:
            fault = self.fault_at(event)
            answer = ACCEPT if fault is None else fault.reply
            if answer is None:
                connection.abort()
                return
            match event:
                case smtp.Connected() | smtp.Mail() | smtp.Rcpt() | smtp.Data() as question:
                    content.clear()
                    connection.answer(question, answer)
                case MessageChunk(data=data):
                    content += data
                case smtp.MessageComplete() as question:
                    if answer is ACCEPT:
                        self.messages.append(bytes(content))
                    connection.answer(question, answer)
                case Question() as question:  # logins and TLS
                    connection.decline(question)
                case _:
                    pass


def send(port: int) -> None:
    """The client under test.  Raises SMTPException or OSError."""
    with smtplib.SMTP("127.0.0.1", port, timeout=30) as client:
        client.sendmail("alice@example.org", ["bob@example.org"], b"Subject: test\r\n\r\nDown the rabbit-hole.\r\n")


async def run(faults: Sequence[Fault]) -> int:
    double = Double(faults)
    async with serve_smtp(double.session, smtp.ServerSettings()) as listener:
        for attempt in range(1, len(faults) + 2):
            try:
                await asyncio.to_thread(send, listener.port)
            except (smtplib.SMTPException, OSError) as error:
                print(f"Attempt {attempt} failed: {type(error).__name__}: {error}")
            else:
                print(f"Attempt {attempt} succeeded.")
                break
    print(f"Messages that arrived: {len(double.messages)}")
    return 0 if len(double.messages) == 1 else 1


def fault(text: str) -> Fault:
    step, _, what = text.partition("=")
    if step in STEPS and what == "close":
        return Fault(STEPS[step], None)
    if step in STEPS and re.fullmatch("[45][0-5][0-9]", what):
        return Fault(STEPS[step], smtp.Reply(int(what), text="simulated fault"))
    raise argparse.ArgumentTypeError(
        f"invalid fault {text!r}; use STEP=close or STEP=CODE; steps: {', '.join(STEPS)}; codes: 400-459, 500-559"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Show what smtplib does when a server fails.")
    parser.add_argument("faults", type=fault, nargs="*", metavar="STEP=FAULT", help="such as RCPT=451 or DATA=close")
    args = parser.parse_args(arguments)
    try:
        return asyncio.run(run(args.faults))
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
