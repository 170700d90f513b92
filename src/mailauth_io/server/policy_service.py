"""A policy service for Postfix: it answers whether the address of a client has a grant.

The protocol is that of Postfix (SMTPD_POLICY_README).  A request has lines ``name=value`` and ends with an empty line;
the answer is an action of access(5).  Postfix keeps a connection for many requests.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection
from typing import Final, cast

import anyio
from anyio.abc import ByteStream, Listener
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from mailauth.addresses import Network
from mailauth.grants import Grant
from mailauth.policy import LOOKUP_FAILED

from .._checks import check_interface, check_networks
from ..limits import LogLimit
from ..logs import describe_error
from ..stores import Grants
from ._descriptors import fit_connections
from ._grant_service import GrantService
from ._log import log_failure

RESERVED: Final = 64
"""Descriptors that are not for connections: four for each thread of a grant store, the log, and the event loop."""

RETRY_DELAY: Final = 0.5
"""Seconds after which it tries again to accept connections, if it could not accept one."""

MAX_REQUEST: Final = 16_384
"""Maximum bytes of a request.  Postfix sends about 30 attributes, 1,000 bytes in all."""

MAX_CONNECTIONS: Final = 1_000
"""Maximum open connections.  Each process of smtpd(8) has one, and default_process_limit of Postfix is 100."""

MAX_WAITING: Final = 16
"""Maximum requests of a connection that wait for their answers.  Postfix sends one, and waits for its answer."""

TIMEOUT: Final = 600.0
"""Seconds to wait for a request.  Postfix closes a connection that is idle for 300 (smtpd_policy_service_max_idle)."""

PERMIT: Final = "OK"
NO_GRANT: Final = "DUNNO"
"""The next restriction of Postfix decides."""

DEFER: Final = f"DEFER {LOOKUP_FAILED.enhanced_status_code} {LOOKUP_FAILED.text}"
"""Postfix replies 450.  DEFER_IF_PERMIT would have no effect: ``reject_unauth_destination`` follows and replies 554."""

_ENDED: Final = (OSError, anyio.BrokenResourceError, anyio.ClosedResourceError)
"""The exceptions for a connection that has failed."""


class PolicyService:
    """Answers the requests of Postfix from *grants*.  Addresses in the networks *never* have no grant.

    Anybody who can connect learns which addresses have a grant, so listen on the loopback interface.

        service = server.PolicyService(sqlite_grants.SqliteGrants(Path("/var/lib/mailauth/grants.db")))
        async with await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=10040) as listener:
            await service.serve(listener)
    """

    def __init__(self, grants: Grants, *, never: Collection[Network] = ()) -> None:
        check_interface("grants", grants, Grants)
        check_networks("never", never)
        self._store = grants
        self._grants = GrantService(grants, never)
        self._connections = 0
        self._max_connections = MAX_CONNECTIONS
        self._accept_errors = LogLimit(1, 1)

    async def serve(self, listener: Listener[ByteStream]) -> None:
        """Answer the connections that *listener* accepts, until it is cancelled.

        The limit of open files is treated as by ``serve()``.  If a connection cannot be accepted, for example because
        no descriptor is free, the open ones continue, and it tries again.
        """
        self._max_connections = fit_connections(MAX_CONNECTIONS, descriptors=1, reserved=RESERVED)
        async with anyio.create_task_group() as sessions:
            while True:
                try:
                    await listener.serve(self._session, sessions)
                except* (OSError, anyio.BrokenResourceError) as errors:  # on trio, anyio makes the latter of the former
                    self._log_accept_error(errors)
                await anyio.sleep(RETRY_DELAY)

    def _log_accept_error(self, error: BaseException) -> None:
        while isinstance(error, BaseExceptionGroup):  # one group for each listener, and one for all
            error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
        if isinstance(error.__cause__, OSError):
            error = error.__cause__
        self._accept_errors.log(logging.WARNING, "connections not accepted", {"reason": describe_error(error)})

    async def _session(self, stream: ByteStream) -> None:
        async with stream:
            if self._connections >= self._max_connections:
                return
            self._connections += 1
            try:
                async with anyio.create_task_group() as tasks:
                    sender, requests = anyio.create_memory_object_stream[bytes](MAX_WAITING)
                    tasks.start_soon(_receive_all, stream, sender, tasks.cancel_scope)
                    await self._answer_all(stream, requests)
                    tasks.cancel_scope.cancel()
            finally:
                self._connections -= 1

    async def _answer_all(self, stream: ByteStream, requests: MemoryObjectReceiveStream[bytes]) -> None:
        with requests, contextlib.suppress(*_ENDED):
            async for request in requests:
                await stream.send(f"action={await self.decide(_client_address(request))}\n\n".encode())

    async def decide(self, address: str) -> str:
        """Return the action for a client at *address*.  Without an IP address, such as "unknown", there is no grant."""
        try:
            found = await self._grants.find(address)
        except Exception as error:
            log_failure("policy", "grants", error, self._store)
            return DEFER
        if isinstance(found, Grant):
            return PERMIT
        return NO_GRANT if found is None else DEFER


async def _receive_all(
    stream: ByteStream, sender: MemoryObjectSendStream[bytes], connection: anyio.CancelScope
) -> None:
    """Pass the requests to *sender*.  Cancel *connection* if it is idle for too long, or sends too much.

    It is read while a request is answered, too, so that what is received meanwhile has a limit.
    """
    received = BufferedByteReceiveStream(stream)
    with sender:
        try:
            while True:
                with anyio.fail_after(TIMEOUT):
                    request = await received.receive_until(b"\n\n", MAX_REQUEST)
                sender.send_nowait(request)
        except (anyio.EndOfStream, anyio.IncompleteRead):
            pass  # closed by the client, which may still read the answers
        except (*_ENDED, anyio.DelimiterNotFound, anyio.WouldBlock):
            connection.cancel()


def _client_address(request: bytes) -> str:
    """Return the attribute ``client_address`` of *request*, empty if there is none."""
    for line in request.split(b"\n"):
        name, _, value = line.partition(b"=")
        if name == b"client_address":
            return value.decode("ascii", "replace")
    return ""
