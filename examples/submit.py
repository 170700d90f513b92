"""Submit a message, and print for each recipient whether the server accepted it.

    python examples/submit.py --user alice mail.example.org 465 message.eml alice@example.org bob@example.org

The password is read from the environment variable MAIL_PASSWORD or from the terminal.  The exit status is 0 only if the
server accepted the message for every recipient.
"""

import argparse
import asyncio
import getpass
import os
import secrets
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from mailauth import Command, MessageChunk, ProtocolError, sasl, smtp
from mailauth_io.on_asyncio import AsyncClientConnection, connect

HELLO = smtp.Hello(domain="localhost")
CHUNK = 65_536


class NotDelivered(Exception):
    """The server did not accept the message for any recipient; the text is the reason."""


async def reply(client: AsyncClientConnection[smtp.ClientEvent]) -> smtp.Reply:
    """Return the reply to the oldest unanswered command."""
    event = await anext(client, None)
    if event is None:
        raise NotDelivered("the connection ended before the server replied")
    if isinstance(event, sasl.Authenticated):
        return smtp.Reply(235)
    if event.reply.code == 421:
        raise NotDelivered(f"the server closes the connection: {in_one_line(event.reply)}")
    return event.reply


async def expect_success(client: AsyncClientConnection[smtp.ClientEvent], step: str) -> None:
    answer = await reply(client)
    if not answer.positive:
        raise NotDelivered(f"{step}: {in_one_line(answer)}")


async def ask(client: AsyncClientConnection[smtp.ClientEvent], command: Command) -> None:
    """Send a command that must succeed."""
    client.send(command)
    await expect_success(client, type(command).__name__)


async def submit(
    client: AsyncClientConnection[smtp.ClientEvent],
    sender: smtp.Mailbox,
    recipients: Sequence[smtp.Mailbox],
    message: BinaryIO,
) -> dict[smtp.Mailbox, smtp.Reply]:
    """Return the final reply for each recipient.  The message was accepted for those with a positive reply."""
    ascii_only = all(str(mailbox).isascii() for mailbox in (sender, *recipients))
    client.send(smtp.Mail(reverse_path=sender, smtputf8=not ascii_only))
    for recipient in recipients:
        client.send(smtp.Rcpt(forward_path=recipient))
    client.send(smtp.Data())  # these are sent together if the server offers PIPELINING
    await expect_success(client, f"sender {sender}")
    results = {recipient: await reply(client) for recipient in recipients}
    verdict = await reply(client)
    if verdict.code == 354:  # go ahead
        while chunk := message.read(CHUNK):
            client.send(MessageChunk(data=chunk))
            await client.flush()
        client.send(smtp.MessageComplete())
        verdict = await reply(client)
    return {recipient: verdict if result.positive else result for recipient, result in results.items()}


def client_context(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise OSError(f"{ca}: {error}") from None  # the error itself does not contain the file name


async def run(args: argparse.Namespace, password: bytes) -> dict[smtp.Mailbox, smtp.Reply]:
    """Connect, log in and submit.  Login and message are sent without TLS only with ``--tls none``."""
    settings = smtp.ClientSettings(tls_required=args.tls != "none", lf_to_crlf=True)
    with args.message.open("rb") as message:
        async with await connect(
            lambda tls: smtp.ClientConnection(settings, tls=tls),
            args.host,
            args.port,
            ssl_context=None if args.tls == "none" else client_context(args.ca),
            implicit_tls=args.tls == "implicit",
        ) as client:
            await expect_success(client, "greeting")
            await ask(client, HELLO)
            if args.tls == "starttls":
                await ask(client, smtp.StartTls())
                await ask(client, HELLO)
            if args.user is not None:
                entropy = secrets.token_bytes(32)
                client.authenticate(
                    *sasl.password_mechanisms(args.user, password, entropy=entropy, tls=client.tls, clear_text=True)
                )
                await expect_success(client, "login")
            return await submit(client, args.sender, list(dict.fromkeys(args.recipients)), message)


def in_one_line(reply: smtp.Reply) -> str:
    return " ".join(str(reply).split())


def read_password() -> bytes:
    try:
        return os.fsencode(os.environ.get("MAIL_PASSWORD") or getpass.getpass())
    except EOFError:
        sys.exit("MAIL_PASSWORD is not set, and there is no terminal to read the password from.")


def port(text: str) -> int:
    if not 0 < int(text) < 65_536:
        raise ValueError
    return int(text)


def address(text: str) -> smtp.Mailbox:
    return smtp.Mailbox.parse(text)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Submit a message by SMTP.")
    parser.add_argument("host", help="name of the mail server")
    parser.add_argument("port", type=port, help="usually 465, or 587 with --tls starttls")
    parser.add_argument("message", type=Path, help="file with the message, including the header")
    parser.add_argument("sender", type=address)
    parser.add_argument("recipients", type=address, nargs="+", metavar="recipient")
    parser.add_argument("--user", help="user name; without it, there is no login")
    parser.add_argument(
        "--tls",
        choices=["implicit", "starttls", "none"],
        default="implicit",
        help="implicit TLS (default), by STARTTLS, or none (only for tests on one machine)",
    )
    parser.add_argument("--ca", type=Path, metavar="FILE", help="CA file (default: that of the system)")
    args = parser.parse_args(arguments)
    try:
        password = b"" if args.user is None else read_password()
        results = asyncio.run(run(args, password))
    except (NotDelivered, ProtocolError, OSError, UnicodeError) as error:
        print(f"Not delivered: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    for recipient, result in results.items():
        print(f"{recipient}: {'accepted' if result.positive else 'rejected'}: {in_one_line(result)}")
    accepted = sum(result.positive for result in results.values())
    print(f"Accepted for {accepted} of {len(results)} recipients.")
    return 0 if accepted == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
