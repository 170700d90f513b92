"""Check that the time of a login does not reveal whether the identity is unknown or the password wrong.

For each mechanism whose server compares the proof itself, logins of both kinds run alternately, and the times of the
server's steps are compared.  The same is done for passwords that the accounts of ``mailauth serve`` check, including
the thread.  The last line is the result; the exit status is 1 if there is a measurable difference.

  python benchmarks/sasl_timing.py [ROUNDS]
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import math
import statistics
import sys
import time
from collections.abc import Callable
from typing import Final, TypeAlias

import attrs

from mailauth import sasl
from mailauth_io import stores
from mailauth_io.server import Authenticator
from mailauth_io.stores.credentials import read_credential

DECOY: Final = sasl.ScramDecoy(key=b"a key that nobody knows")
TIMESTAMP: Final = b"<1896.697170952@example.test>"
BATCH: Final = 50
SCHEMES: Final = ("PLAIN", "SCRAM-SHA-256")
LEAST: Final = 0.05
"""Microseconds: half of the best published result for a network, 0.1 over a LAN (Crosby, Wallach and Riedi, 2009)."""

Answer: TypeAlias = sasl.ScramKeys | bytes | None
Measured: TypeAlias = Callable[[], float]
"""The measured seconds of one login."""


@attrs.frozen
class Kind:
    """One mechanism: its server, a client with a wrong password, and the data of an account in a store."""

    server: Callable[[], sasl.ServerMechanism]
    client: Callable[[], sasl.ClientMechanism]
    known: Answer


def scram(server: type[sasl.ScramSha1Server | sasl.ScramSha256Server], hash_name: str) -> Kind:
    make = sasl.ScramSha1Client if hash_name == "sha1" else sasl.ScramSha256Client
    client = make(authentication_identity="alice", password=b"wrong", entropy=bytes(range(32)))
    return Kind(
        server=lambda: server(nonce="server", tls=True, decoy=DECOY),
        client=lambda: client,
        known=sasl.scram_keys(b"right", b"sixteen octets..", 4096, hash_name),
    )


KINDS: Final = {
    "SCRAM-SHA-1": scram(sasl.ScramSha1Server, "sha1"),
    "SCRAM-SHA-256": scram(sasl.ScramSha256Server, "sha256"),
    "CRAM-MD5": Kind(
        server=lambda: sasl.CramMd5Server(challenge=TIMESTAMP, tls=True),
        client=lambda: sasl.CramMd5Client(authentication_identity="alice", password=b"wrong"),
        known=b"right",
    ),
    "APOP": Kind(
        server=lambda: sasl.ApopServer(timestamp=TIMESTAMP, tls=True),
        client=lambda: sasl.ApopClient(authentication_identity="alice", password=b"wrong"),
        known=b"right",
    ),
}


def prepare(kind: Kind, answer: Answer) -> list[bytes | None]:
    """Return the client's responses to a server whose store returns *answer*, so that only the server is timed."""
    client, server = kind.client(), kind.server()
    first = client.respond(None)
    said: list[bytes | None] = [first if client.client_first else None]
    step = server.respond(said[0])
    while not isinstance(step, sasl.Success | sasl.Refusal | sasl.Fault):
        if isinstance(step, sasl.Challenge):
            said.append(client.respond(step.data))
            step = server.respond(said[-1])
        else:
            step = server.resolve(answer)
    assert step is sasl.Refusal.BAD_CREDENTIALS
    return said


def of_steps(kind: Kind, answer: Answer) -> Measured:
    """Run the server's steps of BATCH logins."""
    said = prepare(kind, answer)

    def measured() -> float:
        servers = [kind.server() for _ in range(BATCH)]
        started_at = time.perf_counter()
        for server in servers:
            for response in said:
                if not isinstance(server.respond(response), sasl.Challenge | sasl.Refusal):
                    server.resolve(answer)
        return (time.perf_counter() - started_at) / BATCH

    return measured


def of_accounts(runner: asyncio.Runner, scheme: str, name: str) -> Measured:
    """Check a wrong password for *name* against accounts that include alice, stored by *scheme*."""
    credential = read_credential(stores.write_credential(scheme, b"right").encode())
    accounts = Authenticator(stores.MemoryAccounts([stores.Account(name="alice", credential=credential)]))
    batch = 1 if credential.slow else BATCH

    async def several() -> float:
        started_at = time.perf_counter()
        for _ in range(batch):
            await accounts.check_password(name, b"wrong")
        return (time.perf_counter() - started_at) / batch

    return lambda: runner.run(several())


def tells(name: str, wrong: Measured, unknown: Measured, again: Measured, rounds: int) -> bool:
    """Print one row; return whether the difference is above the noise and above LEAST.  *again* is the same as *wrong*.

    The three are compared round by round, in alternating order.  The noise is the result for a wrong password compared
    with itself, plus three standard errors of that median.
    """
    ways = (wrong, unknown, again)
    times: list[list[float]] = [[], [], []]
    for order in itertools.islice(itertools.cycle(itertools.permutations(range(3))), rounds):
        for which in order:
            times[which].append(ways[which]() * 1e6)
    other = [one - first for one, first in zip(times[1], times[0], strict=True)]
    itself = [one - first for one, first in zip(times[2], times[0], strict=True)]
    quartiles = statistics.quantiles(itself, n=4)
    error = 0.93 * (quartiles[2] - quartiles[0]) / math.sqrt(rounds)
    difference, noise = statistics.median(other), abs(statistics.median(itself)) + 3 * error
    medians = [statistics.median(some) for some in times]
    print(f"{name:<24}{medians[0]:>9.2f}{medians[1]:>9.2f}{difference:>12.2f}{noise:>8.2f}")
    return abs(difference) > max(noise, LEAST)


def main() -> int:
    """Print the table and the result; return 1 if a difference is measurable, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "rounds", nargs="?", type=int, default=400, metavar="ROUNDS", help="number of rounds, at least 2 (default: 400)"
    )
    rounds: int = parser.parse_args().rounds
    telling: list[str] = []
    print("microseconds per login      wrong  unknown  difference   noise")
    for name, kind in KINDS.items():
        wrong, unknown, again = (of_steps(kind, answer) for answer in (kind.known, None, kind.known))
        if tells(name, wrong, unknown, again, rounds):
            telling.append(name)
    with asyncio.Runner() as runner:
        for scheme in SCHEMES:
            wrong, unknown, again = (of_accounts(runner, scheme, name) for name in ("alice", "nobody", "alice"))
            if tells(f"PLAIN by {{{scheme}}}", wrong, unknown, again, rounds):
                telling.append(scheme)
    if telling:
        print(f"The time reveals whether the identity is unknown: {', '.join(telling)}.")
        return 1
    print("The time does not reveal whether the identity is unknown.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
