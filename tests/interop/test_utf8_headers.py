"""Clients of other projects collect a maildrop in which messages have UTF-8 in their headers.  None of them sends UTF8.

Tests of a client that is not installed are skipped; an error with MAILAUTH_INTEROP=require.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from tests.interop.client_config import NAME, PASSWORD, ClientConfig
from tests.interop.fetchers import fetchmail_collect, getmail_collect
from tests.interop.foreign import curl_collect, mpop_collect, poplib_collect
from tests.serving import LOOPS, Served, served

HEADER = "From: Jörg <joerg@example.test>\nTo: alice@example.test\nDate: Tue, 24 Nov 2026 08:00:00 +0000\n"
TEXTS = [
    b"From: bob@example.test\nSubject: before\n\nA letter\n",
    f"{HEADER}Subject: Grüße aus Köln\n\nÄ letter\n.\n".encode(),
    f"{HEADER}Subject: \N{SLIGHTLY SMILING FACE}\n\nASCII\n".encode(),
    b"From: bob@example.test\nSubject: after\n\nAnother letter\n",
]


def _each(collect: Callable[[ClientConfig, int], bytes]) -> Callable[[ClientConfig], bytes]:
    """Return a function that collects all messages, with a client that collects one."""
    return lambda config: b"".join(collect(config, number) for number in range(1, len(TEXTS) + 1))


CLIENTS: dict[str, Callable[[ClientConfig], bytes]] = {
    "fetchmail": fetchmail_collect,
    "mpop": mpop_collect,
    "getmail": getmail_collect,
    "curl": _each(curl_collect),
    "poplib": _each(poplib_collect),
}


@pytest.fixture(scope="module", params=LOOPS)
def our_server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Served, Path]]:
    directory = tmp_path_factory.mktemp("our_server")
    for folder in ("tmp", "new", "cur"):
        (directory / "maildrops" / NAME / folder).mkdir(parents=True)
    for number, text in enumerate(TEXTS):
        (directory / "maildrops" / NAME / "new" / f"{number}.letter").write_bytes(text)
    trustme.CA().cert_pem.write_to_path(str(directory / "authority.pem"))  # not used by a session in clear text
    with served(
        directory,
        *("--loop", request.param, "--legacy", "--user", f"{NAME}:{PASSWORD}"),
        *("--maildir", str(directory / "maildrops"), "--outbox", str(directory / "outbox")),
    ) as server:
        yield server, directory


@pytest.mark.parametrize("client", CLIENTS)
def test_client_collects_messages_with_utf8_headers_and_those_after_them(
    our_server: tuple[Served, Path], client: str, tmp_path: Path
) -> None:
    """A departure from RFC 6856 section 2.1: see decision 23.  The messages arrive as they are stored."""
    server, directory = our_server
    config = ClientConfig(
        port=server.port("pop3"), tls_mode="clear", login="USER" if client != "curl" else "PLAIN",
        trusted=directory / "authority.pem", scratch=tmp_path,
    )  # fmt: skip
    collected = CLIENTS[client](config).replace(b"\r\n", b"\n")
    assert all(text in collected for text in TEXTS)
    assert len(collected) == sum(map(len, TEXTS))
