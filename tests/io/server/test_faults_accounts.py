"""Account stores that fail, with every mechanism, and overloaded hashing: 454, [SYS/TEMP], one log line, no secret."""

from __future__ import annotations

import base64
import contextlib
import logging
import poplib
import re
import smtplib
import socket
import threading
from collections.abc import Callable
from typing import ClassVar, TypeVar, TypeVarTuple

import attrs
import pytest

from mailauth import sasl
from mailauth_io import logs, server, stores
from mailauth_io.stores import Account, Hashing, MemoryAccounts, Proof
from mailauth_io.stores.credentials import Credential
from tests.io.by_hand import hear
from tests.io.gone_clients import ends_of_sessions, reset
from tests.io.logins import Login, by_both_protocols, smtp_login
from tests.io.server.test_failures import Accounts, Broken
from tests.io.server.test_logins import scram
from tests.io.server_support import PASSWORD, TIMEOUT, Run, Served, authenticate, meet, on_both_loops
from tests.io.tls import client_context, server_context

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MECHANISMS: dict[str, Callable[[], sasl.ClientMechanism]] = {
    "find for a password": lambda: sasl.PlainClient(authentication_identity="alice", password=PASSWORD.encode()),
    "find for a secret": lambda: sasl.CramMd5Client(authentication_identity="alice", password=PASSWORD.encode()),
    "find for keys": lambda: scram("alice"),
    "token_owner": lambda: sasl.OauthBearerClient(token=b"a-token-of-alice", authorization_identity=""),
    "refresh": lambda: sasl.LoginClient(authentication_identity="alice", password=PASSWORD.encode()),
}
"""The methods of the accounts, each with a mechanism that makes the server call it."""


