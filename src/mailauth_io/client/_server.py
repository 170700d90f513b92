"""The server that a client connects to, its TLS and the login; and the connection with its timeouts."""

from __future__ import annotations

import contextlib
import os
import secrets
import ssl
from collections.abc import AsyncGenerator, Callable, Collection, Mapping
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar, cast, get_args

import attrs

from mailauth import (
    ClientMachine,
    Command,
    LocalProtocolError,
    MessageChunk,
    RemoteProtocolError,
    Tls,
    pop3,
    sasl,
    smtp,
)

from .._checks import check_client_context, field
from .._event_loop import current_adapter, fail_after, run_in_daemon_thread
from ..adapters import AsyncClientConnection
from ..adapters.tls.channel_binding import WITHOUT_HINT
from ..adapters.tls.verification import describe_verification
from ..limits import Limits
from .errors import AuthenticationFailed, ConnectionFailed, NotSupported, ServerRejected

E = TypeVar("E")
M = TypeVar("M", bound=ClientMachine[Any])

TlsMode: TypeAlias = Literal["implicit", "starttls", "none"]
LoginLike: TypeAlias = "Login | tuple[str, str | bytes]"

TIMEOUT: Final = 60.0
"""Seconds for each step: the connection, the handshake, each reply, and each 64 KiB of content."""

_CONTENT_STEP: Final = 65_536

_PASSWORD_MECHANISMS: Final = (
    "SCRAM-SHA-256-PLUS", "SCRAM-SHA-1-PLUS", "SCRAM-SHA-256", "SCRAM-SHA-1", "CRAM-MD5", "APOP", "PLAIN", "LOGIN",
    "USER",
)  # fmt: skip
_TOKEN_MECHANISMS: Final = ("OAUTHBEARER", "XOAUTH2")


