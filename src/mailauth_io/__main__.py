"""The entry point of the ``mailauth`` command, also run by ``python -m mailauth_io``."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.  *arguments* defaults to those of the process."""
    if (sys.argv[1:] if arguments is None else list(arguments))[:1] == ["serve"]:
        # The imports take a while, in which SIGHUP would end the process.  There is nothing to reload yet.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    from .cli import main as cli

    return cli.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
