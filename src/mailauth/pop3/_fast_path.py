"""The commands of most sessions, handled with fewer steps: an optimization of ``server``.

The functions do what the general path would do, or nothing.  They keep no state, and can be deleted together with
their calls; ``tests/pop3/test_properties.py`` compares the two paths.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from .._dots import stuff_whole
from ..errors import LocalProtocolError
from ..events import CloseReason
from ..sasl import AuthenticationStarted
from . import _standard_replies
from .commands import Capa, Dele, List, Quit, Retrieve, Stat, Uidl, checked_dele, checked_list, checked_retrieve
from .content import BARE_LINE_END, ListingSender, TopLimiter
from .events import ServerEvent
from .replies import Content
from .settings import create_user_pass
from .states import State
from .verbs import ROWS, Verb

if TYPE_CHECKING:
    from .server import ServerConnection

COMMON: Final = re.compile(
    rb"(?:RETR (N)|TOP (N [0-9]{1,10})|DELE (N)|LIST (N)|(STAT)|(LIST)|(UIDL)|(QUIT)"
    rb"|(CAPA)|USER ([!-~]{1,200})|PASS ([ -~]{1,200}))\r\n".replace(b"N", rb"[1-9][0-9]{0,9}")
)
"""The common commands as all known clients spell them.  Each has one group: its argument, or the verb without one."""
match_common: Final = COMMON.match

_AUTHORIZATION, _USER_GIVEN = State.AUTHORIZATION, State.USER_GIVEN
_TRANSACTION, _UPDATE = State.TRANSACTION, State.UPDATE
_RETR: Final = ROWS["RETR"]
_TOP: Final = ROWS["TOP"]
_CAPA_EVENT: Final = Capa()
_STAT_EVENT: Final = Stat()
_LIST_EVENT: Final = List()
_UIDL_EVENT: Final = Uidl()
_QUIT_EVENT: Final = Quit()
_QUIT_DELETING: Final = Quit(deleting=True)
_USER_STARTED: Final = AuthenticationStarted(mechanism="USER")
_MESSAGE_FOLLOWS: Final = _standard_replies.MESSAGE_FOLLOWS.to_wire()
_GOODBYE: Final = _standard_replies.GOODBYE.to_wire()
_PASSWORD_REQUIRED: Final = _standard_replies.PASSWORD_REQUIRED.to_wire()

Handler: TypeAlias = Callable[["ServerConnection", bytes], ServerEvent | None]
"""Carries out a command with its argument.  Returns None, and does nothing, if it cannot."""


def _capa(c: ServerConnection, argument: bytes) -> Capa:
    c._write(c._settings.capa_reply(c._tls, logged_in=False), due=False)
    return _CAPA_EVENT


def _user(c: ServerConnection, argument: bytes) -> AuthenticationStarted | None:
    settings = c._settings
    if settings.mechanisms.factories.get("USER") is not create_user_pass or not settings.offers("USER", c._tls):
        return None
    c._start_user_pass().respond(argument)
    c._state = _USER_GIVEN
    c._write(_PASSWORD_REQUIRED, due=False)
    return _USER_STARTED


def _pass(c: ServerConnection, argument: bytes) -> ServerEvent | None:
    exchange = c._exchange
    if exchange is None or c._settings.mechanisms.factories["USER"] is not create_user_pass:
        return None
    c._proceed(exchange, exchange.respond(argument))
    return c._events.pop()  # the question, or the failure


def _find(c: ServerConnection, digits: bytes) -> int:
    """Return the message number in *digits*; 0 if the message does not exist or is deleted."""
    number, maildrop = int(digits), c.maildrop
    return 0 if number > maildrop.last or number in maildrop.deleted else number


def _retr(c: ServerConnection, argument: bytes) -> Retrieve | None:
    number, maildrop = int(argument), c._maildrop
    if maildrop is None or number > maildrop.last or number in maildrop.deleted:
        return None
    c._asked = _RETR
    c._question = command = checked_retrieve(number, None)
    return command


def _top(c: ServerConnection, argument: bytes) -> Retrieve | None:
    digits, _, lines = argument.partition(b" ")
    number = _find(c, digits)
    if not number:
        return None
    c._asked = _TOP
    c._question = command = checked_retrieve(number, int(lines))
    return command


def _dele(c: ServerConnection, argument: bytes) -> Dele | None:
    number = _find(c, argument)
    if not number:
        return None
    c.maildrop.delete(number)
    c._write(b"+OK message %d deleted\r\n" % number, due=False)
    return checked_dele(number)


def _list_one(c: ServerConnection, argument: bytes) -> List | None:
    number = _find(c, argument)
    if not number:
        return None
    c._write(b"+OK " + c.maildrop.scan_listing(number), due=False)
    return checked_list(number)


def _stat(c: ServerConnection, argument: bytes) -> Stat:
    c._write(b"+OK " + c.maildrop.drop_listing(), due=False)
    return _STAT_EVENT


def _list(c: ServerConnection, argument: bytes) -> List:
    maildrop = c.maildrop
    c._write(b"+OK %d messages (%d octets)\r\n" % (maildrop.count, maildrop.size), due=False)
    c._begin_listing(ListingSender(maildrop, maildrop.scan_listing))
    return _LIST_EVENT


def _uidl(c: ServerConnection, argument: bytes) -> Uidl:
    maildrop = c.maildrop
    c._write(b"+OK unique-ids follow\r\n", due=False)
    c._begin_listing(ListingSender(maildrop, maildrop.unique_id_listing))
    return _UIDL_EVENT


def _quit(c: ServerConnection, argument: bytes) -> Quit:
    c._state = _UPDATE
    if c.maildrop.deleted:
        return _QUIT_DELETING
    c._close(CloseReason.QUIT)
    c._write(_GOODBYE, due=False)
    return _QUIT_EVENT


HANDLERS: Final[tuple[tuple[Verb[Any], State, Handler], ...]] = (
    (_RETR, _TRANSACTION, _retr),
    (_TOP, _TRANSACTION, _top),
    (ROWS["DELE"], _TRANSACTION, _dele),
    (ROWS["LIST"], _TRANSACTION, _list_one),
    (ROWS["STAT"], _TRANSACTION, _stat),
    (ROWS["LIST"], _TRANSACTION, _list),
    (ROWS["UIDL"], _TRANSACTION, _uidl),
    (ROWS["QUIT"], _TRANSACTION, _quit),
    (ROWS["CAPA"], _AUTHORIZATION, _capa),
    (ROWS["USER"], _AUTHORIZATION, _user),
    (ROWS["PASS"], _USER_GIVEN, _pass),
)
"""For each group of COMMON: the row of the verb, the state in which it is handled here, and the function."""


def handle_command(c: ServerConnection, found: re.Match[bytes]) -> ServerEvent | None:
    """Carry out the command of a line that COMMON matched, and return its event.

    Return None if the general path must handle the line.
    """
    group = found.lastindex
    assert group is not None
    row, state, handle = HANDLERS[group - 1]
    if c._state is not state or c._settings.table[row.name] is not row:
        return None
    received = c._input
    received.offset = found.end()
    event = handle(c, found[group])
    if event is None:
        received.offset = found.start()
    return event


def answer(c: ServerConnection, question: object, answer: object) -> bool:
    """Carry out an answer with a whole message.  Return False to do nothing.

    Raises LocalProtocolError for a bare CR or LF.
    """
    if (
        type(answer) is not Content
        or question is not c._question
        or type(question) is not Retrieve
        or (c._asked is not _RETR and c._asked is not _TOP)
        or not answer.last
    ):
        return False
    data = answer.data
    line_ends = c._line_ends
    if line_ends is None or not (c._utf8 or data.isascii()):
        return False
    if not line_ends.whole_has_only_crlf(data):
        raise LocalProtocolError(BARE_LINE_END)
    lines = question.lines
    if lines is not None and lines < len(data):  # some clients request 99,999,999 lines
        data = TopLimiter(lines).take(data)
    c._question = None
    received = c._input
    c._write(stuff_whole(_MESSAGE_FOLLOWS, data), due=received.offset == len(received.data) and not received.later)
    return True
