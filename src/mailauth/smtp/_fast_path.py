"""The commands and answers of most transactions, handled with fewer steps: an optimization of ``server``.

Both functions do what the general path would do, or nothing.  They keep no state, and can be deleted together with
their calls; ``tests/smtp/test_properties.py`` compares the two paths.  Both modes of syntax share them: they read only
what is valid in both.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from .._unchecked import new
from ..events import ACCEPT
from ._command_lines import COMMON_DATA, COMMON_MAIL, COMMON_RCPT, common_mail, common_rcpt
from .commands import Data, Mail, MessageComplete, Rcpt
from .parameters import Body
from .replies import Reply, checked_answer
from .states import State
from .verbs import ROWS, Verb

if TYPE_CHECKING:
    from .server import ServerConnection

_READY, _MAIL, _RCPT, _DATA = State.READY, State.MAIL, State.RCPT, State.DATA
_BINARY_MIME: Final = Body.BINARY_MIME
_MAIL_ROW, _RCPT_ROW, _DATA_ROW = ROWS["MAIL"], ROWS["RCPT"], ROWS["DATA"]


def next_question(c: ServerConnection, found: re.Match[bytes]) -> Mail | Rcpt | Data | None:
    """Return the question for a line that COMMON matched, or None: the general path must handle the line."""
    settings = c._settings
    state = c._state
    kind = found.lastindex
    question: Mail | Rcpt | Data | None = None
    row: Verb[Any] | None = None
    if kind == COMMON_RCPT:
        if (state is _RCPT or state is _MAIL) and len(c._recipients) < settings.max_recipients:
            question, row = common_rcpt(found), _RCPT_ROW
    elif kind == COMMON_DATA:
        if state is _RCPT and c._mail is not None and c._mail.body is not _BINARY_MIME:
            question, row = new(Data), _DATA_ROW
    elif (
        kind == COMMON_MAIL
        and state is _READY
        and c._transactions < settings.max_transactions
        and (c._identity is not None or not settings.authentication_required)
        and (c._tls is not None or not settings.tls_required)
    ):
        mail = common_mail(found)
        if (
            mail is not None
            and (mail.size is None or mail.size <= settings.max_message_size)
            and (mail.body is None or settings.eight_bit_mime)
        ):
            question, row = mail, _MAIL_ROW
    if question is None or question.verb not in settings.common_rows:
        return None
    c._input.offset = found.end()
    c._asked = row
    c._question = question
    return question


def answer(c: ServerConnection, question: object, answer: object) -> bool:
    """Carry out ACCEPT, or the application's own positive reply to MessageComplete.  Return False to do nothing."""
    if question is not c._question:
        return False
    settings = c._settings
    received = c._input
    due = received.offset == len(received.data)
    if isinstance(question, Rcpt):
        if answer is not ACCEPT or c._asked is not _RCPT_ROW:
            return False
        c._recipients.append(question.forward_path)
        c._state = _RCPT
        wire = settings.accepted["RCPT"]
    elif isinstance(question, Mail):
        if answer is not ACCEPT or c._asked is not _MAIL_ROW:
            return False
        c._mail = question
        c._transactions += 1
        c._state = _MAIL
        wire = settings.accepted["MAIL"]
    elif isinstance(question, MessageComplete):
        if settings.lmtp:
            return False
        if answer is ACCEPT:
            wire = settings.accepted["."]
        elif isinstance(answer, Reply) and answer.code == 250 and checked_answer(answer) is answer:
            wire = answer.to_wire(enhanced=settings.enhanced_status_codes)
        else:
            return False
        c._wait = settings.timeouts[1]
        c._end_transaction()
        due = True
    elif isinstance(question, Data):
        if answer is not ACCEPT or c._asked is not _DATA_ROW:
            return False
        c._begin_content()
        c._state = _DATA
        wire = settings.accepted["DATA"]
        due = True
    else:
        return False
    c._question = None
    c._write(wire, due=due)
    return True
