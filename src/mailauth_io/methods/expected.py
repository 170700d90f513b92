"""The expected columns of each method, written by hand.

Only ``compare`` may import this module; a test checks this.
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
"""The columns by method number: the same for all TLS modes and mechanisms of a method."""
