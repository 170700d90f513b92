"""Clients that disconnect in the middle of a session with ``mailauth_io.server``: the points at which they do, and a
way to wait until the server has noticed.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import socket
import struct
import threading
from collections.abc import Iterator

import attrs
import pytest

from mailauth_io.logs import Event
from mailauth_io.server._log import LOGGER
from tests.io.by_hand import hear
from tests.io.server_support import PASSWORD, TIMEOUT, Served
from tests.io.tls import client_context


@attrs.frozen
class Moment:
    """A point in a session: after these lines, each with its reply, and then the last bytes of the client."""

    protocol: str
    asked: tuple[bytes, ...] = ()
    last: bytes = b""
    hears: tuple[bytes, ...] = ()
    """The beginning of each reply to the last bytes, if the client still reads."""
    stored: int = 0
    """The number of messages in alice's maildrop afterwards: only those that were acknowledged."""


EHLO = b"EHLO client.test"
PLAIN = b"AUTH PLAIN " + base64.b64encode(f"\0alice\0{PASSWORD}".encode())
MAIL = (EHLO, b"MAIL FROM:<far@far.test>")
RCPT = (*MAIL, b"RCPT TO:<alice@example.test>")
DATA = (*RCPT, b"DATA")
GROUP = b"MAIL FROM:<>\r\nRCPT TO:<alice@example.test>\r\nDATA\r\n"
USER = b"USER alice"
LOGIN = (USER, f"PASS {PASSWORD}".encode())

SMTP = {
    "greeted": Moment("smtp"),
    "half a command": Moment("smtp", (), b"EHLO cli"),
    "a command": Moment("smtp", (EHLO,), b"NOOP\r\n", (b"250 ",)),
    "STARTTLS": Moment("smtp", (EHLO,), b"STARTTLS\r\n", (b"220 ",)),
    "before a response": Moment("smtp", (EHLO, b"AUTH LOGIN")),
    "half a response": Moment("smtp", (EHLO, b"AUTH CRAM-MD5"), b"YWxp"),
    "a login": Moment("smtp", (EHLO,), PLAIN + b"\r\n", (b"235 ",)),
    "MAIL": Moment("smtp", MAIL),
    "RCPT": Moment("smtp", RCPT, b"DATA\r\n", (b"354 ",)),
    "content": Moment("smtp", DATA, b"half a line"),
    "much content": Moment("smtp", DATA, b"line\r\n" * 40_000),
    "half a dot": Moment("smtp", DATA, b"line\r\n.\r"),
    "the dot": Moment("smtp", DATA, b"line\r\n.\r\n", (b"250 2.0.0",), 1),
    "the dot and half a command": Moment("smtp", DATA, b"line\r\n.\r\nRSE", (b"250 2.0.0",), 1),
    "half a chunk": Moment("smtp", RCPT, b"BDAT 10 LAST\r\nline\r\n"),
    "a chunk": Moment("smtp", RCPT, b"BDAT 6\r\nline\r\n", (b"250 ",)),
    "the last chunk": Moment("smtp", RCPT, b"BDAT 6 LAST\r\nline\r\n", (b"250 2.0.0",), 1),
    "a group and content": Moment("smtp", (EHLO,), GROUP + b"line\r\n", (b"250 ", b"250 ", b"354 ")),
    "a group and the dot": Moment("smtp", (EHLO,), GROUP + b"line\r\n.\r\n", (b"250 ",) * 2 + (b"354 ", b"250 "), 1),
}
POP3 = {
    "greeted": Moment("pop3", stored=1),
    "half a command": Moment("pop3", (), b"CAP", stored=1),
    "USER": Moment("pop3", (USER,), stored=1),
    "STLS": Moment("pop3", (), b"STLS\r\n", (b"+OK",), 1),
    "before a response": Moment("pop3", (b"AUTH PLAIN",), stored=1),
    "a login": Moment("pop3", (USER,), LOGIN[1] + b"\r\n", (b"+OK",), 1),
    "logged in": Moment("pop3", LOGIN, stored=1),
    "RETR": Moment("pop3", LOGIN, b"RETR 1\r\n", (b"+OK",), 1),
    "many RETR": Moment("pop3", LOGIN, b"RETR 1\r\n" * 40, (b"+OK",) * 40, 1),
    "DELE": Moment("pop3", LOGIN, b"DELE 1\r\n", (b"+OK",), 1),
    "DELE and half a QUIT": Moment("pop3", LOGIN, b"DELE 1\r\nQUI", (b"+OK",), 1),
    "DELE and QUIT": Moment("pop3", LOGIN, b"DELE 1\r\nQUIT\r\n", (b"+OK",) * 2, 0),
}
TEXT = b"Subject: the one that is there\r\n\r\n" + b"..a line of it\r\n" * 6_000
"""The message that is in the maildrop before a POP3 session."""


def at_every_moment(**moments: dict[str, Moment]) -> pytest.MarkDecorator:
    """Parametrize *moment* over the rows of these tables; the keyword is the protocol."""
    named = [(f"{table}: {name}", moment) for table, rows in moments.items() for name, moment in rows.items()]
    return pytest.mark.parametrize("moment", [moment for _, moment in named], ids=[name for name, _ in named])


@contextlib.contextmanager
def ends_of_sessions(protocol: str) -> Iterator[threading.Semaphore]:
    """Yield a semaphore that is released at the end of each session of *protocol*, after the server has cleaned up."""
    ends = threading.Semaphore(0)
    wanted = protocol.upper()

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if (
                isinstance(record.msg, Event)
                and record.msg.name == "closed"
                and record.msg.fields["protocol"] == wanted
            ):
                ends.release()

    watch, level = Watch(), LOGGER.level
    LOGGER.addHandler(watch)
    LOGGER.setLevel(logging.DEBUG)
    try:
        yield ends
    finally:
        LOGGER.setLevel(level)
        LOGGER.removeHandler(watch)


def come(served: Served, moment: Moment, *, tls: bool = False) -> socket.socket:
    """Return a client that has reached *moment*, and has read all replies except those to its last bytes."""
    port = getattr(served.ports, moment.protocol + ("s" if tls else ""))
    client = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT)
    if tls:
        client = client_context().wrap_socket(client, server_hostname="127.0.0.1", suppress_ragged_eofs=True)
    hear(client)
    for line in moment.asked:
        client.sendall(line + b"\r\n")
        assert hear(client)[:1] in b"+23", (line, moment)
    client.sendall(moment.last)
    return client


def reset(client: socket.socket) -> None:
    """Close with a reset (RST): unsent and unread data is lost."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
