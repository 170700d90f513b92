"""SMTP's states, and the one table of what may follow what: data only, read by server, client and tests alike.

An absent pair is a 503 from a server and a LocalProtocolError in a client.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from .._events import NeedData


class State(enum.IntEnum):
    """Where a session stands.  (An IntEnum since its members index NEXT: that is what the hot path reads.)"""

    GREETING = 0
    """Nobody has spoken; the server's greeting is due."""
    REFUSING = 1
    """The greeting was 554: only QUIT is left (RFC 5321 section 3.1)."""
    CONNECTED = 2
    """Greeted, but the client has not named itself; STARTTLS leads back here."""
    READY = 3
    """The client has named itself; no mail transaction is open."""
    MAIL = 4
    """A transaction is open and has no recipient yet."""
    RCPT = 5
    """A transaction has a recipient."""
    DATA = 6
    """Message content is on its way."""
    AUTH = 7
    """An authentication exchange is under way."""
    TLS = 8
    """A TLS handshake is due."""
    CLOSED = 9
    CHUNKS = 10
    """Message content is on its way by BDAT, and a chunk of it is whole (RFC 3030)."""


_ALWAYS: Final = ("NOOP", "HELP", "VRFY")  # RFC 5321 section 4.1.4: at any time
_TALKING: Final = (State.CONNECTED, State.READY, State.MAIL, State.RCPT, State.CHUNKS)

TRANSITIONS: Final[Mapping[tuple[State, str], State]] = {
    (State.REFUSING, "QUIT"): State.CLOSED,
    **{(state, verb): state for state in _TALKING for verb in _ALWAYS},
    **{(state, "EHLO"): State.READY for state in _TALKING},  # and HELO: one class, one row
    **{(state, "QUIT"): State.CLOSED for state in _TALKING},
    (State.CONNECTED, "RSET"): State.CONNECTED,
    **{(state, "RSET"): State.READY for state in _TALKING if state is not State.CONNECTED},
    **{(state, "STARTTLS"): State.TLS for state in (State.READY, State.CONNECTED)},  # before EHLO, too: gsasl does so
    (State.READY, "AUTH"): State.AUTH,  # inside a transaction: 503 (RFC 4954 section 4)
    (State.READY, "MAIL"): State.MAIL,
    **{(state, "RCPT"): State.RCPT for state in (State.MAIL, State.RCPT)},
    (State.RCPT, "DATA"): State.DATA,
    # DATA behind BDAT, or BDAT behind DATA: 503 (RFC 3030 section 2)
    **{(state, "BDAT"): State.CHUNKS for state in (State.RCPT, State.CHUNKS)},
    **{(state, "."): State.READY for state in (State.DATA, State.CHUNKS)},
}
"""(state, verb) to the state that a positive reply leads to."""

NEXT: Final[tuple[Mapping[str, State], ...]] = tuple(
    {verb: after for (before, verb), after in TRANSITIONS.items() if before is state} for state in State
)
"""TRANSITIONS by state, for the hot path."""

GROUPABLE: Final = frozenset({"MAIL", "RCPT", "RSET"})
"""Only the replies to these may wait for others (RFC 2920 section 3.2)."""

CLIENT_TIMEOUTS: Final[Mapping[str, NeedData]] = {".": NeedData(timeout=600.0), "DATA": NeedData(timeout=120.0)}
"""Seconds a client waits for the reply to these two (RFC 5321 section 4.5.3.2); DEFAULT_TIMEOUT for all the rest."""

DEFAULT_TIMEOUT: Final = NeedData(timeout=300.0)
