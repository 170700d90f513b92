"""``mailauth policy-service`` answers the requests of Postfix from the grants that the servers share."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import socket
import sqlite3
from ipaddress import IPv6Network
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketAttribute

from mailauth.grants import UNAVAILABLE, Lookup
from mailauth_io.server import PolicyService, policy_service
from mailauth_io.stores import Grants, MemoryGrants
from mailauth_io.stores.sqlite_grants import SqliteGrants
from tests import serving
from tests.io import loops
from tests.io.config_errors import config_error
from tests.io.descriptors import Process
from tests.io.grant_stores import on_both_loops
from tests.policy_services import DEFER, TIMEOUT, ask, ask_about, connected, started


def fill(grants: Grants, *addresses: str) -> None:
    async def main() -> None:
        for address in addresses:
            await grants.grant(address, "alice")

    with contextlib.closing(grants):
        asyncio.run(main())


@pytest.mark.parametrize("loop", serving.ALL_LOOPS)
def test_only_an_address_with_a_grant_may_relay(loop: str, tmp_path: Path) -> None:
    path = tmp_path / "grants.db"
    fill(SqliteGrants(path, lifetime=3600), "192.0.2.7")
    with started(tmp_path, "--grants", f"sqlite:{path}", "--loop", loop) as (_, port), connected(port) as connection:
        for address, action in (("192.0.2.7", "OK"), ("192.0.2.8", "DUNNO"), ("192.0.2.7", "OK")):
            assert ask_about(connection, address) == action
        assert ask(connection, "client_address=unknown") == "DUNNO"
        assert ask(connection, "request=smtpd_access_policy") == "DUNNO"
    grants = SqliteGrants(path)
    with contextlib.closing(grants):  # the service does not know the lifetime, and has removed nothing
        (grant,) = asyncio.run(grants.active())
        assert grant.remaining > 3000


def test_prefixes_and_excluded_networks_are_those_of_the_configuration_file(tmp_path: Path) -> None:
    network = IPv6Network("2001:db8:64::/96")
    grants = SqliteGrants(tmp_path / "g", lifetime=60, ipv6_prefix=64, nat64_prefixes=[network])
    fill(grants, "2001:db8::1", "2001:db8:64::1", "10.0.0.1", "198.51.100.7", "192.0.2.7")
    file = tmp_path / "mailauth.toml"
    file.write_text(
        '[grants]\nstore = "sqlite:g"\nlifetime = 60.0\nipv6_prefix = 64\nnat64_prefixes = ["2001:db8:64::/96"]\n'
        'never_from = ["10.0.0.0/8"]\n[listen]\nproxy_from = ["198.51.100.7"]\n[mail]\nmaildir = "m"\n'
    )
    with started(tmp_path, "--config", str(file)) as (_, port), connected(port) as connection:
        for address, action in {
            "2001:db8::2": "OK", "2001:db8:64::2": "DUNNO", "10.0.0.1": "DUNNO", "::ffff:10.0.0.1": "DUNNO",
            "198.51.100.7": "DUNNO", "192.0.2.7": "OK",
        }.items():  # fmt: skip
            assert ask_about(connection, address) == action, address


def test_store_of_a_module_is_entered_and_used(tmp_path: Path) -> None:
    (tmp_path / "policy_store.py").write_text(
        "from mailauth_io import stores\n"
        "class Grants(stores.MemoryGrants):\n"
        "    async def __aenter__(self):\n"
        '        await self.grant("192.0.2.7", "alice")\n'
        "    async def __aexit__(self, *failure):\n"
        "        pass\n"
    )
    file = tmp_path / "mailauth.toml"
    file.write_text('[stores]\ngrants = "policy_store:Grants"\n')
    with started(tmp_path, "--config", str(file)) as (_, port), connected(port) as connection:
        assert [ask_about(connection, address) for address in ("192.0.2.7", "192.0.2.8")] == ["OK", "DUNNO"]


@pytest.mark.parametrize("loop", serving.ALL_LOOPS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_service_and_leaves_the_context_of_its_store(
    number: signal.Signals, loop: str, tmp_path: Path
) -> None:
    (tmp_path / "left_store.py").write_text(
        "from pathlib import Path\n"
        "from mailauth_io import stores\n"
        "class Grants(stores.MemoryGrants):\n"
        "    async def __aenter__(self):\n"
        "        pass\n"
        "    async def __aexit__(self, *failure):\n"
        '        Path(__file__).with_name("left").touch()\n'
    )
    file = tmp_path / "mailauth.toml"
    file.write_text('[stores]\ngrants = "left_store:Grants"\n')
    with started(tmp_path, "--config", str(file), "--loop", loop) as (process, port), connected(port) as connection:
        assert ask_about(connection, "192.0.2.7") == "DUNNO"
        process.send_signal(number)
        assert process.wait(TIMEOUT) == 0
        assert connection.recv(1) == b""
    assert (tmp_path / "left").exists()


def test_store_that_fails_defers_and_is_logged(tmp_path: Path) -> None:
    path = tmp_path / "grants.db"
    fill(SqliteGrants(path), "192.0.2.7")
    with started(tmp_path, "--grants", f"sqlite:{path}") as (_, port), connected(port) as connection:
        assert ask_about(connection, "192.0.2.7") == "OK"
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("DROP TABLE grants")
        assert ask_about(connection, "192.0.2.7") == DEFER
        line = " ERROR store failed connection=policy part=grants reason=OperationalError\n"
        while line not in (tmp_path / "log").read_text():  # a thread writes it
            pass


@on_both_loops
async def test_store_that_does_not_answer_defers(loop: loops.Loop) -> None:
    class Failing(MemoryGrants):
        async def find(self, address: str) -> Lookup:
            raise TimeoutError

    class Unavailable(MemoryGrants):
        async def find(self, address: str) -> Lookup:
            return UNAVAILABLE

    for grants in (Failing(), Unavailable()):
        assert await PolicyService(grants).decide("192.0.2.7") == DEFER


@pytest.mark.parametrize("loop", serving.ALL_LOOPS)
def test_wrong_request_ends_only_its_connection(loop: str, tmp_path: Path) -> None:
    store = ("--grants", f"sqlite:{tmp_path / 'g'}")
    with started(tmp_path, *store, "--loop", loop) as (_, port), connected(port) as other:
        with connected(port) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(b"a=b\n" * policy_service.MAX_REQUEST)
            assert connection.recv(4096) == b""
        with connected(port) as connection:
            connection.sendall(b"client_address=192.0.2.7\n")  # and it closes
        with connected(port) as connection:
            assert ask(connection, "client_address=\xff", "sender=\xff") == "DUNNO"
        assert ask_about(other, "192.0.2.7") == "DUNNO"


@on_both_loops
async def test_connections_over_the_limit_are_closed(loop: loops.Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_service, "MAX_CONNECTIONS", 2)
    service = PolicyService(MemoryGrants())

    def clients(port: int) -> None:
        with connected(port) as one:
            with connected(port) as other:
                assert [ask_about(each, "192.0.2.7") for each in (one, other)] == ["DUNNO", "DUNNO"]
                with connected(port) as excess:
                    assert excess.recv(1) == b""
                other.shutdown(socket.SHUT_WR)
                assert other.recv(1) == b""  # the service has seen its end
            with connected(port) as later:
                assert ask_about(later, "192.0.2.7") == "DUNNO"
            assert ask_about(one, "192.0.2.7") == "DUNNO"

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(service.serve, listener)
        await loop.in_thread(clients, listener.extra(SocketAttribute.local_port))
        group.cancel_scope.cancel()


class SilentGrants(MemoryGrants):
    """A store that does not answer."""

    async def find(self, address: str) -> Lookup:
        await anyio.sleep_forever()
        raise AssertionError


@on_both_loops
async def test_too_many_requests_close_the_connection_although_the_store_does_not_answer(loop: loops.Loop) -> None:
    """What a client sends is not kept in memory until the store answers."""
    service = PolicyService(SilentGrants())

    def client(port: int) -> None:
        with connected(port) as connection, contextlib.suppress(ConnectionError):
            connection.sendall(b"client_address=192.0.2.7\n\n" * (policy_service.MAX_WAITING + 2))
            assert connection.recv(1) == b""

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(service.serve, listener)
        await loop.in_thread(client, listener.extra(SocketAttribute.local_port))
        group.cancel_scope.cancel()


@on_both_loops
async def test_requests_that_were_received_are_answered_after_the_client_has_closed_its_side(loop: loops.Loop) -> None:
    service = PolicyService(MemoryGrants())

    def client(port: int) -> None:
        with connected(port) as connection, connection.makefile("rb") as answers:
            connection.sendall(b"client_address=192.0.2.7\n\n" * policy_service.MAX_WAITING)
            connection.shutdown(socket.SHUT_WR)
            assert answers.read() == b"action=DUNNO\n\n" * policy_service.MAX_WAITING

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(service.serve, listener)
        await loop.in_thread(client, listener.extra(SocketAttribute.local_port))
        group.cancel_scope.cancel()


@on_both_loops
async def test_running_out_of_descriptors_pauses_accepting(
    loop: loops.Loop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Open connections are answered; new ones wait until there is room again."""
    monkeypatch.setattr(policy_service, "RETRY_DELAY", 0.01)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    service = PolicyService(MemoryGrants())

    def clients(port: int) -> None:
        with connected(port) as one, socket.socket() as late:
            late.settimeout(30)
            assert ask_about(one, "192.0.2.7") == "DUNNO"
            resource.setrlimit(resource.RLIMIT_NOFILE, (one.fileno() // 2, before[1]))
            try:
                late.connect(("127.0.0.1", port))
                while not caplog.records:
                    assert ask_about(one, "192.0.2.7") == "DUNNO"
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
            assert ask_about(late, "192.0.2.7") == "DUNNO"
            assert ask_about(one, "192.0.2.7") == "DUNNO"

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(service.serve, listener)
        await loop.in_thread(clients, listener.extra(SocketAttribute.local_port))
        group.cancel_scope.cancel()
    (line,) = [record.getMessage() for record in caplog.records if record.name.startswith("mailauth_io")]
    assert line == 'connections not accepted reason="OSError: [Errno 24] Too many open files"'


@on_both_loops
async def test_connections_are_limited_by_the_descriptors(loop: loops.Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    Process(monkeypatch, policy_service.RESERVED + 100, policy_service.RESERVED + 100)
    service = PolicyService(MemoryGrants())
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(service.serve, listener)

        def clients(port: int) -> None:
            with contextlib.ExitStack() as stack:
                for _ in range(100):
                    assert ask_about(stack.enter_context(connected(port)), "192.0.2.7") == "DUNNO"
                assert stack.enter_context(connected(port)).recv(1) == b""

        await loop.in_thread(clients, listener.extra(SocketAttribute.local_port))
        group.cancel_scope.cancel()


@on_both_loops
async def test_idle_connection_is_closed(loop: loops.Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_service, "TIMEOUT", 0.01)
    service = PolicyService(MemoryGrants())

    def client(port: int) -> None:
        with connected(port) as connection:
            assert connection.recv(1) == b""

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as group:
        group.start_soon(service.serve, listener)
        await loop.in_thread(client, listener.extra(SocketAttribute.local_port))
        group.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "only by their own server; set a SQLite file or a Redis URL with --grants"),
        (("--grants", "sqlite:TEXT"), "cannot store grants in "),
        (("--grants", "sqlite:OTHER"), "was made with ipv6_prefix = 64 and nat64_prefixes = [], not with ipv6_prefix"),
        (("--grants", "sqlite:G", "--port", "x"), "--port: "),
        (("--grants", "sqlite:G", "--port", "BUSY"), "cannot listen on 127.0.0.1 port "),
        (("--config", "OFF"), "[grants] lifetime: 0 disables grants"),
    ],
)
def test_error_at_the_start_is_one_line(
    words: tuple[str, ...], says: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    text, off = tmp_path / "text", tmp_path / "off.toml"
    text.write_text("no database, but long enough to be one " * 50)
    text.chmod(0o600)
    off.write_text('[grants]\nstore = "sqlite:g"\nlifetime = 0.0\n')
    SqliteGrants(tmp_path / "other", ipv6_prefix=64).close()
    with socket.create_server(("127.0.0.1", 0)) as busy:
        values = {
            "sqlite:TEXT": f"sqlite:{text}", "sqlite:OTHER": f"sqlite:{tmp_path / 'other'}",
            "sqlite:G": f"sqlite:{tmp_path / 'g'}", "BUSY": str(busy.getsockname()[1]), "OFF": str(off),
        }  # fmt: skip
        said = config_error(capfd, "policy-service", *(values.get(word, word) for word in words))
    assert says in said