def _check_mechanisms(login: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not (isinstance(value, tuple) and all(isinstance(name, str) for name in cast("tuple[object, ...]", value))):
        raise TypeError(
            f'mechanisms must be a tuple of names, such as ("PLAIN",), not {type(cast(object, value)).__name__}'
        )


def _check_channel_binding(login: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value not in get_args(sasl.ChannelBinding):
        raise ValueError(f'channel_binding must be "require", "prefer" or "none", not {value!r}')


def _check_flag(login: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if not isinstance(value, bool):
        raise TypeError(f"{attribute.name} must be True or False, not {type(value).__name__}")


def _to_names(value: Any) -> frozenset[str]:
    kind = type(value).__name__
    if isinstance(value, Collection) and not isinstance(value, str | bytes):
        names = tuple(cast("Collection[object]", value))
        if all(isinstance(name, str) for name in names):
            return frozenset(cast("tuple[str, ...]", names))
    raise TypeError(f'assume must be a set of names, such as {{"PLAIN"}}, not {kind}')


_ANY_TLS: Final = Tls(version="TLSv1.3", channel_bindings={"tls-exporter": b"any"})
"""A connection on which every mechanism can be used, to check a login."""


@attrs.frozen
class Login:
    """A user name with a password or with an access token.  A tuple ``(name, password)`` can be passed instead.

    The strongest mechanism that the server offers is used: SCRAM (with channel binding), CRAM-MD5, APOP, then those
    that send the password.  A token is sent by OAUTHBEARER (RFC 7628) or XOAUTH2.  *mechanisms* restricts the choice to
    the mechanisms with these names, such as ``("PLAIN",)``.

    The others are for servers with which this fails.  *channel_binding*: ``"prefer"``, ``"require"`` or ``"none"``, as
    in ``sasl.password_mechanisms()``.  *initial_response* False: send the first response only after the server has
    asked for it.  *assume*: the names of mechanisms that the server has and does not list.  *retry_weaker*: after a
    refusal try the next mechanism, at most two more, as ``sasl.mechanisms_after_refusal()`` allows.

    Raises ValueError or TypeError if a value cannot be sent by any mechanism; the text does not contain the secret.

    For example:

        by_password = Login("alice", "wonderland", mechanisms=("PLAIN",))
        by_token = Login("alice@example.org", token="ya29.a0Af...")
    """

    name: str = attrs.field()
    password: str | bytes | None = attrs.field(default=None, repr=False)
    token: str | bytes | None = attrs.field(default=None, kw_only=True, repr=False)
    mechanisms: tuple[str, ...] = attrs.field(default=(), kw_only=True, validator=_check_mechanisms)
    channel_binding: sasl.ChannelBinding = attrs.field(default="prefer", kw_only=True, validator=_check_channel_binding)
    initial_response: bool = attrs.field(default=True, kw_only=True, validator=_check_flag)
    assume: frozenset[str] = attrs.field(default=frozenset(), kw_only=True, converter=_to_names)
    retry_weaker: bool = attrs.field(default=False, kw_only=True, validator=_check_flag)

    def __attrs_post_init__(self) -> None:
        if not isinstance(cast(object, self.name), str):
            raise TypeError(f"name must be a string, not {type(self.name).__name__}")
        if (self.password is None) == (self.token is None):
            raise ValueError("a Login needs a password or a token, and not both")
        possible = _PASSWORD_MECHANISMS if self.token is None else _TOKEN_MECHANISMS
        for name in (*self.mechanisms, *self.assume):
            if name.upper() not in possible:
                secret = "password" if self.token is None else "token"
                raise ValueError(
                    f"no mechanism of a {secret} is called {name!r}; use {', '.join(possible)}."
                    " A mechanism of your own needs connect() and authenticate() (docs/sasl.md)"
                )
        if self.channel_binding == "require" and not any(name.endswith("-PLUS") for name in self._wanted or possible):
            raise ValueError('channel_binding="require" needs a password and a mechanism such as SCRAM-SHA-256-PLUS')
        found: tuple[sasl.ClientMechanism, ...] = ()
        problem = ""
        try:
            found = self.client_mechanisms(_ANY_TLS)
        except LocalProtocolError as error:
            problem = str(error)
        if problem:  # raised here, since the context of an exception may contain the secret
            raise ValueError(f"the login cannot be sent: {problem}")
        if not found:
            raise ValueError(f"the login cannot be sent: {', '.join(self.mechanisms)} cannot carry this password")

    def client_mechanisms(self, tls: Tls | None) -> tuple[sasl.ClientMechanism, ...]:
        """Return the mechanisms for one login, the preferred first.

        Raises LocalProtocolError if no mechanism can be used on a connection with this TLS layer.
        """
        found: tuple[sasl.ClientMechanism, ...]
        if self.password is not None:
            password = _encoded(self.password)
            # Without -PLUS forms the client must not tell the server that it supports them (RFC 5802 section 6).
            plus = not self._wanted or any(name.endswith("-PLUS") for name in self._wanted)
            found = sasl.password_mechanisms(
                self.name,
                password,
                entropy=secrets.token_bytes(32),
                tls=tls,
                clear_text=True,
                channel_binding=self.channel_binding if plus else "none",
            )
        else:
            token = _encoded(self.token or b"")
            found = (
                sasl.OauthBearerClient(authorization_identity=self.name, token=token),
                sasl.Xoauth2Client(authorization_identity=self.name, token=token),
            )
        return tuple(mechanism for mechanism in found if not self._wanted or mechanism.name in self._wanted)

    @property
    def _wanted(self) -> frozenset[str]:
        return frozenset(name.upper() for name in self.mechanisms)


def _encoded(value: str | bytes) -> bytes:
    if isinstance(value, str):
        # UnicodeEncodeError has the secret among its attributes, and would be the context of another exception.
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError("a password or token must not contain surrogates; pass bytes")
        return value.encode()
    if not isinstance(cast(object, value), bytes):
        raise TypeError(f"a password or token must be a string or bytes, not {type(value).__name__}")
    return value


def to_login(value: Any) -> Login | None:
    if value is None or isinstance(value, Login):
        return value
    kind = type(value).__name__
    if isinstance(value, tuple) and len(cast("tuple[object, ...]", value)) == 2:
        return Login(*cast("tuple[Any, Any]", value))
    raise TypeError(f"login must be a tuple (name, password), a Login or None, not {kind}")


def _check_port(server: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value is not None and not (type(value) is int and 0 < value < 65_536):
        raise ValueError(f"port must be a number from 1 to 65535, or None for the standard port, not {value!r}")


def _check_host(server: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    try:
        valid = isinstance(value, str) and bool(value.encode("idna")) and value.isprintable() and " " not in value
    except UnicodeError:  # an empty label, or one of more than 63 characters: socket.getaddrinfo() would raise it
        valid = False
    if not valid:
        raise ValueError(f"host must be the name or the IP address of a server, not {value!r}")


def _check_tls(server: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if value not in get_args(TlsMode):
        raise ValueError(f'tls must be "implicit", "starttls" or "none", not {value!r}')


def _check_timeout(server: object, attribute: attrs.Attribute[Any], value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise ValueError(f"timeout must be a positive number of seconds, not {value!r}")


@attrs.frozen(kw_only=True)
class Server:
    """Where to connect, and how.  Raises TypeError or ValueError for an invalid value."""

    host: str = attrs.field(validator=_check_host)
    port: int | None = attrs.field(default=None, validator=_check_port)
    tls: TlsMode = attrs.field(default="implicit", validator=_check_tls)
    login: Login | None = attrs.field(default=None, converter=to_login)
    ssl_context: ssl.SSLContext | None = attrs.field(default=None, repr=False, validator=field(check_client_context))
    timeout: float = attrs.field(default=TIMEOUT, validator=_check_timeout)
    local_address: str | None = None

    def __attrs_post_init__(self) -> None:
        if self.tls == "none" and self.ssl_context is not None:
            raise ValueError('with tls="none" no ssl_context is used; leave it out, or use TLS')


async def open_connection(
    server: Server, build: Callable[[Tls | None], M], ports: Mapping[TlsMode, int]
) -> tuple[AsyncClientConnection[Any], M]:
    """Connect to *server*, by default at one of *ports*; return the connection and its machine, which *build* makes.

    Raises ConnectionFailed.
    """
    machines: list[M] = []

    def build_once(tls: Tls | None) -> M:
        machines.append(build(tls))
        return machines[0]

    port = ports[server.tls] if server.port is None else server.port
    limits = Limits(
        connect_timeout=server.timeout, handshake_timeout=server.timeout, write_timeout=max(server.timeout, 180.0)
    )
    context = server.ssl_context
    try:
        if context is None and server.tls != "none":
            # It reads the files of the trusted CAs, each time: they can change while the program runs.
            async with fail_after(server.timeout):
                context = await run_in_daemon_thread(ssl.create_default_context)
        connection = await current_adapter().connect(
            build_once,
            server.host,
            port,
            ssl_context=context,
            implicit_tls=server.tls == "implicit",
            local_address=server.local_address,
            limits=limits,
        )
    except (OSError, RemoteProtocolError) as error:
        raise ConnectionFailed(f"cannot connect to {server.host} port {port}: {describe(error)}") from error
    return connection, machines[0]


def describe(error: BaseException) -> str:
    """Return the text of *error* in one line; the system's own errors have none for a timeout."""
    if isinstance(error, TimeoutError) and not str(error):
        return "timed out"
    if isinstance(error, ssl.SSLCertVerificationError):
        return describe_verification(error)
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and error.errno:
        # asyncio has a text of its own for a refused connection.  The number of a socket.gaierror is negative.
        return os.strerror(error.errno) if error.errno > 0 else str(error.strerror)
    return " ".join(str(error).split()) or type(error).__name__


def _one_line(reply: object) -> str:
    return " ".join(str(reply).split())


def _refusals(event: smtp.AuthenticationRejected | pop3.AuthenticationRejected) -> str:
    """Return the replies that refused a login, in one line, and what to do about refused channel bindings."""
    text = _one_line(event.reply)
    if event.earlier:
        refused = "; ".join(f"{each.mechanism}: {_one_line(each.reply)}" for each in event.earlier)
        text = f"{text} ({event.mechanism}; before, {refused})"
    if event.channel_bindings:
        text += (
            f"; it refused {event.mechanism} with the channel binding {' and '.join(event.channel_bindings)}: if the"
            f" password is right, {WITHOUT_HINT}"
        )
    return text


class Session(Generic[E]):
    """A connection whose events are awaited one at a time, each within the timeout."""

    def __init__(self, connection: AsyncClientConnection[E], timeout: float) -> None:
        self.connection = connection
        self.timeout = timeout
        self.ended = False

    @property
    def tls(self) -> Tls | None:
        """The TLS session; None without TLS."""
        return self.connection.tls

    @property
    def is_open(self) -> bool:
        """Whether the server has neither sent its last reply nor violated the protocol, as far as events were read."""
        return self.connection.machine.is_open

    def send(self, command: Command) -> None:
        """Queue *command*.  Raises ConnectionFailed after the end, LocalProtocolError if it is not allowed now.

        If the server has ended the session, *command* is not sent, and ``event()`` tells why.
        """
        self._check_not_ended()
        if self.is_open:
            self.connection.send(command)

    async def event(self) -> E:
        """Return the next event.  Raises ConnectionFailed."""
        async with self._step():
            return await self._next()

    async def event_after_content(self, receive: Callable[[bytes], object]) -> E:
        """Pass message content to *receive*, and return the event after it.  Raises ConnectionFailed.

        The timeout is for each 64 KiB of content, so that it also limits a server that sends a few bytes at a time.
        """
        while True:
            async with self._step():
                left = _CONTENT_STEP
                while left > 0:
                    event = await self._next()
                    if not isinstance(event, MessageChunk):
                        return event
                    receive(event.data)
                    left -= len(event.data)

    async def flush(self) -> None:
        """Write what is queued.  Raises ConnectionFailed."""
        async with self._step():
            await self.connection.flush()

    @contextlib.asynccontextmanager
    async def _step(self) -> AsyncGenerator[None]:
        """Apply the timeout to the body.  Raises ConnectionFailed.

        After any exception the connection is closed, after a cancellation too: the reply that is due would be taken as
        the reply to the next command.
        """
        try:
            async with fail_after(self.timeout):
                yield
        except (OSError, RemoteProtocolError) as error:
            self.abort()
            raise ConnectionFailed(f"the connection failed: {describe(error)}") from error
        except BaseException:
            self.abort()
            raise

    async def _next(self) -> E:
        if not self.ended:
            async for event in self.connection:
                return event
        raise ConnectionFailed("the connection was closed before the server replied")

    async def log_in(self, login: Login) -> None:
        """Log in.  Raises AuthenticationFailed if the server refuses it, NotSupported if no mechanism can be used."""
        try:
            mechanisms = login.client_mechanisms(self.tls)
        except LocalProtocolError as error:
            raise NotSupported(f"cannot log in: {error}") from None
        self.authenticate(
            *mechanisms,
            initial_response=login.initial_response,
            assume=login.assume,
            retry_weaker=login.retry_weaker,
        )
        event: Any = await self.event()
        if isinstance(event, smtp.AuthenticationRejected | pop3.AuthenticationRejected):
            raise AuthenticationFailed(
                f"the server rejected the login of {login.name}: {_refusals(event)}", event.reply
            )
        if not isinstance(event, sasl.Authenticated):
            raise ServerRejected(f"the server ended the session: {_one_line(event.reply)}", event.reply)

    def authenticate(
        self,
        *mechanisms: sasl.ClientMechanism,
        initial_response: bool = True,
        assume: Collection[str] = frozenset(),
        retry_weaker: bool = False,
    ) -> None:
        """Begin a login.  Raises ConnectionFailed after the end, NotSupported if none of *mechanisms* is offered."""
        self._check_not_ended()
        if not mechanisms:
            raise NotSupported("cannot log in: no mechanism of the login can be used on this connection")
        if not self.is_open:
            return  # event() tells why
        try:
            self.connection.authenticate(
                *mechanisms, initial_response=initial_response, assume=assume, retry_weaker=retry_weaker
            )
        except LocalProtocolError as error:
            raise NotSupported(f"cannot log in: {error}") from None

    async def close(self) -> None:
        """Send QUIT if no reply is due, and close.  Raises nothing for a connection that fails meanwhile."""
        if self.ended:
            self.connection.abort()
            return
        self.ended = True
        with contextlib.suppress(OSError, RemoteProtocolError):
            async with fail_after(self.timeout):
                await self.connection.aclose()

    def abort(self) -> None:
        """Close the connection at once."""
        self.ended = True
        self.connection.abort()

    def _check_not_ended(self) -> None:
        if self.ended:
            raise ConnectionFailed("the session has ended; open another")
