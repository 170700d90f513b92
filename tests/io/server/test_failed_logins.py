"""The server delays the reply to a failed login, in both protocols, and nothing else."""

from __future__ import annotations

import contextlib
import poplib
import select
import smtplib
import socket
from collections.abc import Callable
from typing import Any, BinaryIO, TypeVar, TypeVarTuple

import anyio
import pytest

from mailauth import sasl
from mailauth_io import server, stores
from mailauth_io.server._failed_logins import MEMORY
from mailauth_io.server.state import ServerState
from mailauth_io.stores import Hashing, write_credential
from mailauth_io.stores.credentials import read_credential
from tests.io import loops
from tests.io.gone_clients import ends_of_sessions
from tests.io.server_support import PASSWORD, TIMEOUT, Clock, Run, Served, accounts, authenticate, meet, on_both_loops
from tests.io.tls import client_context

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

Guess = Callable[[Served, str, str], None]
"""Log in with a name and a password, without TLS.  The result is ignored."""


def by_smtp(mechanism: str) -> Guess:
    def guess(served: Served, name: str, password: str) -> None:
        with served.smtp() as client, contextlib.suppress(smtplib.SMTPAuthenticationError):
            client.user, client.password = name, password
            callbacks: dict[str, Any] = {
                "PLAIN": client.auth_plain,
                "LOGIN": client.auth_login,
                "CRAM-MD5": client.auth_cram_md5,
            }
            client.auth(mechanism, callbacks[mechanism])

    return guess


def by_user(served: Served, name: str, password: str) -> None:
    with contextlib.suppress(poplib.error_proto):
        served.log_in("pop3", name, password).quit()


def by_apop(served: Served, name: str, password: str) -> None:
    client = served.pop3()
    with contextlib.suppress(poplib.error_proto):
        client.apop(name, password)
    client.quit()


GUESSES: dict[str, Guess] = {
    "PLAIN": by_smtp("PLAIN"),
    "LOGIN": by_smtp("LOGIN"),
    "CRAM-MD5": by_smtp("CRAM-MD5"),
    "USER": by_user,
    "APOP": by_apop,
}


PLAIN_WRONG = sasl.encode_base64(b"\0alice\0wrong").decode()


class Sleeps(list[float]):
    """Records the requested sleeps and returns at once."""

    async def __call__(self, seconds: float) -> None:
        self.append(seconds)


@on_both_loops
def test_failures_of_one_address_are_counted_across_protocols(run: Run) -> None:
    """Across connections and protocols; a wrong password and an unknown name count alike."""
    sleeps = Sleeps()

    def client(served: Served) -> None:
        for number, guess in enumerate(GUESSES.values()):
            guess(served, "alice" if number % 2 else "nobody", "wrong")
        by_user(served, "nobody", "wrong")

    meet(run, client, sleep=sleeps, legacy=True)
    assert sleeps == [0.25, 0.5, 1.0, 2.0, 2.0]


@on_both_loops
@pytest.mark.parametrize("guess", GUESSES.values(), ids=GUESSES)
@pytest.mark.parametrize("name", ["alice", "nobody"])
def test_unknown_name_has_the_same_delay_as_a_wrong_password(run: Run, guess: Guess, name: str) -> None:
    """architecture.md, invariant 6."""
    sleeps = Sleeps()

    def client(served: Served) -> None:
        for _ in range(5):
            guess(served, name, "wrong")

    meet(run, client, sleep=sleeps, legacy=True)
    assert sleeps == [0.25, 0.5, 1.0, 2.0]


@on_both_loops
@pytest.mark.parametrize("guess", GUESSES.values(), ids=GUESSES)
def test_successful_login_is_not_delayed_and_does_not_reset_failures(run: Run, guess: Guess) -> None:
    """Otherwise an attacker with one valid account could log in between guesses."""
    sleeps = Sleeps()

    def client(served: Served) -> None:
        for password in ("wrong", PASSWORD, PASSWORD, "wrong", PASSWORD, "wrong"):
            guess(served, "alice", password)

    meet(run, client, sleep=sleeps, legacy=True)
    assert sleeps == [0.25, 0.5]


@on_both_loops
def test_other_address_is_not_delayed(run: Run) -> None:
    sleeps = Sleeps()

    def client(served: Served) -> None:
        for source in ("127.0.0.2", "127.0.0.3", "127.0.0.2"):
            with served.smtp(source=source) as smtp:
                assert smtp.docmd("AUTH PLAIN", PLAIN_WRONG)[0] == 535

    meet(run, client, sleep=sleeps, legacy=True)
    assert sleeps == [0.25]


