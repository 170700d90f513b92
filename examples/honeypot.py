"""A honeypot: accept any login, any recipient and any message, deliver nothing, and print what came.

    python examples/honeypot.py --smtp 2525 --pop3 1110

It looks like an open relay with a weak password.  Each login and each message is one line of JSON; passwords are not
printed.  No mail leaves this program: an interceptor takes every message before the server stores it.
"""

import argparse
import asyncio
import contextlib
import json
import sys
from collections.abc import Sequence
from typing import Any

from mailauth import ACCEPT, Question, sasl, smtp
from mailauth_io import server, stores

TAKEN = smtp.Reply(250, "2.0.0", "queued")


def report(view: server.SessionView, event: str, **fields: object) -> None:
    line = {"event": event, "protocol": view.protocol, "peer": view.peer.address, "identity": view.identity, **fields}
    print(json.dumps(line), flush=True)


async def accept_everything(view: server.SessionView, question: Question[Any]) -> server.Decision:
    match question:
        case sasl.CheckPassword(authentication_identity=name, mechanism=mechanism):
            report(view, "login", name=name, mechanism=mechanism)
            return server.Delay(0.5, then=ACCEPT)  # as long as a server needs that hashes the password
        case sasl.Authorize() | smtp.Rcpt():
            return ACCEPT
        case smtp.MessageComplete():
            assert view.mail is not None
            assert view.message is not None
            recipients = [str(recipient.forward_path) for recipient in view.recipients]
            sender = str(view.mail.reverse_path or "")
            report(view, "message", sender=sender, recipients=recipients, size=view.message.size)
            return TAKEN
        case _:
            return server.PASS


async def run(smtp_port: int, pop3_port: int) -> None:
    config = server.Config(
        smtp=smtp_port,
        pop3=pop3_port,
        domains=("mail.example.test",),
        mechanisms=("PLAIN", "LOGIN", "USER"),  # with the others, the server must know the password
        legacy=True,  # offer them without TLS
        grant_lifetime=0,
    )
    kept = server.Stores(
        accounts=stores.MemoryAccounts({}), maildrops=stores.MemoryMaildrops(), outbox=stores.MemoryOutbox()
    )
    interceptors = [server.Interceptor(accept_everything, may_relay=True)]
    async with server.serve(config, kept, interceptors=interceptors) as running:
        print(f"listening on 127.0.0.1, port {running.smtp}", flush=True)
        print(json.dumps({"event": "listening", "smtp": running.smtp, "pop3": running.pop3}), flush=True)
        await asyncio.Event().wait()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Accept every login and every message, and deliver nothing.")
    parser.add_argument("--smtp", type=int, default=0, metavar="PORT", help="default: a free port")
    parser.add_argument("--pop3", type=int, default=0, metavar="PORT", help="default: a free port")
    args = parser.parse_args(arguments)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(run(args.smtp, args.pop3))
    except OSError as error:
        print(f"Cannot serve: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
