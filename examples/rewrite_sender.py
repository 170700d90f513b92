"""A gateway for devices whose sender no provider accepts, such as ``root@localhost``: it sends with its own sender.

    MAIL_PASSWORD=... python examples/rewrite_sender.py --device scanner:ink --login office smtp.provider.example 465 \\
        office@example.org

A device logs in to the gateway, and the gateway logs in to the provider.  The server has no ``[relay]``: an interceptor
submits each complete message, and answers with the reply of the provider.  For tests on one machine: it listens on
127.0.0.1 and accepts logins without TLS.
"""

import argparse
import os
import ssl
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio

from mailauth import Question, smtp
from mailauth_io import client, server, stores

TIMEOUT = 60.0
"""Seconds for a whole submission: the maximum of an interceptor.  Then the device gets 451."""

NOT_CONVERTED = smtp.Reply(554, "5.6.3", "the provider does not accept this message")


class Submit:
    """Submit each message with *sender*, unless it is a report (``MAIL FROM:<>``), and take the provider's reply."""

    def __init__(
        self,
        sender: smtp.Mailbox,
        host: str,
        port: int,
        *,
        login: client.Login | None,
        tls: client.TlsMode,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self.sender = sender
        self.host = host
        self.port = port
        self.login = login
        self.tls: client.TlsMode = tls
        self.ssl_context = ssl_context

    async def __call__(self, view: server.SessionView, question: Question[Any]) -> server.Decision:
        if not isinstance(question, smtp.MessageComplete) or view.mail is None or view.message is None:
            return server.PASS
        try:
            result = await client.submit(
                view.message.received_line + view.message.content(),
                self.sender if view.mail.reverse_path else "",
                [rcpt.forward_path for rcpt in view.recipients],
                host=self.host,
                port=self.port,
                login=self.login,
                tls=self.tls,
                ssl_context=self.ssl_context,
                timeout=TIMEOUT,
            )
        except client.NotSupported:
            return NOT_CONVERTED
        # Any other exception, such as ConnectionFailed or AuthenticationFailed, is logged, and the device gets 451.
        replies = [*result.rejected.values(), *result.replies.values()]
        return replies[0].with_standard_code()  # the first rejection, if there is one


async def run(port: int, devices: dict[str, bytes], submit: Submit) -> None:
    config = server.Config(smtp=port, domains=("gateway.example.test",), local_delivery=False, legacy=True)
    kept = server.Stores(
        accounts=stores.MemoryAccounts(devices), maildrops=stores.MemoryMaildrops(), outbox=stores.MemoryOutbox()
    )
    async with server.serve(config, kept, interceptors=[server.Interceptor(submit, timeout=TIMEOUT)]) as running:
        print(f"listening on {running.hosts[0]}, port {running.smtp}", flush=True)
        await anyio.sleep_forever()


def device(text: str) -> tuple[str, bytes]:
    name, colon, password = text.partition(":")
    if not (name and colon and password):
        raise argparse.ArgumentTypeError("use NAME:PASSWORD")
    return name, password.encode()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Submit the mail of old devices to a provider, with another sender.")
    parser.add_argument("provider", help="the server of the provider")
    parser.add_argument("provider_port", type=int, help="usually 465, or 587 with --tls starttls")
    parser.add_argument("sender", type=smtp.Mailbox.parse, help="the sender that the provider allows")
    parser.add_argument("--login", metavar="NAME", help="user name at the provider; the password is in MAIL_PASSWORD")
    parser.add_argument("--tls", choices=["implicit", "starttls", "none"], default="implicit", help="default: implicit")
    parser.add_argument("--ca", type=Path, metavar="FILE", help="CA file (default: that of the system)")
    parser.add_argument("--device", type=device, action="append", required=True, metavar="NAME:PASSWORD")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: a free port)")
    parser.add_argument("--loop", choices=["asyncio", "trio"], default="asyncio", help="event loop (default: asyncio)")
    args = parser.parse_args(arguments)
    try:
        submit = Submit(
            args.sender,
            args.provider,
            args.provider_port,
            login=args.login and client.Login(args.login, os.environ.get("MAIL_PASSWORD", "")),
            tls=args.tls,
            ssl_context=None if args.tls == "none" else ssl.create_default_context(cafile=args.ca),
        )
        anyio.run(run, args.port, dict(args.device), submit, backend=args.loop)
    except (OSError, ValueError, stores.AccountsError) as error:
        print(f"Cannot serve: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
