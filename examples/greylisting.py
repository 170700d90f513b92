"""Greylisting (RFC 6647): defer the first delivery from an unknown network, sender and recipient.

    python examples/greylisting.py --wait 300

A mail server that gets 451 tries again after some minutes, which most programs that send spam do not.  The program
serves SMTP for alice@example.test.  In your own server, pass ``Greylist()`` to ``serve``, or name it in the
configuration file of ``mailauth serve``: ``interceptors = ["greylisting:Greylist"]`` in ``[server]``.
"""

import argparse
import asyncio
import contextlib
import sys
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import Any

from mailauth import Question, addresses, smtp
from mailauth_io import server, stores

LATER = smtp.Reply(451, "4.7.1", "greylisted, try again later")
MAX_TRIPLES = 100_000  # about 40 MB; when the table is full, the oldest entry is removed
MAX_PER_NETWORK = 1_000  # otherwise one client could replace the entries of all others, and their mail would not arrive

Triple = tuple[str, str, str]


def network(address: str) -> str:
    """Return the network of *address*: a server may try again from another address of its network."""
    return str(addresses.limit_network(addresses.limit_key(address)))


class Greylist:
    """An interceptor that rejects a recipient with 451 until *wait* seconds after the first attempt.

    *clock* returns seconds.  A client that has logged in is not deferred.
    """

    def __init__(self, *, wait: float = 300.0, clock: Callable[[], float] = time.monotonic) -> None:
        self.wait = wait
        self.clock = clock
        self.first_seen: OrderedDict[Triple, float] = OrderedDict()
        self.by_network: dict[str, deque[Triple]] = {}  # in the same order

    async def __call__(self, view: server.SessionView, question: Question[Any]) -> server.Decision:
        if not isinstance(question, smtp.Rcpt) or view.identity is not None or view.mail is None:
            return server.PASS
        sender = str(view.mail.reverse_path or "")
        triple = (network(view.peer.address), sender, str(question.forward_path).lower())
        now = self.clock()
        if triple not in self.first_seen:
            self.remember(triple, now)
        return server.PASS if now - self.first_seen[triple] >= self.wait else LATER

    def remember(self, triple: Triple, now: float) -> None:
        """Add *triple*.  If there are now too many entries, in all or of its network, remove the oldest of these."""
        self.first_seen[triple] = now
        network = self.by_network.setdefault(triple[0], deque())
        network.append(triple)
        if len(network) > MAX_PER_NETWORK:
            oldest = network[0]
        elif len(self.first_seen) > MAX_TRIPLES:
            oldest = next(iter(self.first_seen))
        else:
            return
        del self.first_seen[oldest]
        network = self.by_network[oldest[0]]
        network.popleft()
        if not network:
            del self.by_network[oldest[0]]


async def run(port: int, wait: float) -> None:
    config = server.Config(smtp=port, domains=("example.test",), mechanisms=())  # no logins
    kept = server.Stores(
        accounts=stores.MemoryAccounts({"alice": b"wonderland"}),
        maildrops=stores.MemoryMaildrops(),
        outbox=stores.MemoryOutbox(),
    )
    async with server.serve(config, kept, interceptors=[Greylist(wait=wait)]) as running:
        print(f"listening on 127.0.0.1, port {running.smtp}", flush=True)
        await asyncio.Event().wait()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Defer mail from unknown senders.")
    parser.add_argument("--wait", type=float, default=300.0, metavar="SECONDS", help="default: 300")
    parser.add_argument("--port", type=int, default=0, help="port to listen on (default: a free port)")
    args = parser.parse_args(arguments)
    try:
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(run(args.port, args.wait))
    except OSError as error:
        print(f"Cannot serve: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
