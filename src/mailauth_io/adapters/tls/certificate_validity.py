"""The validity period of a certificate (RFC 5280 section 4.1.2.5).  The ssl module reports it only for a peer.

Nothing is verified, and no clock is read.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import attrs

from ._der import element

__all__ = ["Validity", "day", "validity"]

_INTEGER: Final = 0x02
_UTC_TIME: Final = 0x17
_GENERALIZED_TIME: Final = 0x18
_SEQUENCE: Final = 0x30
_EXPLICIT_0: Final = 0xA0


@attrs.frozen(kw_only=True)
class Validity:
    """The validity period, in seconds since 1970-01-01 UTC; both limits are inclusive.

    For example:

        >>> period = certificate_validity.Validity(not_before=0.0, not_after=86_400.0)
        >>> period.problem(now=90_000.0)
        'expired on 1970-01-02; renew it'
    """

    not_before: float
    not_after: float

    def problem(self, now: float) -> str | None:
        """Return why the certificate is not valid at the time *now*, and the remedy; None if it is valid.

        The text is a predicate, to be written after the name of the certificate.
        """
        if now < self.not_before:
            return f"is not valid before {day(self.not_before)}; wait until then, or correct the clock"
        if now > self.not_after:
            return f"expired on {day(self.not_after)}; renew it"
        return None


def validity(certificate: bytes) -> Validity | None:
    """Return the validity period of *certificate* (DER); None if it cannot be parsed as a certificate."""
    try:
        start, _ = element(certificate, 0, _SEQUENCE)
        at, _ = element(certificate, start, _SEQUENCE)
        if certificate[at] == _EXPLICIT_0:  # the version
            _, at = element(certificate, at, _EXPLICIT_0)
        for tag in (_INTEGER, _SEQUENCE, _SEQUENCE):  # serial number, signature algorithm, issuer
            _, at = element(certificate, at, tag)
        start, _ = element(certificate, at, _SEQUENCE)
        not_before, end = _moment(certificate, start)
        not_after, _ = _moment(certificate, end)
    except (IndexError, ValueError):
        return None
    return Validity(not_before=not_before, not_after=not_after)


def day(seconds: float) -> str:
    """Return the date of a time, in UTC: ``2026-01-31``."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"


def _moment(data: bytes, at: int) -> tuple[float, int]:
    """Parse a UTCTime (two-digit year) or a GeneralizedTime.  Returns the time and the end of the element."""
    start, end = element(data, at, _UTC_TIME, _GENERALIZED_TIME)
    text = data[start:end].decode("ascii")
    if data[at] == _UTC_TIME:
        text = ("19" if text[0] >= "5" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp(), end
