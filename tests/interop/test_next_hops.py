"""Servers of other projects as the next hop: Postfix's smtp-sink, with the faults that it can simulate, and aiosmtpd.

Tests with smtp-sink are skipped if it is not installed; an error with MAILAUTH_INTEROP=require.
"""

from __future__ import annotations

import asyncio
import os
import queue
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path

import pytest
from aiosmtpd.handlers import Message as Handler
from aiosmtpd.smtp import SMTP

from tests.interop.client_config import HOST, ClientConfig, CommandRejected, program
from tests.interop.senders import smtp_source
from tests.io.next_hops import FAR, IN_CLEAR, LOCAL, logged_in, relay_to, send
from tests.io.server_support import TIMEOUT, Run, Served, on_both_loops

pytestmark = on_both_loops

_ATTEMPTS = 5
"""Another program may take a free port before smtp-sink binds it."""

MESSAGE = b"Subject: far\r\n\r\n.\r\n..dots\r\nbody\r\n"


@contextmanager
def smtp_sink(directory: Path, *options: str) -> Iterator[int]:
    """Run smtp-sink on a port of its own; it writes each message into *directory*."""
    directory.chmod(0o777)  # it drops the rights of root
    words = [program("smtp-sink"), *options, "-d", "%M.", *(["-u", "nobody"] if os.geteuid() == 0 else [])]
    for attempt in range(1, _ATTEMPTS + 1):
        with socket.socket() as found:
            found.bind((HOST, 0))
            port: int = found.getsockname()[1]
        with subprocess.Popen([*words, f"{HOST}:{port}", "10"], stderr=subprocess.DEVNULL, cwd=directory) as process:
            try:
                if not _listens(process, port) and attempt < _ATTEMPTS:
                    continue
                yield port
                return
            finally:
                process.kill()


def _listens(process: subprocess.Popen[bytes], port: int) -> bool:
    while process.poll() is None:
        with socket.socket() as trial:
            if trial.connect_ex((HOST, port)) == 0:
                return True
    return False


CASES: dict[str, tuple[tuple[str, ...], str, str]] = {
    "ESMTP": ((), "250", "250"),
    "no pipelining": (("-p",), "250", "250"),
    "HELO alone": (("-e",), "250", "250"),
    "no enhanced status codes": (("-E", "-r", "RCPT"), "450 4.3.0", "250"),
    "450 to RCPT": (("-r", "RCPT"), "450 4.3.0", "250"),
    "500 to RCPT": (("-f", "RCPT"), "500 5.3.0", "250"),
    "421 to RCPT": (("-Q", "RCPT"), "451 4.", "250"),
    "450 to the dot": (("-r", "."), "250", "450 4.3.0"),
    "421 to the dot": (("-Q", "."), "250", "451 4."),
    "dies at CONNECT": (("-q", "CONNECT"), "451 4.4.1", "250"),
    "dies at DATA": (("-q", "DATA"), "250", "451 4.4.1"),
    "dies at the dot": (("-q", "."), "250", "451 4.4.1"),
}


@pytest.mark.parametrize("case", CASES)
def test_relaying_to_smtp_sink_returns_the_expected_replies(run: Run, case: str, tmp_path: Path) -> None:
    """Two transactions in one session, each with a local and a remote recipient."""
    options, rcpt, dot = CASES[case]

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            for number in range(2):
                replies = send(smtp, FAR, LOCAL, content=MESSAGE)
                assert replies[0].startswith(rcpt)
                assert replies[-1].startswith(dot)
                assert len(served.mail_of("alice")) == (number + 1) * dot.startswith("250")

    with smtp_sink(tmp_path, *options) as port:
        run(lambda: relay_to(port, client, **IN_CLEAR))
    if rcpt == dot == "250":
        there = [path.read_bytes() for path in tmp_path.iterdir()]
        assert len(there) == 2
        assert all(MESSAGE.replace(b"\r\n", b"\n") in make_message for make_message in there)


def test_pop_before_smtp_allows_relaying_to_the_next_hop(run: Run, tmp_path: Path) -> None:
    """smtp-source cannot log in: its sessions relay by the grant of another client, each over its own connection."""
    there, home = tmp_path / "there", tmp_path / "home"
    there.mkdir()
    home.mkdir()

    def client(served: Served) -> None:
        assert served.ports.smtp is not None
        client_config = ClientConfig(port=served.ports.smtp, tls_mode="clear", login="", trusted=home, scratch=home)
        with pytest.raises(CommandRejected):
            smtp_source(client_config, FAR, sessions=1, messages=1)
        served.log_in().quit()
        smtp_source(client_config, FAR, sessions=4, messages=40)

    with smtp_sink(there) as port:
        run(lambda: relay_to(port, client, **IN_CLEAR))
    assert len(list(there.iterdir())) == 40


class Kept(Handler):
    """The messages that aiosmtpd received."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[Message] = []

    def handle_message(self, message: Message) -> None:
        self.messages.append(message)


@contextmanager
def aiosmtpd(handler: Kept) -> Iterator[int]:
    """Run aiosmtpd on a port of its own, in a thread with its own event loop."""
    begun: queue.SimpleQueue[tuple[int, Callable[[], object]]] = queue.SimpleQueue()

    async def serve() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()
        server = await loop.create_server(lambda: SMTP(handler, loop=loop, hostname="far.test"), HOST, 0)
        begun.put((server.sockets[0].getsockname()[1], lambda: loop.call_soon_threadsafe(stop.set)))
        await stop.wait()
        server.close()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    port, stop = begun.get(timeout=TIMEOUT)
    try:
        yield port
    finally:
        stop()
        thread.join()


def test_mail_is_relayed_to_aiosmtpd(run: Run) -> None:
    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            for _ in range(2):
                options = ("SIZE=100", "BODY=8BITMIME")
                assert send(smtp, FAR, LOCAL, options=options, content=MESSAGE)[-1].startswith("250")

    handler = Kept()
    with aiosmtpd(handler) as port:
        run(lambda: relay_to(port, client, **IN_CLEAR))
    for message in handler.messages:
        assert (message["X-RcptTo"], message["X-MailFrom"]) == (FAR, LOCAL)
        assert message["Received"].startswith("from client.test ([127.0.0.1])")
        assert message.get_payload() == ".\n..dots\nbody\n".replace("\n", "\r\n")
    assert len(handler.messages) == 2
