"""``python -m mailauth_io`` is the ``mailauth`` command."""

import sys

from .cli.main import main

sys.exit(main())
