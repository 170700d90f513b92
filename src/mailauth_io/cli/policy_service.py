"""``mailauth policy-service``: run ``server.PolicyService`` with the grants that the settings name."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import Final

import anyio
from anyio.abc import SocketAttribute, SocketStream
from anyio.streams.stapled import MultiListener

from .. import _event_loop, logs, server
from .._descriptor_limit import raise_descriptor_limit
from . import grants_option, references
from .errors import ConfigError
from .settings import Settings

HOST: Final = "127.0.0.1"

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def run(settings: Settings, port: int) -> None:
    """Answer the requests of Postfix until SIGTERM or SIGINT.

    Raises ConfigError if the settings are invalid, or if it cannot listen on *port*.
    """
    with contextlib.closing(grants_option.required(settings)) as grants:
        logs.start(settings.log_format, settings.log_level)
        raise_descriptor_limit()
        try:
            _event_loop.check_event_loop(settings.loop)
        except ImportError as error:
            raise ConfigError(str(error)) from error
        service = server.PolicyService(grants, never=settings.no_grants_from + settings.proxy_from)

        async def main() -> None:
            async with contextlib.AsyncExitStack() as stack:
                await references.enter(settings, stack, {"grants_store": grants})
                reason = await grants_option.problem(grants)
                if reason is not None:
                    print(f"The grants store is not available, so mail that needs a grant is deferred: {reason}.")
                listener = await stack.enter_async_context(await _listen(port))
                with anyio.open_signal_receiver(*_SIGNALS) as signals:
                    print(f"listening on {HOST}, port {listener.extra(SocketAttribute.local_port)}", flush=True)
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(service.serve, listener)
                        async for _ in signals:  # trio would raise KeyboardInterrupt in a group
                            tasks.cancel_scope.cancel()
                            break

        _event_loop.run(settings.loop, main)


async def _listen(port: int) -> MultiListener[SocketStream]:
    try:
        return await anyio.create_tcp_listener(local_host=HOST, local_port=port)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise ConfigError(f"cannot listen on {HOST} port {port}: {reason}") from error
