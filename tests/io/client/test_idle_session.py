"""A server that ends the session on its own, before the next command or the content."""

from __future__ import annotations

import pytest

from mailauth import smtp
from mailauth_io import client
from tests.io.client.peers import End, ehlo, smtp_server
from tests.io.server_support import TIMEOUT, Run, on_both_loops

MESSAGE = b"Subject: tea\r\n\r\nAt six.\r\n"


@on_both_loops
@pytest.mark.parametrize("step", ["EHLO", "NOOP"])
@pytest.mark.parametrize("code", [221, 451, 450, 421])
def test_reply_that_ends_the_session_before_a_command_is_not_its_success(run: Run, step: str, code: int) -> None:
    """The early 221 is an error; 4yz says to try again later, and no command is written after it."""
    usual = ehlo("PIPELINING") if step == "EHLO" else b"250 ok\r\n"
    script = {step: End(usual + b"%d bye\r\n" % code)}

    async def main() -> None:
        async with client.smtp_client(host="127.0.0.1", port=peer.port, tls="none", timeout=TIMEOUT) as session:
            if step == "NOOP":
                await session.execute(smtp.Noop())
            for command in (smtp.Mail(reverse_path=None), smtp.Noop()):
                if code == 221:
                    with pytest.raises(client.ConnectionFailed):
                        await session.execute(command)
                else:
                    assert (await session.execute(command)).code == code

    with smtp_server(script) as peer:
        run(main)
    assert "MAIL" not in peer.verbs()


@on_both_loops
@pytest.mark.parametrize("code", [221, 451])
def test_message_is_not_accepted_by_a_reply_that_ends_the_session(run: Run, code: int) -> None:
    """The server said it after 354, before it had the message."""

    async def main() -> None:
        submitted = client.submit(
            MESSAGE, sender="a@example.org", recipients=["b@example.org"], host="127.0.0.1", port=peer.port, tls="none",
            timeout=TIMEOUT,
        )  # fmt: skip
        if code == 221:
            with pytest.raises(client.ConnectionFailed):
                await submitted
        else:
            result = await submitted
            assert not result.accepted
            assert [reply.code for reply in result.rejected.values()] == [451]

    with smtp_server({"DATA": b"354 go\r\n%d bye\r\n" % code}) as peer:
        run(main)
    assert peer.messages == []
