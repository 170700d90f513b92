"""A server's TLS context that reloads its certificate while the server runs.

A thread reads the files, since a disk may not respond.  Each handshake uses the certificate that was loaded last.
"""

from __future__ import annotations

import os
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Never, Self

import anyio

from .._workers import FILES
from ..adapters.tls.certificate_validity import day, validity
from ..adapters.tls.channel_binding import BindingContext
from ..adapters.tls.current_context import CurrentContext
from ..logs import Event, describe_error
from ..server import LOGGER
from .errors import ConfigError

INTERVAL: Final = 5.0
"""Seconds between two checks of the files."""

MIN_FILE_AGE: Final = 1.0
"""Seconds since the last change of a file before it is loaded: a program may still be writing it."""

WARNING_DAYS: Final = 14
"""Days before a certificate expires in which the log has a daily warning."""

_DAY: Final = 86_400.0


class RenewingContext(CurrentContext):
    """A context for a server that uses the files as they were loaded last."""

    _make: Callable[[], BindingContext]
    _files: tuple[Path, ...]
    _clock: Callable[[], float]
    _seen: tuple[object, ...]
    _reported: tuple[object, ...] | None
    _lock: threading.Lock
    _warned: float

    @classmethod
    def of(
        cls, make: Callable[[], BindingContext], files: Sequence[Path], clock: Callable[[], float] = time.time
    ) -> Self:
        """Return a context that calls *make* now, and again whenever *files* have changed.

        *make* returns a context with the current content of *files*.  It raises ConfigError if the content is invalid,
        and so does this method.  *clock* returns seconds since 1970, to compare with the times of the files and of the
        certificate.
        """
        context = cls(ssl.PROTOCOL_TLS_SERVER)
        context._make, context._files, context._clock = make, tuple(files), clock
        context._seen, context._reported = context._signature(), None
        context._current = make()
        context.minimum_version = context._current.minimum_version  # the default is lower on some systems
        context._lock = threading.Lock()
        context._warned = -_DAY
        return context

    async def keep_current(self) -> Never:
        """Check the files in a thread every ``INTERVAL`` seconds, until it is cancelled."""
        while True:
            await anyio.sleep(INTERVAL)
            await self.check_in_thread()

    async def check_in_thread(self, *, at_once: bool = False) -> None:
        """Call ``check_files()`` in a thread.  A failure is logged, not raised."""
        try:
            await FILES.run(partial(self.check_files, at_once=at_once), key=self._files)
        except Exception as error:  # whatever it is, the server goes on with the previous certificate
            reason = f"{self._files[0]} cannot be checked: {describe_error(error)}"
            LOGGER.error(Event("certificate", {"warning": reason}))

    def check_files(self, *, at_once: bool = False) -> None:
        """Reload the files if they have changed.  With *at_once*, do not wait until they are ``MIN_FILE_AGE`` seconds
        old.

        If the files are invalid, the previous context stays in use, and the log has an error, one for each change and
        reason.  Each later check tries again, since the reason may not be in the files: the certificate is not valid
        yet, or no descriptor is free.  If the certificate expires soon, the log has a warning, once a day.
        """
        with self._lock:
            self._reload(at_once)
            self._warn()

    def _reload(self, at_once: bool) -> None:
        now = self._clock()
        seen = self._signature()
        if seen != self._seen and (at_once or not self._fresh(now)):
            try:
                self._current = self._make()
            except ConfigError as config_error:
                attempt = (seen, str(config_error))
                if attempt != self._reported:
                    self._reported = attempt
                    LOGGER.error(Event("certificate", {"warning": f"keeping the previous certificate: {config_error}"}))
            else:
                self._seen, self._reported = seen, None
                self._warned = now - _DAY
                LOGGER.info(Event("certificate", {"warning": f"reloaded {self._files[0]}"}))

    def _warn(self) -> None:
        now = self._clock()
        found = None if self.certificate is None else validity(self.certificate)
        if found is None or found.not_after - now > WARNING_DAYS * _DAY:
            return
        if abs(now - self._warned) < _DAY:  # abs(): the clock may have been set back since the last warning
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
        return any(found is not None and abs(now - found.st_mtime) < MIN_FILE_AGE for found in map(_stat, self._files))


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None
