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
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path

from mailauth_io import client


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


async def collect(maildrop: client.Pop3Client, maildir: Path, *, keep: bool) -> bool:
    """Store and delete every message.  Return whether this succeeded for all of them."""
    complete = True
    for listed in await maildrop.listing():
        result, stored = "stored", False
        try:
            content = await maildrop.retrieve(listed.number)
            if len(content) < listed.size:
                result = f"not stored, left on the server: only {len(content)} of {listed.size} bytes arrived"
            else:
                store(maildir, content)
                stored = True
                if not keep:
                    await maildrop.delete(listed.number)
        except client.ServerRejected as error:
            result = f"{'stored, but' if stored else 'not stored,'} left on the server: {error.reply}"
        print(f"Message {listed.number}: {result}")
        complete = complete and result == "stored"
    return complete


def client_context(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise OSError(f"{ca}: {error}") from None  # the error itself does not contain the file name


async def run(args: argparse.Namespace, password: bytes) -> bool:
    """Connect, log in and collect.  Login and messages are sent without TLS only with ``--tls none``."""
    async with client.pop3_client(
        host=args.host,
        port=args.port,
        login=client.Login(args.user, password),
        tls=args.tls,
        ssl_context=None if args.tls == "none" else client_context(args.ca),
    ) as maildrop:  # the server deletes the messages at the end, if no exception was raised
        return await collect(maildrop, args.maildir, keep=args.keep)


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
    except (client.ClientError, OSError, ValueError) as error:
        print(f"Stopped; no message was lost: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0 if complete else 1


if __name__ == "__main__":
    sys.exit(main())
