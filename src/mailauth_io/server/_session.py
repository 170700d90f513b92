"""What a session of either protocol is: one connection served to its end, and nothing kept when it is over.

Knows neither SMTP nor POP3; the two files of that name do.
"""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from .._adapter import ServerConnection
from ._house import House
from ._log import LOGGER

E = TypeVar("E")


class Session(ABC, Generic[E]):
    """A connection with what it needs of the house; *id* stands at the head of its lines in the log."""

    __slots__ = ("connection", "house", "id")

    def __init__(self, house: House, connection: ServerConnection[E]) -> None:
        self.id = secrets.token_hex(6)
        self.house = house
        self.connection = connection

    @classmethod
    async def serve(cls, house: House, connection: ServerConnection[E]) -> None:
        """Serve *connection* to its end; whatever ends it, cancellation too, nothing of it is kept."""
        session = cls(house, connection)
        LOGGER.debug("%s is a %s with %s", session.id, cls.__name__, connection.peer)
        try:
            await session.run()
        finally:
            session.let_go()
            LOGGER.debug("%s closed", session.id)

    @abstractmethod
    async def run(self) -> None:
        """Answer every question until there are none."""

    @abstractmethod
    def let_go(self) -> None:
        """Give back what is held: memory, a maildrop.  Twice is once."""
