"""The base class of SMTP and POP3 sessions: logging, logins, and cleanup at the end of the connection."""

from __future__ import annotations

import logging
import secrets
from abc import ABC, abstractmethod
from typing import ClassVar, Generic, TypeVar

from mailauth import sasl

from ..adapters.connection import AsyncServerConnection
from ..logs import Event, shown
from ..stores import Proof
from ._log import LOGGER
from ._offer import REQUIRED_PROOF
from ._state import ServerState

E = TypeVar("E")


class Session(ABC, Generic[E]):
    """The session of one connection.  *id* is the connection id in its log lines."""

    __slots__ = ("_asked", "_registered_identity", "connection", "id", "login_sequence", "mechanism", "server_state")

    protocol: ClassVar[str]

    def __init__(self, server_state: ServerState, connection: AsyncServerConnection[E]) -> None:
        self.id = secrets.token_hex(6)
        self.server_state = server_state
        self.connection = connection
        self.login_sequence = 0
        """The sequence number of the start of the last login."""
        self.mechanism: str | None = None
        """The mechanism of the successful login; None before a login."""
        self._asked = False  # the current login has asked a question
        self._registered_identity: str | None = None  # the identity under which server_state lists this connection

    @classmethod
    async def serve(cls, server_state: ServerState, connection: AsyncServerConnection[E]) -> None:
        """Serve *connection* until it closes.  All resources are released, after cancellation too."""
        session = cls(server_state, connection)
        session.log(logging.DEBUG, "connected")
        try:
            await session.run()
        finally:
            session.release_resources()
            session._set_identity(None)
            session.log(logging.DEBUG, "closed")

    def log(self, level: int, event: str, **fields: object) -> None:
        """Log *event* with the connection's id, peer, protocol and TLS version, then *fields*.

        Text from the client must be escaped with ``shown()``.
        """
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
        """Log the result of a login.  The format of a failed login is documented in docs/logging.md (fail2ban)."""
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
            self.server_state.add_session(self.connection, identity, self.login_sequence)

    def start_login(self) -> None:
        """Record the start of a login: the client has chosen a mechanism."""
        self.login_sequence = self.server_state.next_sequence()
        self._asked = False

    async def answer_login(self, question: sasl.ServerQuestion) -> None:
        """Answer a question of the current login."""
        self._asked = True
        await self.server_state.answer_login(self.connection, self.id, question)

    async def refuse_login(self, event: sasl.AuthenticationFailed) -> None:
        """Log a failed login, count it for the client's address, and delay: the reply is sent after this returns.

        A login counts if it caused work: one with wrong credentials, one with a malformed response, which may be
        detected only after preparation (SASLprep), and one that ended after the server had sent a salt.
        """
        self.note_login(event)
        reason = event.reason
        if reason is sasl.Refusal.TEMPORARY:
            return
        if (
            REQUIRED_PROOF.get(event.mechanism) is Proof.TOKEN
            and self._asked
            and reason is not sasl.Refusal.NOT_AUTHORIZED
        ):
            return  # already counted and delayed before the JSON that reports a wrong token
        if self._asked or isinstance(reason, sasl.Refusal) or reason is sasl.Fault.MALFORMED:
            if reason is None:
                # The client has disconnected, so there is no reply to delay.
                self.server_state.count_failure(self.connection.peer.address)
            else:
                await self.server_state.delay_refusal(self.connection.peer.address)

    @abstractmethod
    async def run(self) -> None:
        """Handle every event until the connection closes."""

    @abstractmethod
    def release_resources(self) -> None:
        """Release memory and the maildrop.  A second call does nothing."""
