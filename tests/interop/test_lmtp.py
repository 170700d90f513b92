"""LMTP (RFC 2033) with Postfix: its LMTP client and smtp-source with our server, and our client with smtp-sink."""

from __future__ import annotations

import smtplib
from pathlib import Path

import attrs
import pytest

from mailauth import Command, MessageChunk, smtp
from tests.interop.client_config import HOST, SENDER, program, run
from tests.interop.peers import running
from tests.interop.smtp_peers import POSTFIX
from tests.interop.test_next_hops import smtp_sink
from tests.io import loops
from tests.io.grant_stores import on_both_loops
from tests.io.lmtp_store import ALICE, BOB, MESSAGE, NOBODY, serving
from tests.io.server_support import TIMEOUT


@on_both_loops
async def test_postfix_notes_the_reply_for_each_recipient(loop: loops.Loop) -> None:
    """One message for three recipients: one is delivered, one deferred after the message, and one rejected at RCPT."""

    def deliver(port: int) -> None:
        settings = f"""
virtual_mailbox_domains = store.test
virtual_mailbox_maps =
virtual_transport = lmtp:inet:{HOST}:{port}
"""
        files = dict(POSTFIX.files)
        kept = [line for line in files["etc/postfix/main.cf"].splitlines() if not line.startswith("virtual_mailbox_")]
        files["etc/postfix/main.cf"] = "\n".join(kept) + settings
        files["etc/postfix/master.cf"] += "lmtp unix - - n - - lmtp\n"
        with running(attrs.evolve(POSTFIX, files=files)) as peer:
            with smtplib.SMTP(HOST, peer.ports.smtp or 0, "client.test", timeout=TIMEOUT) as client:
                assert client.sendmail(SENDER, [str(each) for each in (ALICE, BOB, NOBODY)], MESSAGE) == {}
            for recipient, result in (
                (ALICE, "status=sent (250 2.0.0 message accepted)"),
                (BOB, f"status=deferred (host {HOST}[{HOST}] said: 452 4.2.2 mailbox full"),
                (NOBODY, f"status=bounced (host {HOST}[{HOST}] said: 550 5.1.1 no such mailbox"),
            ):
                peer.wait_for(result)
                assert any(f"to=<{recipient}>" in line and result in line for line in peer.log().splitlines())

    async with serving(loop) as (store, port):
        await loop.in_thread(deliver, port)
    assert list(store.mail) == ["alice"]
    assert store.mail["alice"][0].endswith(MESSAGE.partition(b"\r\n")[2])


@on_both_loops
async def test_smtp_source_delivers_to_two_recipients_in_parallel_sessions(loop: loops.Loop, tmp_path: Path) -> None:
    def deliver(port: int) -> None:
        words = ["-L", "-s", "3", "-m", "12", "-r", "2", "-l", "5000", "-f", SENDER, "-t", str(ALICE)]
        run("smtp-source", [*words, f"{HOST}:{port}"], home=tmp_path)

    program("smtp-source")
    async with serving(loop) as (store, port):
        await loop.in_thread(deliver, port)
    assert {name: len(mail) for name, mail in store.mail.items()} == {"alice": 12, "2alice": 12}


@on_both_loops
@pytest.mark.parametrize("options", [(), ("-p",)], ids=["pipelining", "no pipelining"])
async def test_client_gets_a_reply_of_smtp_sink_for_each_recipient(
    loop: loops.Loop, options: tuple[str, ...], tmp_path: Path
) -> None:
    commands: tuple[Command, ...] = (
        smtp.Mail(reverse_path=None), smtp.Rcpt(forward_path=ALICE), smtp.Rcpt(forward_path=BOB), smtp.Data(),
    )  # fmt: skip
    codes: list[int] = []
    with smtp_sink(tmp_path, "-L", *options) as port:
        async with await loop.adapter.connect(smtp.ClientConnection(), HOST, port) as client:

            async def receive(replies: int) -> None:
                async for event in client:
                    if isinstance(event, smtp.ReplyReceived):
                        codes.append(event.reply.code)
                        replies -= 1
                    if not replies:
                        return

            await receive(1)
            client.send(smtp.Hello(domain="client.test", lmtp=True))
            await receive(1)
            for _ in range(2):
                for command in commands:
                    client.send(command)
                await receive(4)
                client.send(MessageChunk(data=MESSAGE))
                client.send(smtp.MessageComplete())
                await receive(2)
        stored = [path.read_bytes() for path in tmp_path.iterdir()]
    assert codes == [220, 250, *2 * [250, 250, 250, 354, 250, 250]]
    assert len(stored) == 2
    assert all(b"At six." in message for message in stored)
