"""A server's TLS context whose certificate is renewed while it runs: each handshake begins by the newest good one.

Knows files by when they were changed, and what makes a context of them; what such a context holds is not looked at.
"""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Self

from ..certificate_validity import day, validity
from ..channel_binding import BindingContext
from ..logs import Event
from ..server import LOGGER
from .errors import ConfigError

INTERVAL: Final = 5.0
"""Seconds between two looks at the files, which a handshake takes if it is time."""

SETTLED: Final = 1.0
"""Seconds that a changed file must have rested: whoever writes it in place may be in the middle of it."""

WARNING_DAYS: Final = 14
"""Days before its end that a certificate is warned of, once a day."""

_DAY: Final = 86_400.0


class RenewingContext(ssl.SSLContext):
    """What a server is given in place of its context: handshakes begin by the one that it made last.

    A connection keeps the context that it began by.  What is set on this one has no effect.
    """

    _make: Callable[[], BindingContext]
    _files: tuple[Path, ...]
    _clock: Callable[[], float]
    _current: BindingContext
    _seen: tuple[object, ...]
    _looked: float
    _warned: float

    @classmethod
    def of(
        cls, make: Callable[[], BindingContext], files: Sequence[Path], clock: Callable[[], float] = time.time
    ) -> Self:
        """*make* makes a context of what *files* hold now; it raises Complaint, now too, when that is no good.

        *clock* gives seconds since 1970, to set beside the times of the files and of the certificate.
        """
        context = cls(ssl.PROTOCOL_TLS_SERVER)
        context._make, context._files, context._clock = make, tuple(files), clock
        context._seen = context._signature()
        context._current = make()
        context.minimum_version = context._current.minimum_version  # some systems allow less unless told otherwise
        context._looked = clock()
        context._warned = -_DAY
        return context

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        """As ``ssl.SSLContext`` does, by the context of the files as they are."""
        if abs(self._clock() - self._looked) >= INTERVAL:
            self.look()
        return self._current.wrap_bio(incoming, outgoing, server_side, server_hostname, session)

    @property
    def certificate(self) -> bytes | None:
        """The certificate that the next handshake shows, in DER."""
        return self._current.certificate

    def look(self, *, at_once: bool = False) -> None:
        """Take up the files if they have changed, even while they may still be written when it must be *at_once*.

        When they are no good everything stays as it was; the log tells so, once for each change.  It also tells, once a
        day, that the end of the certificate is near.
        """
        now = self._looked = self._clock()
        seen = self._signature()
        if seen != self._seen and (at_once or not self._fresh(now)):
            self._seen = seen
            try:
                self._current = self._make()
            except ConfigError as config_error:
                LOGGER.error(Event("certificate", {"warning": f"the one before stays: {config_error}"}))
            else:
                self._warned = now - _DAY
                LOGGER.info(Event("certificate", {"warning": f"{self._files[0]} has changed and was taken up"}))
        self._warn()

    def _warn(self) -> None:
        now = self._clock()
        found = None if self.certificate is None else validity(self.certificate)
        if found is None or found.not_after - now > WARNING_DAYS * _DAY or now - self._warned < _DAY:
            return
        self._warned = now
        when = f"expires on {day(found.not_after)}" if now <= found.not_after else f"expired on {day(found.not_after)}"
        LOGGER.warning(Event("certificate", {"warning": f"{self._files[0]} {when}"}))

    def _signature(self) -> tuple[object, ...]:
        return tuple(
            None if found is None else (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)
            for found in map(_stat, self._files)
        )

    def _fresh(self, now: float) -> bool:
        return any(found is not None and abs(now - found.st_mtime) < SETTLED for found in map(_stat, self._files))


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None
