"""What each method must look like: the table of the design, written down by hand.

Read by the judge alone.  Nothing that measures may import this module (a test looks).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .outcome import Columns

EXPECTED: Final[Mapping[int, Columns]] = {
    1: Columns("POP3 server", "clear", "clear", "clear", "nothing"),
    2: Columns("POP3 server", "clear", "digest", "clear", "nothing"),
    3: Columns("POP3 server", "TLS", "TLS", "TLS", "certificate"),
    4: Columns("SMTP server", "clear (base64)", "clear (base64)", "clear", "nothing"),
    5: Columns("SMTP server", "clear (base64)", "clear (base64)", "clear", "nothing"),
    6: Columns("SMTP server", "clear (base64)", "digest", "clear", "nothing"),
    7: Columns("SMTP server", "TLS", "TLS", "TLS", "certificate"),
}
"""By the number of the method: one expectation for all the ways and mechanisms it is shown with."""
