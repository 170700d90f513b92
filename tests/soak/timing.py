"""Whether the time of a failed login tells which names exist, measured at a socket of a real server.

Each sample is a login with a wrong password, as a name that exists or as one that does not, in random order, in clear
text from the same host: nobody else can measure more exactly.  The result is the chance to tell the two apart by one
sample, with the Mann-Whitney rank test: 50 % is a guess.
"""

from __future__ import annotations

import gc
import itertools
import math
import random
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import attrs
from passlib.hash import sha512_crypt

from mailauth import sasl
from mailauth_io import stores
from tests.serving import served

PASSWORD: Final = "open sesame"
KNOWN: Final = tuple(f"user{number}" for number in range(10, 30))
UNKNOWN: Final = tuple(f"user{number}" for number in range(30, 50))

MAX_CHANCE: Final = 0.55
"""The chance to tell a name that exists from another one, above which a measurement fails."""

CERTAIN: Final = 4.0
"""Standard errors that the chance must also differ from one half.  The busiest machine does not do that by accident:
less than one of 10,000 measurements."""

SCHEMES: Final = {
    "PLAIN": (1.0, ("PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256", "USER", "APOP")),
    "SCRAM-SHA-256": (0.25, ("PLAIN", "SCRAM-SHA-256")),
    "SHA512-CRYPT": (0.25, ("PLAIN", "LOGIN", "USER")),
}
"""For each scheme of stored passwords: the fraction of the samples, since some are slow, and the mechanisms."""


@attrs.frozen(kw_only=True)
class Comparison:
    """The times of one step of a login for the two kinds of names, in seconds."""

    loop: str
    scheme: str
    protocol: str
    mechanism: str
    step: str
    """The command or response that is timed, from its last byte to the reply."""
    known: Sequence[float]
    unknown: Sequence[float]

    @property
    def chance(self) -> float:
        """The chance that a time of a known name is the longer one of a pair; a tie counts half."""
        return rank_test(self.known, self.unknown)[0]

    @property
    def deviation(self) -> float:
        """How far the chance is from one half, in standard errors."""
        return rank_test(self.known, self.unknown)[1]

    def failed(self) -> bool:
        return max(self.chance, 1 - self.chance) > MAX_CHANCE and abs(self.deviation) > CERTAIN

    def __str__(self) -> str:
        micro = [f"{1e6 * median(times):8.0f}" for times in (self.known, self.unknown)]
        return (
            f"{self.loop:8}{self.scheme:14}{self.protocol:5}{self.mechanism:14}{self.step:11}{len(self.known):6}"
            f"{micro[0]} {micro[1]} us  {100 * max(self.chance, 1 - self.chance):5.1f} % "
            f"({self.deviation:+.1f} standard errors)"
        )


def rank_test(first: Sequence[float], second: Sequence[float]) -> tuple[float, float]:
    """Return the chance that a value of *first* exceeds one of *second*, and its deviation from one half.

    The deviation is in standard errors of two samples that do not differ (Mann and Whitney, 1947).
    """
    ordered = sorted([(value, 0) for value in first] + [(value, 1) for value in second])
    rank, ranks = 1, 0.0
    for _, tied in itertools.groupby(ordered, key=lambda pair: pair[0]):
        group = list(tied)
        ranks += (rank + (len(group) - 1) / 2) * sum(which == 0 for _, which in group)
        rank += len(group)
    pairs = len(first) * len(second)
    chance = (ranks - len(first) * (len(first) + 1) / 2) / pairs
    return chance, (chance - 0.5) / math.sqrt((len(first) + len(second) + 1) / (12 * pairs))


