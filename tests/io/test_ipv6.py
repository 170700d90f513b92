"""Clients, proxies and next hops with IPv6 addresses, from end to end."""

from __future__ import annotations

import contextlib
import ipaddress
import poplib
import shutil
import smtplib
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import attrs
import pytest

from mailauth.addresses import normalize_address
from mailauth_io import client, server, stores
from mailauth_io.adapters import Limits
from tests.io import loops
from tests.io.by_hand import converse
from tests.io.grant_stores import on_both_loops as async_on_both_loops
from tests.io.log_events import logged
from tests.io.next_hops import FAR, Double
from tests.io.server_support import PASSWORD, TIMEOUT, Run, Served, accounts, meet, on_both_loops
from tests.io.tls import authority, client_context
from tests.serving import LOOPS, environment, run as run_command, served

MESSAGE = b"Subject: tea\r\n\r\nAt six.\r\n"


def has_ipv6() -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET6) as probe:
        probe.bind(("::1", 0))
        return True
    return False


pytestmark = pytest.mark.skipif(not has_ipv6(), reason="the system has no IPv6")


@cache
def ipv6_context() -> ssl.SSLContext:
    """A server's context with a certificate for ``::1``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    authority().issue_cert("::1", "127.0.0.1").configure_cert(context)
    return context


def both(*hosts: str) -> dict[str, Any]:
    return {"hosts": hosts, "ssl_context": ipv6_context()}


def log_in(port: int | None, host: str = "::1") -> poplib.POP3:
    pop3 = poplib.POP3(host, port or 0, TIMEOUT)
    pop3.stls(client_context())
    pop3.user("alice")
    pop3.pass_(PASSWORD)
    return pop3


@on_both_loops
def test_mail_of_an_ipv6_client_names_its_address_as_a_literal(run: Run) -> None:
    """In EHLO, MAIL, the Received line and the log; with STARTTLS, STLS and implicit TLS."""

    def use(served: Served) -> bytes:
        ports = served.ports
        with smtplib.SMTP("::1", ports.smtp or 0, "[IPv6:::1]", timeout=TIMEOUT) as smtp:
            smtp.starttls(context=client_context())
            smtp.sendmail("bob@[IPv6:2001:db8::1]", ["alice@example.test"], MESSAGE)
        with smtplib.SMTP_SSL("::1", ports.smtps or 0, timeout=TIMEOUT, context=client_context()) as smtps:
            smtps.login("alice", PASSWORD)
        pop3 = log_in(ports.pop3)
        (found,) = [b"\r\n".join(pop3.retr(1)[1])]
        pop3.quit()
        return found

    with logged() as events:
        text = meet(run, use, **both("::1"))
    assert text.startswith(b"Return-Path: <bob@[IPv6:2001:db8::1]>\r\nReceived: from [IPv6:::1] ([IPv6:::1])\r\n\tby ")
    assert {event.fields["peer"] for event in events if "peer" in event.fields} == {"::1"}
    assert [event.name for event in events] == ["message", "login", "login"]
    assert all(" peer=::1 " in str(event) for event in events if event.name == "login")


@on_both_loops
def test_pop3_login_permits_to_relay_over_the_same_address_only(run: Run) -> None:
    def use(served: Served) -> list[int]:
        log_in(served.ports.pop3).quit()
        codes = []
        for host in ("::1", "127.0.0.1"):
            with smtplib.SMTP(host, served.ports.smtp or 0, "client.test", timeout=TIMEOUT) as smtp:
                smtp.ehlo()
                smtp.mail("a@far.test")
                codes.append(smtp.rcpt(FAR)[0])
        return codes

    assert meet(run, use, **both("::1", "127.0.0.1")) == [250, 550]


def version_1(address: str) -> bytes:
    family = 6 if ":" in address else 4
    local = "2001:db8::25" if family == 6 else "192.0.2.25"
    return f"PROXY TCP{family} {address} {local} 4711 25\r\n".encode()


def version_2(address: str) -> bytes:
    source = ipaddress.ip_address(address)
    local = ipaddress.ip_address("2001:db8::25" if source.version == 6 else "192.0.2.25")
    body = source.packed + local.packed + (4711).to_bytes(2) + (25).to_bytes(2)
    family = b"\x21" if source.version == 6 else b"\x11"
    return b"\r\n\r\n\0\r\nQUIT\n\x21" + family + len(body).to_bytes(2) + body


@on_both_loops
@pytest.mark.parametrize("header", [version_1, version_2])
@pytest.mark.parametrize(
    ("login", "relaying", "permitted"),
    [
        ("2001:db8::1", "2001:db8::1", True),
        ("2001:db8::1", "2001:db8::2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("64:ff9b::192.0.2.1", "192.0.2.1", False),
    ],
)
def test_grant_of_a_client_behind_an_ipv6_proxy(
    run: Run, header: Callable[[str], bytes], login: str, relaying: str, permitted: bool
) -> None:
    """An IPv4-mapped address is the address that it contains; any other two addresses are two clients."""

    def use(served: Served) -> str:
        with contextlib.ExitStack() as stack:
            pop3 = stack.enter_context(socket.create_connection(("::1", served.ports.pop3s or 0), TIMEOUT))
            pop3.sendall(header(login))
            pop3 = stack.enter_context(client_context().wrap_socket(pop3, server_hostname="::1"))
            assert converse(pop3, "USER alice", f"PASS {PASSWORD}", "QUIT")[2].startswith("+OK")
            smtp = stack.enter_context(socket.create_connection(("::1", served.ports.smtp or 0), TIMEOUT))
            smtp.sendall(header(relaying))
            return converse(smtp, "EHLO c.test", "MAIL FROM:<a@far.test>", f"RCPT TO:<{FAR}>", "QUIT")[3]

    with logged() as events:
        reply = meet(run, use, **both("::1"), proxy_from=(ipaddress.ip_network("::1"),))
    assert reply[:3] == ("250" if permitted else "550")
    shown = next(event.fields["peer"] for event in events if event.name == "login")
    assert shown == str(normalize_address(login))


@async_on_both_loops
@pytest.mark.parametrize("way", ["none", "starttls", "implicit"])
async def test_relay_and_client_reach_a_server_by_its_ipv6_address(loop: loops.Loop, way: client.TlsMode) -> None:
    """The certificate is verified for the address.  The client delivers to a server, which relays to another."""
    hop = Double(settings=attrs.evolve(Double().settings, starttls=way == "starttls"))
    tls: dict[str, Any] = {"none": {"tls_required": False}}.get(way, {"ssl_context": client_context()})
    async with loop.adapter.serve_smtp(
        hop.session, hop.settings, host="::1", ssl_context=ipv6_context(), implicit_tls=way == "implicit"
    ) as listener:
        assert listener.address == "::1"
        outbox = server.NextHop(host="::1", port=listener.port, implicit_tls=way == "implicit", **tls)
        assert f"[::1]:{listener.port}" in str(outbox)
        kept = server.Stores(accounts=accounts(), maildrops=stores.MemoryMaildrops(), outbox=outbox)
        config = server.Config(smtp=0, smtps=0, **both("::1"), legacy=True)
        async with server.serve(config, kept) as ports:
            result = await client.submit(
                MESSAGE, "alice@example.test", [FAR], host="::1", tls=way, login=("alice", PASSWORD),
                port=ports.smtps if way == "implicit" else ports.smtp,
                ssl_context=None if way == "none" else client_context(),
            )  # fmt: skip
    assert result.complete
    assert [taken.recipients for taken in hop.taken] == [(FAR,)]
    assert hop.taken[0].data.startswith(b"Received: from ")
    assert b" ([IPv6:::1])\r\n" in hop.taken[0].data
    assert hop.in_clear == [] or way != "implicit"


def link_local() -> str | None:
    """Return a link-local address of this host with its zone, such as ``fe80::1%eth0``."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/net/if_inet6").read_text().splitlines():
            number, _, _, scope, _, interface = line.split()
            if scope == "20":
                return f"{ipaddress.IPv6Address(int(number, 16))}%{interface}"
    return None


