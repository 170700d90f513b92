"""``input_waiting`` tells whether a server has sent something, without reading it."""

from __future__ import annotations

import socket

import pytest

from mailauth import smtp
from tests.io import loops
from tests.io.server_support import Run, on_both_loops

pytestmark = on_both_loops


@pytest.mark.parametrize(("said", "closes"), [(b"421 idle\r\n", False), (b"4", False), (b"", True)])
def test_input_that_was_not_read_is_reported_and_kept(run: Run, said: bytes, closes: bool) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            client = await loops.current().adapter.connect(
                smtp.ClientConnection(), "127.0.0.1", listener.getsockname()[1]
            )
            async with client:
                server, _ = listener.accept()
                with server:
                    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    server.sendall(b"220 hi\r\n")
                    assert isinstance(await anext(client), smtp.ReplyReceived)
                    await client.flush()
                    assert not client.input_waiting
                    server.sendall(said)
                    if closes:
                        server.shutdown(socket.SHUT_WR)
                    for _ in range(3):
                        await client.flush()
                        assert client.input_waiting
                    client.abort()
                    assert client.input_waiting

    run(main)