@on_both_loops
@by_both_protocols
@pytest.mark.parametrize("method", MECHANISMS)
def test_login_gets_temporary_failure_if_any_accounts_method_fails(
    run: Run, login: Login, method: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """RFC 4954 section 6, RFC 3206 section 4: the reply does not claim that the password is wrong."""
    caplog.set_level(logging.INFO)
    name = method.partition(" ")[0]
    gets_secret = name == "token_owner"
    broken = Broken({name}, KeyError("a-token-of-alice" if gets_secret else "no row"))
    real = MemoryAccounts({"alice": PASSWORD.encode()}, tokens=[("alice", b"a-token-of-alice")])
    accounts = Accounts(broken, real)
    kept = server.Stores(
        accounts=accounts, tokens=accounts, maildrops=stores.MemoryMaildrops(), outbox=stores.MemoryOutbox()
    )

    async def main() -> None:
        config = server.Config(smtp=0, pop3=0, smtps=0, pop3s=0, ssl_context=server_context())
        async with server.serve(config, kept) as ports:
            put_off = "454" if login is smtp_login else "SYS/TEMP"
            assert await login(ports, client_context(), MECHANISMS[method](), False) == put_off
            broken.methods.clear()
            assert await login(ports, client_context(), MECHANISMS[method](), False) == "ok"

    run(main)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    if gets_secret:  # the message may quote it
        reason = r"MethodFailed: token_owner\(\) of Accounts failed: KeyError at test_failures.py:[0-9]+ check, "
    else:
        reason = r"KeyError: 'no row'\" at=\"test_failures.py:[0-9]+ check, "
    assert re.search(f'part=accounts reason="{reason}', line)
    assert "Traceback" in caplog.text
    assert PASSWORD not in caplog.text
    assert "a-token" not in caplog.text
    assert capfd.readouterr() == ("", "")


@attrs.frozen
class Quoting(Credential):
    """Raises an exception that quotes the password of the client."""

    proofs: ClassVar[frozenset[Proof]] = frozenset({Proof.PASSWORD})

    @property
    def kind(self) -> str:
        return "quoting"

    def check(self, password: bytes) -> bool:
        raise LookupError(password)

    def scram_keys(self, hash_name: str) -> None:
        return None


@on_both_loops
def test_exception_of_a_credential_is_logged_without_its_message(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """architecture.md, invariant 6: it gets the password of the client, which its message may quote."""
    real = MemoryAccounts([Account(name="alice", credential=Quoting()), stores.from_password("bob", b"x")])
    kept = server.Stores(
        accounts=Accounts(Broken(), real), maildrops=stores.MemoryMaildrops(), outbox=stores.MemoryOutbox()
    )

    def client(served: Served) -> None:
        with login_of_alice(served) as alice:
            assert hear(alice).startswith(b"454")

    meet(run, client, kept=kept)
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    reason = "MethodFailed: check() of Quoting failed: LookupError at test_faults_accounts.py:"
    assert f'part=accounts reason="{reason}' in record.getMessage()
    assert "Traceback" in caplog.text
    assert PASSWORD not in caplog.text


@attrs.frozen
class Held(Credential):
    """A password whose check blocks until the test releases it."""

    proofs: ClassVar[frozenset[Proof]] = frozenset({Proof.PASSWORD})

    begun: threading.Semaphore = attrs.field(factory=lambda: threading.Semaphore(0), eq=False)
    go_on: threading.Event = attrs.field(factory=threading.Event, eq=False)

    @property
    def kind(self) -> str:
        return "held"

    def check(self, password: bytes) -> bool:
        self.begun.release()
        assert self.go_on.wait(TIMEOUT)
        return password == PASSWORD.encode()

    def scram_keys(self, hash_name: str) -> None:
        return None


def login_of_alice(served: Served, password: bytes = PASSWORD.encode(), source: str = "127.0.0.1") -> socket.socket:
    """Return a client that has sent its password."""
    assert served.ports.smtps is not None
    plain = socket.create_connection(("127.0.0.1", served.ports.smtps), TIMEOUT, (source, 0))
    client = client_context().wrap_socket(plain, server_hostname="127.0.0.1")
    hear(client)
    response = base64.b64encode(b"\0alice\0" + password)
    client.sendall(b"EHLO client.test\r\n")
    hear(client)
    client.sendall(b"AUTH PLAIN " + response + b"\r\n")
    return client


def behind(held: Held, hashing: Hashing) -> server.Stores:
    bob = stores.from_password("bob", b"in clear")
    return server.Stores(
        accounts=MemoryAccounts([Account(name="alice", credential=held), bob]),
        hashing=hashing,
        maildrops=stores.MemoryMaildrops(),
        outbox=stores.MemoryOutbox(),
    )


@on_both_loops
def test_busy_hashing_gives_temporary_failure_without_blocking_others(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    """An unchecked password is not reported as wrong; mail is accepted, and other logins and sessions continue."""
    held = Held()

    def client(served: Served) -> None:
        with login_of_alice(served) as first:
            assert held.begun.acquire(timeout=TIMEOUT)
            with served.smtp("smtps") as smtp:
                with pytest.raises(smtplib.SMTPAuthenticationError) as refused:
                    authenticate(smtp, "PLAIN")
                assert refused.value.smtp_code == 454
                assert smtp.sendmail("far@far.test", ["alice@example.test"], b"x") == {}
            with pytest.raises(poplib.error_proto, match=r"-ERR \[SYS/TEMP\]"):
                served.log_in()
            served.log_in(name="bob", password="in clear").quit()
            held.go_on.set()
            assert hear(first).startswith(b"235 ")
        assert len(served.mail_of("alice")) == 1

    meet(run, client, kept=behind(held, Hashing(threads=1, timeout=0.0)))
    lines = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert [line.partition("part=")[2] for line in lines] == ["accounts reason=HashingBusy"] * 2
    assert PASSWORD not in caplog.text


class Announced(Hashing):
    """Hashing that signals when a login is about to be queued."""

    def __init__(self, *, threads: int, timeout: float = TIMEOUT) -> None:
        super().__init__(threads=threads, timeout=timeout)
        self.queued = threading.Semaphore(0)

    async def run(self, source: stores.LoginSource, function: Callable[[*Ts], T], *args: *Ts) -> T:
        self.queued.release()
        return await super().run(source, function, *args)


def alone(credential: Credential) -> MemoryAccounts:
    """Return accounts with the single account alice."""
    return MemoryAccounts([Account(name="alice", credential=credential)])


@on_both_loops
def test_queued_passwords_of_disconnected_clients_are_not_hashed(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """The log reports no failed store, and the next login is served."""
    held = Held()
    hashing = Announced(threads=1)
    accounts = alone(held)

    def client(served: Served) -> None:
        with ends_of_sessions("smtp") as ends:
            first = login_of_alice(served)
            assert held.begun.acquire(timeout=TIMEOUT)
            for _ in range(20):
                gone = login_of_alice(served)
                assert hashing.queued.acquire(timeout=TIMEOUT)
                reset(gone)
            assert hashing.queued.acquire(timeout=TIMEOUT)
            reset(first)
            held.go_on.set()
            for _ in range(21):
                assert ends.acquire(timeout=TIMEOUT)
        assert not held.begun.acquire(blocking=False)
        served.log_in().quit()

    meet(run, client, kept=attrs.evolve(behind(held, hashing), accounts=accounts), postmaster=None)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@on_both_loops
@pytest.mark.parametrize("port", ["smtp", "pop3"])
def test_pipelined_session_with_half_close_logs_in(run: Run, port: str) -> None:
    """As ``nc`` does with piped input: it waits for the replies."""
    held = Held()
    held.go_on.set()
    plain = base64.b64encode(f"\0alice\0{PASSWORD}".encode())
    says = {
        "smtp": b"EHLO client.test\r\nAUTH PLAIN " + plain + b"\r\nQUIT\r\n",
        "pop3": f"USER alice\r\nPASS {PASSWORD}\r\nQUIT\r\n".encode(),
    }

    def client(served: Served) -> None:
        with socket.create_connection(("127.0.0.1", getattr(served.ports, port)), TIMEOUT) as connection:
            connection.sendall(says[port])
            connection.shutdown(socket.SHUT_WR)
            replies = connection.makefile("rb").readlines()
        if port == "smtp":
            assert [reply[:4] for reply in replies if reply[3:4] == b" "] == [b"220 ", b"250 ", b"235 ", b"221 "]
        else:
            assert [reply[:3] for reply in replies] == [b"+OK"] * 4

    meet(run, client, kept=behind(held, Hashing(threads=1)), legacy=True)


@on_both_loops
def test_many_logins_of_a_disconnected_client_log_one_failure(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """The session ends at the first login after the disconnection, and the rest of the input is not read."""
    caplog.set_level(logging.INFO)
    held = Held()
    hashing = Announced(threads=1)
    accounts = alone(held)

    def client(served: Served) -> None:
        with ends_of_sessions("smtp") as ends:
            first = login_of_alice(served)
            assert held.begun.acquire(timeout=TIMEOUT)
            assert hashing.queued.acquire(timeout=TIMEOUT)
            caplog.clear()
            second = login_of_alice(served)
            assert hashing.queued.acquire(timeout=TIMEOUT)
            second.sendall((b"AUTH PLAIN " + base64.b64encode(b"\0alice\0wrong") + b"\r\n") * 100)
            second.close()
            reset(first)
            held.go_on.set()
            assert ends.acquire(timeout=TIMEOUT)
            assert ends.acquire(timeout=TIMEOUT)

    meet(run, client, kept=attrs.evolve(behind(held, hashing), accounts=accounts), postmaster=None)
    failed = [record for record in caplog.records if record.getMessage().startswith("login failed")]
    connections = [record.msg.fields["connection"] for record in failed if isinstance(record.msg, logs.Event)]
    assert len(failed) == len(connections) == len(set(connections))
    assert 1 <= len(failed) <= 2


@attrs.frozen
class Counted(Held):
    """Like Held, and records the order in which passwords are checked."""

    checked: list[bytes] = attrs.field(factory=list, eq=False)

    def check(self, password: bytes) -> bool:
        self.checked.append(password)
        self.begun.release()
        assert self.one_more.acquire(timeout=TIMEOUT)
        return password == PASSWORD.encode()

    one_more: threading.Semaphore = attrs.field(factory=lambda: threading.Semaphore(0), eq=False)


@on_both_loops
@pytest.mark.parametrize("attackers", [1, 10])
def test_login_is_hashed_after_at_most_two_queued_attacker_passwords(run: Run, attackers: int) -> None:
    """Each has ten passwords queued; between a legitimate login and its hash at most two others start."""
    counted = Counted()
    hashing = Announced(threads=1, timeout=10 * TIMEOUT)
    accounts = alone(counted)
    kept = attrs.evolve(behind(counted, hashing), accounts=accounts)

    def one_more() -> None:
        counted.one_more.release()
        assert counted.begun.acquire(timeout=TIMEOUT)

    def client(served: Served) -> None:
        with contextlib.ExitStack() as connected:
            for address in range(attackers):
                for number in range(10):
                    guess = f"guess {number} of {address}".encode()
                    source = f"127.0.1.{address + 1}"
                    connected.enter_context(login_of_alice(served, guess, source))
                    assert hashing.queued.acquire(timeout=TIMEOUT)
            assert counted.begun.acquire(timeout=TIMEOUT)
            for _ in range(2 * attackers):  # by then a login has failed from each address
                one_more()
            for user in range(3):
                before = len(counted.checked)
                with login_of_alice(served, source=f"127.0.2.{user + 1}") as honest:
                    assert hashing.queued.acquire(timeout=TIMEOUT)
                    while PASSWORD.encode() not in counted.checked[before:]:
                        one_more()
                    assert counted.checked.index(PASSWORD.encode(), before) - before <= 2
                    one_more()
                    assert hear(honest).startswith(b"235 ")
            counted.one_more.release(1000)

    meet(run, client, kept=kept, postmaster=None)
