"""``python -m mailauth_io`` is the ``mailauth`` command."""

import sys

from .command.cli import main

sys.exit(main())
