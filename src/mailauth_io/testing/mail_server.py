"""The server of the test kit: an SMTP and POP3 server in a thread, with the methods that a test calls."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import re
import shutil
import ssl
import tempfile
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Mapping
from concurrent.futures import Future
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from pathlib import Path
from typing import Any, Final, TypeVar, Unpack, cast

import anyio
import anyio.to_thread

from mailauth import ServerMachine, Tls, pop3, smtp

from .._checks import check_address_text, check_choice, check_number, check_port, check_type
from ..adapters import AsyncServerConnection, Limits
from ..adapters.tls.layer import POP3, SMTP
from ..server.config import PORTS
from ..server.pop3_session import Pop3Session
from ..server.smtp_session import SmtpSession
from ..stores import ActiveGrant, Hashing
from ._certificates import CertificateSet, SelectableContext
from ._current_test import CurrentTest
from ._explain import Wanted, explain
from ._machine import Pop3Machine, RecordingMachine, SmtpMachine
from ._network import Listener, Network
from ._secrets import ClearSecret
from ._stores import Clock
from .message import Message, StoredMessage
from .options import OptionArguments, Options
from .rules import Rule
from .transcript import Transcript

T = TypeVar("T")

_ADDRESS: Final = "127.0.0.1"
_ADDRESSES_OF_LOCALHOST: Final = (_ADDRESS, "0.0.0.0", "::")
_LIMITS: Final = Limits(connections=10_000, connections_per_address=10_000)
_START_TIMEOUT: Final = 30.0
_LONGEST_WAIT: Final = 86_400.0
"""Seconds after which a wait is begun again, since the system does not allow any number."""

_ITERATIONS: Final = 50
"""Iterations of the event loop within which the server accepts a waiting connection and handles the data on it."""


def _now() -> float:
    """Return the time of a clock that goes on while a test has stopped ``time.monotonic()``, as freezegun does."""
    return time.clock_gettime(time.CLOCK_MONOTONIC)


class _EventLoop(asyncio.SelectorEventLoop):
    """The event loop of the server, whatever the policy of the tests is."""

    def time(self) -> float:
        return _now()


def _remove_directory(directory: str, process: int) -> None:
    if os.getpid() == process:  # not in a fork
        shutil.rmtree(directory, ignore_errors=True)


async def _pass_iterations() -> None:
    for _ in range(_ITERATIONS):
        await asyncio.sleep(0)


class MailServer:
    """An SMTP and POP3 server for tests, which runs in a thread of its own.

    Get one from the pytest fixture ``mail_server``, or from the context manager ``mail_server()``.  All methods return
    at once, except ``wait_for_message()``; they may be called from any thread and in any event loop.

    For example:

        def test_welcome_mail(mail_server):
            register("alice@example.test", smtp_host=mail_server.host, smtp_port=mail_server.smtp_port)
            message = mail_server.wait_for_message(to="alice@example.test")
            assert message.subject == "Welcome"
    """

    def __init__(self, *, address: str = _ADDRESS, ports: Mapping[str, int] | None = None) -> None:
        """Listen on the IP address *address*, and on *ports*, by the names ``smtp``, ``smtps``, ``pop3`` and ``pop3s``.

        A port that is absent or 0 is any free one.  The certificate is not valid for an *address* that is not
        127.0.0.1 or ::1.  Raises TypeError or ValueError for an invalid argument, and TrustmeMissing if the extra
        ``testing`` is not installed.
        """
        check_address_text("address", address)
        self._address = address
        if not isinstance(ports, Mapping | None):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"ports must be a dict such as {{'smtp': 2525}}, not {ports!r}")
        self._ports = dict.fromkeys(PORTS, 0) | dict(ports or {})
        for name, port in self._ports.items():
            check_choice("each key of ports", name, PORTS)
            check_port(f"ports[{name!r}]", port)
        self._certificates = CertificateSet.of_process()
        self._tls_context = SelectableContext.of(self._certificates)
        self._changed = threading.Condition()
        self._hashing = Hashing()
        directory = tempfile.mkdtemp(prefix="mailauth-testing-")
        self._remove_directory = weakref.finalize(self, _remove_directory, directory, os.getpid())
        self.ca_file = str(self._certificates.ca_file(Path(directory)))
        """The path of the CA certificate in PEM; the file is removed when the server is closed."""
        self.network = Network()
        """The network faults: latency, bandwidth, slicer, reset_peer and limit_data."""
        self._listeners: dict[str, Listener] = {}
        self._begun: CurrentTest | None = None
        self._loop: asyncio.AbstractEventLoop
        self._stop: asyncio.Event
        self._thread: threading.Thread | None = None
        self._process = os.getpid()

    def __repr__(self) -> str:
        return f"<MailServer with {', '.join(f'{name}_port={each.port}' for name, each in self._listeners.items())}>"

    # Start and end

    def start(self, options: Options | None = None) -> None:
        """Start the thread, and listen on the ports.  Raises OSError if that fails; then call ``close()``.

        Raises RuntimeError if it was called before: a server is started once.
        """
        if self._thread is not None or not self._remove_directory.alive:
            raise RuntimeError("start() was called before; create another MailServer")
        self._process = os.getpid()
        self._loop = _EventLoop()
        self._stop = asyncio.Event()
        started: Future[None] = Future()
        serving = functools.partial(self._run, options or Options(), started)
        self._thread = threading.Thread(target=serving, name="mailauth test server", daemon=True)
        self._thread.start()
        started.result(_START_TIMEOUT)

    def _run(self, options: Options, started: Future[None]) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve(options, started))

    async def _serve(self, options: Options, started: Future[None]) -> None:
        try:
            self._begin(options)
            async with contextlib.AsyncExitStack() as stack:
                for service in PORTS:
                    self._listeners[service] = await stack.enter_async_context(self._listen(service))
                started.set_result(None)
                await self._stop.wait()
                self._abort_connections()
        except BaseException as error:
            if started.done():
                raise
            started.set_exception(error)

    def _begin(self, options: Options) -> None:
        self._begun = CurrentTest(options, self._hashing, self._changed)
        self._tls_context.present(options.certificate)
        self.network.clear()

    @contextlib.asynccontextmanager
    async def _listen(self, service: str) -> AsyncGenerator[Listener]:
        listener = Listener(
            self._tls_context,
            implicit_tls=service.endswith("s"),
            grace=0.0,
            proxy_from=(),
            limits=_LIMITS,
            limiter=None,
            alpn=SMTP if service.startswith("smtp") else POP3,
            on_error=lambda error, peer: self._test.session_failed(error, peer),
            network=self.network,
            protocol="SMTP" if service.startswith("smtp") else "POP3",
            on_connect=lambda peer: self._test.connected(service, peer),
            on_tls_failure=lambda peer, error: self._test.tls_failed(service, peer, error),
        )
        build = functools.partial(self._build, service)
        session = functools.partial(self._session, service)
        port = self._ports[service]
        async with contextlib.AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(listener.listen(session, build, self._address, port, reuse_port=False))
            except OSError as error:
                where = f"{self._address} port {port}" if port else self._address
                reason = os.strerror(error.errno) if error.errno else str(error)  # asyncio's own text has both
                raise OSError(error.errno, f"cannot listen on {where}: {reason}") from error
            yield listener

    def close(self) -> None:
        """Stop the server: close all connections, and end the thread.

        A second call does nothing, nor does a call in a process that was forked from that of the server.
        """
        thread, self._thread = self._thread, None
        if self._process != os.getpid():
            return
        if thread is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, because start() has failed
                self._loop.call_soon_threadsafe(self._stop.set)
            thread.join()
        self._remove_directory()

    def reset(self, options: Options | None = None) -> None:
        """Close all connections, and begin a new test with *options*.

        Rules, messages, grants and the transcript are removed; the ports and the CA stay.  The fixture does this
        before each test.
        """
        self._call(self._reset(options or Options()))

    async def _reset(self, options: Options) -> None:
        await _pass_iterations()  # a connection that is not accepted yet belongs to the old test
        self._abort_connections()
        while any(listener.connected for listener in self._listeners.values()):
            await asyncio.sleep(0)
            self._abort_connections()  # one that was accepted meanwhile might never end
        self._begin(options)

    def _abort_connections(self) -> None:
        for listener in self._listeners.values():
            listener.abort_connections()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run *coroutine* in the thread of the server.  Raises RuntimeError if that would wait without end."""
        try:
            self._check_process()
            if self._thread is None:
                raise RuntimeError("the server is not running: it was closed, or start() was not called")
            if threading.current_thread() is self._thread:
                raise RuntimeError("the function where() must not wait for the server, in whose thread it is called")
        except RuntimeError:
            coroutine.close()
            raise
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def _check_process(self) -> None:
        if self._process != os.getpid():
            raise RuntimeError(
                "the server runs in the parent process: a forked child can connect to its ports, but only the parent"
                " can ask it for messages or change it"
            )

    def _settled(self) -> CurrentTest:
        """Return the test, after the server has handled what clients have sent, even if they await no reply."""
        thread = self._thread  # None after close()
        if thread is not None and threading.current_thread() is not thread:  # a rule may call a function there
            self._call(_pass_iterations())
        return self._test

    # Connections

    def _build(self, service: str, entropy: bytes, tls: Tls | None) -> ServerMachine[Any]:
        test = self._test
        machine: RecordingMachine[Any]
        if service.startswith("smtp"):
            machine = SmtpMachine(smtp.ServerConnection(test.smtp_settings, entropy=entropy, tls=tls), test)
        else:
            machine = Pop3Machine(pop3.ServerConnection(test.pop3_settings, entropy=entropy, tls=tls), test)
        # It has all methods of a ServerMachine that an adapter and a session use, and need not inherit its state.
        return cast("ServerMachine[Any]", machine)

    async def _session(self, service: str, connection: AsyncServerConnection[Any]) -> None:
        machine: object = connection.machine
        assert isinstance(machine, RecordingMachine)
        test = self._test
        key = service, connection.peer
        machine.attach(connection, test.open_connections[key])
        session = SmtpSession if machine.protocol == "SMTP" else Pop3Session
        try:
            await session.serve(test.state, connection)
        finally:
            test.open_connections.pop(key, None)

    # Addresses and accounts

    @property
    def host(self) -> str:
        """The host to connect to: ``"localhost"``, for which the certificate is valid, or another *address*."""
        return "localhost" if self._address in _ADDRESSES_OF_LOCALHOST else self._address

    @property
    def _test(self) -> CurrentTest:
        """The test that runs, or has run last."""
        if self._begun is None:
            raise RuntimeError("the server was not started; call start()")
        return self._begun

    def _port(self, service: str) -> int:
        if service not in self._listeners:
            raise RuntimeError("the server was not started; call start()")
        return self._listeners[service].port

    @property
    def smtp_port(self) -> int:
        """The port of SMTP with STARTTLS."""
        return self._port("smtp")

    @property
    def smtps_port(self) -> int:
        """The port of SMTP with implicit TLS."""
        return self._port("smtps")

    @property
    def pop3_port(self) -> int:
        """The port of POP3 with STLS."""
        return self._port("pop3")

    @property
    def pop3s_port(self) -> int:
        """The port of POP3 with implicit TLS."""
        return self._port("pop3s")

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """A new context for a client: it trusts only the CA of the server, and verifies strictly.

        ``VERIFY_X509_STRICT`` is set, as it is by default since Python 3.13.
        """
        return self._certificates.client_context()

    @property
    def options(self) -> Options:
        """The options of this test."""
        return self._test.options

    @property
    def users(self) -> tuple[str, ...]:
        """The names of the accounts."""
        return tuple(self.options.users)

    @property
    def domain(self) -> str:
        """The domain of the server."""
        return self.options.domain

    def password(self, user: str) -> str:
        """Return the password of *user*.  Raises ValueError for an unknown account."""
        self._check_user(user)
        return self.options.users[user]

    def address(self, user: str) -> str:
        """Return the mail address of *user*.  Raises ValueError for an unknown account."""
        self._check_user(user)
        return f"{user}@{self.domain}"

    def issue_token(self, user: str, *, lifetime: float = 3600.0) -> str:
        """Return a new bearer token of *user* for XOAUTH2 and OAUTHBEARER, which need TLS.

        It is valid for *lifetime* seconds of ``clock``.  For an expired token, the client gets the error
        message of the mechanism, in JSON (RFC 7628 section 3.2.2), and then the refusal.

        Raises ValueError for an unknown account.
        """
        self._check_user(user)
        check_number("lifetime", lifetime)
        return self._test.tokens.issue(user, lifetime)

    def _check_user(self, user: str) -> None:
        if user not in self.options.users:
            raise ValueError(f"unknown account {user!r}; use one of {', '.join(map(repr, self.users))}")

    # Rules

    def on(self, step: type[Any], *, where: Callable[[Any], bool] | None = None, **fields: object) -> Rule:
        """Return a new rule for *step*; call its ``reply()``.

        *step* is a class of ``mailauth.smtp`` or ``mailauth.pop3``: that of a command, ``Connected`` for the greeting,
        or ``smtp.MessageComplete`` for the end of the content.  The rule is used only if the command has the values of
        *fields*, such as ``number=2`` for RETR.  At RCPT, *to* is its recipient; later it is one of the accepted
        recipients.  *sender* is the reverse-path.  *where* is called with the command, in the thread of the server, and
        returns whether the rule is used.

        Raises TypeError for another *step*, and for a field that it does not have.

            mail_server.on(smtp.Rcpt, to="bob@far.test").reply(451, PASS)
            mail_server.on(smtp.Quit).reply(DROP).optional()
        """
        rule = Rule(step, where, **fields)
        self._test.rules.append(rule)
        return rule

    def check(self) -> None:
        """Raise AssertionError if a rule was not used up, a network fault had no effect, or a session raised an error.

        The fixture calls it after each test that has passed.
        """
        __tracebackhide__ = True
        problems = self._settled().problems
        if self.options.unused_rules == "fail":
            problems += self.network.problems
        if problems:
            raise AssertionError("\n".join([*problems, "Transcript:", str(self.transcript)]))

    # What has happened

    @property
    def clock(self) -> Clock:
        """The clock of the server, by which grants and tokens expire.  It stands still until ``advance()``."""
        return self._test.clock

    @property
    def transcript(self) -> Transcript:
        """The lines that the clients and the server have sent.  Those in TLS are decrypted."""
        return self._settled().transcript

    @property
    def messages(self) -> tuple[Message, ...]:
        """The messages that were accepted by SMTP, oldest first."""
        return tuple(self._settled().messages)

    def delete(self, *messages: Message) -> None:
        """Remove *messages* from ``messages``; one that is not there is ignored.  Copies in maildrops stay.

        ``wait_for_message()`` does not return a message that was deleted.

            mail_server.delete(*mail_server.messages)
        """
        removed = set(map(id, messages))
        with self._changed:
            for kept in (self._test.messages, self._test.returned):
                kept[:] = [message for message in kept if id(message) not in removed]

    @property
    def grants(self) -> tuple[ActiveGrant, ...]:
        """The active grants: the addresses that may relay after a POP3 login, the oldest login first."""
        return tuple(self._call(self._settled().grants.active()))

    @property
    def secrets_in_clear(self) -> tuple[ClearSecret, ...]:
        """The passwords and tokens of accounts that clients have sent without TLS, even if the login was refused."""
        return tuple(self._settled().secrets)

    def deliver(self, user: str, message: bytes | EmailMessage) -> None:
        """Put *message* into the maildrop of *user*.  A session that is open does not see it.

        Raises ValueError for an unknown account, and TypeError for another type of message.
        """
        self._check_user(user)
        data = message.as_bytes(policy=SMTP_POLICY) if isinstance(message, EmailMessage) else message
        check_type("message", data, bytes, use="an EmailMessage, or .encode() for a str")
        self._test.maildrops.add(user, data)

    def maildrop(self, user: str) -> tuple[StoredMessage, ...]:
        """Return the messages in the maildrop of *user*, oldest first.  Raises ValueError for an unknown account."""
        self._check_user(user)
        return tuple(StoredMessage(stored.data) for stored in self._settled().maildrops.messages(user))

    def wait_for_message(
        self,
        *,
        to: str | None = None,
        subject: str | re.Pattern[str] | None = None,
        sender: str | None = None,
        where: Callable[[Message], bool] | None = None,
        timeout: float = 5.0,
    ) -> Message:
        """Wait for a message that matches the arguments.  Return the oldest one that was not returned before.

        *to* is one of the recipients of the envelope, and *sender* its reverse-path.  *subject* is the decoded subject,
        or a pattern that is searched for in it.  *where* is called with the message.  *timeout* is in seconds.

        Raises AssertionError if none arrives in time, with the probable cause, the closest messages and the transcript.
        Raises TypeError or ValueError for a wrong argument.

            link = mail_server.wait_for_message(to="carol@far.test", subject="Reset your password").links[0]
        """
        __tracebackhide__ = True
        found = self._wait(Wanted(to=to, sender=sender, subject=subject, where=where), timeout, threading.Event())
        if isinstance(found, str):
            raise AssertionError(found)
        return found

    async def wait_for_message_async(
        self,
        *,
        to: str | None = None,
        subject: str | re.Pattern[str] | None = None,
        sender: str | None = None,
        where: Callable[[Message], bool] | None = None,
        timeout: float = 5.0,
    ) -> Message:
        """Do the same as ``wait_for_message()`` on asyncio and trio, without blocking the event loop.

        message = await mail_server.wait_for_message_async(to="carol@far.test")
        """
        __tracebackhide__ = True
        wanted = Wanted(to=to, sender=sender, subject=subject, where=where)
        cancelled = threading.Event()
        try:
            found = await anyio.to_thread.run_sync(
                self._wait,
                wanted,
                timeout,
                cancelled,
                abandon_on_cancel=True,
                limiter=anyio.CapacityLimiter(1),  # of its own: a long wait must not use a thread of the application
            )
        finally:
            with self._changed:
                cancelled.set()
                self._changed.notify_all()
        if isinstance(found, str):  # raised here, so that the traceback does not begin with the thread
            raise AssertionError(found)
        return found

    def _wait(self, wanted: Wanted, timeout: float, cancelled: threading.Event) -> Message | str:
        """Return the message, or the text that explains why none has arrived; empty if the caller was cancelled."""
        check_number("timeout", timeout, zero=True)
        self._check_process()
        test = self._test
        deadline = _now() + timeout
        while True:
            messages = tuple(test.messages)
            # Without the lock: the server waits for it, and the function "where" may wait for the server.
            matching = [message for message in messages if message not in test.returned and wanted.matches(message)]
            with self._changed:
                if cancelled.is_set():
                    return ""
                for message in matching:
                    if message not in test.returned:  # by another thread
                        test.returned.append(message)
                        return message
                left = deadline - _now()
                if left <= 0:
                    break
                if tuple(test.messages) == messages:
                    self._changed.wait(min(left, _LONGEST_WAIT))
        self._settled()
        return explain(wanted, timeout, test.messages, test.returned, test.transcript, self.network.used)


@contextlib.contextmanager
def mail_server(**options: Unpack[OptionArguments]) -> Generator[MailServer]:
    """Run a MailServer in a ``with`` block.  At the end, call its ``check()``, unless the block raised an exception.

    The arguments are those of ``Options``.  With pytest, use the fixture of the same name.

        with mail_server(users=["carol"]) as server:
            main(["--smtp-port", str(server.smtp_port)])
            assert server.wait_for_message().envelope.identity == "carol"
    """
    __tracebackhide__ = True
    chosen = Options(**options)
    server = MailServer()
    try:
        server.start(chosen)
        yield server
        server.check()
    finally:
        server.close()
