"""One POP3 session: answers the core's questions from the stores, and makes grants.

A grant is made after a successful login, before the +OK is sent.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import ClassVar, Final, assert_never

from mailauth import ACCEPT, Accept, ExtensionQuestion, Notice, Question, TlsStarted, pop3, sasl

from ..adapters.connection import AsyncServerConnection
from ..logs import shown
from ..stores import OpenedMaildrop
from ._results import check_returned_interface
from ._session import Next, Session
from ._state import ServerState, ask_store

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
                    connection.answer(question, await ask_store(self.id, "maildrops", question, self._read(number, 0)))
                case pop3.RetrieveMore(number=number, offset=offset) as question:
                    connection.answer(
                        question, await ask_store(self.id, "maildrops", question, self._read(number, offset))
                    )
                case pop3.OpenMaildrop(identity=identity) as question:
                    connection.answer(question, await ask_store(self.id, "maildrops", question, self._open(identity)))
                case pop3.Update(deleted=deleted) as question:
                    connection.answer(question, await ask_store(self.id, "maildrops", question, self._update(deleted)))
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
                    self.release_resources()
                case pop3.CommandRejected(verb=verb, reply=reply):
                    self.log(logging.DEBUG, "command refused", verb=verb or None, reply=reply)
                case ExtensionQuestion():
                    connection.decline(event)
                case Notice():
                    pass
                case _:
                    assert_never(event)

    async def _open(self, identity: str) -> pop3.Maildrop | pop3.Unavailable:
        maildrops = self.server_state.stores.maildrops
        opened = await maildrops.open(self.server_state.name(identity))
        if isinstance(opened, pop3.Unavailable):
            self.log(logging.INFO, "maildrop not opened", identity=shown(identity), reason=opened.name)
            return opened
        check_returned_interface(maildrops, "open", opened, OpenedMaildrop)
        try:
            snapshot = pop3.Maildrop(messages=opened.messages)
        except BaseException:
            opened.close()
            raise
        self._maildrop = opened
        unreadable: tuple[tuple[Path, str], ...] = getattr(opened, "unreadable", ())  # a Maildir has it
        for path, reason in unreadable[:MAX_UNREADABLE]:
            self._log_unreadable(path, reason)
        return snapshot

    def _log_unreadable(self, path: Path, reason: str | None) -> None:
        file = shown(f"{path.parent.name}/{path.name}")
        self.log(
            logging.WARNING, "message not readable", identity=shown(self.connection.identity), file=file, reason=reason
        )

    async def _read(self, number: int, offset: int) -> pop3.Content | pop3.Unavailable:
        if self._maildrop is None:
            return pop3.Unavailable.TEMPORARY
        try:
            return await self._maildrop.read(number, offset)
        except OSError as error:
            filename: object = error.filename
            if isinstance(filename, str | Path):
                self._log_unreadable(Path(filename), error.strerror)
            raise

    async def _update(self, deleted: frozenset[int]) -> Accept | pop3.Unavailable:
        if self._maildrop is None:
            return pop3.Unavailable.TEMPORARY
        await self._maildrop.update(deleted)
        self.log(logging.INFO, "messages deleted", identity=shown(self.connection.identity), number=len(deleted))
        self.release_resources()
        return ACCEPT

    def release_resources(self) -> None:
        """Close the maildrop so that another session can open it.

        At QUIT this is done before the +OK is sent: a client that receives it may log in again at once.
        """
        maildrop, self._maildrop = self._maildrop, None
        if maildrop is not None:
            maildrop.close()
