"""``mailauth serve``: start the servers, print where they listen, and run until a signal ends them."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator, Callable, Generator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Final, NoReturn

import anyio

from .. import _event_loop, logs, server
from .._descriptor_limit import raise_descriptor_limit
from .._files import replace_file
from ..logs import Event
from . import accept_errors, config, grants_option, references
from .errors import ConfigError
from .settings import Settings

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
"""The signals that end the server.  SIGHUP reloads accounts and certificate."""


EXIT_MARGIN: Final = 3.0
"""Seconds after the grace period in which the process ends, also if a thread does not."""


def serve(settings: Settings) -> None:
    """Serve with *settings* until SIGTERM or SIGINT.

    Raises ConfigError if the settings are invalid or the server cannot start.
    """
    os.umask(0o077)  # before anything is written
    _handle(_handle_signal)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the files are about to be read; nothing to reload yet
    serving = config.read(settings)
    logs.start(settings.log_format, settings.log_level)
    raise_descriptor_limit()
    accept_errors.install_accept_error_filter()
    try:
        _event_loop.check_event_loop(serving.loop)
    except ImportError as error:
        raise ConfigError(str(error)) from error

    noted: list[int] = []
    _handle(lambda number, frame: noted.append(number))  # an exception inside the loop's code would break it

    async def main() -> None:
        with _received_signals() as signals:
            if not noted:
                await _serve(settings, serving, signals)

    _event_loop.run(serving.loop, main)
    _handle(signal.SIG_IGN)  # another handler would be reset while the interpreter exits


def _handle(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    for number in SIGNALS:
        signal.signal(number, handler)


def _handle_signal(number: int, frame: FrameType | None) -> NoReturn:
    sys.exit(0)


@contextmanager
def _received_signals() -> Generator[AsyncIterator[signal.Signals]]:
    """Yield the signals as they arrive, and restore the handlers; anyio resets them to the default on asyncio."""
    before = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGHUP)}
    try:
        with anyio.open_signal_receiver(*before) as signals:
            yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


async def _serve(settings: Settings, serving: config.ServerSetup, signals: AsyncIterator[signal.Signals]) -> None:
    if serving.ready_file is not None:
        with _writing(settings, serving.ready_file):
            serving.ready_file.unlink(missing_ok=True)  # left by an earlier run, with the wrong ports
    if serving.certificate is not None:
        serving.certificate.check_files()  # logs a warning if it expires soon
    listening = False
    try:
        async with AsyncExitStack() as stack:
            stores = {name: getattr(serving.stores, name.removesuffix("_store")) for name in references.STORES}
            await references.enter(settings, stack, stores)
            await _check_postmaster(settings, serving)
            running = await stack.enter_async_context(
                server.serve(serving.config, serving.stores, interceptors=serving.interceptors)
            )
            listening = True
            failures: list[Exception] = []
            async with anyio.create_task_group() as tasks:

                async def announce() -> None:
                    try:
                        _announce(settings, serving, running, await _warn_before_start(serving, running))
                    except Exception as error:  # the task group would wrap it
                        failures.append(error)
                        tasks.cancel_scope.cancel()

                tasks.start_soon(announce)  # a next hop that does not respond must not delay the signals
                if serving.certificate is not None:
                    tasks.start_soon(serving.certificate.keep_current)
                async for number in signals:
                    if number != signal.SIGHUP:
                        _exit_after(serving.config.grace + EXIT_MARGIN)
                        break
                    await _reload(serving, running)
                tasks.cancel_scope.cancel()
            for failure in failures:
                raise failure
    except OSError as error:
        if listening:
            raise
        raise ConfigError(error.strerror or str(error)) from error
    finally:
        if serving.stores.grants is not None:
            serving.stores.grants.close()


def _exit_after(seconds: float) -> None:
    """End the process *seconds* from now, unless it has ended by then.

    A call in a thread may wait for a disk or a name server that does not respond.  It was abandoned, and so was its
    client; but the interpreter waits for such a thread when it exits, and a disk may stop the event loop, too.
    """
    timer = threading.Timer(seconds, _exit)
    timer.daemon = True
    timer.start()


def _exit() -> NoReturn:
    server.LOGGER.warning(Event("calls abandoned", {}))
    logging.shutdown()  # writes the log, within a limited time
    os._exit(0)


async def _check_postmaster(settings: Settings, serving: config.ServerSetup) -> None:
    """Check that a store of accounts has the postmaster.  Raises ConfigError."""
    if settings.accounts_store is None or serving.config.postmaster is None:
        return
    try:
        found = await serving.stores.accounts.find(serving.config.postmaster)
    except Exception as error:  # a store of the user may raise anything
        reason = f"{settings.accounts_store} failed in find(): {logs.describe_error(error)}"
        raise settings.config_error("accounts_store", reason) from error
    if found is None:
        raise settings.config_error(
            "postmaster", f"unknown account: {settings.postmaster!r}; use an account of {settings.accounts_store}"
        )


async def _warn_before_start(serving: config.ServerSetup, running: server.RunningServer) -> list[str]:
    """Return warnings if the relay or the grants store is not available.  The server starts nevertheless."""
    warnings: list[str] = []
    reason = await running.check_next_hop()
    if reason is not None:
        hop = serving.stores.outbox
        warnings.append(f"The relay {hop} is not available, so remote mail is deferred with 451: {reason}.")
    grants = serving.stores.grants
    if grants is not None:
        reason = await grants_option.problem(grants)
        if reason is not None:
            warnings.append(
                f"The grants store is not available, so mail that needs a grant is deferred with 451: {reason}."
            )
        else:
            warnings += await grants_option.eviction_warnings(grants)
    return warnings


async def _reload(serving: config.ServerSetup, running: server.RunningServer) -> None:
    """Reload accounts and certificate at once, without waiting for the periodic check.  Settings are not reloaded."""
    server.LOGGER.info(Event("reload", {}))
    if serving.certificate is not None:
        await serving.certificate.check_in_thread(at_once=True)
    await running.reload()


def _announce(
    settings: Settings, serving: config.ServerSetup, running: server.RunningServer, others: list[str]
) -> None:
    ports = {name: getattr(running, name) for name in server.PORTS}
    if serving.ready_file is not None:
        with _writing(settings, serving.ready_file):
            replace_file(serving.ready_file, (json.dumps({**ports, "pid": os.getpid()}) + "\n").encode())
    listening = ", ".join(f"{name.upper()} {port}" for name, port in ports.items() if port is not None)
    print(f"Serving {', '.join(serving.config.domains)} on {', '.join(serving.config.hosts)}: {listening}.")
    for warning in (*serving.warnings, *others):
        print(warning)
    print("Ready.", flush=True)


@contextmanager
def _writing(settings: Settings, ready_file: Path) -> Generator[None]:
    """Raise ConfigError for an OSError about the ready file."""
    try:
        yield
    except OSError as error:
        raise settings.config_error("ready_file", f"{ready_file} cannot be written: {error.strerror}") from error
