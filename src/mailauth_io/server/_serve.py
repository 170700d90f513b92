"""Starting and stopping the server, on asyncio or trio."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import Final

import attrs

from mailauth import pop3, smtp

from .._checks import check_function, check_type
from .._event_loop import current_adapter
from ..adapters import Listener, OnError, ServeOptions
from ..adapters.tls.layer import POP3, SMTP
from ..logs import Event
from ..stores.grants import boot_time
from ._descriptors import fit_limits
from ._log import LOGGER
from ._offer import clear_text_warning, login_problem, without_tls
from .config import PORTS, Config, RunningServer, Stores
from .interceptors import Interceptor, InterceptorFunction
from .pop3_session import Pop3Session
from .smtp_session import SmtpSession
from .state import ServerState

_ATTEMPTS: Final = 16  # attempts to find a port that is free on every host


@contextlib.asynccontextmanager
async def serve(
    config: Config,
    stores: Stores,
    *,
    clock: Callable[[], float] = boot_time,
    sleep: Callable[[float], Awaitable[None]] | None = None,
    on_error: OnError | None = None,
    interceptors: Iterable[Interceptor | InterceptorFunction] = (),
) -> AsyncGenerator[RunningServer]:
    """Run an SMTP and a POP3 server until the context exits, on asyncio or trio.

    *clock* is a monotonic clock in seconds; on Linux the default also counts the time in which the system is suspended.
    The in-memory grant store uses it if *stores* has no grants.  *sleep* is called with the seconds by which the reply
    to a failed login is delayed; the default is the loop's own sleep.
    *on_error* is called with an exception that ended a session, or that an interceptor raised, and the Peer, after the
    exception was logged.  An interceptor with ``secrets=True`` that fails at a question of a login is reported as a
    RuntimeError that has only the class and the place of its exception.
    *interceptors* see each question before the server answers it, in this order (see ``Interceptor``).

    The soft limit of open files of the process (RLIMIT_NOFILE) is raised as far as the connections need it.  If the
    hard limit is too low, fewer connections are accepted, and the log has a warning.

    Raises OSError if it cannot listen on a port, and TypeError for an argument of another type.  Raises ValueError if
    *config* has no port, if it has an SMTP port and *stores* no outbox, if the postmaster is an unknown account, or if
    the grant settings of *config* differ from those of the store.
    """
    check_type("config", config, Config)
    check_type("stores", stores, Stores)
    check_function("clock", clock)
    if sleep is not None:
        check_function("sleep", sleep)
    config = attrs.evolve(config, limits=fit_limits(config, stores.outbox))
    server_state = ServerState.of(config, stores, clock, sleep, on_error=on_error, interceptors=interceptors)
    if config.postmaster is not None and not await server_state.authenticator.exists(server_state.postmaster):
        raise ValueError(f"unknown account {config.postmaster!r}: postmaster must be one of the accounts")
    if all(getattr(config, name) is None for name in PORTS):
        raise ValueError("config has no port; pass smtp, smtps, pop3 or pop3s to Config (0 is any free port)")
    if stores.outbox is None and (config.smtp, config.smtps) != (None, None):
        raise ValueError("a server with an SMTP port needs an outbox; pass outbox=MemoryOutbox() or another to Stores")
    _warn(config, server_state)
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
            yield RunningServer(
                hosts=config.hosts, **ports, reload=server_state.reload, check_next_hop=server_state.check_next_hop
            )
        finally:
            server_state.stopping.set()
            for listener in listeners:
                listener.shut_down()  # all at once, so that their grace periods run in parallel


def _warn(config: Config, server_state: ServerState) -> None:
    """Log a warning if no login is possible, or if passwords cross a network in clear text."""
    proofs = server_state.authenticator.proofs
    in_clear = without_tls(proofs, config.mechanisms) if config.legacy else ()
    warnings = (
        login_problem(
            config.mechanisms,
            proofs,
            smtp=(config.smtp, config.smtps) != (None, None),
            pop3=(config.pop3, config.pop3s) != (None, None),
            tls=config.ssl_context is not None,
            legacy=config.legacy,
        ),
        clear_text_warning(config.hosts, in_clear),
    )
    for warning in warnings:
        if warning is not None:
            LOGGER.warning(Event("logins", {"warning": warning}))


async def _listen(
    stack: contextlib.AsyncExitStack, server_state: ServerState, name: str, wanted: int
) -> list[Listener]:
    """Listen on the same port of every host."""
    for attempt in range(1, _ATTEMPTS + 1):
        port = wanted
        host = server_state.config.hosts[0]
        found: list[Listener] = []
        async with contextlib.AsyncExitStack() as trial:
            try:
                for host in server_state.config.hosts:
                    found.append(await trial.enter_async_context(_serve(server_state, name, host, port)))
                    port = found[0].port
            except OSError as error:
                if wanted != 0 or not found or attempt == _ATTEMPTS:
                    # asyncio and trio have different messages, and one of them does not name the port.
                    # The number of a failed address lookup (socket.gaierror) is negative.
                    reason = (
                        os.strerror(error.errno) if error.errno and error.errno > 0 else error.strerror or str(error)
                    )
                    raise OSError(error.errno, f"cannot listen on {host} port {port}: {reason}") from error
                continue
            stack.push_async_exit(trial.pop_all())
            return found
    raise AssertionError("the last attempt returns or raises")


def _serve(
    server_state: ServerState, name: str, host: str, port: int
) -> contextlib.AbstractAsyncContextManager[Listener]:
    adapter = current_adapter()
    config = server_state.config
    options: ServeOptions = {
        "host": host, "port": port, "ssl_context": config.ssl_context, "implicit_tls": name.endswith("s"),
        "reuse_port": config.reuse_port, "limits": config.limits, "limiter": server_state.limiter,
        "grace": config.grace, "proxy_from": config.proxy_from, "on_error": server_state.on_error,
        "alpn": SMTP if name.startswith("smtp") else POP3,
    }  # fmt: skip
    if name.startswith("smtp"):
        return adapter.serve(
            functools.partial(SmtpSession.serve, server_state),
            lambda entropy, tls: smtp.ServerConnection(server_state.smtp_settings(), entropy=entropy, tls=tls),
            **options,
        )
    return adapter.serve(
        functools.partial(Pop3Session.serve, server_state),
        lambda entropy, tls: pop3.ServerConnection(server_state.pop3_settings(), entropy=entropy, tls=tls),
        **options,
    )
