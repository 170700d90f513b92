"""A POP3 server for one user, whose messages are in a Maildir.

    MAIL_PASSWORD=secret python examples/maildrop_server.py --user alice ~/Maildir

It listens on 127.0.0.1.  With --certificate it offers STLS and accepts the password only inside TLS; without a
certificate it accepts the password in clear text, which is good enough for a trial on one machine.

The library answers STAT, LIST and UIDL, cuts messages for TOP, and remembers what DELE marked.  This program opens the
maildrop, reads messages, and deletes the marked ones when the client says QUIT, never before.
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

from mailauth import ACCEPT, Accept, Notice, ProtocolError, pop3, sasl
from mailauth_io.certificates import server_context
from mailauth_io.on_asyncio import ServerConnection, serve_pop3

A = TypeVar("A")


class Maildrop:
    """The messages of a Maildir as one session sees them.  The methods raise OSError."""

    def __init__(self, maildir: Path) -> None:
        self.maildir = maildir
        self.paths: list[Path] = []  # message 1 is the first

    def open(self) -> pop3.Maildrop:
        """List what is there now; what arrives later belongs to the next session."""
        found = [*self.maildir.glob("new/[!.]*"), *self.maildir.glob("cur/[!.]*")]
        self.paths = sorted(found, key=lambda path: path.name)  # a name begins with the time: the oldest is first
        messages = [
            pop3.Message(size=len(self.read(number).data), unique_id=unique_id(path))
            for number, path in enumerate(self.paths, start=1)
        ]
        return pop3.Maildrop(messages=tuple(messages))

    def read(self, number: int) -> pop3.Content:
        """A message whole, for TOP as well.  In POP3 every line ends in CRLF, the last one, too."""
        lines = self.paths[number - 1].read_bytes().splitlines()
        return pop3.Content(data=b"".join(line + b"\r\n" for line in lines))

    def delete(self, numbers: Iterable[int]) -> Accept:
        for number in numbers:
            self.paths[number - 1].unlink()
        return ACCEPT


def unique_id(path: Path) -> str:
    """Stays the same while the message does: the flags in a file name, after the colon, may change."""
    return hashlib.sha256(os.fsencode(path.name.partition(":")[0])).hexdigest()


async def from_disk(action: Callable[[], A]) -> A | pop3.Unavailable:
    """The result of *action*, which runs in a thread.  If it fails, the client is told to try again later."""
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

    async def session(self, connection: ServerConnection[pop3.ServerEvent]) -> None:
        maildrop = Maildrop(self.maildir)
        try:
            async for event in connection:
                match event:
                    case sasl.CheckPassword(authentication_identity=name, password=password) as question:
                        right = hmac.compare_digest(password, self.password) and name == self.user
                        connection.answer(question, ACCEPT if right else sasl.Refusal.BAD_CREDENTIALS)
                    case sasl.FetchSecret(authentication_identity=name) as question:  # for APOP and CRAM-MD5
                        connection.answer(question, self.password if name == self.user else None)
                    case sasl.Authorize() as question:  # alice asks to act as somebody else
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
                    case pop3.RetrieveMore() as question:  # asked only after a Content that says last=False
                        connection.answer(question, question.unavailable)
                    case pop3.Update(deleted=numbers) as question:
                        connection.answer(question, await from_disk(partial(maildrop.delete, numbers)))
                    case pop3.Connected() | pop3.Stls() as question:
                        connection.answer(question, ACCEPT)
                    case Notice():
                        pass
                    case unreachable:
                        assert_never(unreachable)
        finally:
            if self.opened is maildrop:
                self.opened = None


def make_maildir(maildir: Path) -> None:
    """Create the Maildir, or what an empty directory lacks to be one.  Raises OSError if the path is something else."""
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
        raise OSError(f"{files}: {error}") from None  # else it does not name the file
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
        sys.exit("There is no terminal to ask for the password, and MAIL_PASSWORD is not set.")
    except KeyboardInterrupt:
        sys.exit(130)


def port(text: str) -> int:
    if not 0 <= int(text) < 65_536:
        raise ValueError
    return int(text)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Serve the messages of a Maildir by POP3.")
    parser.add_argument("maildir", type=Path, help="where the messages are; made if it is missing")
    parser.add_argument("--user", required=True, help="who may log in; the password is taken from MAIL_PASSWORD")
    parser.add_argument("--port", type=port, default=0, help="where to listen (a free port)")
    parser.add_argument("--certificate", type=Path, metavar="FILE", help="in PEM, for STLS")
    parser.add_argument("--key", type=Path, metavar="FILE", help="in PEM, if the certificate's file does not hold it")
    args = parser.parse_args(arguments)
    if args.key and not args.certificate:
        parser.error("--key needs --certificate")
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