@on_both_loops
def test_delay_is_reset_after_a_period_without_failures(run: Run) -> None:
    sleeps = Sleeps()

    def client(served: Served) -> None:
        for seconds in (0.0, 0.0, MEMORY):
            served.clock.now += seconds
            by_user(served, "alice", "wrong")

    meet(run, client, sleep=sleeps, legacy=True)
    assert sleeps == [0.25]


@on_both_loops
def test_cancelled_or_malformed_exchange_is_not_a_failed_login(run: Run) -> None:
    """RFC 4954 section 4, RFC 5034 section 4: a cancelled or malformed exchange and an unknown mechanism are not
    failed logins."""
    sleeps = Sleeps()

    def client(served: Served) -> None:
        with served.smtp() as smtp:
            for _ in range(4):
                smtp.docmd("AUTH PLAIN")
                assert smtp.docmd("*")[0] == 501
            assert smtp.docmd("AUTH PLAIN", "=AA=")[0] == 501
            assert smtp.docmd("AUTH GSSAPI")[0] == 504
            assert smtp.docmd("AUTH CRAM-MD5", "AAAA")[0] == 501
            assert smtp.docmd("AUTH PLAIN", PLAIN_WRONG)[0] == 535
            assert smtp.docmd("AUTH PLAIN", PLAIN_WRONG)[0] == 535
        assert sleeps == [0.25]

    meet(run, client, sleep=sleeps, legacy=True)


def greet(port: str, connection: socket.socket, lines: BinaryIO) -> None:
    """Read the greeting; with SMTP, also send EHLO."""
    lines.readline()
    if port.startswith("smtp"):
        connection.sendall(b"EHLO c\r\n")
        while lines.readline()[3:4] == b"-":
            pass


class Unavailable(stores.MemoryAccounts):
    """Accounts that cannot be looked up, except the postmaster's."""

    async def find(self, name: str) -> stores.Account | None:
        if name != "bob":
            raise OSError("no such server")
        return await super().find(name)


@on_both_loops
def test_temporary_failure_is_neither_delayed_nor_counted(run: Run) -> None:
    """No password was found to be wrong."""
    sleeps = Sleeps()
    kept = server.Stores(
        accounts=Unavailable({"alice": b"x", "bob": b"y"}),
        maildrops=stores.MemoryMaildrops(),
        outbox=stores.MemoryOutbox(),
    )

    def client(served: Served) -> None:
        for _ in range(3):
            with served.smtp() as smtp:
                assert smtp.docmd("AUTH PLAIN", PLAIN_WRONG)[0] == 454

    meet(run, client, kept=kept, sleep=sleeps, legacy=True)
    assert sleeps == []


@on_both_loops
@pytest.mark.parametrize("port", ["smtp", "pop3"])
def test_failed_login_reply_is_sent_after_delay_without_blocking_others(run: Run, port: str) -> None:
    """Other sessions can log in during the delay."""
    waiting: list[socket.socket] = []
    seen: list[bytes] = []

    def meanwhile(served: Served) -> None:
        assert select.select(waiting, [], [], 0)[0] == []
        served.log_in("pop3").quit()
        with served.smtp() as smtp:
            assert authenticate(smtp, "PLAIN") == 235
        assert select.select(waiting, [], [], 0)[0] == []
        seen.append(b"waited")

    server_state: list[Served] = []

    async def sleep(seconds: float) -> None:
        await loops.current().in_thread(meanwhile, server_state[0])

    def client(served: Served) -> None:
        server_state.append(served)
        for _ in range(2):
            connection = socket.create_connection(("127.0.0.1", getattr(served.ports, port)), TIMEOUT)
            waiting[:] = [connection]
            with connection, connection.makefile("rb") as lines:
                greet(port, connection, lines)
                connection.sendall(b"AUTH PLAIN " + PLAIN_WRONG.encode() + b"\r\n")
                seen.append(lines.readline()[:4])

    meet(run, client, sleep=sleep, legacy=True)
    refused = b"535 " if port == "smtp" else b"-ERR"
    assert seen == [refused, b"waited", refused]


