"""Measure the memory of an idle connection: of an SMTP server for each client that has sent EHLO and then waits.

Each server runs in a process of its own with the same number of clients, a few hundred for each address.  The result is
the private memory of the process (/proc/PID/smaps_rollup) without its fixed part; memory of the kernel for sockets is
not included.  The second column is for clients with implicit TLS.  Linux only.

  python benchmarks/idle.py [--connections N] [--quick]
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import socket
import ssl
import sys
from pathlib import Path
from typing import Final

import _external
from _load import AIOSMTPD, ASYNCIO, GO_SMTP, PROTOCOL, STREAMS, TRIO, TWISTED, UVLOOP, Server, with_children
from _results import Results, add_options

WARM_UP: Final = 200
PER_ADDRESS: Final = 200

_LAST_LINE: Final = re.compile(rb"(?m)^[2]\d\d(?: .*)?\r\n\Z")


def weigh(name: str, connections: int, *, tls: bool) -> float:
    """Return bytes of private memory of the process for each of *connections* connections."""
    with Server("smtps" if tls else "smtp", name, min(os.sched_getaffinity(0))) as server:
        clients = greeted(server.port, 0, min(WARM_UP, connections), tls)
        before = memory(server.pid)
        clients += greeted(server.port, len(clients), connections, tls)
        weight = (memory(server.pid) - before) / connections
        for client in clients:
            client.close()
    return weight


def memory(pid: int) -> int:
    """Return the bytes that only one of this process and its child processes uses."""
    lines = [
        line for each in with_children(pid) for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines()
    ]
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:")))


def greeted(port: int, first: int, number: int, tls: bool) -> list[socket.socket]:
    """Return *count* clients, each of which has read its greeting and the reply to EHLO."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # the certificate is made for this run
    clients = []
    for count in range(first, first + number):
        source = f"127.0.1.{1 + count // PER_ADDRESS}"
        client = socket.create_connection(("127.0.0.1", port), timeout=30, source_address=(source, 0))
        if tls:
            client = context.wrap_socket(client)
        read_reply(client)
        client.sendall(b"EHLO client.example.test\r\n")
        read_reply(client)
        clients.append(client)
    return clients


def read_reply(client: socket.socket) -> None:
    """Read to the end of the last line of the reply."""
    read = b""
    while not _LAST_LINE.search(read):
        received = client.recv(4096)
        if not received:
            raise EOFError(f"the server closed the connection; it had sent {read!r}")
        read += received


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=2_000, metavar="N")
    add_options(parser)
    options = parser.parse_args()
    connections: int = 10 if options.quick else options.connections
    results = Results()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the servers inherit it
    print(f"| bytes for each of {connections:,} idle connections | clear | TLS |\n| --- | --: | --: |")
    for name in (ASYNCIO, UVLOOP, TRIO, AIOSMTPD, TWISTED, GO_SMTP, STREAMS, PROTOCOL):
        weights = {}
        for title, serves in (("clear", "smtp"), ("TLS", "smtps")):
            if reason := _external.missing(name, serves):
                print(f"Left out: {name}, {serves}: {reason}; see make bench-peers.", file=sys.stderr)
            else:
                weights[title] = weigh(name, connections, tls=title == "TLS")
        shown = (f"{weights[title]:,.0f}" if title in weights else "-" for title in ("clear", "TLS"))
        print(f"| {name} | {' | '.join(shown)} |", flush=True)
        results.add("idle", name, weights)
    results.write(options.values)


if __name__ == "__main__":
    main()