class Prober:
    """A client that measures how long the server takes for each reply."""

    def __init__(self, port: int, protocol: str) -> None:
        self._protocol = protocol
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(60)
        self.greeting = self._reply()
        if protocol == "SMTP":
            self.ask(b"EHLO client.test")

    def _reply(self) -> bytes:
        data = b""
        while not data.endswith(b"\r\n") or (self._protocol == "SMTP" and data.splitlines()[-1][3:4] == b"-"):
            more = self._socket.recv(65_536)
            assert more, data
            data += more
        return data.splitlines()[-1]

    def ask(self, line: bytes) -> tuple[bytes, float]:
        """Send a line; return the last line of the reply, and the seconds until it has arrived."""
        data = line + b"\r\n"
        began = time.perf_counter()
        self._socket.sendall(data)
        reply = self._reply()
        return reply, time.perf_counter() - began

    def close(self) -> None:
        self._socket.close()

    def fail(self, mechanism: str, name: str, password: bytes) -> Iterator[tuple[str, float]]:
        """Log in with the wrong *password*.  Yield each step with its time."""
        if mechanism == "USER":
            yield "USER", self.ask(f"USER {name}".encode())[1]
            reply, seconds = self.ask(b"PASS " + password)
            yield "PASS", seconds
        elif mechanism == "APOP":
            reply, seconds = self.ask(f"APOP {name} {'0' * 32}".encode())
            yield "APOP", seconds
        else:
            exchange = sasl.ClientExchange(_client(mechanism, name, password))
            reply, seconds = self.ask(b"AUTH " + b" ".join(filter(None, (mechanism.encode(), exchange.begin()))))
            yield "AUTH", seconds
            for number in itertools.count(1):
                going_on = b"334 " if self._protocol == "SMTP" else b"+ "
                if not reply.startswith(going_on):
                    break
                reply, seconds = self.ask(exchange.respond(reply.removeprefix(going_on)))
                yield f"response {number}", seconds
        assert reply.startswith((b"535 ", b"-ERR [AUTH]")), reply


def _client(mechanism: str, name: str, password: bytes) -> sasl.ClientMechanism:
    match mechanism:
        case "PLAIN":
            return sasl.PlainClient(authentication_identity=name, password=password)
        case "LOGIN":
            return sasl.LoginClient(authentication_identity=name, password=password)
        case "CRAM-MD5":
            return sasl.CramMd5Client(authentication_identity=name, password=password)
        case "SCRAM-SHA-1":
            return sasl.ScramSha1Client(authentication_identity=name, password=password, entropy=bytes(32))
        case _:
            return sasl.ScramSha256Client(authentication_identity=name, password=password, entropy=bytes(32))


def _credential(scheme: str) -> str:
    if scheme == "SHA512-CRYPT":  # few rounds, which take 1 ms; a longer time would hide differences
        scheme_hash: Any = sha512_crypt  # the types of passlib lack the parameters of using()
        return f"{{SHA512-CRYPT}}{scheme_hash.using(rounds=1000).hash(PASSWORD)}"
    return stores.write_credential(scheme, PASSWORD.encode())


def _compare(
    port: int, protocol: str, mechanism: str, samples: int, rng: random.Random
) -> dict[str, list[list[float]]]:
    """Return the times of each step, for the known and for the unknown names."""
    times: dict[str, list[list[float]]] = {}
    prober = Prober(port, protocol)
    gc.disable()
    for turn in range(-20, samples):
        order = [(0, rng.choice(KNOWN)), (1, rng.choice(UNKNOWN))]
        rng.shuffle(order)
        # SHA512-CRYPT takes up to 1 % longer for some pairs of salt and password, so each turn has another password.
        password = rng.randbytes(8).hex().encode()
        for which, name in order:
            for step, seconds in prober.fail(mechanism, name, password):
                if turn >= 0:  # those before are a warm-up
                    times.setdefault(step, [[], []])[which].append(seconds)
    gc.enable()
    prober.close()
    return times


def run_timing(loop: str, directory: Path, samples: int, seed: int, tell: Callable[[str], None]) -> list[Comparison]:
    """Compare all mechanisms on *loop*; *tell* is called with a line of text for each comparison."""
    rng = random.Random(seed)
    found: list[Comparison] = []
    for scheme, (fraction, mechanisms) in SCHEMES.items():
        place = directory / scheme
        place.mkdir()
        accounts, config = place / "accounts", place / "mailauth.toml"
        accounts.touch(0o600)
        accounts.write_text("".join(f"{name}:{_credential(scheme)}\n" for name in KNOWN))
        config.write_text(f'[accounts]\nfile = "accounts"\nlegacy = true\nmax_failed_logins = {4 * samples + 100}\n')
        with served(place, "--config", str(config), "--loop", loop) as server:
            for protocol, mechanism in itertools.product(("SMTP", "POP3"), mechanisms):
                if protocol == "SMTP" and mechanism in ("USER", "APOP"):
                    continue
                port = server.port(protocol.lower())
                times = _compare(port, protocol, mechanism, max(20, round(fraction * samples)), rng)
                for step, (known, unknown) in times.items():
                    found.append(
                        Comparison(
                            loop=loop, scheme=scheme, protocol=protocol, mechanism=mechanism, step=step,
                            known=known, unknown=unknown,
                        )
                    )  # fmt: skip
                    tell(str(found[-1]))
    return found
