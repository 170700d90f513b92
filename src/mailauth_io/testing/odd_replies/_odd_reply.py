"""The class of the odd replies, and the mapping of them by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final, Literal

import attrs

from mailauth import smtp

from ..._checks import check_text, check_type

_PROTOCOLS: Final[Mapping[str, Literal["SMTP", "POP3"]]] = {"mailauth.smtp": "SMTP", "mailauth.pop3": "POP3"}

_SHOWN: Final = 120
"""Bytes of ``data`` that the repr shows."""


def _check_name(_: object, __: attrs.Attribute[Any], value: Any) -> None:
    check_text("name", value)
    if isinstance(value, str) and not (value.isidentifier() and value.isupper()):
        raise ValueError(f"name must be a name of a constant such as GREETING_WITHOUT_TEXT, not {value!r}")


def _check_step(_: object, __: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, type) or _package(value) not in _PROTOCOLS:
        raise TypeError(f"step must be a class of mailauth.smtp or mailauth.pop3 such as smtp.Rcpt, not {value!r}")


def _check_data(_: object, __: attrs.Attribute[Any], value: Any) -> None:
    check_type("data", value, bytes)
    if not value:
        raise ValueError("data must not be empty; use STALL to send no reply")


def _check_meaning(_: object, __: attrs.Attribute[Any], value: Any) -> None:
    check_text("meaning", value)


def _check_challenge(_: object, __: attrs.Attribute[Any], value: Any) -> None:
    check_type("challenge", value, bool)


def _looks_like_a_challenge(odd: OddReply) -> bool:
    data: Any = odd.data  # the type is not validated yet
    return isinstance(data, bytes) and data.startswith((b"334", b"+ ", b"+\r\n"))


def _shortened(data: bytes) -> str:
    """Return *data* for the repr, of which a failed test shows many."""
    return repr(data) if len(data) <= _SHOWN else f"<{len(data)} bytes that begin with {data[: _SHOWN // 2]!r}>"


def _package(step: type) -> str:
    return step.__module__.rpartition(".")[0]


@attrs.frozen(kw_only=True)
class OddReply:
    r"""A reply that some servers send at one step of a session.  A client must tolerate it, or report an error.

    Raises TypeError or ValueError for an invalid field.

        odd = odd_replies.OddReply(name="OK_IN_CAPITALS", step=smtp.Noop, data=b"250 OK\r\n", meaning="the usual reply")
        mail_server.on(odd.step).reply(odd)
    """

    name: str = attrs.field(validator=_check_name)
    """The name of the constant."""

    step: type[Any] = attrs.field(validator=_check_step)
    """The step at which it occurs, for ``MailServer.on()``: a class of ``mailauth.smtp`` or ``mailauth.pop3``."""

    data: bytes = attrs.field(validator=_check_data, repr=_shortened)
    """The bytes that are sent, with all line ends."""

    meaning: str = attrs.field(validator=_check_meaning)
    """Which servers send it, and what a tolerant client does."""

    challenge: bool = attrs.field(
        default=attrs.Factory(_looks_like_a_challenge, takes_self=True), validator=_check_challenge
    )
    """Whether it is sent where the challenge of a login is due, not the last reply.

    The default is what it looks like: true for 334 in SMTP, and for ``+`` without OK in POP3."""

    @property
    def protocol(self) -> Literal["SMTP", "POP3"]:
        """The protocol of *step*."""
        return _PROTOCOLS[_package(self.step)]

    @property
    def positive(self) -> bool:
        """Whether it begins as a positive reply: with 2 or 3 in SMTP, and with ``+`` in POP3.

        Empty lines before it do not count.  3 is not positive at the end of the content, where nothing may follow.  The
        server carries out the command if this is true.
        """
        start = self.data.lstrip(b"\r\n")[:1]
        if self.protocol == "POP3":
            return start == b"+"
        return start == b"2" or (start == b"3" and self.step is not smtp.MessageComplete)


def by_name(replies: Iterable[object]) -> Mapping[str, OddReply]:
    """Return those of *replies* that are an OddReply, by name, in their order.  Raises ValueError if two share one."""
    found: dict[str, OddReply] = {}
    for reply in replies:
        if isinstance(reply, OddReply) and found.setdefault(reply.name, reply) is not reply:
            raise ValueError(f"two replies have the name {reply.name}")
    return MappingProxyType(found)