@on_both_loops
@pytest.mark.parametrize("hangs_up", [False, True])
@pytest.mark.parametrize("port", ["smtps", "pop3s"])
def test_wrong_token_is_delayed_once_before_the_json_error(run: Run, port: str, hangs_up: bool) -> None:
    """RFC 7628 section 3.2.2: the JSON reports the failure, so an attacker need not wait for the reply."""
    accounts = stores.MemoryAccounts({"alice": b"x", "bob": b"y"}, tokens=[("alice", b"t0ken")])
    kept = server.Stores(
        accounts=accounts,
        tokens=accounts,
        maildrops=stores.MemoryMaildrops(),
        outbox=stores.MemoryOutbox(),
    )
    wrong = sasl.encode_base64(b"n,,\x01auth=Bearer wr0ng\x01\x01")
    happened: list[object] = []

    async def sleep(seconds: float) -> None:
        happened.append(seconds)

    def client(served: Served) -> None:
        for _ in range(3):
            with (
                socket.create_connection(("127.0.0.1", getattr(served.ports, port)), TIMEOUT) as plain,
                client_context().wrap_socket(plain, server_hostname="localhost") as connection,
                connection.makefile("rb") as lines,
            ):
                greet(port, connection, lines)
                connection.sendall(b"AUTH OAUTHBEARER " + wrong + b"\r\n")
                happened.append(lines.readline().split()[0])
                if not hangs_up:
                    connection.sendall(b"AQ==\r\n")
                    happened.append(lines.readline().split()[0])

    meet(run, client, kept=kept, sleep=sleep)
    asked, refused = (b"334", b"535") if port == "smtps" else (b"+", b"-ERR")
    replies = [asked] if hangs_up else [asked, refused]
    assert happened == [*replies, 0.25, *replies, 0.5, *replies]


SCRAM_FIRST = sasl.encode_base64(b"n,,n=alice,r=fyko+d2lbbFgONRv9qkxdawL").decode()
TOO_LONG = "\ufdfa" * 40
"""120 bytes, which SASLprep expands to 1,320, more than the limit of 1,024 for hashing."""


class NeverHashes(Hashing):
    async def run(self, source: stores.LoginSource, function: Callable[[*Ts], T], *args: *Ts) -> T:
        raise AssertionError("this password is hashed")


@on_both_loops
@pytest.mark.parametrize(
    ("port", "mechanism"),
    [("smtp", "PLAIN"), ("smtp", "LOGIN"), ("pop3", "PLAIN"), ("pop3", "LOGIN"), ("pop3", "USER")],
)
def test_password_too_long_after_saslprep_fails_without_hashing(run: Run, port: str, mechanism: str) -> None:
    """The limit applies to the prepared password, for every mechanism, and for known and unknown names."""
    sleeps = Sleeps()
    credential = read_credential(write_credential("SCRAM-SHA-256", PASSWORD.encode()).encode())
    kept = server.Stores(
        accounts=stores.MemoryAccounts([stores.Account(name=name, credential=credential) for name in ("alice", "bob")]),
        hashing=NeverHashes(),
        maildrops=stores.MemoryMaildrops(),
        outbox=stores.MemoryOutbox(),
    )

    def client(served: Served) -> None:
        for name in ("alice", "nobody", "alice"):
            says = {
                "PLAIN": [b"AUTH PLAIN " + sasl.encode_base64(f"\0{name}\0{TOO_LONG}".encode())],
                "LOGIN": [b"AUTH LOGIN " + sasl.encode_base64(name.encode()), sasl.encode_base64(TOO_LONG.encode())],
                "USER": [f"USER {name}".encode(), f"PASS {TOO_LONG}".encode()],
            }[mechanism]
            with (
                socket.create_connection(("127.0.0.1", getattr(served.ports, port)), TIMEOUT) as connection,
                connection.makefile("rb") as lines,
            ):
                greet(port, connection, lines)
                for line in says:
                    connection.sendall(line + b"\r\n")
                    reply = lines.readline()
                assert reply.startswith((b"501 ", b"535 ", b"-ERR"))

    meet(run, client, kept=kept, sleep=sleeps, legacy=True)
    assert sleeps == [0.25, 0.5]


