"""A program whose deliveries are killed: killed_deliveries.py DIRECTORY DELIVERIES SEED.

It forks a child that delivers messages until it is killed, and then forks the next one.  The child counts its system
calls on files.  At one chosen by the seed it does half of a write, or nothing, and sends itself SIGKILL.  The program
prints the numbers of the messages that were acknowledged.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from mailauth_io.server.delivery import Message, deliver
from mailauth_io.stores import Budget, MaildirMaildrops, MemoryOutbox, MessageContent

_write = os.write  # before die_at() replaces it
CALLS = ("mkdir", "open", "write", "fsync", "close", "rename")


def text(number: int) -> bytes:
    """Return message *number*.  Each line contains the number, and some messages are longer than one piece."""
    return b"message %03d\r\n" % number * (1 + number % 5 * 3_000)


def die_at(fatal: int, patch: pytest.MonkeyPatch) -> None:
    """Make this process kill itself at its file system call number *fatal*."""
    count = 0

    def watched(name: str) -> None:
        real = getattr(os, name)

        def call(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == fatal:
                if name == "write":
                    real(args[0], args[1][: len(args[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        patch.setattr(os, name, call)

    for name in CALLS:
        watched(name)


async def deliver_on(directory: Path, numbers: range, tell: int) -> None:
    """Deliver the messages *numbers*, and write each start and each 250 to the file descriptor *tell*."""
    maildrops = MaildirMaildrops(directory)
    for number in numbers:
        _write(tell, b"start %d\n" % number)
        content = MessageContent.of(text(number), Budget())
        message = Message(
            queue_id="q", reverse_path=None, maildrops=("alice",), relayed=(), received=b"", content=content
        )  # fmt: skip
        reply = await deliver(message, maildrops, MemoryOutbox())
        assert reply.code == 250
        _write(tell, b"ack %d\n" % number)


def main(directory: Path, deliveries: int, seed: int) -> None:
    chosen = random.Random(seed)
    number = 0
    while number < deliveries:
        fatal = chosen.randint(1, 120)
        report, tell = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(report)
            work = deliver_on(directory, range(number, deliveries), os.dup(tell))
            die_at(fatal, pytest.MonkeyPatch())
            asyncio.run(work)
            os._exit(0)
        os.close(tell)
        with os.fdopen(report) as lines:
            for line in lines:
                word, _, which = line.partition(" ")
                if word == "start":
                    number = int(which) + 1
                else:
                    print(int(which))
        _, status = os.waitpid(child, 0)
        assert status == (signal.SIGKILL if os.WIFSIGNALED(status) else 0), status


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
