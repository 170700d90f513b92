"""Clients that send raw lines and read the replies, for input that no client library would send.

Replies are read but not interpreted.
"""

from __future__ import annotations

import socket


def read_line(connection: socket.socket) -> bytes:
    """Read one line, byte by byte, so that nothing after it is read."""
    line = b""
    while not line.endswith(b"\r\n"):
        octet = connection.recv(1)
        if not octet:
            raise EOFError(line)
        line += octet
    return line


def hear(connection: socket.socket) -> bytes:
    """Read a reply, and return its last line."""
    while True:
        line = read_line(connection)
        if line[3:4] != b"-" or not line[:3].isdigit():
            return line


def converse(connection: socket.socket, *commands: str) -> list[str]:
    """Send *commands* one by one.  Return the last line of each reply, the greeting first."""
    heard = [hear(connection)]
    for command in commands:
        connection.sendall(command.encode() + b"\r\n")
        heard.append(hear(connection))
    return [line.decode().rstrip() for line in heard]
