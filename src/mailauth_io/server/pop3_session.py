"""One POP3 session: answers the core's questions from the stores, and makes grants.

A grant is made after a successful login, before the +OK is sent.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from pathlib import Path
from types import NoneType
from typing import ClassVar, Final, TypeVar, assert_never

from anyio import move_on_after

from mailauth import ACCEPT, Accept, ExtensionQuestion, LocalProtocolError, Notice, Question, TlsStarted, pop3, sasl

from .._checks import type_name
from ..adapters.connection import AsyncServerConnection
from ..logs import shown
from ..stores import OpenedMaildrop
from ..stores.protocols import PartialMaildrop, SharedMaildrop
from ._results import WrongResult, check_result, check_returned_interface
from ._session import Next, Session
from .state import ServerState

A = TypeVar("A")

CLOSE_TIMEOUT: Final = 2.0
"""Maximum seconds that the reply to QUIT waits until the maildrop is released."""

MAX_UNREADABLE: Final = 20
"""The number of files logged at a login because they cannot be read."""


class Pop3Session(Session[pop3.ServerEvent]):
    """A POP3 session.  It holds the open maildrop."""

    __slots__ = ("_maildrop",)

    protocol: ClassVar[str] = "POP3"

    def __init__(self, server_state: ServerState, connection: AsyncServerConnection[pop3.ServerEvent]) -> None:
        super().__init__(server_state, connection)
        self._maildrop: OpenedMaildrop | None = None

    async def run(self) -> None:
        server_state, connection = self.server_state, self.connection
        intercepted = bool(server_state.interceptors)
        async for event in connection:
            if intercepted and isinstance(event, Question):
                following = await self.intercept(event)
                if following is Next.DROPPED:
                    return
                if following is Next.ANSWERED:
                    continue
            match event:
                case pop3.Retrieve(number=number) as question:
                    await self._send_content(question, number, 0)
                case pop3.RetrieveMore(number=number, offset=offset) as question:
                    await self._send_content(question, number, offset)
                case pop3.OpenMaildrop(identity=identity) as question:
                    connection.answer(question, await self._ask_maildrops(question, self._open(identity)))
                case pop3.Update(deleted=deleted) as question:
                    connection.answer(question, await self._ask_maildrops(question, self._update(deleted)))
                case (
                    sasl.CheckPassword()
                    | sasl.FetchSecret()
                    | sasl.FetchScramKeys()
                    | sasl.CheckToken()
                    | sasl.CheckExternal()
                    | sasl.Authorize()
                ) as question:
                    await self.answer_login(question)
                case pop3.Connected() | pop3.Stls() as question:
                    connection.answer(question, ACCEPT)
                case sasl.AuthenticationStarted():
                    self.start_login()
                case sasl.Authenticated(identity=identity):
                    await server_state.grant(self.id, connection.peer.address, identity or "", self.login_sequence)
                    self.note_login(event)
                case sasl.AuthenticationFailed():
                    await self.refuse_login(event)
                case TlsStarted(dropped=dropped):
                    if dropped:
                        self.log(logging.WARNING, "clear text dropped", bytes=dropped)
                case pop3.Quit(deleting=False):  # otherwise the question Update follows
                    await self._close_maildrop()
                case pop3.CommandRejected(verb=verb, reply=reply):
                    self.log(logging.DEBUG, "command refused", verb=verb or None, reply=reply)
                case ExtensionQuestion():
                    connection.decline(event)
                case Notice():
                    pass
                case _:
                    assert_never(event)

    async def _ask_maildrops(self, question: Question[A], answer: Awaitable[A]) -> A:
        return await self.server_state.ask_store(self.id, "maildrops", question, answer)

    async def _send_content(self, question: pop3.Retrieve | pop3.RetrieveMore, number: int, offset: int) -> None:
        """Answer *question* with a piece of a message.  If it has wrong line ends, that is a failure of the store."""
        answer = await self._ask_maildrops(question, self._read(number, offset))
        try:
            self.connection.answer(question, answer)
        except LocalProtocolError as error:
            wrong = WrongResult(f"read() of {type_name(self._maildrop)} must return text with CRLF line ends: {error}")
            self.server_state.log_failure(self.id, "maildrops", wrong.with_traceback(error.__traceback__))
            self.connection.decline(question)

    async def _open(self, identity: str) -> pop3.Maildrop | pop3.Unavailable:
        maildrops = self.server_state.stores.maildrops
        opened = await maildrops.open(self.server_state.name(identity))
        if isinstance(opened, pop3.Unavailable):
            self.log(logging.INFO, "maildrop not opened", identity=shown(identity), reason=opened.name)
            return opened
        try:
            check_returned_interface(maildrops, "open", opened, OpenedMaildrop)
            snapshot = pop3.Maildrop(messages=opened.messages)
        except WrongResult:  # it may have no close()
            raise
        except BaseException:
            opened.close()
            raise
        self._maildrop = opened
        if isinstance(opened, PartialMaildrop):
            for path, reason in opened.unreadable[:MAX_UNREADABLE]:
                self._log_unreadable(path, reason, repeatable=False)
        return snapshot

    def _log_unreadable(self, path: Path, reason: str | None, *, repeatable: bool = True) -> None:
        file = shown(f"{path.parent.name}/{path.name}")
        identity = shown(self.connection.identity)
        self.log(
            logging.WARNING, "message not readable", repeatable=repeatable,
            identity=identity, file=file, reason=reason,
        )  # fmt: skip

    async def _read(self, number: int, offset: int) -> pop3.Content | pop3.Unavailable:
        if self._maildrop is None:
            return pop3.Unavailable.TEMPORARY
        try:
            content = await self._maildrop.read(number, offset)
        except OSError as error:
            filename: object = error.filename
            if isinstance(filename, str | Path):
                self._log_unreadable(Path(filename), error.strerror)
            raise
        check_result(self._maildrop, "read", content, pop3.Content, "a pop3.Content")
        return content

    async def _update(self, deleted: frozenset[int]) -> Accept | pop3.Unavailable:
        if self._maildrop is None:
            return pop3.Unavailable.TEMPORARY
        updated = await self._maildrop.update(deleted)  # type: ignore[func-returns-value]  # checked
        check_result(self._maildrop, "update", updated, NoneType, "None")
        self.log(logging.INFO, "messages deleted", identity=shown(self.connection.identity), number=len(deleted))
        await self._close_maildrop()
        return ACCEPT

    async def _close_maildrop(self) -> None:
        """Close the maildrop before the +OK to QUIT is sent: a client that receives it may log in again at once."""
        maildrop = self._maildrop
        shared = maildrop if isinstance(maildrop, SharedMaildrop) else None  # this reads its attributes
        self.release_resources()
        if shared is not None:
            try:
                with move_on_after(CLOSE_TIMEOUT):
                    await shared.wait_closed()
            except Exception as error:
                self.server_state.log_failure(self.id, "maildrops", error)

    def release_resources(self) -> None:
        """Close the maildrop so that another session can open it."""
        maildrop, self._maildrop = self._maildrop, None
        if maildrop is not None:
            maildrop.close()
