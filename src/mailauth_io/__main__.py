"""The entry point of the ``mailauth`` command, also run by ``python -m mailauth_io``."""

from __future__ import annotations

import sys

from .cli.main import main

__all__ = ["main"]

if __name__ == "__main__":
    sys.exit(main())
