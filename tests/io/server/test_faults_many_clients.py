"""Clients that could block others: by not reading, or by connecting and disconnecting."""

from __future__ import annotations

import contextlib
import logging
import poplib
import socket

import pytest

from mailauth_io import server, stores
from mailauth_io.limits import Limits
from tests.io.by_hand import hear
from tests.io.gone_clients import LOGIN, reset
from tests.io.line_echo import read_all
from tests.io.server_support import TIMEOUT, Run, Served, accounts, meet, on_both_loops

pytestmark = on_both_loops

TEXT = b"Subject: x\r\n\r\n" + b"a line of it\r\n" * 20_000


def test_pop3_client_that_does_not_read_does_not_block_others(run: Run) -> None:
    """RFC 1939 section 4: the maildrop is locked until the client disconnects; delivery and other clients continue."""

    def client(served: Served) -> None:
        assert served.ports.pop3 is not None
        with served.smtp() as smtp:
            for _ in range(2):
                smtp.sendmail("far@far.test", ["alice@example.test", "bob@example.test"], TEXT)
        with socket.create_connection(("127.0.0.1", served.ports.pop3), TIMEOUT) as reader:
            hear(reader)
            for line in LOGIN:
                reader.sendall(line + b"\r\n")
                hear(reader)
            reader.sendall(b"RETR 1\r\nRETR 2\r\n" * 20)  # 12 MB, more than the buffers between the two hold
            assert hear(reader).startswith(b"+OK")
            for _ in range(3):
                with pytest.raises(poplib.error_proto, match=r"-ERR \[IN-USE\]"):
                    served.log_in()
            assert len(served.mail_of("bob", "other")) == 2
            with served.smtp() as smtp:
                assert smtp.sendmail("far@far.test", ["alice@example.test"], b"x") == {}
            # Once the client reads, it gets all replies, for the messages that were there at its login.
            reader.sendall(b"STAT\r\nQUIT\r\n")
            heard = read_all(reader)
        assert heard.count(b"\r\n.\r\n") == 40
        assert heard.splitlines()[-2].startswith(b"+OK 2 ")
        assert len(served.mail_of("alice")) == 3

    kept = server.Stores(accounts=accounts(), maildrops=stores.MemoryMaildrops(), outbox=stores.MemoryOutbox())
    meet(run, client, kept=kept, legacy=True)


def test_many_connections_and_resets_log_no_warning(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    """A connection may be reset before it is accepted, before the greeting, and during a handshake."""
    caplog.set_level(logging.INFO)

    def client(served: Served) -> None:
        with contextlib.ExitStack() as staying:
            for number in range(400):
                port = (served.ports.smtp, served.ports.pop3, served.ports.smtps, served.ports.pop3s)[number % 4]
                connection = socket.create_connection(("127.0.0.1", port), TIMEOUT)
                if number % 8 >= 4:
                    connection.sendall(b"\x16\x03\x01" if number % 4 >= 2 else b"NOOP\r\n")
                if number % 20 == 0:
                    staying.enter_context(connection)
                else:
                    reset(connection)
            served.log_in().quit()
            assert served.may_relay()

    # A connection that was reset counts until the server notices.
    meet(run, client, limits=Limits(connections_per_address=1_000))
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
