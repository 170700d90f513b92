"""Submit a message, and print for each recipient whether the server accepted it.

    python examples/submit.py --user alice mail.example.org 465 message.eml alice@example.org bob@example.org

The password is read from the environment variable MAIL_PASSWORD or from the terminal.  The exit status is 0 only if the
server accepted the message for every recipient.
"""

import argparse
import asyncio
import getpass
import os
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path

from mailauth import smtp
from mailauth_io import client


async def run(args: argparse.Namespace, login: client.Login | None) -> client.SubmitResult:
    """Connect, log in and submit.  Login and message are sent without TLS only with ``--tls none``."""
    with args.message.open("rb") as message:
        return await client.submit(
            message,
            args.sender,
            args.recipients,
            host=args.host,
            port=args.port,
            login=login,
            tls=args.tls,
            ssl_context=None if args.tls == "none" else client_context(args.ca),
        )


def client_context(ca: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca)
    except OSError as error:
        raise OSError(f"{ca}: {error}") from None  # the error itself does not contain the file name


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
        login = None if args.user is None else client.Login(args.user, read_password())
        result = asyncio.run(run(args, login))
    except (client.ClientError, OSError, ValueError) as error:
        outcome = "Not confirmed" if isinstance(error, client.DeliveryUnknown) else "Not delivered"
        print(f"{outcome}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    for recipient, reply in result.replies.items():
        print(f"{recipient}: {'accepted' if reply.positive else 'rejected'}: {' '.join(str(reply).split())}")
    print(f"Accepted for {len(result.accepted)} of {len(result.replies)} recipients.")
    return 0 if result.complete else 1


if __name__ == "__main__":
    sys.exit(main())
