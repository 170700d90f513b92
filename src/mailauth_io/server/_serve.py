"""Starting and ending the ready server, on whichever loop runs.

Knows ports and hosts; what is said on them is the sessions' affair.  No globals, no signals, no options.
"""

from __future__ import annotations

import contextlib
import functools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

from mailauth import pop3, smtp

from .. import _loops
from .._listener import Listener, ServeOptions
from .._tls import POP3, SMTP
from ._state import ServerState
from .config import PORTS, Config, RunningServer, Stores
from .pop3_session import Pop3Session
from .smtp_session import SmtpSession

_ATTEMPTS: Final = 16  # to find one free port that is free on every host


@contextlib.asynccontextmanager
async def serve(
    config: Config,
    stores: Stores,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] | None = None,
) -> AsyncIterator[RunningServer]:
    """An SMTP and a POP3 server, until the context is left; works on asyncio and on trio.

    *clock* gives seconds that never step back; grants live and end by it, unless *stores* brings some.  *sleep*
    waits for so many seconds, that of the loop unless given; a refused login does.  Raises OSError when a port cannot
    be had, and ValueError when the postmaster is none of the accounts.
    """
    server_state = ServerState.of(config, stores, clock, sleep)
    if config.postmaster is not None and not await stores.accounts.exists(server_state.postmaster):
        raise ValueError(f"the postmaster {config.postmaster!r} is none of the accounts")
    failure: Exception | None = None
    async with contextlib.AsyncExitStack() as stack:
        ports: dict[str, int | None] = {}
        listeners: list[Listener] = []
        for name in PORTS:
            wanted: int | None = getattr(config, name)
            ports[name] = wanted
            if wanted is not None:
                found = await _listen(stack, server_state, name, wanted)
                ports[name] = found[0].port
                listeners += found
        try:
            yield RunningServer(hosts=config.hosts, **ports, reload=server_state.reload)
        except Exception as error:  # raised again outside, as itself: the nurseries of trio would wrap it into groups
            failure = error
        finally:
            for listener in listeners:
                listener.shut_down()  # all at once, so that their times of grace run side by side
    if failure is not None:
        raise failure


async def _listen(
    stack: contextlib.AsyncExitStack, server_state: ServerState, name: str, wanted: int
) -> list[Listener]:
    """Listen on every host at one and the same port."""
    for attempt in range(1, _ATTEMPTS + 1):
        port = wanted
        found: list[Listener] = []
        async with contextlib.AsyncExitStack() as trial:
            try:
                for host in server_state.config.hosts:
                    found.append(await trial.enter_async_context(_serve(server_state, name, host, port)))
                    port = found[0].port
            except OSError as error:
                if wanted != 0 or not found or attempt == _ATTEMPTS:
                    # The loops word it differently, and one of them does not say which port it was.
                    reason = os.strerror(error.errno) if error.errno else str(error)
                    raise OSError(error.errno, f"cannot listen on {host} port {port}: {reason}") from error
                continue
            stack.push_async_exit(trial.pop_all())
            return found
    raise AssertionError("the last attempt returns or raises")


def _serve(
    server_state: ServerState, name: str, host: str, port: int
) -> contextlib.AbstractAsyncContextManager[Listener]:
    adapter = _loops.current().adapter
    config = server_state.config
    options: ServeOptions = {
        "host": host, "port": port, "ssl_context": config.ssl_context, "implicit_tls": name.endswith("s"),
        "reuse_port": config.reuse_port, "limits": config.limits, "limiter": server_state.limiter,
        "grace": config.grace, "proxy_from": config.proxy_from,
        "alpn": SMTP if name.startswith("smtp") else POP3,
    }  # fmt: skip
    if name.startswith("smtp"):
        return adapter.serve(
            functools.partial(SmtpSession.serve, server_state),
            lambda entropy, tls: smtp.ExtendedServerConnection(server_state.smtp_settings(), entropy=entropy, tls=tls),
            **options,
        )
    return adapter.serve(
        functools.partial(Pop3Session.serve, server_state),
        lambda entropy, tls: pop3.ExtendedServerConnection(server_state.pop3_settings(), entropy=entropy, tls=tls),
        **options,
    )
