"""Starting and stopping the server, and the validation of its configuration."""

from __future__ import annotations

import contextlib
import math
import smtplib
import socket
from collections.abc import AsyncIterator
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any

import attrs
import pytest

from mailauth_io import server, stores
from mailauth_io.adapters.listener import Listener
from mailauth_io.server import _serve
from mailauth_io.stores.sqlite_grants import SqliteGrants
from tests.io import loops
from tests.io.server_support import TIMEOUT, Run, Served, accounts, meet, on_both_loops, run_on_asyncio
from tests.io.tls import server_context

NAT64 = (IPv6Network("2001:db8:64::/96"),)


def kept() -> server.Stores:
    return server.Stores(accounts=accounts(), maildrops=stores.MemoryMaildrops(), outbox=stores.MemoryOutbox())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"smtps": 0}, "need an ssl_context"),
        ({"pop3s": 995}, "need an ssl_context"),
        ({"postmaster": "al ice"}, "name of an account"),
        ({"postmaster": "alice@elsewhere.test"}, "name of an account"),
        ({"domains": ()}, "domains"),
        ({"domains": ("exa mple",)}, "domain"),
        ({"domains": ("example.test", "b\u00fccher.test")}, "A-label"),
        ({"hosts": ()}, "hosts"),
        ({"grant_lifetime": -1}, "grant_lifetime must be 0 to 31,536,000 seconds"),
        ({"grant_lifetime": math.inf}, "grant_lifetime must be 0 to 31,536,000 seconds"),
        ({"grant_lifetime": math.nan}, "grant_lifetime must be a number, not nan"),
        ({"grant_lifetime": 31_536_001}, "grant_lifetime must be 0 to 31,536,000 seconds"),
        ({"grant_ipv6_prefix": 0}, "grant_ipv6_prefix must be 1 to 128, not 0"),
        ({"max_message_size": 10}, "max_message_size"),
        ({"smtp": 2525, "pop3": 2525}, "smtp and pop3 are both 2525; use a different port for each"),
    ],
)
def test_config_rejects_invalid_options(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        server.Config(**options)


def test_repr_of_config_contains_no_ssl_context() -> None:
    assert "ssl" not in repr(server.Config(ssl_context=server_context())).lower()


@on_both_loops
def test_the_postmaster_must_be_an_account(run: Run) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="unknown account 'dave'"):
            async with server.serve(server.Config(smtp=0, postmaster="dave"), kept()):
                pass

    run(main)


class NatGrants(stores.MemoryGrants):
    def __init__(self) -> None:
        super().__init__(lifetime=600, nat64_prefixes=NAT64)


