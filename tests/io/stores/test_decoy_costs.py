"""A login with an unknown name does the same hashing as a wrong password, for every mechanism and password scheme.

Hash operations are counted when they have completed: a decoy that fails early would cost less, and reveal itself.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import passlib.hash
import pytest

from mailauth import pop3, sasl
from mailauth_io import server, stores
from mailauth_io.stores import Account, MemoryAccounts, write_credential
from mailauth_io.stores.credentials import read_credential
from tests.io import loops
from tests.io.logins import Login, outcome, pop3_login, refused, replied, smtp_login
from tests.io.server_support import Run, at_once, on_both_loops
from tests.io.tls import client_context, server_context

PASSWORD = "Down the rabbit-hole"

# The lowest cost that each scheme allows: the tests compare only the number of operations.
COSTS: dict[str, tuple[str, dict[str, object]]] = {
    "SHA512-CRYPT": ("sha512_crypt", {"rounds": 1000}),
    "SHA256-CRYPT": ("sha256_crypt", {"rounds": 1000}),
    "BLF-CRYPT": ("bcrypt", {"rounds": 4, "ident": "2y"}),
    "ARGON2ID": ("argon2", {"time_cost": 1, "memory_cost": 8, "parallelism": 1}),
}
HASHES: dict[str, Any] = {name: getattr(passlib.hash, name) for name, _ in COSTS.values()}

SCHEMES = ("PLAIN", "SCRAM-SHA-256", *COSTS)


def account(name: str, scheme: str) -> Account:
    if scheme in COSTS:
        hash_name, cost = COSTS[scheme]
        text = f"{{{scheme}}}{HASHES[hash_name].using(**cost).hash(PASSWORD)}"
    else:
        text = write_credential(scheme, PASSWORD.encode())
    return Account(name=name, credential=read_credential(text.encode()))


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[object, ...]]:
    """The completed hash operations of this process, by the parameters that determine their cost."""
    counter: Counter[tuple[object, ...]] = Counter()

    def count(owner: Any, name: str, cost: Callable[..., tuple[object, ...]]) -> None:
        real = getattr(owner, name)

        def counted(*args: Any, **options: Any) -> Any:
            result = real(*args, **options)
            counter[(name, *cost(*args))] += 1
            return result

        monkeypatch.setattr(owner, name, counted)

    count(hashlib, "pbkdf2_hmac", lambda hash_name, password, salt, iterations: (hash_name, iterations))
    count(hmac, "digest", lambda key, message, hash_name: (hash_name,))
    count(hashlib, "md5", lambda data: ())
    for each, hash_ in HASHES.items():
        hash_.get_backend()  # otherwise the first call of verify() replaces the method
        count(hash_, "verify", lambda password, text, each=each: (each,))
    return counter


def plain(name: str) -> sasl.ClientMechanism:
    return sasl.PlainClient(authentication_identity=name, password=b"wrong")


def login(name: str) -> sasl.ClientMechanism:
    return sasl.LoginClient(authentication_identity=name, password=b"wrong")


def scram(name: str) -> sasl.ClientMechanism:
    return sasl.ScramSha256Client(authentication_identity=name, password=b"wrong", entropy=bytes(16))


def scram_sha_1(name: str) -> sasl.ScramSha1Client:
    return sasl.ScramSha1Client(authentication_identity=name, password=b"wrong", entropy=bytes(16))


def cram_md5(name: str) -> sasl.ClientMechanism:
    return sasl.CramMd5Client(authentication_identity=name, password=b"wrong")


def user(name: str) -> sasl.ClientMechanism:
    return sasl.UserPassClient(authentication_identity=name, password=b"wrong")


def apop(name: str) -> sasl.ClientMechanism:
    return sasl.ApopClient(authentication_identity=name, password=b"wrong")


async def without_sasl(
    ports: server.RunningServer, tls: ssl.SSLContext, mechanism: sasl.ClientMechanism, _: bool
) -> str:
    """Log in with USER and PASS, or with APOP."""
    assert ports.pop3s is not None
    async with await loops.current().adapter.connect(
        lambda tls: pop3.ClientConnection(tls=tls), "127.0.0.1", ports.pop3s, ssl_context=tls, implicit_tls=True
    ) as client:
        await replied(client)
        return await outcome(client, mechanism)


SASL = [plain, login, scram, scram_sha_1, cram_md5]
LOGINS: list[tuple[Login, Callable[[str], sasl.ClientMechanism]]] = [
    *((smtp_login, each) for each in SASL),
    *((pop3_login, each) for each in SASL),
]
LOGINS += [(without_sasl, user), (without_sasl, apop)]


def usable(scheme: str, mechanism: Callable[[str], sasl.ClientMechanism]) -> bool:
    """Return whether the server can check a login by *mechanism* if all credentials have *scheme*."""
    return scheme == "PLAIN" or mechanism in (plain, login, user) or (scheme, mechanism) == ("SCRAM-SHA-256", scram)


def rows(*, offered: bool) -> list[Any]:
    return [
        pytest.param(scheme, log_in, mechanism, id=f"{log_in.__name__}-{mechanism.__name__}-{scheme}")
        for log_in, mechanism in LOGINS
        for scheme in SCHEMES
        if usable(scheme, mechanism) is offered
    ]


@contextlib.asynccontextmanager
async def serving(
    scheme: str, log_in: Login, mechanism: Callable[[str], sasl.ClientMechanism]
) -> AsyncIterator[Callable[[str], Awaitable[str]]]:
    """Run a server with two accounts; yield a function that logs in and returns the result."""
    accounts = MemoryAccounts([account(name, scheme) for name in ("alice", "bob")])
    config = server.Config(smtp=0, smtps=0, pop3=0, pop3s=0, ssl_context=server_context(), legacy=True)
    kept = server.Stores(accounts=accounts, maildrops=stores.MemoryMaildrops(), outbox=stores.MemoryOutbox())
    async with server.serve(config, kept, sleep=at_once) as ports:
        yield lambda name: log_in(ports, client_context(), mechanism(name), False)


@on_both_loops
@pytest.mark.parametrize(("scheme", "log_in", "mechanism"), rows(offered=False))
def test_mechanism_that_no_credential_supports_is_not_offered(
    run: Run, scheme: str, log_in: Login, mechanism: Callable[[str], sasl.ClientMechanism]
) -> None:
    async def main() -> None:
        async with serving(scheme, log_in, mechanism) as attempt:
            assert await attempt("alice") == "not offered"

    run(main)


@on_both_loops
@pytest.mark.parametrize(("scheme", "log_in", "mechanism"), rows(offered=True))
def test_unknown_name_performs_same_hash_operations_as_wrong_password(
    run: Run,
    done: Counter[tuple[object, ...]],
    scheme: str,
    log_in: Login,
    mechanism: Callable[[str], sasl.ClientMechanism],
) -> None:
    """This holds for the first login of each name and for the second."""
    costs: dict[str, list[Counter[tuple[object, ...]]]] = {"alice": [], "nobody": []}

    async def main() -> None:
        async with serving(scheme, log_in, mechanism) as attempt:
            for name in ("alice", "nobody", "alice", "nobody"):
                done.clear()
                assert await attempt(name) == refused(smtp_login if log_in is smtp_login else pop3_login)
                costs[name].append(done.copy())

    run(main)
    assert costs["alice"] == costs["nobody"]
    slow = scheme in COSTS or scheme == "SCRAM-SHA-256"
    if slow and mechanism in (plain, login, user):
        (first, second) = costs["nobody"]
        expected = ("pbkdf2_hmac", "sha256", 4096) if scheme == "SCRAM-SHA-256" else None
        hashed = {cost: number for cost, number in first.items() if cost == expected or cost[0] == "verify"}
        assert sum(hashed.values()) == 1
        assert first == second
    if mechanism in (scram, scram_sha_1):
        first, second = costs["nobody"]
        derived = ("pbkdf2_hmac", "sha256" if mechanism is scram else "sha1", 4096)
        # One derivation of each is done by the client.
        assert (first[derived], second[derived]) == ((2, 2) if scheme == "PLAIN" else (1, 1))
