"""Recordings of real clients in ``traffic/``: how they are written, and how they are read to be replayed.

A recording is text.  ``> `` begins a line that the client sent, with CRLF at its end, ``~ `` the part of a line that
came without one, ``< `` a line of the server.  What the client sent up to a line of the server, or up to a line ``--``,
came in one segment.  In the multi-line replies of POP3, ``...`` stands for the lines between the first and the dot.
Lines that begin with ``#`` say which client it was.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import attrs

FOLDER: Final = Path(__file__).with_name("traffic")
DIGEST: Final = b"DIGEST-OF-TIMESTAMP-AND-PASSWORD"
"""Stands for the digest of APOP, which depends on the server's greeting."""

_CONTENT_END: Final = b"\r\n.\r\n"


class Reply(enum.Enum):
    """What kind of reply is awaited."""

    SUCCESS = "a reply of SMTP, or of POP3 in one line, that is no refusal"
    MULTILINE = "a reply of POP3 that ends with a dot"
    ANY = "a reply in one line; the client was refused when it was recorded, and went on"


@attrs.frozen
class Step:
    """What is sent in one segment, and the replies that are awaited before anything else is sent."""

    sent: bytes
    replies: tuple[Reply, ...] = ()


@attrs.frozen
class Recording:
    """One session of one client.  The first step sends nothing: it awaits the greeting."""

    about: str
    steps: tuple[Step, ...]


def read(name: str) -> Recording:
    """The recording of that name.  Raises ValueError for text that is not one."""
    return parse((FOLDER / f"{name}.txt").read_text(encoding="ascii"), pop3=name.startswith("pop3"))


def parse(text: str, *, pop3: bool) -> Recording:
    """Read a recording.  Raises ValueError with the number of the line that is wrong."""
    about: list[str] = []
    steps: list[Step] = []
    sent, replies = b"", b""

    def end_step() -> None:
        nonlocal sent, replies
        if sent or replies:
            steps.append(Step(sent, tuple(_pop3_replies(replies) if pop3 else _smtp_replies(replies))))
        sent, replies = b"", b""

    for number, line in enumerate(text.splitlines(), 1):
        mark, rest = line[:2].rstrip(), line[2:].encode("ascii")
        if mark == "#":
            about.append(line[2:])
        elif mark == "<":
            replies += rest + b"\r\n"
        elif mark in (">", "~", "--"):
            if replies or mark == "--":
                end_step()
            if mark != "--":
                sent += rest + (b"\r\n" if mark == ">" else b"")
        else:
            raise ValueError(f"line {number} of a recording begins with {mark!r}")
    end_step()
    return Recording(" ".join(about), tuple(steps))


def write(about: str, segments: Iterable[tuple[bool, bytes]], *, pop3: bool) -> str:
    """Write a recording of *segments*: whether the client sent it, and its bytes."""
    lines = [f"# {about}"]
    replies = b""
    last_was_client = False

    def end_replies() -> None:
        nonlocal replies
        text = (
            re.sub(rb"(?ms)^(\+OK[^\n]*\n)(?!\+OK|-ERR|\+ )(?!\.\r\n).*?^\.\r\n", rb"\1...\r\n.\r\n", replies)
            if pop3
            else replies
        )
        lines.extend(f"< {line.decode('ascii')}".rstrip() if line else "<" for line in text.split(b"\r\n")[:-1])
        replies = b""

    for from_client, data in segments:
        if not from_client:
            replies += data
            last_was_client = False
            continue
        end_replies()
        if last_was_client:
            lines.append("--")
        *whole, part = data.split(b"\r\n")
        lines.extend(f"> {line.decode('ascii')}" if line else ">" for line in whole)
        if part:
            lines.append(f"~ {part.decode('ascii')}")
        last_was_client = True
    end_replies()
    return "".join(f"{line}\n" for line in lines)


def _smtp_replies(text: bytes) -> list[Reply]:
    """One for each line that ends a reply (RFC 5321 section 4.2.1)."""
    codes = re.findall(rb"(?m)^(\d)\d\d(?!-)", text)
    return [Reply.SUCCESS if code in b"23" else Reply.ANY for code in codes]


def _pop3_replies(text: bytes) -> list[Reply]:
    """One for each reply; those of several lines are the ones that a dot ends."""
    found: list[Reply] = []
    for line in text.split(b"\r\n")[:-1]:
        if line == b".":
            found[-1] = Reply.MULTILINE
        elif line.startswith(b"+"):
            found.append(Reply.SUCCESS)
        elif line.startswith(b"-ERR"):
            found.append(Reply.ANY)
    return found


def commands(step: Step) -> list[bytes]:
    """The verbs at the beginnings of the lines of a segment, in capitals."""
    return [line.split(b" ", 1)[0].rstrip().upper() for line in step.sent.splitlines()]


def split(recording: Recording) -> tuple[tuple[Step, ...], tuple[tuple[Step, ...], ...], tuple[Step, ...]]:
    """An SMTP session as what comes before the first MAIL, the steps of each transaction, and what follows them.

    Some clients send QUIT in one segment with the end of their last message: the transaction ends before it.
    """
    verbs = [commands(step)[0] if step.sent else b"" for step in recording.steps]
    starts = [
        number - (verbs[number - 1] == b"RSET")  # which a relay sends before it uses a connection again
        for number, verb in enumerate(verbs)
        if verb == b"MAIL"
    ]
    before = recording.steps[: starts[0]]
    transactions = []
    after: tuple[Step, ...] = ()
    for start, following in zip(starts, [*starts[1:], len(recording.steps)], strict=True):
        steps = recording.steps[start:following]
        end = next(number for number, step in enumerate(steps) if step.sent.endswith((_CONTENT_END, b".\r\nQUIT\r\n")))
        last, after = steps[end], steps[end + 1 :]
        if last.sent.endswith(b"QUIT\r\n"):
            after = (Step(b"QUIT\r\n", last.replies[1:]),)
            last = Step(last.sent.removesuffix(b"QUIT\r\n"), last.replies[:1])
        transactions.append((*steps[:end], last))
    return before, tuple(transactions), after


def with_content(transaction: Sequence[Step], text: bytes) -> tuple[Step, ...]:
    """A transaction that sends the stuffed content *text* in one piece; a SIZE that is declared becomes its size."""
    begin = next(number for number, step in enumerate(transaction) if b"DATA" in commands(step)) + 1
    size = b"%d" % len(text)
    envelope = [
        attrs.evolve(step, sent=re.sub(rb"(?i)(?<= SIZE=)\d+", size, step.sent)) for step in transaction[:begin]
    ]
    return (*envelope, Step(text, (Reply.SUCCESS,)))
