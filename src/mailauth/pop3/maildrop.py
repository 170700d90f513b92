"""The maildrop of a session: the messages at login, and the deletion marks.

Messages are numbered 1 to n in their order and keep their numbers (RFC 1939 section 5).
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from typing import Protocol

import attrs

from .._validators import between, tuple_of, value_of
from ..errors import LocalProtocolError
from ._grammar import check_unique_id
from .replies import Reply


@attrs.frozen(kw_only=True)
class Message:
    """The size and the unique-id of a message, for LIST and UIDL.  Raises LocalProtocolError for an invalid value.

    For example:

        content = path.read_bytes()  # with CRLF line ends
        message = pop3.Message(size=len(content), unique_id=path.name)
    """

    size: int = attrs.field(validator=value_of(int, between(0, 10**20 - 1)))
    """The size in bytes that RETR sends, with CRLF line ends and before dot-stuffing (RFC 1939 section 11)."""

    unique_id: str = attrs.field(validator=value_of(str, check_unique_id))
    """1 to 70 characters 0x21 to 0x7E, never reused for another message of this maildrop (RFC 1939 section 7)."""


@attrs.frozen(kw_only=True)
class Maildrop:
    """The messages of a maildrop at login.  Raises LocalProtocolError if two have the same unique-id.

    For example:

        >>> pop3.Maildrop(messages=(pop3.Message(size=120, unique_id="a"), pop3.Message(size=200, unique_id="b"))).size
        320
    """

    messages: tuple[Message, ...] = attrs.field(default=(), validator=tuple_of(Message))
    size: int = attrs.field(init=False)
    """The total size of all messages in bytes."""

    def __attrs_post_init__(self) -> None:
        if len({message.unique_id for message in self.messages}) != len(self.messages):
            raise LocalProtocolError("two messages have the same unique_id; pass a different one for each message")
        object.__setattr__(self, "size", sum(message.size for message in self.messages))


class MaildropView(Protocol):
    """A maildrop and its deletion marks, for reading.

    For example:

        def describe(maildrop: pop3.MaildropView) -> str:
            return f"{maildrop.count} of {maildrop.last} messages, {maildrop.size} bytes"
    """

    @property
    def last(self) -> int:
        """The highest message number."""
        ...

    @property
    def count(self) -> int:
        """The number of messages that are not marked."""
        ...

    @property
    def size(self) -> int:
        """The total size in bytes of the messages that are not marked."""
        ...

    @property
    def deleted(self) -> AbstractSet[int]:
        """The numbers of the marked messages."""
        ...

    def first_from(self, number: int) -> int:
        """Return the number of the first message from *number* on that is not marked, or more than ``last``."""
        ...

    def missing(self, number: int) -> Reply | None:
        """Return the -ERR if message *number* does not exist or is marked as deleted; None otherwise (section 5)."""
        ...

    def drop_listing(self) -> bytes:
        """Return the text of STAT with its CRLF."""
        ...

    def scan_listing(self, number: int) -> bytes:
        """Return the line of LIST for message *number*, with its CRLF."""
        ...

    def unique_id_listing(self, number: int) -> bytes:
        """Return the line of UIDL for message *number*, with its CRLF."""
        ...


class MaildropSession:
    """A maildrop and the messages marked as deleted (a MaildropView).

    Raises LocalProtocolError for a unique-id that contains CR, LF or NUL.  Message checks this too, but not for a
    subclass or a field that was changed later.

        >>> session = pop3.MaildropSession(pop3.Maildrop(messages=(pop3.Message(size=120, unique_id="a"),)))
        >>> session.delete(1)
        >>> session.last, session.count, session.deleted
        (1, 0, {1})
    """

    __slots__ = ("_after", "_messages", "_size", "deleted", "last", "size")

    def __init__(self, maildrop: Maildrop) -> None:
        unique_ids = "".join([message.unique_id for message in maildrop.messages])
        if "\r" in unique_ids or "\n" in unique_ids or "\0" in unique_ids:
            raise LocalProtocolError("a unique-id in the maildrop contains CR, LF or NUL; use characters 0x21 to 0x7E")
        self._messages = maildrop.messages
        self.last = len(maildrop.messages)
        """The highest message number."""
        self._size = self.size = maildrop.size
        self.deleted: set[int] = set()
        self._after: dict[int, int] = {}  # for marked messages from which first_from() has searched: its result

    # ``size`` is the total size of the messages that are not marked.

    @property
    def count(self) -> int:
        """The number of messages that are not marked."""
        return self.last - len(self.deleted)

    def first_from(self, number: int) -> int:
        """Return the number of the first message from *number* on that is not marked, or more than ``last``.

        A marked message is passed over one by one only once: many LIST commands after many DELE commands cost little.
        """
        start, after = number, self._after
        while number in self.deleted:
            number = after.get(number, number + 1)
        if number != start:
            after[start] = number
        return number

    def missing(self, number: int) -> Reply | None:
        """Return the -ERR if message *number* does not exist or is marked as deleted; None otherwise (section 5)."""
        if number > self.last:
            return Reply(False, "", f"no such message, only {self.last} messages in maildrop")
        return Reply(False, "", f"message {number} already deleted") if number in self.deleted else None

    def delete(self, number: int) -> None:
        """Mark message *number* as deleted.  It must exist and not be marked: see ``missing()``."""
        self.deleted.add(number)
        self.size -= self._messages[number - 1].size

    def reset(self) -> None:
        """Unmark all messages."""
        self.deleted.clear()
        self._after.clear()
        self.size = self._size

    # The lines of STAT, LIST and UIDL with their CRLF, by the names of RFC 1939 section 5.

    def drop_listing(self) -> bytes:
        """Return the text of STAT with its CRLF: the number and the size of the messages that are not marked."""
        return b"%d %d\r\n" % (self.last - len(self.deleted), self.size)

    def scan_listing(self, number: int) -> bytes:
        """Return the line of LIST for message *number*, with its CRLF: its number and its size."""
        return b"%d %d\r\n" % (number, self._messages[number - 1].size)

    def unique_id_listing(self, number: int) -> bytes:
        """Return the line of UIDL for message *number*, with its CRLF: its number and its unique-id."""
        return f"{number} {self._messages[number - 1].unique_id}\r\n".encode("ascii")
