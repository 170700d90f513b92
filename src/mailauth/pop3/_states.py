"""POP3's states, and the one table of what may follow what: data only, read by server, client and tests alike.

An absent pair is a -ERR from a server and a LocalProtocolError in a client.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from .._events import NeedData


class State(enum.IntEnum):
    """Where a session stands (RFC 1939 section 3).  An IntEnum, since its members index NEXT."""

    GREETING = 0
    """Nobody has spoken; the server's greeting is due."""
    AUTHORIZATION = 1
    """Greeted; the client has not proved who it is.  STLS leads back here."""
    NAMED = 2
    """AUTHORIZATION, and USER was answered with +OK: PASS is due."""
    AUTH = 3
    """An authentication exchange is under way: lines are responses, not commands."""
    OPENING = 4
    """The identity is proved; the maildrop is not open yet."""
    TRANSACTION = 5
    """The maildrop is open and locked."""
    UPDATE = 6
    """QUIT was said in TRANSACTION: the deletions are being committed."""
    TLS = 7
    """A TLS handshake is due."""
    CLOSED = 8


_UNCHANGED: Final = ("CAPA", "STAT", "LIST", "UIDL", "RETR", "TOP", "DELE", "RSET", "NOOP")

_BEFORE: Final = (State.AUTHORIZATION, State.NAMED)

TRANSITIONS: Final[Mapping[tuple[State, str], State]] = {
    **{(state, "CAPA"): state for state in _BEFORE},
    (State.AUTHORIZATION, "STLS"): State.TLS,  # in no other state (RFC 2595 section 4)
    (State.AUTHORIZATION, "UTF8"): State.AUTHORIZATION,  # before the login alone (RFC 6856 section 2.1)
    **{(state, "USER"): State.NAMED for state in _BEFORE},  # from NAMED: the client has thought better of the name
    **{(state, "QUIT"): State.CLOSED for state in _BEFORE},
    (State.AUTHORIZATION, "APOP"): State.TRANSACTION,
    (State.AUTHORIZATION, "AUTH"): State.AUTH,
    (State.NAMED, "PASS"): State.TRANSACTION,
    **{(State.TRANSACTION, verb): State.TRANSACTION for verb in _UNCHANGED},
    (State.TRANSACTION, "QUIT"): State.UPDATE,
}
"""(state, verb) to the state that a positive reply leads to."""

NEXT: Final[tuple[Mapping[str, State], ...]] = tuple(
    {verb: after for (before, verb), after in TRANSITIONS.items() if before is state} for state in State
)
"""TRANSITIONS by state, for the hot path."""

CLIENT_TIMEOUTS: Final = NeedData(timeout=600.0)
"""Seconds a client waits for a reply: as long as a server waits for a command, since RFC 1939 names no other number."""

ANSWER_TIMEOUT: Final = NeedData(timeout=600.0, min_rate=500.0)
"""The same for an answer of many lines, which may be a long message over a slow line."""
