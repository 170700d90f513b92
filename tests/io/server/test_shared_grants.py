"""Two servers that share their grants in one Redis: a login at one allows relaying at the other; and Redis failures.

The servers are two ``mailauth serve`` processes, one on each loop, on two addresses.  The client has the same address
for both.
"""

from __future__ import annotations

import contextlib
import poplib
import signal
import smtplib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from tests.redis_server import PASSWORD, RedisServer, redis_server
from tests.serving import Served, run, served

CLIENT = "127.0.0.1"
"""The default source address of connections to 127.0.0.0/8."""

TIMEOUT = 20.0


@attrs.frozen
class Server:
    """One of the two servers."""

    host: str
    server_process: Served

    def read_mail(self) -> None:
        """Log in by POP3, and check that the maildrop is empty."""
        client = poplib.POP3(self.host, self.server_process.port("pop3"), timeout=TIMEOUT)
        with contextlib.closing(client):
            client.user("alice")
            client.pass_("wonderland")
            assert client.stat() == (0, 0)
            client.quit()

    def relay(self, source: str = CLIENT) -> int:
        """Return the reply code for a remote recipient, without SMTP authentication."""
        port = self.server_process.port("smtp")
        with smtplib.SMTP(self.host, port, "client.test", timeout=TIMEOUT, source_address=(source, 0)) as client:
            client.ehlo()
            client.mail("alice@example.test")
            assert client.rcpt("alice@example.test")[0] == 250  # does not depend on grants
            return client.rcpt("bob@far.test")[0]

    def relay_once_it_can_tell(self) -> int:
        """Like ``relay``, repeated while the reply is 451, because the server pauses after a timeout of Redis."""
        end = time.monotonic() + TIMEOUT
        while (code := self.relay()) == 451 and time.monotonic() < end:
            pass
        return code


def test_server_starts_without_redis_and_reports_the_error(tmp_path: Path) -> None:
    """Redis may start later.  Until then no grant is found, and relaying is refused temporarily."""
    words = ("--smtp", "0", "--pop3", "0", "--legacy", "--user", "alice:wonderland")
    with served(tmp_path, *words, "--grants", "redis://:hunter2@127.0.0.1:1") as server_process:
        (warning,) = (line for line in server_process.said if line.startswith("The grants store is not available, "))
        assert "deferred with 451: Error 111 connecting to 127.0.0.1:1" in warning
        server = Server("127.0.0.1", server_process)
        assert server.relay() == 451
        server.read_mail()
    assert "hunter2" not in server_process.log.read_text() + "".join(server_process.said)


def test_eviction_is_warned_about_and_rejects_relaying_until_the_next_login(tmp_path: Path) -> None:
    """A grant that Redis has evicted is like one that has expired: 550, not a failure."""
    with redis_server(tmp_path) as redis, redis.client as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", 10**9)
        with two_servers(redis, tmp_path) as (one, other):
            for server in (one, other):
                assert any("maxmemory-policy allkeys-lru" in line for line in server.server_process.said)
            one.read_mail()
            assert other.relay() == 250
            client.config_set("maxmemory", 1)
            assert (one.relay(), other.relay()) == (550, 550)
            client.config_set("maxmemory", 0)
            one.read_mail()
            assert (one.relay(), other.relay()) == (250, 250)
            client.flushall()
            assert (one.relay(), other.relay()) == (550, 550)
            client.config_set("maxmemory-policy", "noeviction")
            client.config_set("maxmemory", 1)
            one.read_mail()  # the login succeeds, and its grant is not stored
            assert (one.relay(), other.relay()) == (451, 550)
            client.config_set("maxmemory", 0)
            one.read_mail()
            assert (one.relay(), other.relay()) == (250, 250)
    for server in (one, other):
        assert (" part=grants " in server.server_process.log.read_text()) == (server is one)


