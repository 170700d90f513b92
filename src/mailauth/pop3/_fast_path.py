"""The most common commands in TRANSACTION, above all RETR, handled with fewer steps: an optimization of ``server``.

Both functions do what the general path would do, or nothing.  They keep no state, and can be deleted together with
their calls; ``tests/pop3/test_properties.py`` compares the two paths.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from .._dots import stuff_whole
from ..errors import LocalProtocolError
from . import _standard_replies
from .commands import Dele, List, Retrieve, Stat, checked_list, checked_retrieve
from .content import BARE_LINE_END
from .events import ServerEvent
from .replies import Content
from .verbs import ROWS

if TYPE_CHECKING:
    from .server import ServerConnection

COMMON: Final = re.compile(
    rb"(?:RETR ([1-9][0-9]{0,9})|DELE ([1-9][0-9]{0,9})|LIST ([1-9][0-9]{0,9})|(STAT))\r\n", re.IGNORECASE
)
match_common: Final = COMMON.match

_RETR, _DELE, _LIST = 1, 2, 3  # the groups of COMMON
_NAMES: Final = ("", "RETR", "DELE", "LIST", "STAT")
_ROWS: Final = tuple(ROWS.get(name) for name in _NAMES)
_RETR_ROW: Final = ROWS["RETR"]
_STAT_COMMAND: Final = Stat()
_MESSAGE_FOLLOWS: Final = _standard_replies.MESSAGE_FOLLOWS.to_wire()


def command_of(found: re.Match[bytes]) -> Retrieve | Dele | List | Stat:
    """Return the command that COMMON matched."""
    kind = found.lastindex
    if kind == _RETR:
        return checked_retrieve(int(found[_RETR]))
    if kind == _DELE:
        return Dele(number=int(found[_DELE]))
    return checked_list(int(found[_LIST])) if kind == _LIST else _STAT_COMMAND


def handle_command(c: ServerConnection, found: re.Match[bytes]) -> ServerEvent | None:
    """Carry out the command of a line that COMMON matched in TRANSACTION, and return its event.

    Return None if the general path must handle the line.
    """
    kind = found.lastindex
    assert kind is not None
    if c._settings.table[_NAMES[kind]] is not _ROWS[kind]:
        return None
    command = command_of(found)
    maildrop = c._maildrop
    if isinstance(command, Stat):
        c._write(b"+OK " + maildrop.drop_listing(), due=False)
    else:
        number = command.number
        if number is None or number > maildrop.last or number in maildrop.deleted:
            return None
        if isinstance(command, Retrieve):
            c._asked = _RETR_ROW
            c._question = command
        elif isinstance(command, Dele):
            maildrop.delete(number)
            c._write(b"+OK message %d deleted\r\n" % number, due=False)
        else:
            c._write(b"+OK " + maildrop.scan_listing(number), due=False)
    c._input.offset = found.end()
    return command


def answer(c: ServerConnection, question: object, answer: object) -> bool:
    """Carry out an answer with a whole message.  Return False to do nothing.

    Raises LocalProtocolError for a bare CR or LF.
    """
    if (
        not isinstance(answer, Content)
        or question is not c._question
        or not isinstance(question, Retrieve)
        or c._asked is not _RETR_ROW
        or not answer.last
        or not (c._utf8 or answer.data.isascii())
    ):
        return False
    if not c._line_ends.whole_has_only_crlf(answer.data):
        raise LocalProtocolError(BARE_LINE_END)
    c._question = None
    c._write(stuff_whole(_MESSAGE_FOLLOWS, answer.data), due=c._input.used_up)
    return True
