"""Run one measured server: ``python benchmarks/_servers.py smtp|smtps|starttls|pop3|pop3s NAME CORE``.

It runs on the given CPU core, prints its port, and serves until standard input ends.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable

from _features import FEATURES, READY_WITHOUT_LOG
from _load import (
    AIOSMTPD,
    ASYNCIO,
    DOVECOT,
    GO_SMTP,
    NODEMAILER,
    PROTOCOL,
    READY,
    SERVE,
    SMTP_SINK,
    STREAMS,
    TRIO,
    TWISTED,
    UVLOOP,
)


def announce(port: int, end: Callable[[], None] = lambda: os._exit(0)) -> None:
    """Print the port, and call *end* when standard input ends, which means that the measurement is over."""
    print(port, flush=True)

    def await_end_of_input() -> None:
        sys.stdin.buffer.read()
        end()

    threading.Thread(target=await_end_of_input, daemon=True).start()


def run(serves: str, name: str) -> None:
    """Serve until stopped.  Imports only the measured server, so that the others do not affect it."""
    if name in (ASYNCIO, UVLOOP, TRIO, *FEATURES):
        import _ours

        _ours.run_adapter(serves, name, announce)
    elif name in (READY, READY_WITHOUT_LOG):
        import _ready

        _ready.run_ready(serves, announce, log=name == READY)
    elif name == SERVE:
        import _ready

        _ready.run_command(functools.partial(announce, end=lambda: os.kill(os.getpid(), signal.SIGTERM)))
    elif name == TWISTED:
        import _twisted_peer

        _twisted_peer.run(serves, announce)
    elif name in (GO_SMTP, NODEMAILER, SMTP_SINK, DOVECOT):
        import _external

        _external.run(serves, name, announce)
    elif name in (AIOSMTPD, STREAMS, PROTOCOL):
        import _peers

        _peers.run(serves, name, announce)
    else:
        sys.exit(f"unknown server {name!r}")


if __name__ == "__main__":
    os.sched_setaffinity(0, {int(sys.argv[3])})
    run(sys.argv[1], sys.argv[2])
