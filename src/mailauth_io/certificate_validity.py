"""From when until when a certificate is good (RFC 5280 section 4.1.2.5), which the ssl module tells of others' alone.

Knows the five fields of a certificate in front of that one; verifies nothing, and has no clock.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import attrs

from ._der import element

_INTEGER: Final = 0x02
_UTC_TIME: Final = 0x17
_GENERALIZED_TIME: Final = 0x18
_SEQUENCE: Final = 0x30
_EXPLICIT_0: Final = 0xA0


@attrs.frozen(kw_only=True)
class Validity:
    """Seconds since 1970, both moments included."""

    not_before: float
    not_after: float

    def problem(self, now: float) -> str | None:
        """What is wrong with it at the moment *now*, as the end of a sentence about the certificate; None: nothing."""
        if now < self.not_before:
            return f"is not valid before {day(self.not_before)}; wait until then, or set the clock"
        if now > self.not_after:
            return f"expired on {day(self.not_after)}; get a new one"
        return None


def validity(certificate: bytes) -> Validity | None:
    """That of *certificate*, in DER; None when it is no certificate."""
    try:
        start, _ = element(certificate, 0, _SEQUENCE)
        at, _ = element(certificate, start, _SEQUENCE)
        if certificate[at] == _EXPLICIT_0:  # the version
            _, at = element(certificate, at, _EXPLICIT_0)
        for tag in (_INTEGER, _SEQUENCE, _SEQUENCE):  # serial number, signature algorithm, issuer
            _, at = element(certificate, at, tag)
        start, _ = element(certificate, at, _SEQUENCE)
        not_before, behind = _moment(certificate, start)
        not_after, _ = _moment(certificate, behind)
    except (IndexError, ValueError):
        return None
    return Validity(not_before=not_before, not_after=not_after)


def day(seconds: float) -> str:
    """A moment as the day that it is in, in UTC: ``2026-01-31``."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}"


def _moment(data: bytes, at: int) -> tuple[float, int]:
    """A UTCTime, whose year has two digits, or a GeneralizedTime; and where it ends."""
    start, end = element(data, at, _UTC_TIME, _GENERALIZED_TIME)
    text = data[start:end].decode("ascii")
    if data[at] == _UTC_TIME:
        text = ("19" if text[0] >= "5" else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp(), end
