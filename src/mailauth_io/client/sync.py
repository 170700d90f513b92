"""The clients without an event loop: the same names and parameters as in ``mailauth_io.client``, as blocking functions.

    from mailauth_io.client import sync

    sync.submit(message, host="mail.example.org", login=("alice", "wonderland")).raise_for_rejected()

    with sync.collect(host="mail.example.org", login=("alice", "wonderland")) as messages:
        for message in messages:
            print(message.email["Subject"])

Each runs an asyncio event loop of its own in the calling thread, so it cannot be called from a coroutine.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, ParamSpec, TypeVar, cast

from mailauth import Command, Tls, pop3, smtp

from .. import client as asynchronous
from .._event_loop import runs_on_trio
from ._message import MessageLike
from ._pop3 import CollectedMessage, Listed
from ._smtp import Address, Dsn, SubmitResult

__all__ = ["Pop3Client", "SmtpClient", "collect", "pop3_client", "smtp_client", "submit"]

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")


def _run(runner: asyncio.Runner, coroutine: Coroutine[Any, Any, T]) -> T:
    """Return the result of *coroutine*.  If a signal handler raises an exception, *coroutine* is cancelled."""
    tasks: list[asyncio.Task[T]] = []

    async def main() -> T:
        tasks.append(cast("asyncio.Task[T]", asyncio.current_task()))
        return await coroutine

    try:
        return runner.run(main())
    except BaseException:
        for task in tasks:
            if not task.done():  # otherwise it would go on during the next call
                task.cancel()
                runner.get_loop().run_until_complete(asyncio.wait([task]))
        raise


class SmtpClient:
    """``mailauth_io.client.SmtpClient`` with blocking methods.

    For example:

        with smtp_client(host="mail.example.org", login=("alice", "wonderland")) as session:
            result = session.send(message)
    """

    def __init__(self, client: asynchronous.SmtpClient, runner: asyncio.Runner) -> None:
        self._client = client
        self._runner = runner

    @property
    def tls(self) -> Tls | None:
        """The TLS session; None without TLS."""
        return self._client.tls

    @property
    def extensions(self) -> Mapping[str, str]:
        """The extensions that the server offers."""
        return self._client.extensions

    def send(
        self,
        message: MessageLike,
        sender: Address | None = None,
        recipients: Iterable[Address] | None = None,
        *,
        dsn: Dsn | None = None,
    ) -> SubmitResult:
        """Send *message*; return the final reply for each recipient.  See ``client.SmtpClient.send``."""
        return _run(self._runner, self._client.send(message, sender, recipients, dsn=dsn))

    def execute(self, command: Command) -> smtp.Reply:
        """Send one command and return its reply."""
        return _run(self._runner, self._client.execute(command))


class Pop3Client:
    """``mailauth_io.client.Pop3Client`` with blocking methods.

    For example:

        with pop3_client(host="mail.example.org", login=("alice", "wonderland")) as maildrop:
            header = maildrop.top(1)
    """

    def __init__(self, client: asynchronous.Pop3Client, runner: asyncio.Runner) -> None:
        self._client = client
        self._runner = runner

    @property
    def tls(self) -> Tls | None:
        """The TLS session; None without TLS."""
        return self._client.tls

    @property
    def capabilities(self) -> Mapping[str, str]:
        """The response to CAPA before the login; empty if CAPA is not supported."""
        return self._client.capabilities

    def listing(self) -> tuple[Listed, ...]:
        """Return all messages that are not deleted, with their sizes and unique-ids."""
        return _run(self._runner, self._client.listing())

    def retrieve(self, number: int) -> bytes:
        """Return the whole message *number*."""
        return _run(self._runner, self._client.retrieve(number))

    def top(self, number: int, lines: int = 0) -> bytes:
        """Return the header of message *number*, and the first *lines* lines of its body."""
        return _run(self._runner, self._client.top(number, lines))

    def delete(self, number: int) -> None:
        """Mark message *number* as deleted."""
        _run(self._runner, self._client.delete(number))

    def undelete(self) -> None:
        """Remove all marks."""
        _run(self._runner, self._client.undelete())

    def execute(self, command: Command) -> pop3.Reply:
        """Send one command and return its reply."""
        return _run(self._runner, self._client.execute(command))


class _Messages:
    """The messages of a maildrop.  It can be continued after an exception, as the asynchronous iterator can."""

    def __init__(self, messages: AsyncIterator[CollectedMessage], runner: asyncio.Runner) -> None:
        self._messages = messages
        self._runner = runner

    def __iter__(self) -> Iterator[CollectedMessage]:
        return self

    def __next__(self) -> CollectedMessage:
        async def following() -> CollectedMessage | None:
            return await anext(self._messages, None)

        message = _run(self._runner, following())
        if message is None:
            raise StopIteration
        return message


def _messages(messages: AsyncIterator[CollectedMessage], runner: asyncio.Runner) -> Iterator[CollectedMessage]:
    return _Messages(messages, runner)


def _function(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        with _new_runner() as runner:
            return _run(runner, function(*args, **kwargs))

    return call


def _context(
    function: Callable[P, AbstractAsyncContextManager[S]], wrap: Callable[[S, asyncio.Runner], T]
) -> Callable[P, AbstractContextManager[T]]:
    @functools.wraps(function)
    @contextlib.contextmanager
    def context(*args: P.args, **kwargs: P.kwargs) -> Generator[T]:
        with _new_runner() as runner:
            inner = function(*args, **kwargs)

            async def leave(error: BaseException | None) -> bool | None:
                if error is None:
                    return await inner.__aexit__(None, None, None)
                return await inner.__aexit__(type(error), error, error.__traceback__)

            async def enter() -> S:
                return await inner.__aenter__()

            value = wrap(_run(runner, enter()), runner)
            try:
                yield value
            except BaseException as error:
                if not _run(runner, leave(error)):
                    raise
            else:
                _run(runner, leave(None))

    return context


def _new_runner() -> asyncio.Runner:
    """Return a new event loop.  Raises RuntimeError in a coroutine, which would block its own loop."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        running = runs_on_trio()
    else:
        running = True
    if running:
        raise RuntimeError("called in a coroutine; await the function of mailauth_io.client instead")
    return asyncio.Runner()


submit = _function(asynchronous.submit)
smtp_client = _context(asynchronous.smtp_client, SmtpClient)
pop3_client = _context(asynchronous.pop3_client, Pop3Client)
collect = _context(asynchronous.collect, _messages)
