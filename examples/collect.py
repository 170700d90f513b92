"""Collect mail by POP3 into a Maildir, and delete the stored messages from the server.

    python examples/collect.py --user alice mail.example.org 995 ~/Maildir

The password is read from the environment variable MAIL_PASSWORD or from the terminal.  A message is deleted from the
server only after it was received completely and written to disk.  After a failure, a message may be stored twice, but
none is lost.  The exit status is 0 only if every message was stored, and deleted unless --keep was given.
"""

import argparse
import asyncio
import getpass
import mailbox
import os
import secrets
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path

from mailauth import Command, MessageChunk, ProtocolError, pop3, sasl
from mailauth_io.on_asyncio import AsyncClientConnection, connect


class Failed(Exception):
    """The session cannot continue; the text is the reason."""


async def answer(client: AsyncClientConnection[pop3.ClientEvent]) -> tuple[pop3.Reply, bytes]:
    """Return the reply to the oldest unanswered command, and the message if the command was RETR."""
    content = bytearray()
    async for event in client:
        match event:
            case MessageChunk(data=data):
                content += data
            case pop3.ReplyReceived(command=None, reply=reply) if not reply.positive:
                raise Failed(f"the server ended the session: {reply}")
            case pop3.ReplyReceived(reply=reply) | pop3.AuthenticationRejected(reply=reply):
                return reply, bytes(content)
            case sasl.Authenticated():
                return pop3.Reply(True), b""
    raise Failed("the connection ended before the server replied")


async def ask(client: AsyncClientConnection[pop3.ClientEvent], command: Command) -> tuple[pop3.Reply, bytes]:
    client.send(command)
    return await answer(client)


async def expect_success(client: AsyncClientConnection[pop3.ClientEvent], step: str) -> pop3.Reply:
    reply, _ = await answer(client)
    if not reply.positive:
        raise Failed(f"{step}: {reply}")
    return reply


def make_maildir(maildir: Path) -> None:
    """Create the Maildir, or its missing folders.  Raises OSError if the directory contains anything else."""
    if not maildir.exists():
        maildir.mkdir(0o700)
    folders = {maildir / name for name in ("tmp", "new", "cur")}
    found = set(maildir.iterdir())
    if not (found <= folders or found >= folders):
        raise OSError(f"{maildir} is neither a Maildir nor empty")
    for folder in folders:
        folder.mkdir(0o700, exist_ok=True)


def store(maildir: Path, content: bytes) -> None:
    """Add a message to the Maildir and synchronize it to disk.  Raises OSError."""
    mailbox.Maildir(maildir).add(content.replace(b"\r\n", b"\n"))  # written to tmp, synchronized, moved to new
    for folder in (maildir / "new", maildir, maildir.parent):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def number_and_size(line: str) -> tuple[int, int]:
    """Parse a line of the response to LIST."""
    try:
        number, size = map(int, line.split()[:2])
    except ValueError:
        raise Failed(f"LIST: invalid message number or size: {line}") from None
    return number, size


async def collect(client: AsyncClientConnection[pop3.ClientEvent], maildir: Path, *, keep: bool) -> bool:
    """Store and delete every message.  Return whether this succeeded for all of them."""
    client.send(pop3.List())
    listing = await expect_success(client, "LIST")
    complete = True
    for number, size in map(number_and_size, listing.lines or ()):
        reply, content = await ask(client, pop3.Retrieve(number=number))
        if not reply.positive:
            result = f"not stored, left on the server: {reply}"
        elif len(content) < size:
            result = f"not stored, left on the server: only {len(content)} of {size} bytes arrived"
        else:
            store(maildir, content)
            result = "stored"
            if not keep:
                reply, _ = await ask(client, pop3.Dele(number=number))
                if not reply.positive:
                    result = f"stored, but left on the server: {reply}"
        print(f"Message {number}: {result}")
        complete = complete and result == "stored"
    client.send(pop3.Quit())  # the server deletes the messages only now
    await expect_success(client, "QUIT")
    return complete


def client_context(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise OSError(f"{ca}: {error}") from None  # the error itself does not contain the file name


async def run(args: argparse.Namespace, password: bytes) -> bool:
    """Connect, log in and collect.  Login and messages are sent without TLS only with ``--tls none``."""
    settings = pop3.ClientSettings(tls_required=args.tls != "none")
    async with await connect(
        lambda tls: pop3.ClientConnection(settings, tls=tls),
        args.host,
        args.port,
        ssl_context=None if args.tls == "none" else client_context(args.ca),
        implicit_tls=args.tls == "implicit",
    ) as client:
        await expect_success(client, "greeting")
        if args.tls == "starttls":
            client.send(pop3.Stls())
            await expect_success(client, "STLS")
        capabilities, _ = await ask(client, pop3.Capa())
        if any(line.split()[:1] == ["UTF8"] for line in capabilities.lines or ()):
            await ask(client, pop3.Utf8())  # otherwise messages with UTF-8 in their header cannot be retrieved
        entropy = secrets.token_bytes(32)
        client.authenticate(
            *sasl.password_mechanisms(args.user, password, entropy=entropy, tls=client.tls, clear_text=True)
        )
        await expect_success(client, "login")
        return await collect(client, args.maildir, keep=args.keep)


def read_password() -> bytes:
    try:
        return os.fsencode(os.environ.get("MAIL_PASSWORD") or getpass.getpass())
    except EOFError:
        sys.exit("MAIL_PASSWORD is not set, and there is no terminal to read the password from.")


def port(text: str) -> int:
    if not 0 < int(text) < 65_536:
        raise ValueError
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Collect mail by POP3.")
    parser.add_argument("host", help="name of the mail server")
    parser.add_argument("port", type=port, help="usually 995, or 110 with --tls starttls")
    parser.add_argument("maildir", type=Path, help="Maildir for the messages; created if it does not exist")
    parser.add_argument("--user", required=True, help="user name")
    parser.add_argument("--keep", action="store_true", help="do not delete the messages from the server")
    parser.add_argument(
        "--tls",
        choices=["implicit", "starttls", "none"],
        default="implicit",
        help="implicit TLS (default), by STLS, or none (only for tests on one machine)",
    )
    parser.add_argument("--ca", type=Path, metavar="FILE", help="CA file (default: that of the system)")
    args = parser.parse_args(arguments)
    try:
        make_maildir(args.maildir)
        password = read_password()
        complete = asyncio.run(run(args, password))
    except (Failed, ProtocolError, OSError, UnicodeError) as error:
        print(f"Stopped; no message was lost: {str(error) or type(error).__name__}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
