"""A POP3 server for one user, whose messages are in a Maildir.

    MAIL_PASSWORD=secret python examples/maildrop_server.py --user alice ~/Maildir

It listens on 127.0.0.1.  With --certificate it offers STLS and accepts the password only with TLS.  Without a
certificate it accepts the password in clear text, which is only suitable for tests on one machine.

The library answers STAT, LIST and UIDL, cuts messages for TOP, and keeps track of deletion marks.  This program opens
the maildrop, reads messages, and deletes the marked messages at QUIT, never before.
"""

import argparse
import asyncio
import getpass
import hashlib
import hmac
import os
import ssl
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar, assert_never

from mailauth import ACCEPT, Accept, ExtensionQuestion, Notice, ProtocolError, pop3, sasl
from mailauth_io.adapters.tls.certificates import server_context
from mailauth_io.on_asyncio import AsyncServerConnection, serve_pop3

A = TypeVar("A")


class Maildrop:
    """The messages of a Maildir in one session.  The methods raise OSError."""

    def __init__(self, maildir: Path) -> None:
        self.maildir = maildir
        self.paths: list[Path] = []  # message 1 is the first

    def open(self) -> pop3.Maildrop:
        """List the current messages; messages that arrive later are in the next session."""
        found = [*self.maildir.glob("new/[!.]*"), *self.maildir.glob("cur/[!.]*")]
        self.paths = sorted(found, key=lambda path: path.name)  # oldest first, because a name begins with the time
        messages = [
            pop3.Message(size=len(self.read(number).data), unique_id=unique_id(path))
            for number, path in enumerate(self.paths, start=1)
        ]
        return pop3.Maildrop(messages=tuple(messages))

    def read(self, number: int) -> pop3.Content:
        """Return the complete message, also for TOP.  In POP3 every line ends with CRLF, including the last."""
        lines = self.paths[number - 1].read_bytes().splitlines()
        return pop3.Content(data=b"".join(line + b"\r\n" for line in lines))

    def delete(self, numbers: Iterable[int]) -> Accept:
        for number in numbers:
            self.paths[number - 1].unlink()
        return ACCEPT


def unique_id(path: Path) -> str:
    """Return a unique-id that does not depend on the flags, which follow the colon in the file name and may change."""
    return hashlib.sha256(os.fsencode(path.name.partition(":")[0])).hexdigest()


async def from_disk(action: Callable[[], A]) -> A | pop3.Unavailable:
    """Run *action* in a thread and return its result.  On OSError, return TEMPORARY: the client may try again later."""
    try:
        return await asyncio.to_thread(action)
    except OSError as error:
        print(f"The Maildir failed: {error}", file=sys.stderr)
        return pop3.Unavailable.TEMPORARY


class MaildropServer:
    def __init__(self, maildir: Path, user: str, password: bytes) -> None:
        self.maildir = maildir
        self.user = user
        self.password = password
        self.opened: Maildrop | None = None  # by one session at a time (RFC 1939 section 4)

    async def session(self, connection: AsyncServerConnection[pop3.ServerEvent]) -> None:
        maildrop = Maildrop(self.maildir)
        try:
            async for event in connection:
                match event:
                    case sasl.CheckPassword(authentication_identity=name, password=password) as question:
                        valid = hmac.compare_digest(password, self.password) and name == self.user
                        connection.answer(question, ACCEPT if valid else sasl.Refusal.BAD_CREDENTIALS)
                    case sasl.FetchSecret(authentication_identity=name) as question:  # for APOP and CRAM-MD5
                        connection.answer(question, self.password if name == self.user else None)
                    case sasl.Authorize() as question:  # a request to act as another user
                        connection.answer(question, sasl.Refusal.NOT_AUTHORIZED)
                    case pop3.OpenMaildrop() as question if self.opened not in (None, maildrop):
                        connection.answer(question, pop3.Unavailable.IN_USE)
                    case pop3.OpenMaildrop() as question:
                        self.opened = maildrop
                        answer = await from_disk(maildrop.open)
                        if answer is pop3.Unavailable.TEMPORARY:
                            self.opened = None
                        connection.answer(question, answer)
                    case pop3.Retrieve(number=number) as question:
                        connection.answer(question, await from_disk(partial(maildrop.read, number)))
                    case pop3.RetrieveMore() as question:  # asked only after a Content with last=False
                        connection.decline(question)
                    case pop3.Update(deleted=numbers) as question:
                        connection.answer(question, await from_disk(partial(maildrop.delete, numbers)))
                    case pop3.Connected() | pop3.Stls() as question:
                        connection.answer(question, ACCEPT)
                    case sasl.NonPasswordQuestion() | ExtensionQuestion() as question:  # not offered here
                        connection.decline(question)
                    case Notice():
                        pass
                    case _:
                        assert_never(event)
        finally:
            if self.opened is maildrop:
                self.opened = None


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


async def run(args: argparse.Namespace, server: MaildropServer) -> None:
    context = None
    settings = pop3.ServerSettings(mechanisms_without_tls=frozenset(pop3.DEFAULT_MECHANISMS.names))
    if args.certificate:
        context = tls_context(args.certificate, args.key)
        settings = pop3.ServerSettings(stls=True)
    async with serve_pop3(server.session, settings, port=args.port, ssl_context=context) as listener:
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
    parser = argparse.ArgumentParser(description="Serve the messages of a Maildir by POP3.")
    parser.add_argument("maildir", type=Path, help="Maildir of the messages; created if it does not exist")
    parser.add_argument("--user", required=True, help="user name; the password is read from MAIL_PASSWORD")
    parser.add_argument("--port", type=port, default=0, help="port to listen on (default: a free port)")
    parser.add_argument("--certificate", type=Path, metavar="FILE", help="certificate for STLS, in PEM")
    parser.add_argument("--key", type=Path, metavar="FILE", help="private key in PEM, if not in that file")
    args = parser.parse_args(arguments)
    if args.key and not args.certificate:
        parser.error("--key requires --certificate")
    password = read_password()
    try:
        make_maildir(args.maildir)
        asyncio.run(run(args, MaildropServer(args.maildir, args.user, password)))
    except (OSError, ProtocolError) as error:
        print(f"Cannot serve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
