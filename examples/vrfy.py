"""An SMTP server that answers VRFY from a directory: its row replaces the one of mailauth, which always replies 252.

    python examples/vrfy.py --domain example.org alice=alice@example.org bob=bob@far.test smith=a@b.test smith=c@d.test

The replies are those of RFC 5321 section 3.5: 250 for a mailbox here, 251 for a name whose mail is forwarded, 252 for
an address that cannot be checked, 550 for an unknown name and 553 for an ambiguous one.  They tell strangers which
addresses exist (section 7.3), so a public server should ask for a login first.  This one accepts no mail, and listens
on 127.0.0.1.
"""

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from mailauth import ACCEPT, Command, ExtensionQuestion, Malformed, Question, smtp
from mailauth_io.on_asyncio import AsyncServerConnection, serve_smtp


@dataclass(frozen=True)
class Verify(Command, ExtensionQuestion[smtp.Verdict]):
    """``VRFY``: asks whether a name or an address is valid."""

    name: str

    @property
    def unavailable(self) -> smtp.Reply:
        return smtp.Reply(252, "2.5.2", "cannot verify now, but will try to deliver")

    @classmethod
    def parse(cls, argument: str) -> Self:
        """Build the command from the text after the verb.  Raises Malformed."""
        name = smtp.Vrfy.parse(argument).argument
        if not name.isascii():  # the replies quote it, and they are ASCII
            raise Malformed("VRFY requires an ASCII name")
        return cls(name)

    def to_wire(self) -> bytes:
        """Return the line, for a client."""
        return smtp.Vrfy(argument=self.name).to_wire()


ALWAYS = (smtp.State.CONNECTED, smtp.State.READY, smtp.State.MAIL, smtp.State.RCPT, smtp.State.CHUNKS)

VRFY = smtp.Verb(
    "VRFY",  # the name of a row of mailauth: this row replaces it
    kind=Verify,
    parse=Verify.parse,
    states={state: state for state in ALWAYS},
    accepted=smtp.Reply(252, "2.5.2", "cannot verify, but will try to deliver"),
    extension="VRFY",
)


@dataclass(frozen=True)
class Directory:
    domain: str
    entries: Sequence[tuple[str, smtp.Mailbox]]

    def verify(self, name: str) -> smtp.Reply:
        """Return the reply to VRFY with a name of the directory, or with an address."""
        address = name.removeprefix("<").removesuffix(">").lower()
        found = {entry for nickname, entry in self.entries if address in (nickname.lower(), str(entry).lower())}
        if len(found) > 1:
            return smtp.Reply(553, "5.1.4", "ambiguous: " + ", ".join(sorted(f"<{entry}>" for entry in found)))
        for entry in found:
            if entry.domain.lower() == self.domain.lower():
                return smtp.Reply(250, "2.1.5", f"<{entry}>")
            return smtp.Reply(251, "2.1.5", f"not local, will forward to <{entry}>")
        if "@" in address and not address.endswith(f"@{self.domain.lower()}"):
            return smtp.Reply(252, "2.5.2", "not local, cannot verify")
        return smtp.Reply(550, "5.1.1", "no such mailbox")

    async def session(self, connection: AsyncServerConnection[smtp.ServerEvent]) -> None:
        async for event in connection:
            match event:
                case Verify(name=name) as question:
                    connection.answer(question, self.verify(name))
                case smtp.Connected() as question:
                    connection.answer(question, ACCEPT)
                case Question() as question:
                    connection.decline(question)
                case _:
                    pass


def entry(text: str) -> tuple[str, smtp.Mailbox]:
    name, _, address = text.partition("=")
    mailbox = smtp.Mailbox.parse(address)  # raises ValueError
    if not (name and name.isascii() and address.isascii()):
        raise ValueError("use NAME=ADDRESS in ASCII")
    return name, mailbox


async def run(directory: Directory, port: int) -> None:
    settings = smtp.ServerSettings(host_name=directory.domain, verbs=(VRFY,))
    async with serve_smtp(directory.session, settings, port=port) as listener:
        print(f"listening on {listener.address}, port {listener.port}", flush=True)
        await asyncio.Event().wait()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Answer VRFY from a directory.")
    parser.add_argument("entries", type=entry, nargs="+", metavar="NAME=ADDRESS", help="an entry of the directory")
    parser.add_argument("--domain", required=True, help="the local domain")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: a free port)")
    args = parser.parse_args(arguments)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(run(Directory(args.domain, args.entries), args.port))
    except OSError as error:
        print(f"Cannot serve: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