@on_both_loops
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"grant_lifetime": 600},
            "grant_lifetime of the Config is 600, but lifetime of Stores.grants is 1800; pass lifetime to the store",
        ),
        (
            {"grant_ipv6_prefix": 64},
            "grant_ipv6_prefix of the Config is 64, but ipv6_prefix of Stores.grants is 128; pass ipv6_prefix to",
        ),
        (
            {"nat64_prefixes": NAT64},
            r"nat64_prefixes of the Config is \[2001:db8:64::/96\], but nat64_prefixes of Stores.grants is \[\]; pass",
        ),
    ],
)
def test_grant_setting_that_the_store_would_not_follow_is_an_error(
    run: Run, tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    grants = SqliteGrants(tmp_path / "grants.db")

    async def main() -> None:
        with pytest.raises(ValueError, match=says):
            async with server.serve(server.Config(pop3=0, **options), attrs.evolve(kept(), grants=grants)):
                pass

    with contextlib.closing(grants):
        run(main)


@on_both_loops
@pytest.mark.parametrize("options", [{}, {"grant_lifetime": 600}, {"grant_ipv6_prefix": 128}, {"grant_lifetime": 0}])
def test_grant_settings_of_the_store_apply_if_the_configuration_has_the_same_or_none(
    run: Run, options: dict[str, Any]
) -> None:
    async def main() -> None:
        config = server.Config(pop3=0, nat64_prefixes=NAT64, **options)
        async with server.serve(config, attrs.evolve(kept(), grants=NatGrants())):
            pass

    run(main)


@on_both_loops
@pytest.mark.parametrize("port", ["smtp", "smtps"])
def test_only_a_server_with_an_smtp_port_needs_an_outbox(run: Run, port: str) -> None:
    without = server.Stores(accounts=accounts(), maildrops=stores.MemoryMaildrops())

    async def main() -> None:
        ports: dict[str, Any] = {port: 0}
        config = server.Config(**ports, ssl_context=server_context())
        with pytest.raises(ValueError, match=r"needs an outbox; pass outbox=MemoryOutbox\(\) or another to Stores"):
            async with server.serve(config, without):
                pass
        async with server.serve(server.Config(pop3=0, pop3s=0, ssl_context=server_context()), without) as running:
            assert running.pop3

    run(main)


@on_both_loops
def test_a_configuration_without_ports_is_an_error(run: Run) -> None:
    async def main() -> None:
        with pytest.raises(ValueError, match="config has no port; pass smtp, smtps, pop3 or pop3s"):
            async with server.serve(server.Config(), kept()):
                pass

    run(main)


@pytest.mark.parametrize(
    ("arguments", "options", "text"),
    [
        ((2525, kept()), {}, "config must be a Config, not int"),
        ((server.Config(smtp=0), server.Config(smtp=0)), {}, "stores must be a Stores, not Config"),
        ((server.Config(smtp=0), kept()), {"clock": 5.0}, "clock must be a function"),
        ((server.Config(smtp=0), kept()), {"sleep": 5.0}, "sleep must be a function"),
    ],
)
def test_serve_rejects_arguments_of_the_wrong_type(arguments: Any, options: Any, text: str) -> None:
    async def main() -> None:
        async with server.serve(*arguments, **options):
            pass

    with pytest.raises(TypeError, match=text):
        run_on_asyncio(main)


@on_both_loops
def test_disabled_port_is_none(run: Run) -> None:
    async def main() -> None:
        async with server.serve(server.Config(pop3=0), kept()) as ports:
            assert (ports.smtp, ports.smtps, ports.pop3s) == (None, None, None)
            assert ports.pop3

    run(main)


@on_both_loops
def test_starttls_and_stls_are_not_offered_without_certificate(run: Run) -> None:
    def client(served: Served) -> None:
        with served.smtp() as smtp:
            assert "starttls" not in smtp.esmtp_features
        pop3 = served.pop3()
        assert "STLS" not in pop3.capa()
        pop3.quit()

    meet(run, client, ssl_context=None, smtps=None, pop3s=None)


@on_both_loops
def test_every_host_has_the_same_ports(run: Run) -> None:
    def client(served: Served) -> None:
        assert served.ports.hosts == ("127.0.0.1", "127.0.0.2")
        for port, greeting in ((served.ports.smtp, b"220 "), (served.ports.pop3, b"+OK ")):
            assert port
            for host in served.ports.hosts:
                with socket.create_connection((host, port), TIMEOUT) as connection:
                    assert connection.recv(4, socket.MSG_WAITALL) == greeting

    meet(run, client, hosts=("127.0.0.1", "127.0.0.2"))


@on_both_loops
def test_port_zero_selects_a_port_free_on_every_host(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first port is in use on the second host, so another one is tried."""
    serve = _serve._serve
    tried: list[tuple[str, int]] = []

    @contextlib.asynccontextmanager
    async def taken_at_first(server_process: Any, name: str, host: str, port: int) -> AsyncIterator[Listener]:
        tried.append((host, port))
        if len(tried) == 2:
            raise OSError(98, "Address already in use")
        async with serve(server_process, name, host, port) as listener:
            yield listener

    monkeypatch.setattr(_serve, "_serve", taken_at_first)

    async def main() -> None:
        async with server.serve(server.Config(hosts=("127.0.0.1", "127.0.0.2"), smtp=0), kept()) as ports:
            assert tried == [("127.0.0.1", 0), tried[1], ("127.0.0.1", 0), ("127.0.0.2", ports.smtp)]

    run(main)


@on_both_loops
def test_port_in_use_raises_oserror_and_closes_the_other_listeners(run: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, socket.create_server(("127.0.0.1", 0)) as free:
        in_use, smtp = taken.getsockname()[1], free.getsockname()[1]
        free.close()

        async def main() -> None:
            with pytest.raises(OSError, match="in use"):
                async with server.serve(server.Config(smtp=smtp, pop3=in_use), kept()):
                    pass
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", smtp), TIMEOUT)

        run(main)


@on_both_loops
def test_exception_of_the_embedding_program_is_raised_unchanged(run: Run) -> None:
    async def main() -> None:
        with pytest.raises(LookupError, match="mine"):
            async with server.serve(server.Config(smtp=0, pop3=0), kept()):
                raise LookupError("mine")

    run(main)


@on_both_loops
def test_shutdown_sends_421_to_an_idle_client(run: Run) -> None:
    """An idle client gets 421."""

    async def main() -> None:
        async with server.serve(server.Config(smtp=0), kept()) as ports:
            assert ports.smtp is not None
            client = await loops.current().in_thread(smtplib.SMTP, "127.0.0.1", ports.smtp, "client.test", TIMEOUT)

            def listen() -> bytes:
                assert client.file is not None
                line: bytes = client.file.readline()
                client.close()
                return line

        assert (await loops.current().in_thread(listen)).startswith(b"421 ")

    run(main)
