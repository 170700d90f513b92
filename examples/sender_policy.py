"""A sender policy: a user may only send from their own address.

    python examples/sender_policy.py --user alice:wonderland

Without it, each user can send mail in the name of every other user.  The policy holds for clients that have logged in
by SMTP, and for those that have a grant because they have logged in by POP3 (POP before SMTP).  The program serves SMTP
and POP3 for the domain example.test.  It allows logins without TLS, so it listens on 127.0.0.1 only.
"""

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Sequence
from typing import Any

from mailauth import Question, smtp
from mailauth_io import server, stores

DOMAINS = frozenset({"example.test"})
NOT_YOURS = smtp.Reply(553, "5.7.1", "sender address rejected: not owned by the user")


async def own_sender(view: server.SessionView, question: Question[Any]) -> server.Decision:
    if not isinstance(question, smtp.Rcpt) or view.mail is None:
        return server.PASS  # a grant can be made after MAIL: permission to relay is checked at RCPT
    user = view.identity or view.grant
    if user is None:
        return server.PASS  # mail from other servers has any sender
    if view.mail.reverse_path is None:
        return server.PASS  # a mail program sends read receipts from <> (RFC 8098 section 3)
    owner = stores.mailbox_name(str(view.mail.reverse_path), DOMAINS)
    if owner is not None and owner == stores.mailbox_name(user, DOMAINS):
        return server.PASS
    return NOT_YOURS


async def run(smtp_port: int, pop3_port: int, users: dict[str, bytes]) -> None:
    config = server.Config(smtp=smtp_port, pop3=pop3_port, domains=tuple(DOMAINS), legacy=True)
    kept = server.Stores(
        accounts=stores.MemoryAccounts(users), maildrops=stores.MemoryMaildrops(), outbox=stores.MemoryOutbox()
    )
    async with server.serve(config, kept, interceptors=[own_sender]) as running:
        print(f"listening on 127.0.0.1, port {running.smtp}")
        print(f"POP3 on port {running.pop3}", flush=True)
        await asyncio.Event().wait()


def user(text: str) -> tuple[str, bytes]:
    name, colon, password = text.partition(":")
    if not (name and colon and password):
        raise argparse.ArgumentTypeError("use NAME:PASSWORD")
    return name, password.encode()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Reject senders that do not belong to the user.")
    parser.add_argument("--user", type=user, action="append", required=True, metavar="NAME:PASSWORD")
    parser.add_argument("--smtp", type=int, default=0, metavar="PORT", help="default: a free port")
    parser.add_argument("--pop3", type=int, default=0, metavar="PORT", help="default: a free port")
    args = parser.parse_args(arguments)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(run(args.smtp, args.pop3, dict(args.user)))
    except (OSError, stores.AccountsError) as error:
        print(f"Cannot serve: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
