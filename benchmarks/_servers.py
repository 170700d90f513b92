"""Run one measured server: ``python benchmarks/_servers.py smtp|pop3 NAME CORE [tls]``.

It runs on the given CPU core, prints its port, and serves until standard input ends.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable

from _load import AIOSMTPD, ASYNCIO, PROTOCOL, READY, SERVE, STREAMS, TRIO, TWISTED


def announce(port: int, end: Callable[[], None] = lambda: os._exit(0)) -> None:
    """Print the port, and call *end* when standard input ends, which means that the measurement is over."""
    print(port, flush=True)

    def await_end_of_input() -> None:
        sys.stdin.buffer.read()
        end()

    threading.Thread(target=await_end_of_input, daemon=True).start()


def run(protocol: str, name: str, tls: bool) -> None:
    """Serve until stopped.  Imports only the measured server, so that the others do not affect it."""
    if name in (ASYNCIO, TRIO):
        import _ours

        context = None
        if tls:
            import ssl

            import trustme

            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            trustme.CA().issue_cert("localhost").configure_cert(context)
        _ours.run_adapter(protocol, "asyncio" if name == ASYNCIO else "trio", announce, context)
    elif name == READY:
        import _ours

        _ours.run_ready(protocol, announce)
    elif name == SERVE:
        import _ours

        _ours.run_command(functools.partial(announce, end=lambda: os.kill(os.getpid(), signal.SIGTERM)))
    elif name == TWISTED:
        import _twisted_peer

        _twisted_peer.run(protocol, announce)
    else:
        import _peers

        if name == AIOSMTPD:
            _peers.run_aiosmtpd(announce)
        elif name == STREAMS:
            _peers.run_streams(protocol, announce)
        elif name == PROTOCOL:
            _peers.run_protocol(protocol, announce)
        else:
            sys.exit(f"unknown server {name!r}")


if __name__ == "__main__":
    os.sched_setaffinity(0, {int(sys.argv[3])})
    run(sys.argv[1], sys.argv[2], tls="tls" in sys.argv[4:])
