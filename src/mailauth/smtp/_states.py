"""The states of SMTP, and the table of allowed commands that the server, the client and the tests share.

If a pair of state and verb is not in the table, a server replies 503 and a client raises LocalProtocolError.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from .._events import NeedData


class State(enum.IntEnum):
    """The state of a session.  An IntEnum, because the hot path indexes NEXT with its members."""

    GREETING = 0
    """Nothing has been sent; the server's greeting is due."""
    REFUSING = 1
    """The greeting was 554: only QUIT is allowed (RFC 5321 section 3.1)."""
    CONNECTED = 2
    """The server has sent its greeting; EHLO, HELO or LHLO is due.  STARTTLS leads back here."""
    READY = 3
    """EHLO, HELO or LHLO was accepted; no mail transaction is open."""
    MAIL = 4
    """A transaction is open and has no recipient yet."""
    RCPT = 5
    """A transaction has a recipient."""
    DATA = 6
    """Message content is being transferred after DATA."""
    AUTH = 7
    """An authentication exchange is in progress."""
    TLS = 8
    """A TLS handshake is due."""
    CLOSED = 9
    CHUNKS = 10
    """Message content is being transferred by BDAT, and a chunk is complete (RFC 3030)."""


_ALWAYS: Final = ("NOOP", "HELP", "VRFY")  # RFC 5321 section 4.1.4: at any time
_TALKING: Final = (State.CONNECTED, State.READY, State.MAIL, State.RCPT, State.CHUNKS)

TRANSITIONS: Final[Mapping[tuple[State, str], State]] = {
    (State.REFUSING, "QUIT"): State.CLOSED,
    **{(state, verb): state for state in _TALKING for verb in _ALWAYS},
    **{(state, "EHLO"): State.READY for state in _TALKING},  # also HELO and LHLO: one class, one row
    **{(state, "QUIT"): State.CLOSED for state in _TALKING},
    (State.CONNECTED, "RSET"): State.CONNECTED,
    **{(state, "RSET"): State.READY for state in _TALKING if state is not State.CONNECTED},
    **{(state, "STARTTLS"): State.TLS for state in (State.READY, State.CONNECTED)},  # gsasl sends it before EHLO
    (State.READY, "AUTH"): State.AUTH,  # inside a transaction: 503 (RFC 4954 section 4)
    (State.READY, "MAIL"): State.MAIL,
    **{(state, "RCPT"): State.RCPT for state in (State.MAIL, State.RCPT)},
    (State.RCPT, "DATA"): State.DATA,
    # DATA after BDAT, or BDAT after DATA: 503 (RFC 3030 section 2)
    **{(state, "BDAT"): State.CHUNKS for state in (State.RCPT, State.CHUNKS)},
    **{(state, "."): State.READY for state in (State.DATA, State.CHUNKS)},
}
"""Maps (state, verb) to the state after a positive reply."""

NEXT: Final[tuple[Mapping[str, State], ...]] = tuple(
    {verb: after for (before, verb), after in TRANSITIONS.items() if before is state} for state in State
)
"""TRANSITIONS by state, for the hot path."""

GROUPABLE: Final = frozenset({"MAIL", "RCPT", "RSET"})
"""The commands whose replies may wait for the replies to later commands (RFC 2920 section 3.2)."""

CLIENT_TIMEOUTS: Final[Mapping[str, NeedData]] = {".": NeedData(timeout=600.0), "DATA": NeedData(timeout=120.0)}
"""How long a client waits for the replies to these two (RFC 5321 section 4.5.3.2); for all others, DEFAULT_TIMEOUT."""

DEFAULT_TIMEOUT: Final = NeedData(timeout=300.0)
