"""The states of a POP3 session and the table of the commands allowed in each, used by both server and client.

For a pair that is not in the table, a server replies -ERR and a client raises LocalProtocolError.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from .._events import NeedData


class State(enum.IntEnum):
    """The state of a session (RFC 1939 section 3).  An IntEnum, because its members index NEXT."""

    GREETING = 0
    """The server has not sent its greeting yet."""
    AUTHORIZATION = 1
    """The greeting was sent, and the client is not authenticated.  After STLS the session is in this state again."""
    USER_GIVEN = 2
    """AUTHORIZATION after a +OK to USER: PASS is expected."""
    AUTH = 3
    """An authentication exchange is in progress: lines are responses, not commands."""
    OPENING = 4
    """The client is authenticated; the maildrop is not open yet."""
    TRANSACTION = 5
    """The maildrop is open and locked."""
    UPDATE = 6
    """QUIT was received in TRANSACTION: the deletions are being committed."""
    TLS = 7
    """STLS was accepted: the TLS handshake is next."""
    CLOSED = 8


_UNCHANGED: Final = ("CAPA", "STAT", "LIST", "UIDL", "RETR", "TOP", "DELE", "RSET", "NOOP")

_BEFORE: Final = (State.AUTHORIZATION, State.USER_GIVEN)

TRANSITIONS: Final[Mapping[tuple[State, str], State]] = {
    **{(state, "CAPA"): state for state in _BEFORE},
    (State.AUTHORIZATION, "STLS"): State.TLS,  # in no other state (RFC 2595 section 4)
    (State.AUTHORIZATION, "UTF8"): State.AUTHORIZATION,  # only before the login (RFC 6856 section 2.1)
    **{(state, "USER"): State.USER_GIVEN for state in _BEFORE},  # in USER_GIVEN, a second USER replaces the first
    **{(state, "QUIT"): State.CLOSED for state in _BEFORE},
    (State.AUTHORIZATION, "APOP"): State.TRANSACTION,
    (State.AUTHORIZATION, "AUTH"): State.AUTH,
    (State.USER_GIVEN, "PASS"): State.TRANSACTION,
    **{(State.TRANSACTION, verb): State.TRANSACTION for verb in _UNCHANGED},
    (State.TRANSACTION, "QUIT"): State.UPDATE,
}
"""Maps (state, verb) to the state after a positive reply."""

NEXT: Final[tuple[Mapping[str, State], ...]] = tuple(
    {verb: after for (before, verb), after in TRANSITIONS.items() if before is state} for state in State
)
"""TRANSITIONS indexed by state, for speed."""

CLIENT_TIMEOUTS: Final = NeedData(timeout=600.0)
"""The wait of a client for a reply.  RFC 1939 has a timeout only for servers; this one is equal to it."""

ANSWER_TIMEOUT: Final = NeedData(timeout=600.0, min_rate=500.0)
"""The same for a multi-line response, which may be a large message on a slow connection."""
