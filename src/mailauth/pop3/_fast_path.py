"""The commands of most sessions in TRANSACTION, handled with fewer steps: an optimization of ``server``.

The functions do what the general path would do, or nothing.  They keep no state, and can be deleted together with
their calls; ``tests/pop3/test_properties.py`` compares the two paths.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from .._dots import stuff_whole
from ..errors import LocalProtocolError
from ..events import CloseReason
from . import _standard_replies
from .commands import Dele, List, Quit, Retrieve, Stat, Uidl, checked_dele, checked_list, checked_retrieve
from .content import BARE_LINE_END, ListingSender
from .events import ServerEvent
from .maildrop import MaildropSession
from .replies import Content
from .states import State
from .verbs import ROWS, Verb

if TYPE_CHECKING:
    from .server import ServerConnection

_NUMBER: Final = rb"([1-9][0-9]{0,9})"
COMMON: Final = re.compile(
    rb"(?:RETR N|TOP N ([0-9]{1,10})|DELE N|LIST N|(STAT)|(LIST)|(UIDL)|(QUIT))\r\n".replace(b"N", _NUMBER)
)
"""The common commands in the spelling of all clients known.  The number of the last group tells which it is."""
match_common: Final = COMMON.match

_TRANSACTION, _UPDATE, _CLOSED = State.TRANSACTION, State.UPDATE, State.CLOSED
_RETR: Final = ROWS["RETR"]
_TOP: Final = ROWS["TOP"]
_STAT: Final = Stat()
_LIST: Final = List()
_UIDL: Final = Uidl()
_QUIT: Final = Quit()
_QUIT_DELETING: Final = Quit(deleting=True)
_MESSAGE_FOLLOWS: Final = _standard_replies.MESSAGE_FOLLOWS.to_wire()
_GOODBYE: Final = _standard_replies.GOODBYE.to_wire()


def _find(maildrop: MaildropSession, digits: bytes) -> int:
    """Return the message number in *digits*; 0 if there is no such message, or not any longer."""
    number = int(digits)
    return 0 if number > maildrop.last or number in maildrop.deleted else number


def _retr(c: ServerConnection, maildrop: MaildropSession, found: re.Match[bytes]) -> Retrieve | None:
    number = _find(maildrop, found[1])
    if not number:
        return None
    c._asked = _RETR
    c._question = command = checked_retrieve(number, None)
    return command


def _top(c: ServerConnection, maildrop: MaildropSession, found: re.Match[bytes]) -> Retrieve | None:
    number = _find(maildrop, found[2])
    if not number:
        return None
    c._asked = _TOP
    c._question = command = checked_retrieve(number, int(found[3]))
    return command


def _dele(c: ServerConnection, maildrop: MaildropSession, found: re.Match[bytes]) -> Dele | None:
    number = _find(maildrop, found[4])
    if not number:
        return None
    maildrop.delete(number)
    c._write(b"+OK message %d deleted\r\n" % number, due=False)
    return checked_dele(number)


def _list_one(c: ServerConnection, maildrop: MaildropSession, found: re.Match[bytes]) -> List | None:
    number = _find(maildrop, found[5])
    if not number:
        return None
    c._write(b"+OK " + maildrop.scan_listing(number), due=False)
    return checked_list(number)


def _stat(c: ServerConnection, maildrop: MaildropSession, found: re.Match[bytes]) -> Stat:
    c._write(b"+OK " + maildrop.drop_listing(), due=False)
    return _STAT


def _list(c: ServerConnection, maildrop: MaildropSession, found: re.Match[bytes]) -> List:
    c._write(b"+OK %d messages (%d octets)\r\n" % (maildrop.count, maildrop.size), due=False)
    c._begin_listing(ListingSender(maildrop, maildrop.scan_listing))
    return _LIST


def _uidl(c: ServerConnection, maildrop: MaildropSession, found: re.Match[bytes]) -> Uidl:
    c._write(b"+OK unique-ids follow\r\n", due=False)
    c._begin_listing(ListingSender(maildrop, maildrop.unique_id_listing))
    return _UIDL


def _quit(c: ServerConnection, maildrop: MaildropSession, found: re.Match[bytes]) -> Quit:
    c._state = _UPDATE
    if maildrop.deleted:
        return _QUIT_DELETING
    c._close(CloseReason.QUIT)
    c._write(_GOODBYE, due=False)
    return _QUIT


_Handler: TypeAlias = Callable[["ServerConnection", MaildropSession, re.Match[bytes]], ServerEvent | None]

HANDLERS: Final[Mapping[int, tuple[Verb[Any], _Handler]]] = MappingProxyType(
    {
        1: (_RETR, _retr),
        3: (_TOP, _top),
        4: (ROWS["DELE"], _dele),
        5: (ROWS["LIST"], _list_one),
        6: (ROWS["STAT"], _stat),
        7: (ROWS["LIST"], _list),
        8: (ROWS["UIDL"], _uidl),
        9: (ROWS["QUIT"], _quit),
    }
)
"""The row and the function by the last group of COMMON."""


def handle_command(c: ServerConnection, found: re.Match[bytes]) -> ServerEvent | None:
    """Carry out the command of a line that COMMON matched, and return its event.

    Return None if the general path must handle the line.
    """
    maildrop = c._maildrop
    if c._state is not _TRANSACTION or maildrop is None:
        return None
    row, handle = HANDLERS[found.lastindex or 0]
    if c._settings.table[row.name] is not row:
        return None
    received = c._input
    received.offset = found.end()
    event = handle(c, maildrop, found)
    if event is None:
        received.offset = found.start()
    return event


def answer(c: ServerConnection, question: object, answer: object) -> bool:
    """Carry out an answer with a whole message.  Return False to do nothing.

    Raises LocalProtocolError for a bare CR or LF.
    """
    if (
        not isinstance(answer, Content)
        or question is not c._question
        or not isinstance(question, Retrieve)
        or c._asked is not _RETR
        or not answer.last
        or not (c._utf8 or answer.data.isascii())
    ):
        return False
    line_ends = c._line_ends
    if line_ends is None or not line_ends.whole_has_only_crlf(answer.data):
        raise LocalProtocolError(BARE_LINE_END)
    c._question = None
    c._write(stuff_whole(_MESSAGE_FOLLOWS, answer.data), due=c._input.used_up)
    return True
