"""An LMTP server that stores the mail of Postfix in Maildirs, one for each user.

    python examples/lmtp_server.py --port 2003 --user alice --user bob ~/maildirs

Postfix passes it the mail for a domain with these lines of main.cf:

    virtual_mailbox_domains = example.org
    virtual_transport = lmtp:inet:127.0.0.1:2003

LMTP (RFC 2033) is SMTP with one reply for each recipient after the message.  Postfix keeps the message in its queue for
the recipients whose copy could not be stored, and for no others.  So the server needs no queue of its own.

It listens on 127.0.0.1, and accepts mail from every program on this machine.
"""

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from mailauth import ACCEPT, MessageChunk, Notice, Question, smtp
from mailauth_io import stores
from mailauth_io.on_asyncio import AsyncServerConnection, serve_smtp

SETTINGS = smtp.ServerSettings(lmtp=True, chunking=True)
UNKNOWN = smtp.Reply(550, "5.1.1", "no such mailbox")
TRY_AGAIN = smtp.Reply(451, "4.3.0", "the message could not be stored, try again later")


class LmtpServer:
    def __init__(self, maildrops: stores.Maildrops, users: Collection[str]) -> None:
        self.maildrops = maildrops
        self.users = frozenset(users)
        self.budget = stores.Budget()

    async def session(self, connection: AsyncServerConnection[smtp.ServerEvent]) -> None:
        sender: smtp.Mailbox | None = None
        content = bytearray()
        async for event in connection:
            match event:
                case smtp.Mail(reverse_path=reverse_path) as question:
                    sender = reverse_path
                    connection.answer(question, ACCEPT)
                case smtp.Rcpt(forward_path=recipient) as question:
                    connection.answer(question, ACCEPT if recipient.local_part.lower() in self.users else UNKNOWN)
                case smtp.Data() as question:
                    content.clear()
                    connection.answer(question, ACCEPT)
                case MessageChunk(data=data):
                    content += data
                case smtp.MessageAborted():
                    content.clear()
                case smtp.MessageComplete(recipients=recipients) as question:
                    verdicts = [await self.store(sender, recipient, bytes(content)) for recipient in recipients]
                    connection.answer(question, smtp.PerRecipient(tuple(verdicts)))
                case smtp.Connected() as question:
                    connection.answer(question, ACCEPT)
                case Question() as question:  # of a login or of STARTTLS, which are not offered
                    connection.decline(question)
                case Notice():
                    pass

    async def store(self, sender: smtp.Mailbox | None, recipient: smtp.Mailbox, message: bytes) -> smtp.Verdict:
        """Store the copy of one recipient.  Return its verdict, after the copy is on disk."""
        head = f"Return-Path: <{sender or ''}>\r\nDelivered-To: {recipient}\r\n".encode("ascii")
        try:
            content = stores.MessageContent.of(message, self.budget)
            try:
                staged = await self.maildrops.stage(recipient.local_part.lower(), head, content)
            finally:
                content.release()
            try:
                await staged.commit()
            except BaseException:
                staged.discard()
                raise
        except (OSError, stores.BudgetExceeded) as error:
            print(f"The copy for {recipient} could not be stored: {error!r}", file=sys.stderr)
            return TRY_AGAIN
        return ACCEPT


async def run(server: LmtpServer, port: int) -> None:
    async with serve_smtp(server.session, SETTINGS, port=port) as listener:
        print(f"listening on {listener.address}, port {listener.port}", flush=True)
        await asyncio.Event().wait()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Accept mail by LMTP and store it in Maildirs.")
    parser.add_argument("directory", type=Path, help="directory of the Maildirs, which are created on first use")
    parser.add_argument("--user", action="append", required=True, help="user who gets mail; may be repeated")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: a free port)")
    args = parser.parse_args(arguments)
    invalid = [name for name in args.user if stores.mailbox_name(name, frozenset()) != name]
    if invalid:
        parser.error(f"invalid user {invalid[0]!r}: use a name in lower case, without a domain")
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(run(LmtpServer(stores.MaildirMaildrops(args.directory), args.user), args.port))
    except OSError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
