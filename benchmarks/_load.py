"""The generator of the SMTP benchmarks: plain sockets that send canned octets and count the lines that come back.

Knows the shape of a session, and reads no reply.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import Final

ASYNCIO: Final = "mailauth, asyncio"
TRIO: Final = "mailauth, trio"
READY: Final = "mailauth, the ready server on asyncio"
FLOOR: Final = "asyncio streams, nothing parsed"
AIOSMTPD: Final = "aiosmtpd"

MAIL: Final = b"MAIL FROM:<alice@example.test>\r\n"
RCPT: Final = b"RCPT TO:<bob@example.test>\r\n"
DATA: Final = b"DATA\r\n"
LINE: Final = b"sixty-two octets of text, and no dot at the start of any line\r\n"
KILOBYTE: Final = b"Subject: a message\r\n\r\n" + LINE * 16 + b".\r\n"
MEGABYTE: Final = b"Subject: a message\r\n\r\n" + LINE * 16_640 + b".\r\n"

Step = tuple[bytes, int]
"""What is sent at once, and how many lines answer it."""

COLUMNS: Final[dict[str, tuple[Step, ...]]] = {
    "lock step": ((MAIL, 1), (RCPT, 1), (DATA, 1), (KILOBYTE, 1)),
    "pipelined group": ((MAIL + RCPT + DATA, 3), (KILOBYTE, 1)),
    "1 MB bodies": ((MAIL + RCPT + DATA, 3), (MEGABYTE, 1)),
}


def read_lines(connection: socket.socket, lines: int) -> None:
    """Read that many lines, and not one octet more, without ever sleeping: no server shall pay for waking us."""
    while lines > 0:
        try:
            octets = connection.recv(65_536, socket.MSG_DONTWAIT)
        except BlockingIOError:
            continue
        if not octets:
            raise EOFError("the server closed the connection")
        lines -= octets.count(b"\n")
    if lines < 0:
        raise ValueError("the server said more than it was asked")


class Sessions:
    """Some sessions with one server, greeted and ready for MAIL."""

    def __init__(self, port: int, number: int) -> None:
        self._sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(number)]
        for connection in self._sockets:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            read_lines(connection, 1)
            connection.sendall(b"HELO client.example.test\r\n")
            read_lines(connection, 1)

    def send(self, steps: Sequence[Step], messages: int) -> int:
        """Send at least *messages* messages, step by step on all sessions at once; how many they were."""
        rounds = -(-messages // len(self._sockets))
        for _ in range(rounds):
            for octets, lines in steps:
                for connection in self._sockets:
                    connection.sendall(octets)
                for connection in self._sockets:
                    read_lines(connection, lines)
        return rounds * len(self._sockets)

    def close(self) -> None:
        for connection in self._sockets:
            connection.close()