@on_both_loops
@pytest.mark.skipif(link_local() is None, reason="no interface has a link-local address")
def test_link_local_address_is_used_with_its_zone(run: Run) -> None:
    """In ``hosts``, in the client, in the log and in the key of a grant; the Received line has no zone."""
    host = link_local() or ""
    address, _, interface = host.partition("%")
    zoned = f"{address}%{socket.if_nametoindex(interface)}"
    outbox = stores.MemoryOutbox()
    kept = server.Stores(
        accounts=accounts(), maildrops=stores.MemoryMaildrops(), outbox=outbox, grants=stores.MemoryGrants()
    )

    async def main() -> list[stores.ActiveGrant]:
        async with server.serve(server.Config(smtp=0, pop3=0, hosts=(host,), legacy=True), kept) as ports:
            async with client.pop3_client(host=host, port=ports.pop3, tls="none", login=("alice", PASSWORD)):
                pass
            result = await client.submit(MESSAGE, "a@far.test", [FAR], host=host, port=ports.smtp, tls="none")
            result.raise_for_rejected()
        assert kept.grants is not None
        return await kept.grants.active()

    with logged() as events:
        (grant,) = run(main)
    assert str(grant.address) == zoned
    assert {event.fields["peer"] for event in events if "peer" in event.fields} == {zoned}
    assert f" ([IPv6:{address}])\r\n".encode() in outbox.messages[0].data


