"""Clients that say lines as they are and read the replies, for what no client of a library would say.

Knows where a reply ends; refuses to know what it means.
"""

from __future__ import annotations

import socket


def read_line(connection: socket.socket) -> bytes:
    """One line, read octet by octet, so that nothing behind it is taken."""
    line = b""
    while not line.endswith(b"\r\n"):
        octet = connection.recv(1)
        if not octet:
            raise EOFError(line)
        line += octet
    return line


def hear(connection: socket.socket) -> bytes:
    """The last line of a reply."""
    while True:
        line = read_line(connection)
        if line[3:4] != b"-" or not line[:3].isdigit():
            return line


def converse(connection: socket.socket, *commands: str) -> list[str]:
    """Say *commands* one by one; the last line of each reply, the greeting first."""
    heard = [hear(connection)]
    for command in commands:
        connection.sendall(command.encode() + b"\r\n")
        heard.append(hear(connection))
    return [line.decode().rstrip() for line in heard]
