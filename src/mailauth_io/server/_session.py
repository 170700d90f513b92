"""What a session of either protocol is: one connection served to its end, and nothing kept when it is over.

Knows neither SMTP nor POP3; the two files of that name do.
"""

from __future__ import annotations

import logging
import secrets
from abc import ABC, abstractmethod
from typing import ClassVar, Generic, TypeVar

from mailauth import sasl

from .._adapter import ServerConnection
from ..logs import Event, shown
from ..stores import Proof
from ._log import LOGGER
from ._offer import NEEDS
from ._state import ServerState

E = TypeVar("E")


class Session(ABC, Generic[E]):
    """A connection with what it needs of the house; *id* stands in all of its lines in the log."""

    __slots__ = ("_asked", "_registered_identity", "begun", "connection", "id", "mechanism", "server_state")

    protocol: ClassVar[str]

    def __init__(self, server_state: ServerState, connection: ServerConnection[E]) -> None:
        self.id = secrets.token_hex(6)
        self.server_state = server_state
        self.connection = connection
        self.begun = 0
        """The moment at which the last login began."""
        self.mechanism: str | None = None
        """By which the identity was proved; None before a login."""
        self._asked = False  # the login under way has cost more than reading it
        self._registered_identity: str | None = None  # the identity that the house has this connection under

    @classmethod
    async def serve(cls, server_state: ServerState, connection: ServerConnection[E]) -> None:
        """Serve *connection* to its end; whatever ends it, cancellation too, nothing of it is kept."""
        session = cls(server_state, connection)
        session.log(logging.DEBUG, "connected")
        try:
            await session.run()
        finally:
            session.release_resources()
            session._set_identity(None)
            session.log(logging.DEBUG, "closed")

    def log(self, level: int, event: str, **fields: object) -> None:
        """One line: the connection, its peer and its TLS, and then *fields*, client text among them by ``shown()``."""
        if LOGGER.isEnabledFor(level):
            tls = self.connection.tls
            LOGGER.log(
                level,
                Event(
                    event,
                    {
                        "connection": self.id,
                        "peer": self.connection.peer.address,
                        "protocol": self.protocol,
                        "tls": None if tls is None else tls.version,
                        **fields,
                    },
                ),
            )

    def note_login(self, event: sasl.Authenticated | sasl.AuthenticationFailed) -> None:
        """One line for each login, good or bad.  docs/logging.md promises what the bad one looks like."""
        if isinstance(event, sasl.Authenticated):
            self.mechanism = event.mechanism
            self._set_identity(event.identity)
            self.log(logging.INFO, "login", mechanism=event.mechanism, identity=shown(event.identity))
        else:
            reason = "ENDED" if event.reason is None else event.reason.name
            identity = shown(event.authentication_identity)
            self.log(logging.INFO, "login failed", mechanism=event.mechanism, identity=identity, reason=reason)

    def _set_identity(self, identity: str | None) -> None:
        if self._registered_identity is not None:
            self.server_state.remove_session(self.connection, self._registered_identity)
        self._registered_identity = identity
        if identity is not None:
            self.server_state.add_session(self.connection, identity, self.begun)

    def start_login(self) -> None:
        """The client has chosen a mechanism."""
        self.begun = self.server_state.next_sequence()
        self._asked = False

    async def answer_login(self, question: sasl.ServerQuestion) -> None:
        """Answer what the login under way asks."""
        self._asked = True
        await self.server_state.answer_login(self.connection, self.id, question)

    async def refuse_login(self, event: sasl.AuthenticationFailed) -> None:
        """Write it down, count it for its address, and wait: the reply leaves after this.

        What counts is a login for which there was work to do: one that was refused, one that had to be prepared to be
        found malformed, and one that ends after it was told a salt.
        """
        self.note_login(event)
        reason = event.reason
        if reason is sasl.Refusal.TEMPORARY:
            return
        if NEEDS.get(event.mechanism) is Proof.TOKEN and self._asked and reason is not sasl.Refusal.NOT_AUTHORIZED:
            return  # counted before, and it has waited: a wrong token is told in JSON, ahead of this refusal
        if self._asked or isinstance(reason, sasl.Refusal) or reason is sasl.Fault.MALFORMED:
            if reason is None:
                self.server_state.count_failure(
                    self.connection.peer.address
                )  # the client has gone: nothing to hold back
            else:
                await self.server_state.delay_refusal(self.connection.peer.address)

    @abstractmethod
    async def run(self) -> None:
        """Answer every question until there are none."""

    @abstractmethod
    def release_resources(self) -> None:
        """Give back what is held: memory, a maildrop.  Twice is once."""