@contextmanager
def two_servers(redis: RedisServer, directory: Path) -> Iterator[tuple[Server, Server]]:
    """Start one server on asyncio and one on trio."""
    password = directory / "password"
    password.touch(mode=0o600)
    password.write_text(f"{PASSWORD}\n")
    with contextlib.ExitStack() as stack:
        found = []
        for host, loop in (("127.0.0.1", "asyncio"), ("127.0.0.2", "trio")):
            (directory / loop).mkdir()
            words = (
                "--host", host, "--smtp", "0", "--pop3", "0", "--loop", loop, "--legacy", "--user", "alice:wonderland",
                "--grants", f"redis://127.0.0.1:{redis.port}/0", "--redis-password-file", str(password),
            )  # fmt: skip
            found.append(Server(host, stack.enter_context(served(directory / loop, *words))))
        yield found[0], found[1]


def revoke(whose: str, redis: RedisServer, directory: Path) -> str:
    place = f"redis://127.0.0.1:{redis.port}/0"
    done = run("grants", "revoke", whose, "--grants", place, "--redis-password-file", str(directory / "password"))
    return done.stdout or done.stderr


def test_login_at_one_server_allows_relaying_at_the_other_until_revoked(tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis, two_servers(redis, tmp_path) as (one, other):
        assert (one.relay(), other.relay()) == (550, 550)
        one.read_mail()
        assert (one.relay(), other.relay()) == (250, 250)
        assert other.relay(source="127.0.0.9") == 550
        assert revoke("alice", redis, tmp_path) == "revoked 1 grant of alice\n"
        assert (one.relay(), other.relay()) == (550, 550)
        other.read_mail()
        assert (one.relay(), other.relay()) == (250, 250)
        assert revoke(CLIENT, redis, tmp_path) == f"revoked 1 grant of {CLIENT}\n"
        assert (one.relay(), other.relay()) == (550, 550)
    for server in (one, other):
        assert PASSWORD not in server.server_process.log.read_text() + "".join(server.server_process.said)


def test_relaying_gets_451_and_mail_is_readable_while_redis_is_down(tmp_path: Path) -> None:
    """The reply is 451: a 550 would bounce mail, and a 250 would open the relay.  Everything else continues."""
    with redis_server(tmp_path) as redis, two_servers(redis, tmp_path) as (one, other):
        one.read_mail()
        assert other.relay() == 250
        redis.kill()
        assert (one.relay(), other.relay()) == (451, 451)
        one.read_mail()
        other.read_mail()
        assert "/0: Error 111" in revoke("alice", redis, tmp_path)
        redis.start()
        assert (one.relay(), other.relay()) == (451, 451)  # Redis is empty, and the logins meanwhile made no grant
        one.read_mail()
        assert (one.relay_once_it_can_tell(), other.relay_once_it_can_tell()) == (250, 250)
    for server in (one, other):
        assert "ERROR store failed " in server.server_process.log.read_text()
        assert " part=grants " in server.server_process.log.read_text()


def test_relaying_gets_451_and_mail_is_readable_while_redis_is_silent(tmp_path: Path) -> None:
    """A stopped Redis accepts connections and does not answer.  Each server waits for it once, then fails at once."""
    with redis_server(tmp_path) as redis, two_servers(redis, tmp_path) as (one, other):
        one.read_mail()
        assert other.relay() == 250
        redis.signal(signal.SIGSTOP)
        for server in (one, other):
            server.read_mail()
            assert server.relay() == 451
        redis.signal(signal.SIGCONT)
        assert (one.relay_once_it_can_tell(), other.relay_once_it_can_tell()) == (250, 250)
        assert revoke("alice", redis, tmp_path) == "revoked 1 grant of alice\n"
        assert (one.relay(), other.relay()) == (451, 451)  # each has had a login without a grant
    for server in (one, other):
        assert ' part=grants reason="StoreTimeout: no answer in time"' in server.server_process.log.read_text()
