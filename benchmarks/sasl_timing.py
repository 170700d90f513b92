"""Whether time tells an unknown identity from a wrong password: ``python benchmarks/sasl_timing.py [rounds]``.

For each mechanism whose server compares by itself, both kinds of login are run in turn, and the times of the server's
own steps are compared: the difference of the medians beside the noise, the spread of one kind against itself.  The last
line says what comes of it; the exit status is 1 when time tells.  What CheckPassword and CheckToken cost is the
application's to equalise, and not measured here.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import Final, TypeAlias

import attrs

from mailauth import sasl

DECOY: Final = sasl.ScramDecoy(key=b"a key that nobody knows")
TIMESTAMP: Final = b"<1896.697170952@example.test>"
BATCH: Final = 50

Answer: TypeAlias = sasl.ScramKeys | bytes | None


@attrs.frozen
class Kind:
    """One mechanism: its server, a client with a wrong password, and what a store knows of an account."""

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
        client=lambda: sasl.CramMd5Client(authentication_identity="alice", secret=b"wrong"),
        known=b"right",
    ),
    "APOP": Kind(
        server=lambda: sasl.ApopServer(timestamp=TIMESTAMP, tls=True),
        client=lambda: sasl.ApopClient(authentication_identity="alice", secret=b"wrong"),
        known=b"right",
    ),
}


def prepare(kind: Kind, answer: Answer) -> list[bytes | None]:
    """What the client says to a server whose store gives *answer*, so that only the server's steps are timed."""
    client, server = kind.client(), kind.server()
    first = client.respond(None)
    said: list[bytes | None] = [first if client.client_first else None]
    step = server.respond(said[0])
    while not isinstance(step, sasl.Success | sasl.Refusal | sasl.Fault):
        if isinstance(step, sasl.Challenge):
            said.append(client.respond(step.octets))
            step = server.respond(said[-1])
        else:
            step = server.resolve(answer)
    assert step is sasl.Refusal.BAD_CREDENTIALS
    return said


def seconds(kind: Kind, answer: Answer, said: list[bytes | None]) -> float:
    """For the server's steps of BATCH logins."""
    servers = [kind.server() for _ in range(BATCH)]
    began = time.perf_counter()
    for server in servers:
        for response in said:
            if not isinstance(server.respond(response), sasl.Challenge | sasl.Refusal):
                server.resolve(answer)
    return time.perf_counter() - began


def main() -> int:
    """Print the table and the verdict; 1 when some difference is above twice its noise, else 0."""
    telling: list[str] = []
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    print("microseconds per login   wrong  unknown  difference   noise")
    for name, kind in KINDS.items():
        answers: tuple[Answer, ...] = (kind.known, None, kind.known)  # the last against the first is the noise
        conversations = [prepare(kind, answer) for answer in answers]
        times: list[list[float]] = [[], [], []]
        for number in range(rounds):
            for which in (0, 1, 2) if number % 2 else (2, 1, 0):
                times[which].append(seconds(kind, answers[which], conversations[which]) / BATCH * 1e6)
        wrong, unknown, again = (statistics.median(some) for some in times)
        spread = statistics.quantiles(times[0], n=4)
        noise = max(abs(wrong - again), (spread[2] - spread[0]) / 2)
        print(f"{name:<24}{wrong:>6.2f}{unknown:>9.2f}{unknown - wrong:>12.2f}{noise:>8.2f}")
        if abs(unknown - wrong) > 2 * noise:
            telling.append(name)
    if telling:
        print(f"Time tells an unknown identity from a wrong password: {', '.join(telling)}.")
        return 1
    print("Time does not tell an unknown identity from a wrong password.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
