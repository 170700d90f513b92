"""Runs the ``mailauth`` command: ``python -m mailauth_io``."""

import sys

from .cli.main import main

sys.exit(main())
