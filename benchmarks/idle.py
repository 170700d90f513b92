"""What an idle connection weighs: memory of the server for each client that was greeted and says nothing more.

Each server runs in a process of its own.  What it needs once is not counted, nor what the kernel keeps for a socket.

``python benchmarks/idle.py [--connections N]`` (Linux)
"""

from __future__ import annotations

import argparse
import os
import resource
import socket
from pathlib import Path
from typing import Final

from _load import AIOSMTPD, ASYNCIO, FLOOR, TRIO, read_lines
from adapters import Server

WARM_UP: Final = 200
PER_ADDRESS: Final = 200


def weigh(name: str, connections: int) -> float:
    """Octets of the process's own memory for each of *connections* connections."""
    server = Server(name, min(os.sched_getaffinity(0)))
    clients = greeted(server.port, 0, WARM_UP)
    before = memory(server.pid)
    clients += greeted(server.port, WARM_UP, connections)
    weight = (memory(server.pid) - before) / connections
    for client in clients:
        client.close()
    server.close()
    return weight


def memory(pid: int) -> int:
    """Octets that are this process's alone."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(("Private_Clean:", "Private_Dirty:")))


def greeted(port: int, first: int, number: int) -> list[socket.socket]:
    """That many clients, each of which has read its greeting and said HELO; a few hundred from each address."""
    clients = []
    for count in range(first, first + number):
        source = f"127.0.1.{1 + count // PER_ADDRESS}"
        client = socket.create_connection(("127.0.0.1", port), source_address=(source, 0))
        read_lines(client, 1)
        client.sendall(b"HELO client.example.test\r\n")
        read_lines(client, 1)
        clients.append(client)
    return clients


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--connections", type=int, default=4_000, metavar="N")
    connections: int = parser.parse_args().connections
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # the servers inherit it
    print(f"octets of memory for each of {connections} idle connections")
    for name in (ASYNCIO, TRIO, FLOOR, AIOSMTPD):
        print(f"{name:34}{weigh(name, connections):8,.0f}")


if __name__ == "__main__":
    main()
