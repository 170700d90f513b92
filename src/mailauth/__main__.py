"""``python -m mailauth``: the command, which is in ``mailauth_io``."""

from __future__ import annotations

import sys

from mailauth_io.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
