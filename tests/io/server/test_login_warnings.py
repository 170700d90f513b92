"""Warnings at the start: nobody can log in, or passwords cross a network in clear text."""

from __future__ import annotations

import logging
import ssl
from typing import Any

import pytest

from mailauth_io import server, stores
from mailauth_io.logs import Event
from mailauth_io.server._offer import clear_text_warning
from tests.io.server_support import Run, accounts, on_both_loops
from tests.io.tls import server_context

NO_TLS = (
    "No login is possible without TLS: pass an ssl_context, or legacy=True to allow passwords in clear text, or"
    " mechanisms=() if no logins are wanted."
)


def warnings(run: Run, caplog: pytest.LogCaptureFixture, accounts: stores.Accounts, **options: Any) -> list[object]:
    """Return the warnings of a server that starts and stops."""
    caplog.set_level(logging.WARNING, "mailauth_io.server")
    kept = server.Stores(accounts=accounts, maildrops=stores.MemoryMaildrops(), outbox=stores.MemoryOutbox())

    async def main() -> None:
        async with server.serve(server.Config(**options), kept):
            pass

    run(main)
    events = [record.msg for record in caplog.records if isinstance(record.msg, Event)]
    return [event.fields["warning"] for event in events if event.name == "logins"]


@on_both_loops
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [NO_TLS]),
        ({"mechanisms": ()}, []),
        ({"legacy": True}, []),
        ({"tls": True}, []),
        ({"legacy": True, "mechanisms": ("USER", "APOP"), "pop3": 0}, []),
    ],
)
def test_server_without_logins_warns_at_start(
    run: Run, caplog: pytest.LogCaptureFixture, options: dict[str, Any], expected: list[str]
) -> None:
    context: ssl.SSLContext | None = server_context() if options.get("tls") else None
    rest = {name: value for name, value in options.items() if name != "tls"}
    assert warnings(run, caplog, accounts(), smtp=0, ssl_context=context, **rest) == expected


@on_both_loops
def test_mechanisms_that_nobody_can_use_are_a_warning(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    hashed = stores.read_credential(stores.write_credential("SCRAM-SHA-256", b"sesame").encode())
    found = stores.MemoryAccounts([stores.Account(name="alice", credential=hashed)])
    (warning,) = warnings(run, caplog, found, smtp=0, ssl_context=server_context(), mechanisms=("CRAM-MD5",))
    assert str(warning).startswith("No login is possible: none of the mechanisms (CRAM-MD5) is supported by every ")
    caplog.clear()
    (warning,) = warnings(run, caplog, accounts(), smtp=0, ssl_context=server_context(), mechanisms=("USER", "APOP"))
    assert str(warning).startswith("No login is possible: none of the mechanisms (USER, APOP) is supported by every ")


@on_both_loops
def test_legacy_on_a_network_is_a_warning(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    text = (
        "Logins without TLS are allowed on 0.0.0.0, so passwords cross the network in clear text: turn legacy off, or"
        " use 127.0.0.1."
    )
    assert warnings(run, caplog, accounts(), smtp=0, legacy=True, hosts=("0.0.0.0",)) == [text]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost", "::ffff:127.0.0.1"])
def test_loopback_is_not_a_network(host: str) -> None:
    assert clear_text_warning((host,), ("PLAIN",)) is None


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "10.0.0.1", "mail.example.org", "fe80::1%eth0"])
def test_other_addresses_are_a_network(host: str) -> None:
    assert "passwords cross the network" in str(clear_text_warning(("127.0.0.1", host), ("PLAIN", "CRAM-MD5")))
    assert "passwords can be guessed" in str(clear_text_warning((host,), ("CRAM-MD5",)))
    assert clear_text_warning((host,), ()) is None
