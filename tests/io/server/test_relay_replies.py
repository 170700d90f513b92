"""Replies of a next hop that come too early, or that a server may not send."""

from __future__ import annotations

import socket
from collections.abc import Iterable

import pytest

from tests.io.next_hops import FAR, IN_CLEAR, LOCAL, logged_in, relay_to, send
from tests.io.scripted_hop import ScriptedHop
from tests.io.server_support import Run, Served, on_both_loops

pytestmark = on_both_loops

LONG = b"Subject: x\r\n\r\n" + (b"x" * 998 + b"\r\n") * 16_384  # more than two sockets hold


class Impatient(ScriptedHop):
    """A next hop that says ``after_message`` in the middle of the content, and then reads on if *reads*."""

    reads = True

    def _take_content(self, connection: socket.socket, lines: Iterable[bytes]) -> bytes:
        if self.replies.get("."):
            return super()._take_content(connection, lines)
        for number, line in enumerate(lines):
            if number == 1:
                connection.sendall(self.after_message)
                if not self.reads:
                    return b""
            if line == b".\r\n":
                break
        return b"."


@pytest.mark.parametrize("reads", [True, False], ids=["reads the rest", "closes"])
@pytest.mark.parametrize("code", ["552 5.3.4", "451 4.3.0", "550 5.6.0"])
def test_message_rejected_before_its_end_is_rejected_with_that_reply(run: Run, code: str, reads: bool) -> None:
    """Exim rejects a message that is too large while it receives it, and closes the connection."""
    hop = Impatient(after_message=f"{code} message too large\r\n".encode())
    hop.reads = reads

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            assert send(smtp, LOCAL, FAR, content=LONG)[-1] == f"{code} message too large"
            assert served.mail_of("alice") == []
            hop.replies["."] = b"250 2.0.0 ok\r\n"
            hop.after_message = b""
            assert send(smtp, LOCAL, FAR)[-1].startswith("250")

    with hop.listening():
        run(lambda: relay_to(hop.port, client, **IN_CLEAR))
    assert len(hop.messages) == 1
    assert len(hop.clear) == 2


@pytest.mark.parametrize("said", [b"250 2.0.0 taken\r\n", b"354 go on\r\n", b"421 4.3.2 going down\r\n", b"what?\r\n"])
@pytest.mark.parametrize("reads", [True, False], ids=["reads the rest", "closes"])
def test_message_is_not_accepted_before_its_end(run: Run, said: bytes, reads: bool) -> None:
    hop = Impatient(after_message=said)
    hop.reads = reads

    def client(served: Served) -> None:
        with logged_in(served) as smtp:
            assert send(smtp, LOCAL, FAR, content=LONG)[-1].startswith("451 4.")
            assert served.mail_of("alice") == []

    with hop.listening():
        run(lambda: relay_to(hop.port, client, **IN_CLEAR))
    assert hop.messages == []