@on_both_loops
@pytest.mark.parametrize("port", ["smtp", "pop3"])
@pytest.mark.parametrize("end", ["hangs up", "cancels", "is malformed"])
def test_scram_exchange_aborted_after_the_salt_is_a_failed_login(run: Run, port: str, end: str) -> None:
    """Its keys had to be derived, so a client that requests them repeatedly is delayed like one that guesses."""
    sleeps = Sleeps()

    def ask_for_salt(served: Served) -> None:
        with (
            socket.create_connection(("127.0.0.1", getattr(served.ports, port)), TIMEOUT) as connection,
            connection.makefile("rb") as lines,
        ):
            greet(port, connection, lines)
            connection.sendall(b"AUTH SCRAM-SHA-256\r\n")
            assert lines.readline().startswith((b"334 ", b"+ "))
            connection.sendall(SCRAM_FIRST.encode() + b"\r\n")
            assert lines.readline().startswith((b"334 ", b"+ "))
            if end != "hangs up":
                connection.sendall(b"*\r\n" if end == "cancels" else b"AAAA\r\n")
                assert lines.readline().startswith((b"501 ", b"535 ", b"-ERR"))

    def client(served: Served) -> None:
        with ends_of_sessions("smtp") if port == "smtp" else ends_of_sessions("pop3") as ends:
            for _ in range(3):
                ask_for_salt(served)
                assert ends.acquire(timeout=TIMEOUT)
        by_user(served, "alice", "wrong")

    meet(run, client, sleep=sleeps, legacy=True)
    assert sleeps == ([1.0] if end == "hangs up" else [0.25, 0.5, 1.0])


@on_both_loops
@pytest.mark.parametrize("line", ["AUTH PLAIN", "AUTH SCRAM-SHA-256", "AUTH LOGIN"])
def test_exchange_cancelled_after_first_challenge_is_not_a_failed_login(run: Run, line: str) -> None:
    """A client that cancels an exchange may want another mechanism."""
    sleeps = Sleeps()

    def client(served: Served) -> None:
        with served.smtp() as smtp:
            for _ in range(2):
                assert smtp.docmd(line)[0] == 334
                assert smtp.docmd("*")[0] == 501
        by_user(served, "alice", "wrong")
        by_user(served, "alice", "wrong")

    meet(run, client, sleep=sleeps, legacy=True)
    assert sleeps == [0.25]


@on_both_loops
def test_zero_failure_delay_disables_the_delay(run: Run) -> None:
    sleeps = Sleeps()

    def client(served: Served) -> None:
        for _ in range(6):
            by_user(served, "alice", "wrong")

    meet(run, client, sleep=sleeps, legacy=True, failure_delay=0)
    assert sleeps == []


@pytest.mark.parametrize("seconds", [-1.0, 2.1])
def test_failure_delay_out_of_range_is_rejected(seconds: float) -> None:
    """A person should not have to wait longer than two seconds."""
    with pytest.raises(ValueError, match="failure_delay"):
        server.Config(failure_delay=seconds)


@on_both_loops
def test_default_sleep_runs_on_the_event_loop(run: Run) -> None:
    """It lasts as long as it must, and other tasks run in the meantime."""

    async def main() -> None:
        server_state = ServerState.of(server.Config(), server.Stores(
            accounts=accounts(), maildrops=stores.MemoryMaildrops(), outbox=stores.MemoryOutbox()
        ), Clock())  # fmt: skip
        order: list[str] = []

        async def sleep() -> None:
            await server_state.sleep(0.05)
            order.append("slept")

        async with anyio.create_task_group() as tasks:
            started = anyio.current_time()
            tasks.start_soon(sleep)
            await anyio.wait_all_tasks_blocked()
            order.append("another task")
        assert order == ["another task", "slept"]
        assert anyio.current_time() - started >= 0.05

    run(main)


@on_both_loops
def test_max_failed_logins_is_the_number_of_logins_in_a_session(run: Run) -> None:
    """RFC 4954 section 9.  In both protocols, the reply to the last login is followed by the end of the session."""

    def client(served: Served) -> None:
        remote = served.smtp()
        assert [remote.docmd("AUTH PLAIN AGFsaWNlAHdyb25n")[0] for _ in range(5)] == [535] * 5
        assert remote.getreply()[0] == 421
        remote.close()
        pop = served.pop3()
        for _ in range(5):
            pop.user("alice")
            with pytest.raises(poplib.error_proto, match="AUTH"):
                pop.pass_("wrong")
        with pytest.raises(poplib.error_proto, match="EOF"):
            pop.noop()
        pop.close()

    meet(run, client, legacy=True, failure_delay=0, max_failed_logins=5)


@pytest.mark.parametrize("number", [0, 2])
def test_max_failed_logins_below_three_is_rejected(number: int) -> None:
    with pytest.raises(ValueError, match="max_failed_logins must be 3 or more"):
        server.Config(max_failed_logins=number)