@pytest.mark.parametrize("loop", LOOPS)
def test_command_serves_ipv6_to_the_commands_of_mailauth_and_to_curl(loop: str, tmp_path: Path) -> None:
    message, got = tmp_path / "message", tmp_path / "got"
    message.write_bytes(b"From: bob@far.test\r\nTo: alice@example.test\r\n" + MESSAGE)
    options = ["--host", "::1", "--smtp", "0", "--pop3", "0", "--legacy", "--user", "alice:secret", "--loop", loop]
    with served(tmp_path, *options, "--maildir", str(tmp_path / "mail"), "--domain", "example.test") as running:
        assert any(line.startswith("Serving example.test on ::1: SMTP ") for line in running.said)
        smtp, pop3 = running.port("smtp"), running.port("pop3")
        sent = run_command("send", "--host", "::1", "--port", str(smtp), "--tls", "none", str(message))
        assert sent.returncode == 0, sent
        url = f"smtp://[::1]:{smtp}/client.test"
        if shutil.which("curl"):
            for words in (
                [*("--mail-from", "b@far.test", "--mail-rcpt", "alice@example.test"), "-T", str(message), url],
                ["-u", "alice:secret", f"pop3://[::1]:{pop3}/2", "-o", str(got)],
            ):
                subprocess.run(["curl", "-sS", *words], check=True, timeout=TIMEOUT)
            assert b"At six." in got.read_bytes()
        running.wait_for("peer=::1")


PROGRAM = """
from tests.io import test_ipv6
from tests.io.server_support import run_on_asyncio, run_on_trio
for run in (run_on_asyncio, run_on_trio):
    test_ipv6.in_namespace(run)
"""
ADDRESSES = ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")


def in_namespace(run: Run) -> None:
    """In a network namespace: two addresses of one /64 share the limit of connections, and not their grants."""

    def use(served: Served) -> None:
        port = served.ports.smtp or 0

        def greeting(source: str, stack: contextlib.ExitStack) -> str:
            made = socket.create_connection(("2001:db8::1", port), TIMEOUT, source_address=(source, 0))
            return stack.enter_context(contextlib.closing(made)).recv(4).decode()

        with contextlib.ExitStack() as stack:
            found = [greeting(source, stack) for source in (*ADDRESSES[:2], *ADDRESSES[:2], ADDRESSES[2])]
        assert found == ["220 ", "220 ", "421 ", "421 ", "220 "], found

        pop3 = served.ports.pop3 or 0
        with socket.create_connection(("2001:db8::1", pop3), TIMEOUT, source_address=(ADDRESSES[1], 0)) as reader:
            assert converse(reader, "USER alice", f"PASS {PASSWORD}", "QUIT")[2].startswith("+OK")
        for source in ADDRESSES:
            with socket.create_connection(("2001:db8::1", port), TIMEOUT, source_address=(source, 0)) as sender:
                replies = converse(sender, "EHLO c.test", "MAIL FROM:<a@far.test>", f"RCPT TO:<{FAR}>", "QUIT")
            assert replies[3][:3] == ("250" if source == ADDRESSES[1] else "550"), (source, replies)

    meet(run, use, hosts=("::",), ssl_context=None, smtps=None, pop3s=None, legacy=True,
         limits=Limits(connections_per_address=2))  # fmt: skip


def namespace() -> list[str] | None:
    """Return the words of a command that runs another in a network namespace of its own; None if it cannot be made."""
    for words in (["unshare", "--net"], ["unshare", "--user", "--map-root-user", "--net"]):
        try:
            made = subprocess.run(
                [*words, "ip", "-6", "addr", "add", "2001:db8::1/64", "dev", "lo"], capture_output=True
            )
        except FileNotFoundError:
            return None
        if made.returncode == 0:
            return words
    return None


def test_addresses_of_one_network_share_a_limit_and_no_grant() -> None:
    """On both loops, in one process: a namespace needs a process of its own, which takes long to start."""
    words = namespace()
    if words is None:
        pytest.skip("a network namespace cannot be made")
    added = " && ".join(f"ip -6 addr add {address}/64 dev lo nodad" for address in ADDRESSES)
    script = f'ip link set lo up && {added} && exec "$@"'
    root = Path(__file__).parents[2]
    child = subprocess.run(
        [*words, "sh", "-c", script, "sh", sys.executable, "-W", "error", "-c", PROGRAM],
        env=environment() | {"PYTHONPATH": f"{root / 'src'}:{root}"}, capture_output=True, text=True, timeout=60,
        cwd=root,
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
