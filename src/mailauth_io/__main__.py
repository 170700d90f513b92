"""The entry point of the ``mailauth`` command, also run by ``python -m mailauth_io``."""

from __future__ import annotations

import importlib.util
import sys


def main() -> int:
    """Run the command and return its exit status: 2 if a package of the extra ``server`` is missing."""
    if importlib.util.find_spec("anyio") is None:
        print("mailauth: requires the package anyio; run: pip install 'mailauth[server]'", file=sys.stderr)
        return 2
    from .cli import main as command  # imports anyio

    return command.main()


if __name__ == "__main__":
    sys.exit(main())
