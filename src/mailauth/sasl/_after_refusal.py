"""The mechanisms that a client may try after the server has refused one: the rule for clients and for the relay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from .._validators import check_integer, check_type
from .messages import ClientMechanism

MAX_RETRIES: Final = 2
"""Maximum logins on one connection after the first was refused.  Servers close the connection after about three, and
block addresses with many failed logins."""

_UNUSABLE: Final = frozenset({504, 534, 535, "", "AUTH"})
"""The replies after which another mechanism may work: the mechanism is unknown or too weak, or its credentials are
invalid (RFC 4954 section 6).  In POP3: no response code, or AUTH (RFC 3206 section 4)."""

_MALFORMED: Final = 501
"""What servers also reply to a channel binding that they do not support."""


def mechanisms_after_refusal(
    mechanisms: Iterable[ClientMechanism],
    refused: ClientMechanism,
    code: int | str,
    *,
    weaker: bool,
    refusals: int = 1,
) -> tuple[ClientMechanism, ...]:
    """Return those of *mechanisms* that may be tried on this connection after the server has refused *refused*.

    *mechanisms* are all that the caller's policy allows, in the order of its preference.  *code* is the code of an SMTP
    reply, or the response code of a POP3 reply (empty if it has none).  *refusals* is how many logins the server has
    refused on this connection, including this one.

    * After a -PLUS form only -PLUS forms may follow.  Otherwise a man in the middle could refuse the login that he
      cannot relay, and get one that he can (RFC 5802 section 6).
    * The same -PLUS form with another channel binding is not weaker.  Any other mechanism follows only if *weaker* is
      true.
    * Nothing follows a reply that says nothing about the mechanism: a temporary failure (432, 454, ``SYS/TEMP``), the
      end of the session (421), a locked maildrop (``IN-USE``).  Nor may the caller use this function if it has
      cancelled the login, because it did not accept what the server sent, or if the connection was lost.
    * At most two more logins are made on a connection.

        >>> mechanisms = sasl.password_mechanisms("alice", b"wonderland", entropy=secrets.token_bytes(32), tls=None)
        >>> scram = mechanisms[0]
        >>> [each.name for each in sasl.mechanisms_after_refusal(mechanisms, scram, 535, weaker=True)][:2]
        ['SCRAM-SHA-1', 'CRAM-MD5']
    """
    check_type("weaker", bool, weaker)
    check_integer("refusals", refusals, 1)
    following = iter(mechanisms)
    if refusals > MAX_RETRIES or not any(mechanism is refused for mechanism in following):
        return ()
    return tuple(mechanism for mechanism in following if _may_follow(refused, mechanism, code, weaker))


def _may_follow(refused: ClientMechanism, mechanism: ClientMechanism, code: int | str, weaker: bool) -> bool:
    if mechanism.name == refused.name and refused.name.endswith("-PLUS"):
        other = getattr(mechanism, "channel_binding", None) != getattr(refused, "channel_binding", None)
        return other and (code in _UNUSABLE or code == _MALFORMED)
    bound = mechanism.name.endswith("-PLUS") or not refused.name.endswith("-PLUS")
    return weaker and bound and code in _UNUSABLE
