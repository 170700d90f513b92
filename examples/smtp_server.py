"""A mail server that stores what it accepts in a Maildir.

    MAIL_PASSWORD=secret python examples/smtp_server.py --user alice --domain example.org ~/Maildir

It accepts mail for its domain from all clients, and mail for any domain from the authenticated user.  It listens on
127.0.0.1.  With --certificate it offers STARTTLS and accepts the password only with TLS.  Without a certificate it
accepts the password in clear text, which is only suitable for tests on one machine.

Every question of the library has its own case.  If one is missing, mypy reports it at assert_never.
"""

import argparse
import asyncio
import getpass
import hmac
import mailbox
import os
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import assert_never

from mailauth import ACCEPT, ExtensionQuestion, MessageChunk, Notice, ProtocolError, sasl, smtp
from mailauth.policy import RelayPolicy
from mailauth_io.adapters.tls.certificates import server_context
from mailauth_io.on_asyncio import AsyncServerConnection, serve_smtp

TRY_AGAIN = smtp.Reply(451, "4.3.0", "the message could not be stored, try again later")


class MailServer:
    def __init__(self, maildir: Path, user: str, password: bytes, domain: str) -> None:
        self.maildir = maildir
        self.user = user
        self.password = password
        self.policy = RelayPolicy(domains=[domain])

    async def session(self, connection: AsyncServerConnection[smtp.ServerEvent]) -> None:
        sender: smtp.Mailbox | None = None
        content = bytearray()
        async for event in connection:
            match event:
                case sasl.CheckPassword(authentication_identity=name, password=password) as question:
                    valid = hmac.compare_digest(password, self.password) and name == self.user
                    connection.answer(question, ACCEPT if valid else sasl.Refusal.BAD_CREDENTIALS)
                case sasl.FetchSecret(authentication_identity=name) as question:  # for CRAM-MD5
                    connection.answer(question, self.password if name == self.user else None)
                case sasl.Authorize() as question:  # a request to act as another user
                    connection.answer(question, sasl.Refusal.NOT_AUTHORIZED)
                case smtp.Mail(reverse_path=reverse_path) as question:
                    sender = reverse_path
                    connection.answer(question, ACCEPT)
                case smtp.Rcpt(forward_path=recipient) as question:
                    decision = self.policy.decide(recipient, identity=connection.identity, grant=None)
                    connection.answer(question, decision.verdict)
                case smtp.Data() as question:
                    content.clear()
                    connection.answer(question, ACCEPT)
                case MessageChunk(data=data):
                    content += data
                case smtp.MessageAborted():
                    content.clear()
                case smtp.MessageComplete(recipients=recipients) as question:
                    try:
                        await asyncio.to_thread(self.store, sender, recipients, bytes(content))
                    except OSError as error:
                        print(f"A message could not be stored: {error}", file=sys.stderr)
                        connection.answer(question, TRY_AGAIN)
                    else:
                        connection.answer(question, ACCEPT)
                case smtp.Connected() | smtp.StartTls() as question:
                    connection.answer(question, ACCEPT)
                case sasl.NonPasswordQuestion() | ExtensionQuestion() as question:  # not offered with these settings
                    connection.decline(question)
                case Notice():
                    pass
                case _:
                    assert_never(event)

    def store(self, sender: smtp.Mailbox | None, recipients: Sequence[smtp.Mailbox], content: bytes) -> None:
        """Add a message to the Maildir and synchronize it to disk.  Raises OSError."""
        envelope = [f"Return-Path: <{sender or ''}>\n", *(f"Delivered-To: {recipient}\n" for recipient in recipients)]
        message = "".join(envelope).encode() + content.replace(b"\r\n", b"\n")
        mailbox.Maildir(self.maildir).add(message)  # written to tmp, synchronized, moved to new
        descriptor = os.open(self.maildir / "new", os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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


def tls_context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    context = server_context()
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:
        files = certificate if key is None else f"{certificate} or {key}"
        raise OSError(f"{files}: {error}") from None  # the error itself does not contain the file name
    return context


async def run(args: argparse.Namespace, server: MailServer) -> None:
    context = None
    settings = smtp.ServerSettings(mechanisms_without_tls=frozenset(sasl.DEFAULT_MECHANISMS.names))
    if args.certificate:
        context = tls_context(args.certificate, args.key)
        settings = smtp.ServerSettings(starttls=True)
    async with serve_smtp(server.session, settings, port=args.port, ssl_context=context) as listener:
        print(f"listening on {listener.address}, port {listener.port}", flush=True)
        await asyncio.Event().wait()


def read_password() -> bytes:
    try:
        return os.fsencode(os.environ.get("MAIL_PASSWORD") or getpass.getpass())
    except EOFError:
        sys.exit("MAIL_PASSWORD is not set, and there is no terminal to read the password from.")
    except KeyboardInterrupt:
        sys.exit(130)


def port(text: str) -> int:
    if not 0 <= int(text) < 65_536:
        raise ValueError
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Accept mail by SMTP and store it in a Maildir.")
    parser.add_argument("maildir", type=Path, help="Maildir for the messages; created if it does not exist")
    parser.add_argument("--user", required=True, help="user name; the password is read from MAIL_PASSWORD")
    parser.add_argument("--domain", required=True, help="accept mail for this domain from all clients")
    parser.add_argument("--port", type=port, default=0, help="port to listen on (default: a free port)")
    parser.add_argument("--certificate", type=Path, metavar="FILE", help="certificate for STARTTLS, in PEM")
    parser.add_argument("--key", type=Path, metavar="FILE", help="private key in PEM, if not in that file")
    args = parser.parse_args(arguments)
    if args.key and not args.certificate:
        parser.error("--key requires --certificate")
    password = read_password()
    try:
        make_maildir(args.maildir)
        asyncio.run(run(args, MailServer(args.maildir, args.user, password, args.domain)))
    except (OSError, ProtocolError) as error:
        print(f"Cannot serve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
