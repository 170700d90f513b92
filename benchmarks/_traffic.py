"""Read and write the recordings of real clients in ``traffic/``.

A recording is a text file.  A line that begins with ``> `` is a line from the client, sent with CRLF; ``~ `` marks a
line from the client without its end, and ``< `` a line from the server.  The client sent everything up to a line from
the server, or up to a line ``--``, in one segment.  In multi-line POP3 replies, ``...`` stands for the lines between
the first line and the dot.  Lines that begin with ``#`` describe the client.
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
"""Placeholder for the digest of APOP, which depends on the greeting."""

_CONTENT_END: Final = b"\r\n.\r\n"


class Reply(enum.Enum):
    """The kind of reply that is expected."""

    SUCCESS = "a positive SMTP reply, or a positive single-line POP3 reply"
    MULTILINE = "a POP3 reply that ends with a dot"
    ANY = "a single-line reply that was negative in the recording, after which the client continued"


@attrs.frozen
class Step:
    """One segment sent by the client, and the replies to wait for before the next."""

    sent: bytes
    replies: tuple[Reply, ...] = ()
    starts_tls: bool = False
    """Whether the client begins a TLS handshake after the replies; no recording contains such a step."""


@attrs.frozen
class Recording:
    """One session of one client.  The first step sends nothing and waits for the greeting."""

    about: str
    steps: tuple[Step, ...]


def read(name: str) -> Recording:
    """Return the recording *name*.  Raises ValueError for an invalid recording."""
    return parse((FOLDER / f"{name}.txt").read_text(encoding="ascii"), pop3=name.startswith("pop3"))


def parse(text: str, *, pop3: bool) -> Recording:
    """Parse a recording.  Raises ValueError with the number of the invalid line."""
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
            raise ValueError(
                f"line {number} of the recording begins with {mark!r}; use one of '#', '<', '>', '~', '--'"
            )
    end_step()
    return Recording(" ".join(about), tuple(steps))


def write(about: str, segments: Iterable[tuple[bool, bytes]], *, pop3: bool) -> str:
    """Return the text of a recording.  Each segment is a pair: whether the client sent it, and its bytes."""
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
    """Return one Reply for each last line of a reply (RFC 5321 section 4.2.1)."""
    codes = re.findall(rb"(?m)^(\d)\d\d(?!-)", text)
    return [Reply.SUCCESS if code in b"23" else Reply.ANY for code in codes]


def _pop3_replies(text: bytes) -> list[Reply]:
    """Return one Reply for each reply; one that ends with a dot is multi-line."""
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
    """Return the first word of each line of a segment, in upper case."""
    return [line.split(b" ", 1)[0].rstrip().upper() for line in step.sent.splitlines()]


def split(recording: Recording) -> tuple[tuple[Step, ...], tuple[tuple[Step, ...], ...], tuple[Step, ...]]:
    """Split an SMTP session into the steps before the first MAIL, those of each transaction, and those after them.

    Some clients send QUIT in the same segment as the end of the last message; the transaction then ends before QUIT.
    """
    verbs = [commands(step)[0] if step.sent else b"" for step in recording.steps]
    starts = [
        number - (verbs[number - 1] == b"RSET")  # a relay sends RSET before it reuses a connection
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
    """Return a transaction that sends the dot-stuffed *text* as content in one segment, with SIZE adjusted to it."""
    begin = next(number for number, step in enumerate(transaction) if b"DATA" in commands(step)) + 1
    size = b"%d" % len(text)
    envelope = [
        attrs.evolve(step, sent=re.sub(rb"(?i)(?<= SIZE=)\d+", size, step.sent)) for step in transaction[:begin]
    ]
    return (*envelope, Step(text, (Reply.SUCCESS,)))
